"""Applying a plan through the API server: new objects with uids of their own, as a user makes them.

For another namespace, another cluster, or where admission must have its say. Each object is created
by itself, owners first, so that what they own names their new uids. The fields' manager, which the
API server records with each object, is this restore and no other: so one that was killed knows what
is already its own, and an undo knows what to take back.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Final

from etcd_steward.deadline import Deadline
from etcd_steward.engine.report import Tracker
from etcd_steward.engine.restore.api_bodies import (
    ACCOUNTS,
    DEFAULT_ACCOUNT,
    additions,
    body_of,
    over,
    status_of,
    target_of,
)
from etcd_steward.engine.restore.api_plan import AT_ONCE, DEFINITIONS, resource_of
from etcd_steward.engine.restore.api_saved import save_for_api
from etcd_steward.engine.restore.place import Place, seen_again
from etcd_steward.engine.restore.second_look import AFTER
from etcd_steward.engine.restore.stash import Planned, Reopened
from etcd_steward.engine.restore.through_api import shown
from etcd_steward.engine.tasks import together
from etcd_steward.errors import (
    AlreadyExists,
    NotFound,
    OutOfSpace,
    PermanentError,
    Refused,
    TransientError,
    Undecodable,
)
from etcd_steward.kube_client import Conflict, Object
from etcd_steward.kube_discovery import ApiResource, Served
from etcd_steward.kube_objects import ApiServer
from etcd_steward.models.restore import Plan, PlanItem, Restored, RestoreReport
from etcd_steward.models.restore_place import Claim, SecondLook
from etcd_steward.registry import objectmeta
from etcd_steward.registry.objectmeta import OwnerReference
from etcd_steward.store.threads import settled

_SERVED_WITHIN: Final = 60.0
"""Seconds that the API server has to serve the types of new CustomResourceDefinitions."""
_LOOK: Final = 0.5
_RETRIES: Final = (0.5, 2.0, 5.0, 10.0)
"""Seconds before each next try of what may succeed later."""
_STATUS_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """How to apply a plan through an API server."""

    restore: str
    """Name of the restore."""
    uid: str
    """Of the restore: the same one may go on after a crash, no other."""
    second_look_after: float | None = AFTER
    """Seconds after the last write until the second look; None: there is none."""


def manager_of(uid: str) -> str:
    """By which name managedFields know what a restore wrote."""
    return f"etcd-steward-restore-{uid}"


async def apply_via_api(
    planned: Planned, api: ApiServer, place: Place, tracker: Tracker, settings: ApiSettings
) -> RestoreReport:
    """Do what a plan says; what became of each object.

    What the API server refuses is `failed` by itself, and the rest goes on. A restore that was
    applied already does nothing, and its report is the one of that time. Raises `Refused` for a
    plan that is too old or another cluster's, and what stops all of it: `OutOfSpace`, `Unavailable`
    once the API server does not answer. The same restore may then be applied again, and goes on.
    """
    done = await place.result()
    if done is not None:
        when = done.finished_at.isoformat(timespec="seconds")
        tracker.report.warning(f"this restore was applied at {when}: nothing was written now")
        return done
    plan = planned.plan
    tracker.step = "Claiming"
    served = await api.served()
    await _check(plan, api)
    await place.begin(Claim(restore=settings.restore, uid=settings.uid, digest=plan.digest))
    if not isinstance(planned, Reopened):
        tracker.step = "Saving"
        await place.write_plan(plan)
        await save_for_api(planned, api, served, place)
    work = _Apply(planned, api, served, place, tracker, manager_of(settings.uid))
    report = await work.run()
    if settings.second_look_after is not None:
        tracker.step = "Watching"
        await asyncio.sleep(settings.second_look_after)
        _, missing = await shown(api, work.as_made())
        look = SecondLook(at=datetime.now(UTC), taken=tuple(missing))
        await place.write_second_look(look)
        report = seen_again(report, look)
    await place.tidy(values=any(item.write and item.live_revision for item in plan.items))
    return report


async def _check(plan: Plan, api: ApiServer) -> None:
    """Refuse plans of another time or place."""
    if plan.expires_at <= datetime.now(UTC):
        when = plan.expires_at.isoformat(timespec="seconds")
        raise Refused(
            f"the plan was good until {when}: what it was compared with is too old by now",
            hint="make a new plan; what is restored already is identical in it",
        )
    there = await api.kube_system_uid()
    if plan.target_kube_system_uid not in {None, there}:
        raise Refused(
            f"the plan was made over the cluster {plan.target_kube_system_uid}, {api.address} is "
            f"one of {there}",
            hint="make a new plan, or name that cluster's API server",
        )


class _Failed(Exception):
    """One object can't be restored, and the rest can."""


