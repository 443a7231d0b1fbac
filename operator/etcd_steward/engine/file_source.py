"""An etcd database looked into: a snapshot or a stopped etcd's file, at any revision it holds."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np

from etcd_steward.engine.recognise import is_database_file
from etcd_steward.engine.report import Tracker
from etcd_steward.engine.snapshot_source import SnapshotFile, StoredSnapshot
from etcd_steward.engine.sources import (
    Change,
    Sized,
    Wanted,
    next_batch,
    revision_at,
    sized,
)
from etcd_steward.engine.spool import Spool
from etcd_steward.etcd.keys import EVERYTHING, KeyRange
from etcd_steward.models.ports import ReadAt
from etcd_steward.models.registry import Record
from etcd_steward.registry import paths
from etcd_steward.registry.history import History, Rows
from etcd_steward.registry.selection import end_of
from etcd_steward.store.local_files import LocalReadAt
from etcd_steward.store.threads import settled

Item = TypeVar("Item")
Result = TypeVar("Result")
Parameters = ParamSpec("Parameters")

_BATCH = 8192
"""Keys that are told without their values at once."""


class FileSource:
    """A database file. Its index is in memory, about 120 bytes a record; values are read."""

    ordered = True

    def __init__(self, history: History, name: str, size: int) -> None:
        self._history = history
        self._one = asyncio.Lock()
        self.name = name
        self.size = size
        """Bytes of the database."""
        self.revision = history.revision

    @classmethod
    async def open(cls, file: ReadAt, name: str, tracker: Tracker) -> "FileSource":
        """Read the file once. Raises `IntegrityError`, naming the damage."""
        tracker.step = "Indexing"
        return cls(await settled(asyncio.to_thread(History, file)), name, file.size)

    async def oldest(self) -> int:
        """The revision of the last compaction."""
        return max(1, self._history.compact_revision)

    async def records(
        self, wanted: Wanted, *, at: int = 0, values: bool = True
    ) -> AsyncGenerator[list[Record], None]:
        """The keys that are meant, in order."""
        if not values and not wanted.by_value:
            async for batch in self.sizes(wanted, at=at):
                yield [Record(one.key, b"", *one[2:]) for one in batch]
            return
        for rows in await self._parts(wanted, at):
            async for records in self.each(rows.records()):
                kept = [one for one in records if wanted.wants(one)] if wanted.by_value else records
                if kept:
                    yield kept if values else [one._replace(value=b"") for one in kept]

    async def sizes(self, wanted: Wanted, *, at: int = 0) -> AsyncGenerator[list[Sized], None]:
        """The same keys, in order; values are read only where labels decide."""
        if wanted.by_value:
            async for records in self.records(wanted, at=at):
                yield list(map(sized, records))
            return
        for rows in await self._parts(wanted, at):
            async for batch in self.each(_sizes(rows)):
                yield batch

    async def fetch(self, keys: Sequence[bytes], *, at: int = 0) -> dict[bytes, Record]:
        """Some keys in full."""
        return await self._work(self._fetch, keys, self._revision(at))

    async def changes(
        self, wanted: Wanted, *, after: int = 0, upto: int = 0
    ) -> AsyncGenerator[list[Change], None]:
        """What changed since the last compaction."""
        start, last = after or self._history.compact_revision, self._revision(upto)
        rows = await self._work(self._changes, wanted, start, last)
        at = 0
        async for records in self.each(rows.records()):
            deleted = rows.deleted[at : at + len(records)].tolist()
            at += len(records)
            found = list(map(Change, records, deleted))
            yield [one for one in found if wanted.wants(one.record)] if wanted.by_value else found

    async def live(self, wanted: KeyRange, *, at: int = 0) -> Rows:
        """The keys of a range of bytes, ascending; `each` reads them."""
        rows = await self._work(self._history.live, self._revision(at))
        return _between(rows, wanted)

    async def told(self, wanted: KeyRange, *, start: int) -> Rows:
        """What etcd would tell of a range that is watched from revision `start` on.

        At the revision of the last compaction itself that is what has stayed.
        """
        rows = _between(await self._work(self._history.changes), wanted)
        return rows[rows.mod_revision >= start]

    async def each(self, items: Iterator[list[Item]]) -> AsyncIterator[list[Item]]:
        """The batches of an iterator over `Rows` of this file, which blocks."""
        while (batch := await self._work(next_batch, items)) is not None:
            yield batch

    async def _parts(self, wanted: Wanted, at: int) -> list[Rows]:
        return await self._work(self._live, wanted, self._revision(at))

    def _live(self, wanted: Wanted, at: int) -> list[Rows]:
        rows = self._history.live(at)
        ranges = wanted.chosen.ranges()
        if ranges is None:
            root = paths.root_of(wanted.prefix) if wanted.objects_only else b""
            return [_chosen(rows.between(root, end_of(root) if root else None), wanted)]
        return [
            _chosen(rows.between(low, None if high == EVERYTHING else high), wanted)
            for low, high in ranges
        ]

    def _changes(self, wanted: Wanted, after: int, upto: int) -> Rows:
        return _chosen(self._history.changes(after, upto), wanted)

    def _fetch(self, keys: Sequence[bytes], at: int) -> dict[bytes, Record]:
        found = {}
        for key in keys:
            rows = self._history.revisions(key)
            number = int(np.searchsorted(rows.mod_revision, at, side="right")) - 1
            if number >= 0 and not rows.deleted[number]:
                ((record,),) = rows[number : number + 1].records()
                found[key] = record
        return found

    def _revision(self, at: int) -> int:
        oldest = max(1, self._history.compact_revision)
        return revision_at(at, self.name, self.revision, oldest)

    async def _work(
        self, work: Callable[Parameters, Result], *args: Parameters.args, **more: Parameters.kwargs
    ) -> Result:
        """Do something in a thread: the reader is for one at a time."""
        async with self._one:
            return await settled(asyncio.to_thread(work, *args, **more))


def _between(rows: Rows, wanted: KeyRange) -> Rows:
    """Those of a range, as etcd understands it."""
    if not wanted.end:
        return rows.between(wanted.start, wanted.start + b"\0")
    return rows.between(wanted.start, None if wanted.end == EVERYTHING else wanted.end)


def _chosen(rows: Rows, wanted: Wanted) -> Rows:
    """Those that are meant by their keys; what their labels say is asked of their values."""
    if wanted.everything:
        return rows
    blind = wanted.whatever_labels()
    meant = (blind.wants(Record(key, b"", 0, 0, 0, 0)) for key in rows.keys())  # noqa: SIM118
    return rows[np.fromiter(meant, dtype=np.bool_, count=len(rows))]


def _sizes(rows: Rows) -> Iterator[list[Sized]]:
    for first in range(0, len(rows), _BATCH):
        part = rows[first : first + _BATCH]
        numbers = (part.value_size, part.create_revision, part.mod_revision, part.version)
        columns = [column.tolist() for column in (*numbers, part.lease)]
        yield list(map(Sized, part.keys(), *columns))


async def open_file(
    path: Path, stack: AsyncExitStack, spool: Spool, tracker: Tracker
) -> FileSource:
    """A snapshot file on this host: read where it lies, or if it is wrapped, from the spool.

    What must be closed goes into `stack`. Raises `NotFound`, `Unauthorized`, `Refused` for the
    database of an etcd that is running, `InvalidInput` for what is no snapshot, and
    `IntegrityError` for a damaged one.
    """
    if await asyncio.to_thread(is_database_file, path):
        return await FileSource.open(LocalReadAt(path), str(path), tracker)
    return await open_snapshot(SnapshotFile(path), stack, spool, tracker)


async def open_snapshot(
    snapshot: StoredSnapshot | SnapshotFile, stack: AsyncExitStack, spool: Spool, tracker: Tracker
) -> FileSource:
    """A whole snapshot, brought into the spool; `stack` closes it."""
    tracker.step = "Fetching"
    file = stack.enter_context(closing(spool.create("snapshot.db")))
    await snapshot.bring(spool, file, tracker)
    return await FileSource.open(file, snapshot.name, tracker)
