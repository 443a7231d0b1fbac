"""Taking an applied restore back: to what was there before, where nobody has touched it since.

What was created is deleted (see `removal`); what was overwritten is put back in etcd, if it is
still the object that the restore wrote, but for its status. A killed restore is undone as well.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from etcd_steward.engine.report import Tracker
from etcd_steward.engine.restore.lock import locked, namespaces_of
from etcd_steward.engine.restore.place import UNDO, VALUES, Place
from etcd_steward.engine.restore.removal import Removal
from etcd_steward.engine.restore.second_look import fate, read_keys
from etcd_steward.engine.restore.stash import Fetched, fetch
from etcd_steward.engine.restore.transaction import digest_of
from etcd_steward.errors import IntegrityError, NotFound, Unavailable, Undecodable
from etcd_steward.etcd import stubs
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.kube_objects import ApiServer
from etcd_steward.models.registry import Filter
from etcd_steward.models.restore import Plan, PlanItem
from etcd_steward.models.restore_place import Undone, UndoOutcome, UndoReport
from etcd_steward.registry import objectmeta
from etcd_steward.store.threads import settled

_KEYS: Final = 16
"""Read together: values may have 1.5 MB."""


@dataclass(frozen=True, slots=True)
class UndoSettings:
    """How to take a restore back."""

    restore: str
    """Name of the undo, for whoever meets its locks."""
    uid: str
    """Of the undo."""
    prefix: str = "/registry"
    """The API server's `--etcd-prefix`."""
    volumes: Filter | None = None
    """Claims and volumes that are deleted, too, if the restore has created them."""
    patience: float = 120.0
    """Seconds until what is deleted must be gone."""


async def undo(
    client: EtcdClient,
    api: ApiServer | None,
    place: Place,
    tracker: Tracker,
    settings: UndoSettings,
) -> UndoReport:
    """Take back what the apply of this place has written, finished or not; again, if need be.

    Raises `NotFound` if none was begun there, `Unavailable` if something must be deleted and no API
    server answers, `Refused` if another restore is under way in one of its namespaces.
    """
    started_at = datetime.now(UTC)
    plan = await place.plan()
    if plan is None or await place.claimed() is None:
        raise NotFound(f"no restore was applied from {place.url}", hint="there is nothing to undo")
    tracker.step = "Reading"
    written = await _written(client, place, plan)
    items = [item for item in plan.items if item.key in written]
    created = [item for item in items if not item.live_revision]
    if api is None and created:
        raise Unavailable(
            "no API server answers, and what the restore has created is deleted through it alone",
            hint="try again when it is back: a raw delete would take disks along",
        )
    done: dict[str, Undone] = {}
    async with locked(client, namespaces_of(items), restore=settings.restore, uid=settings.uid):
        if api is not None and created:
            tracker.step = "Deleting"
            removal = Removal(
                client,
                api,
                await api.served(),
                settings.prefix,
                settings.volumes,
                settings.patience,
                written,
            )
            await removal.remove(created)
            done |= removal.done
        tracker.step = "PuttingBack"
        back = _PuttingBack(client, place, done)
        await back.all([item for item in reversed(items) if item.live_revision])
        report = UndoReport(
            digest=plan.digest,
            started_at=started_at,
            finished_at=datetime.now(UTC),
            undone=tuple(done[item.key] for item in reversed(items)),
        )
        await place.write_undone(report)
    return report


async def _written(client: EtcdClient, place: Place, plan: Plan) -> dict[str, int]:
    """Which keys an apply has written, and at which revision.

    One that was killed has a journal, and what it wrote last shows by its uid: no API server makes
    an object with a uid that was used before.
    """
    result = await place.result()
    if result is not None:
        return {one.key: one.revision for one in result.restored if one.outcome == "written"}
    ours = await place.noted()
    rest = [item for item in plan.items if item.write and item.key not in ours]
    for at in range(0, len(rest), _KEYS):
        some = rest[at : at + _KEYS]
        found = await read_keys(client, [item.key for item in some])
        ours |= {
            item.key: kv.mod_revision if item.live_revision else kv.create_revision
            for item, kv in zip(some, found, strict=True)
            if kv is not None and kv.mod_revision > plan.revision and _is_ours(item, kv.value)
        }
    return ours


def _is_ours(item: PlanItem, value: bytes) -> bool:
    if digest_of(value) == item.sha256:
        return True
    if item.live_revision or item.uid is None:
        return False
    try:
        return objectmeta.read(value).uid == item.uid
    except Undecodable:
        return False


@dataclass(slots=True)
class _PuttingBack:
    """Puts back what was overwritten."""

    client: EtcdClient
    place: Place
    done: dict[str, Undone]
    _before: Fetched | None = field(default=None)
    _values: Fetched | None = field(default=None)

    async def all(self, items: Sequence[PlanItem]) -> None:
        """Put back these, in this order."""
        if not items:
            return
        self._before = await fetch(self.place, UNDO)
        self._values = await fetch(self.place, VALUES)
        lost = [
            name
            for name, file in ((UNDO, self._before), (VALUES, self._values))
            if file is None or any(item.key not in file.where for item in items)
        ]
        if lost:
            raise IntegrityError(
                f"{self.place.url}/{lost[0]} does not hold all that was overwritten",
                hint="what was created is deleted; put back the rest from a backup",
            )
        for at in range(0, len(items), _KEYS):
            some = items[at : at + _KEYS]
            found = await read_keys(self.client, [item.key for item in some])
            for item, kv in zip(some, found, strict=True):
                await self._one(item, kv)

    async def _one(self, item: PlanItem, kv: stubs.KeyValue | None) -> None:
        assert self._before is not None  # noqa: S101  # `all` has fetched both
        assert self._values is not None  # noqa: S101
        if kv is None:
            self._say(item, "gone", "it was deleted since")
            return
        before = await settled(asyncio.to_thread(self._before.value, item.key))
        written = await settled(asyncio.to_thread(self._values.value, item.key))
        if kv.value == before:
            self._say(item, "put-back")
            return
        said = "" if kv.value == written else fate(item, written, kv.value)
        if said:
            self._say(item, "changed-since", f"it {said}")
            return
        compare = stubs.Compare(
            result=stubs.Compare.EQUAL,
            target=stubs.Compare.MOD,
            key=kv.key,
            mod_revision=kv.mod_revision,
        )
        put = stubs.RequestOp(request_put=stubs.PutRequest(key=kv.key, value=before))
        answer = await self.client.txn([compare], [put])
        if answer.succeeded:
            self._say(item, "put-back")
        else:
            self._say(item, "changed-since", "it was changed just now")

    def _say(self, item: PlanItem, outcome: UndoOutcome, message: str = "") -> None:
        self.done[item.key] = Undone(key=item.key, outcome=outcome, message=message)