@dataclass(slots=True)
class _Apply:
    planned: Planned
    api: ApiServer
    served: Served
    place: Place
    tracker: Tracker
    manager: str
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    done: dict[str, Restored] = field(default_factory=dict)
    uids: dict[str, str | None] = field(default_factory=dict)
    """The uid that an owner has now, by the one it had; None if it could not be restored."""
    owners: dict[tuple[str, str, str | None, str], str | None] = field(default_factory=dict)
    """The same for owners that this restore does not write, by type, namespace and name."""
    warnings: list[str] = field(default_factory=list)

    async def run(self) -> RestoreReport:
        """All of it, but for the second look."""
        plan = self.planned.plan
        items = [item for item in plan.items if item.write]
        self.uids = {i.uid: i.live_uid for i in plan.items if i.uid and i.live_uid and not i.write}
        self.tracker.raw, self.tracker.total = 0, sum(item.size for item in items)
        self.tracker.step = "Writing"
        for _, some in groupby(items, key=lambda item: item.group):
            await self._write_all(list(some))
        self.tracker.step = "ReadingBack"
        count, missing = await shown(self.api, self.as_made())
        self.warnings += [f"not shown as written: {one}" for one in missing]
        self.tracker.step = "Recording"
        report = RestoreReport(
            digest=plan.digest,
            started_at=self.started_at,
            finished_at=datetime.now(UTC),
            undo=self.place.undo_url,
            restored=tuple(self.done[item.key] for item in items),
            read_back=count,
            warnings=tuple(self.warnings),
        )
        await self.place.write_result(report)
        return report

    def as_made(self) -> list[PlanItem]:
        """What was written, by its new namespace, name and uid."""
        mapping = self.planned.plan.options.namespace_mapping
        made = []
        for item in self.planned.plan.items:
            one = self.done.get(item.key)
            if one is not None and one.outcome == "written":
                namespace, name = target_of(item, mapping)
                changed = {"namespace": namespace, "name": name, "uid": one.uid}
                made.append(item.model_copy(update=changed))
        return made

    async def _write_all(self, items: Sequence[PlanItem]) -> None:
        """Write one group, its objects beside each other."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def write(item: PlanItem) -> None:
            try:
                self.done[item.key] = one = await self._outcome(item)
                if item.uid is not None:
                    self.uids[item.uid] = one.uid
                self.tracker.raw += item.size
            finally:
                gate.release()

        async with together() as tasks:
            for item in items:
                await gate.acquire()
                tasks.create_task(write(item))
        await self._wait_for([item for item in items if item.resource == DEFINITIONS])

    async def _wait_for(self, definitions: Sequence[PlanItem]) -> None:
        """Until the API server serves the types of new CustomResourceDefinitions."""
        names = {
            i.name for i in definitions if self.done[i.key].outcome in {"written", "unchanged"}
        }
        until = Deadline.after(_SERVED_WITHIN)
        while any(self.served.find(name) is None for name in names) and not until.passed:
            await asyncio.sleep(_LOOK)
            self.served = await self.api.served()

    async def _outcome(self, item: PlanItem) -> Restored:
        """Write one object, again while that may help."""
        waits = iter(_RETRIES)
        while True:
            try:
                return await self._write(item)
            except (_Failed, Undecodable) as error:
                return Restored(key=item.key, outcome="failed", message=str(error))
            except OutOfSpace:
                raise
            except PermanentError as error:
                return Restored(key=item.key, outcome="failed", message=error.message)
            except TransientError as error:
                wait = next(waits, None)
                if wait is None:
                    if await self.api.trouble() is not None:
                        raise
                    return Restored(key=item.key, outcome="failed", message=error.message)
                await asyncio.sleep(wait)

    async def _write(self, item: PlanItem) -> Restored:
        options = self.planned.plan.options
        value = await settled(asyncio.to_thread(self.planned.value, item))
        resource = resource_of(item, value, self.served)
        if resource is None:
            raise _Failed(f"{item.resource} is not served in the version that it is stored in")
        target = target_of(item, options.namespace_mapping)
        owners, lost = await self._owners(objectmeta.read(value).owner_references, target[0])
        mapping = options.namespace_mapping
        body = await settled(asyncio.to_thread(body_of, value, resource, target, owners, mapping))
        if item.live_revision:
            return await self._overwrite(item, resource, target, body)
        what = resource.label(*target)
        try:
            made = await self.api.create(resource, target[0], body, what=what, manager=self.manager)
        except AlreadyExists:
            there = await self._there(item, resource, target, body)
            if there.outcome != "written":
                return there
            made = await self.api.get(resource, *target)
        status = await settled(asyncio.to_thread(status_of, value, resource))
        said = [*lost, *(await self._with_status(resource, target, made, status))]
        return _written(item, made, "; ".join(said))

    async def _owners(
        self, owners: Sequence[OwnerReference], namespace: str | None
    ) -> tuple[tuple[OwnerReference, ...], list[str]]:
        """The owners by the uids that they have now; and which of them there are no more."""
        found: list[OwnerReference] = []
        lost: list[str] = []
        for owner in owners:
            if owner.uid in self.uids:
                uid = self.uids[owner.uid]
                if uid is None:
                    raise _Failed(f"its owner, {owner.kind} {owner.name}, could not be restored")
            else:
                uid = await self._living(owner, namespace)
            if uid is None:
                lost.append(f"its owner, {owner.kind} {owner.name}, is not there: it has none now")
            else:
                found.append(replace(owner, uid=uid))
        return tuple(found), lost

    async def _living(self, owner: OwnerReference, namespace: str | None) -> str | None:
        """The uid of an owner that the target has by that name."""
        key = (owner.api_version, owner.kind, namespace, owner.name)
        if key not in self.owners:
            resource = self.served.of_kind(owner.api_version, owner.kind)
            self.owners[key] = None
            if resource is not None:
                try:
                    found = await self.api.get(resource, namespace, owner.name, metadata_only=True)
                    self.owners[key] = str(found["metadata"]["uid"])
                except NotFound:
                    pass
        return self.owners[key]

    async def _there(
        self,
        item: PlanItem,
        resource: ApiResource,
        target: tuple[str | None, str],
        body: Object | bytes,
    ) -> Restored:
        """Whose the object is that was not there when the plan was made, and is now."""
        live = await self.api.get(resource, *target, managed_fields=True)
        meta = live["metadata"]
        if self._is_ours(live):  # from before we were killed, or an answer was lost
            return _written(item, live)
        if resource.name == ACCOUNTS:
            return await self._merge(item, resource, target, live, body)
        owners = {one["uid"] for one in meta.get("ownerReferences") or ()}
        if owners & {uid for uid in self.uids.values() if uid}:
            return Restored(
                key=item.key,
                outcome="unchanged",
                uid=meta["uid"],
                message="its owner's controller has made it already",
            )
        return Restored(
            key=item.key,
            outcome="changed-since",
            uid=meta["uid"],
            message="it was created since the plan was made, by somebody else",
        )

    async def _overwrite(
        self,
        item: PlanItem,
        resource: ApiResource,
        target: tuple[str | None, str],
        body: Object | bytes,
    ) -> Restored:
        """Replace what the plan has seen there, and nothing newer."""
        try:
            live = await self.api.get(resource, *target, managed_fields=True)
            if self._is_ours(live):
                return _written(item, live)
            if (resource.name, item.name) == (ACCOUNTS, DEFAULT_ACCOUNT):
                version = str(item.live_revision)
                return _written(item, await self._add(resource, target, live, body, version))
            wanted = await settled(asyncio.to_thread(over, body, live))
            wanted["metadata"]["uid"] = item.live_uid
            wanted["metadata"]["resourceVersion"] = str(item.live_revision)
            made = await self.api.replace(resource, *target, wanted, manager=self.manager)
        except (NotFound, Conflict):
            return Restored(
                key=item.key,
                outcome="changed-since",
                message="somebody has changed or deleted it since the plan was made",
            )
        return _written(item, made)

    def _is_ours(self, live: Object) -> bool:
        managers = live["metadata"].get("managedFields") or ()
        return any(one.get("manager") == self.manager for one in managers)

    async def _merge(
        self,
        item: PlanItem,
        resource: ApiResource,
        target: tuple[str | None, str],
        live: Object,
        body: Object | bytes,
    ) -> Restored:
        """Each new namespace has a ServiceAccount `default`: what the restored one had is added."""
        version = live["metadata"]["resourceVersion"]
        merged = await self._add(resource, target, live, body, version)
        return Restored(
            key=item.key,
            outcome="unchanged",
            uid=merged["metadata"]["uid"],
            message="it was there already: what the restored one had besides was added",
        )

    async def _add(
        self,
        resource: ApiResource,
        target: tuple[str | None, str],
        live: Object,
        body: Object | bytes,
        version: str,
    ) -> Object:
        change = await settled(asyncio.to_thread(additions, live, body))
        change["metadata"]["resourceVersion"] = version
        return await self.api.patch(resource, *target, change, manager=self.manager)

    async def _with_status(
        self,
        resource: ApiResource,
        target: tuple[str | None, str],
        made: Object,
        status: Object | None,
    ) -> list[str]:
        """Put the status back; what hindered it."""
        if status is None:
            return []
        change = {
            "metadata": {"resourceVersion": made["metadata"]["resourceVersion"]},
            "status": status,
        }
        for _ in range(_STATUS_TRIES):
            try:
                await self.api.patch(resource, *target, change, subresource="status")
            except Conflict:
                live = await self.api.get(resource, *target)
                if live.get("status"):
                    return ["its controller was faster with its status"]
                change["metadata"] = {"resourceVersion": live["metadata"]["resourceVersion"]}
            except PermanentError as error:
                return [f"without its status: {error.message}"]
            else:
                return []
        return ["without its status: it changes too often"]


def _written(item: PlanItem, made: Object, message: str = "") -> Restored:
    meta = made["metadata"]
    return Restored(
        key=item.key,
        outcome="written",
        revision=int(meta["resourceVersion"]),
        uid=meta["uid"],
        message=message,
    )
