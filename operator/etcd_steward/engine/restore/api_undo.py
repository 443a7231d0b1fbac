"""Taking back what a restore through the API server has made, where nobody has touched it since.

What it created is deleted by uid, backwards; what it overwrote is put back. Nothing is asked of
etcd: the restore may have gone to another cluster.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Final

from etcd_steward.deadline import Deadline
from etcd_steward.engine.report import Tracker
from etcd_steward.engine.restore.api_bodies import target_of
from etcd_steward.engine.restore.api_plan import AT_ONCE
from etcd_steward.engine.restore.place import UNDO, Place
from etcd_steward.engine.restore.removal import CLAIMS, DERIVED, IN_EVERY, NAMESPACES, VOLUMES
from etcd_steward.engine.restore.stash import Fetched, fetch
from etcd_steward.engine.restore.undo import UndoSettings
from etcd_steward.engine.restore.via_api import manager_of
from etcd_steward.engine.sources import Wanted
from etcd_steward.engine.tasks import together
from etcd_steward.errors import NotFound, StewardError
from etcd_steward.kube_client import Conflict, Object
from etcd_steward.kube_discovery import ApiResource, Served
from etcd_steward.kube_objects import ApiServer
from etcd_steward.models.registry import KeyPath
from etcd_steward.models.restore import Plan, PlanItem
from etcd_steward.models.restore_place import Claim, Undone, UndoOutcome, UndoReport
from etcd_steward.store.threads import settled

_POLL: Final = 0.5
_TOLD: Final = 3
_DERIVED: Final = DERIVED | {"events.events.k8s.io"}


async def undo_via_api(
    api: ApiServer, place: Place, tracker: Tracker, settings: UndoSettings
) -> UndoReport:
    """Take back what the apply of this place has made, finished or not; again, if need be.

    Raises `NotFound` if none was begun there.
    """
    started_at = datetime.now(UTC)
    plan, claim = await place.plan(), await place.claimed()
    if plan is None or claim is None:
        raise NotFound(f"no restore was applied from {place.url}", hint="there is nothing to undo")
    tracker.step = "Reading"
    work = _Undo(api, await api.served(), place, plan, claim, settings)
    made = await work.made()
    tracker.step = "Deleting"
    await work.delete([item for item in made if not item.live_revision])
    tracker.step = "PuttingBack"
    await work.put_back([item for item in reversed(made) if item.live_revision])
    report = UndoReport(
        digest=plan.digest,
        started_at=started_at,
        finished_at=datetime.now(UTC),
        undone=tuple(work.done[item.key] for item in reversed(made)),
    )
    await place.write_undone(report)
    return report


@dataclass(slots=True)
class _Undo:
    """Items are by the namespace, name and uid that they have got."""

    api: ApiServer
    served: Served
    place: Place
    plan: Plan
    claim: Claim
    settings: UndoSettings
    done: dict[str, Undone] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    """The version that the apply has left of each, where it has left a report."""

    async def made(self) -> list[PlanItem]:
        """What the apply has written, in the order of its writing.

        One that was killed has left no report: then what managedFields say is its own.
        """
        result = await self.place.result()
        written = [item for item in self.plan.items if item.write]
        if result is not None:
            uids = {one.key: one.uid for one in result.restored if one.outcome == "written"}
            self.versions = {one.key: one.revision for one in result.restored}
        else:
            uids = {}
            for at in range(0, len(written), AT_ONCE):
                some = written[at : at + AT_ONCE]
                async with together() as group:
                    tasks = [group.create_task(self._ours(item)) for item in some]
                uids |= {i.key: t.result() for i, t in zip(some, tasks, strict=True) if t.result()}
        return [self._as_made(item, uids[item.key]) for item in written if item.key in uids]

    def _as_made(self, item: PlanItem, uid: str | None) -> PlanItem:
        namespace, name = target_of(item, self.plan.options.namespace_mapping)
        return item.model_copy(update={"namespace": namespace, "name": name, "uid": uid})

    async def _ours(self, item: PlanItem) -> str | None:
        """The uid of the object if the restore has written it."""
        resource = self.served.find(item.resource)
        if resource is None:
            return None
        target = target_of(item, self.plan.options.namespace_mapping)
        try:
            live = await self.api.get(resource, *target, managed_fields=True)
        except NotFound:
            return None
        manager = manager_of(self.claim.uid)
        managers = live["metadata"].get("managedFields") or ()
        ours = any(one.get("manager") == manager for one in managers)
        return str(live["metadata"]["uid"]) if ours else None

    def _say(self, item: PlanItem, outcome: UndoOutcome, message: str = "") -> None:
        self.done[item.key] = Undone(key=item.key, outcome=outcome, message=message)

    def _resource(self, name: str) -> ApiResource:
        resource = self.served.find(name)
        if resource is None:
            raise NotFound(f"{name} is not served any more")
        return resource

    # What was created -------------------------------------------------------------------------

    async def delete(self, created: Sequence[PlanItem]) -> None:
        """Delete these, given in the order of their writing, and wait until they are gone."""
        for item in created:
            if item.resource in {CLAIMS, VOLUMES} and not self._named(item):
                self._say(item, "left", "claims and volumes are left alone unless they are named")
        going = [item for item in created if item.key not in self.done]
        await self._each([i for i in going if i.resource in {CLAIMS, VOLUMES}], self._retain)
        inside = [item for item in going if item.resource != NAMESPACES]
        for _, step in groupby(reversed(inside), key=lambda item: item.group):
            await self._each(list(step), self._delete)
        await self._until_gone(inside)
        spaces = [item for item in going if item.resource == NAMESPACES]
        await self._each(spaces, self._delete_namespace)
        await self._until_gone(spaces)

    def _named(self, item: PlanItem) -> bool:
        if self.settings.volumes is None:
            return False
        chosen = Wanted(self.settings.volumes, prefix=self.settings.prefix).chosen
        path = KeyPath(item.resource, "", item.namespace, item.name)
        return chosen.wants(path, item.key.encode(), lambda: None)

    async def _retain(self, item: PlanItem) -> None:
        """Have the volume keep its data that is going to lose its claim, or to go itself."""
        name = item.name
        try:
            if item.resource == CLAIMS:
                claim = await self.api.get(self._resource(CLAIMS), item.namespace, item.name)
                name = claim["spec"].get("volumeName", "")
            if name:
                change = {"spec": {"persistentVolumeReclaimPolicy": "Retain"}}
                await self.api.patch(self._resource(VOLUMES), None, name, change)
        except NotFound:
            return

    async def _delete(self, item: PlanItem) -> None:
        try:
            resource = self._resource(item.resource)
            await self.api.delete(resource, item.namespace, item.name, uid=item.uid or "")
        except NotFound:
            self._say(item, "gone", "it is not there any more, or is another one by now")
        except StewardError as error:
            self._say(item, "failed", error.message)

    async def _delete_namespace(self, item: PlanItem) -> None:
        """Delete a Namespace, unless that would take along what others have put there."""
        others = await self._others(item.name)
        if others:
            more = f" and {len(others) - _TOLD} more" if len(others) > _TOLD else ""
            message = f"it holds {', '.join(others[:_TOLD])}{more}, which would go with it"
            self._say(item, "left", message)
            return
        await self._delete(item)

    async def _others(self, namespace: str) -> list[str]:
        """What a namespace holds that neither its controllers nor the restore have made."""
        found: list[str] = []
        names = {one.name: one for one in reversed(self.served.resources)}
        for name, resource in sorted(names.items()):
            if not resource.namespaced or "list" not in resource.verbs or name in _DERIVED:
                continue
            async for one in self.api.objects(resource, namespace, metadata_only=True):
                meta = one["metadata"]
                made = meta.get("ownerReferences") or "deletionTimestamp" in meta
                if not made and (name, meta["name"]) not in IN_EVERY:
                    found.append(f"{name} {meta['name']}")
        return found

    async def _until_gone(self, items: Sequence[PlanItem]) -> None:
        """Wait for those that are being deleted; some have finalizers to wait for."""
        deadline = Deadline.after(self.settings.patience)
        while left := [item for item in items if item.key not in self.done]:
            await self._each(left, self._look)
            left = [item for item in left if item.key not in self.done]
            if deadline.passed:
                for item in left:
                    self._say(item, "failed", "it is being deleted, and waits for its finalizers")
            elif left:
                await asyncio.sleep(_POLL)

    async def _look(self, item: PlanItem) -> None:
        try:
            resource = self._resource(item.resource)
            found = await self.api.get(resource, item.namespace, item.name, metadata_only=True)
        except NotFound:
            self._say(item, "deleted")
            return
        if found["metadata"]["uid"] != item.uid:
            self._say(item, "deleted")

    async def _each(
        self, items: Sequence[PlanItem], work: Callable[[PlanItem], Coroutine[None, None, None]]
    ) -> None:
        for at in range(0, len(items), AT_ONCE):
            async with together() as group:
                for item in items[at : at + AT_ONCE]:
                    group.create_task(work(item))

    # What was overwritten ---------------------------------------------------------------------

    async def put_back(self, items: Sequence[PlanItem]) -> None:
        """Put these back as they were, in this order, but for what somebody has changed since."""
        if not items:
            return
        before = await fetch(self.place, UNDO)
        for item in items:
            if before is None or item.key not in before.where:
                self._say(item, "failed", f"{self.place.undo_url} does not hold it")
            else:
                await self._put_back(item, before)

    async def _put_back(self, item: PlanItem, saved: Fetched) -> None:
        text = await settled(asyncio.to_thread(saved.value, item.key))
        before: Object = json.loads(text)
        resource = self._resource(item.resource)
        target = (item.namespace, item.name)
        try:
            live = await self.api.get(resource, *target, managed_fields=True)
            if live["metadata"]["uid"] != before["metadata"]["uid"]:
                self._say(item, "changed-since", "it is another one by now")
                return
            version = int(live["metadata"]["resourceVersion"])
            ours = version == self.versions.get(item.key)
            if not ours and _touched_since(live, manager_of(self.claim.uid)):
                self._say(item, "changed-since", "somebody has changed it since")
                return
            before.pop("status", None)
            before["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"]
            await self.api.replace(resource, *target, before)
        except (NotFound, Conflict):
            self._say(item, "changed-since", "somebody was faster")
        except StewardError as error:
            self._say(item, "failed", error.message)
        else:
            self._say(item, "put-back")


def _touched_since(live: Object, manager: str) -> bool:
    """Whether anybody else may have written fields, but for the status, since the restore did.

    managedFields tell whole seconds: what is of the same one may be later.
    """
    entries = live["metadata"].get("managedFields") or ()
    ours = [one.get("time", "") for one in entries if one.get("manager") == manager]
    return any(
        one.get("time", "") >= max(ours, default="")
        for one in entries
        if one.get("manager") != manager and one.get("subresource") != "status"
    )
