"""Values on their way into a restore's place, and out of it again: bounded memory, own files."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from etcd_steward.engine.restore.place import UNDO, VALUES, Place
from etcd_steward.engine.spoolfile import SpoolFile
from etcd_steward.engine.tasks import together
from etcd_steward.errors import IntegrityError, Refused
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.models.registry import Record
from etcd_steward.models.restore import Plan, PlanItem
from etcd_steward.registry.table import RowsWriter
from etcd_steward.store.threads import settled

if TYPE_CHECKING:  # it brings pyarrow
    from etcd_steward.registry.parquet import RegistryFile

_AT_ONCE: Final = 16
"""Keys read together: values may have 1.5 MB."""
_TOLD: Final = 5
"""Keys that an error names."""


class Planned(Protocol):
    """A plan, and the values that it would write."""

    @property
    def plan(self) -> Plan:
        """What would be done, key by key."""
        ...

    def value(self, item: PlanItem) -> bytes:
        """What would be written; blocking. Only of an item with `write`."""
        ...


class Reopened:
    """The plan of an apply that was killed, with its values, out of its place."""

    def __init__(self, plan: Plan, values: "Fetched") -> None:
        self.plan = plan
        self._values = values

    def value(self, item: PlanItem) -> bytes:
        """What would be written; blocking."""
        return self._values.value(item.key)


async def reopen(place: Place) -> Reopened | None:
    """What a killed apply of this place was about to write; None where it had not come so far.

    With it, `apply` goes on where that one was. The values lie in the spool until it is closed.
    Raises `IntegrityError` if plan and values don't belong together.
    """
    claim, plan = await place.claimed(), await place.plan()
    if claim is None or plan is None or claim.digest != plan.digest:
        return None
    values = await fetch(place, VALUES)
    if values is None:
        return None
    where = values.where
    missing = [item.key for item in plan.items if item.write and item.key not in where]
    if missing:
        raise IntegrityError(
            f"{place.url}/{VALUES} lacks {missing[0]}, which its plan would write",
            hint="make a new restore; undo this one if it has written something",
        )
    return Reopened(plan, values)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file of a place, in the spool until that is closed."""

    file: SpoolFile
    where: dict[str, tuple[int, int]]
    """Where each key's value lies, and its bytes."""

    def value(self, key: str) -> bytes:
        """One value; blocking."""
        return self.file.read_at(*self.where[key])


async def fetch(place: Place, name: str) -> Fetched | None:
    """A file that `save` wrote; None if it is not there."""
    registry = await place.stashed(name)
    if registry is None:
        return None
    file = place.spool.create(f"fetched-{name}")
    file.path.unlink()  # it lives as long as it is open, and its name is free again
    return Fetched(file, await settled(asyncio.to_thread(_copied, registry, file)))


def _copied(registry: "RegistryFile", file: SpoolFile) -> dict[str, tuple[int, int]]:
    where: dict[str, tuple[int, int]] = {}
    for records in registry.read():
        for record in records:
            where[record.key.decode()] = (file.size, len(record.value))
            file.append([record.value])
    return where


async def save(planned: Planned, client: EtcdClient, place: Place, *, prefix: str) -> None:
    """Write `undo.parquet`, then `values.parquet`: from then on the apply may begin.

    Raises `Refused` if something has changed since the plan, naming it: nothing was written then.
    """
    writes = sorted((item for item in planned.plan.items if item.write), key=_key)
    over = [item for item in writes if item.live_revision]
    await _check_absent(client, [item for item in writes if not item.live_revision])
    revision = planned.plan.revision
    with collecting(place, f"saved-{UNDO}") as (file, rows):
        async for records in _existing(client, over):
            await settled(asyncio.to_thread(_add, file, rows, records))
        await place.stash(UNDO, rows.rows(), file, revision=revision, prefix=prefix)
    with collecting(place, f"saved-{VALUES}") as (file, rows):
        for at in range(0, len(writes), _AT_ONCE):
            some = writes[at : at + _AT_ONCE]
            await settled(asyncio.to_thread(add_values, file, rows, some, planned.value))
        await place.stash(VALUES, rows.rows(), file, revision=revision, prefix=prefix)


def _key(item: PlanItem) -> bytes:
    return item.key.encode()


@contextmanager
def collecting(place: Place, name: str) -> Iterator[tuple[SpoolFile, RowsWriter]]:
    """A file for values and its index; the file is gone afterwards."""
    with closing(place.spool.create(name)) as file:
        try:
            yield file, RowsWriter()
        finally:
            file.path.unlink(missing_ok=True)


def _add(file: SpoolFile, rows: RowsWriter, records: Sequence[Record]) -> None:
    for key, value, create, mod, version, lease in records:
        rows.add(key, create, mod, version, lease, file.size, len(value))
        file.append([value])


def add_values(
    file: SpoolFile,
    rows: RowsWriter,
    items: Sequence[PlanItem],
    value_of: Callable[[PlanItem], bytes],
) -> None:
    """Append what would be written of some items. Blocking."""
    for item in items:
        value = value_of(item)
        rows.add(_key(item), 0, item.live_revision, 0, 0, file.size, len(value))
        file.append([value])


async def _check_absent(client: EtcdClient, items: Sequence[PlanItem]) -> None:
    """Make sure that what is to be created is not there yet."""
    changed: list[str] = []
    for at in range(0, len(items), _AT_ONCE):
        async with together() as group:
            asked = [
                (item, group.create_task(client.range(_key(item), count_only=True)))
                for item in items[at : at + _AT_ONCE]
            ]
        changed += [item.key for item, answer in asked if answer.result().count]
    if changed:
        raise changed_since(changed)


async def _existing(client: EtcdClient, items: Sequence[PlanItem]) -> AsyncIterator[list[Record]]:
    """What is there of these keys, as the plan has seen it."""
    for at in range(0, len(items), _AT_ONCE):
        some = items[at : at + _AT_ONCE]
        async with together() as group:
            tasks = [group.create_task(client.get(_key(item))) for item in some]
        found = [task.result() for task in tasks]
        pairs = list(zip(some, found, strict=True))
        changed = [
            item.key for item, kv in pairs if kv is None or kv.mod_revision != item.live_revision
        ]
        if changed:
            raise changed_since(changed)
        yield [
            Record(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)
            for kv in found
            if kv is not None
        ]


def changed_since(keys: Sequence[str]) -> Refused:
    """Somebody was faster than the plan."""
    more = f" and {len(keys) - _TOLD} more" if len(keys) > _TOLD else ""
    return Refused(
        f"{', '.join(keys[:_TOLD])}{more} changed since the plan was made: nothing was written",
        hint="make a new plan, and look at what is different in it",
    )
