"""A backup that stands in for etcd: it answers as etcd would have, at its own revision.

What counts, what a limit leaves out and what an order is, are etcd's
(server/etcdserver/txn/range.go of 3.7); so are the words for a revision that can't be shown. A file
has no member: its headers tell the revision alone.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, closing
from itertools import groupby
from typing import Final, Self

import numpy as np

from etcd_steward.engine.file_source import FileSource
from etcd_steward.engine.parquet_source import ParquetSource
from etcd_steward.engine.report import Report
from etcd_steward.engine.sources import Change, next_batch
from etcd_steward.engine.spool import Spool
from etcd_steward.engine.spoolfile import SpoolFile
from etcd_steward.errors import Compacted, InvalidInput
from etcd_steward.etcd import stubs
from etcd_steward.etcd.keys import KeyRange
from etcd_steward.etcd.watcher import Watch
from etcd_steward.models.registry import Record
from etcd_steward.models.run import SpoolSettings
from etcd_steward.registry.gathered import Gatherer
from etcd_steward.registry.history import Rows
from etcd_steward.registry.lanes import Offsets
from etcd_steward.store.threads import settled

_BATCH: Final = 1 << 20
"""Bytes of keys and values in one part of an answer."""
_KEYS: Final = 8192
"""Keys in one part of an answer without values."""
_REVISIONS: Final = 1000
"""Revisions in one answer to a watch, as etcd has it (`watchBatchMaxRevs`)."""

_Request = stubs.RangeRequest


class StandIn:
    """A backup, asked as etcd is asked. All raise `StewardError`."""

    def __init__(
        self, source: FileSource | ParquetSource, spooled: Callable[[], Awaitable[SpoolFile]]
    ) -> None:
        """`spooled` makes a file for values, where the source has them in another order."""
        self._source = source
        self._spooled = spooled
        self.header = stubs.ResponseHeader(revision=source.revision)
        """Of every answer."""

    @classmethod
    def of(
        cls,
        source: FileSource | ParquetSource,
        stack: AsyncExitStack,
        settings: SpoolSettings,
        report: Report,
    ) -> Self:
        """What must be closed goes into `stack`."""

        async def spooled() -> SpoolFile:
            name = f"answer-{secrets.token_hex(4)}"
            opened = Spool.open(settings, name, report.warning)
            spool = await stack.enter_async_context(opened)
            return stack.enter_context(closing(spool.create("values")))

        return cls(source, spooled)

    async def range(self, request: stubs.RangeRequest) -> stubs.RangeResponse:
        """The whole answer."""
        rows = await self._rows(request)
        answer = stubs.RangeResponse(header=self.header, count=len(rows))
        if request.count_only:
            return answer
        rows = await settled(asyncio.to_thread(_ordered, _bounded(rows, request), request))
        if 0 < request.limit < len(rows):
            rows, answer.more = rows[: request.limit], True
        async for kvs in self._keys(rows, keys_only=request.keys_only):
            answer.kvs.extend(kvs)
        return answer

    async def parts(
        self, request: stubs.RangeRequest
    ) -> AsyncGenerator[tuple[int, list[stubs.KeyValue]], None]:
        """How many keys there are, and some of them, in order; at least once.

        For a request that asks for no other order, for no limit and for no bounds of revisions.
        """
        rows = await self._rows(request)
        if not len(rows):
            yield 0, []
        async for kvs in self._keys(rows, keys_only=request.keys_only):
            yield len(rows), kvs

    async def replay(self, asked: Watch) -> AsyncGenerator[stubs.WatchResponse, None]:
        """What a watch from revision `asked.start` on would have told, up to the newest.

        The last answer is `canceled` if there is no such range, or if the history does not reach
        back so far.
        """
        source = self._source
        if isinstance(source, ParquetSource):
            raise InvalidInput(
                f"{source.name} shows revision {source.revision} and no history",
                hint="Name a full snapshot: it holds what etcd had not compacted yet",
            )
        if asked.wanted.empty:
            reason = "mvcc: watcher range is empty"
            yield stubs.WatchResponse(
                header=self.header, created=True, canceled=True, cancel_reason=reason
            )
            return
        oldest = await source.oldest()
        if asked.start < oldest:
            yield stubs.WatchResponse(
                header=self.header, canceled=True, compact_revision=max(oldest, 1)
            )
            return
        rows = await source.told(asked.wanted, start=asked.start)
        waiting: list[stubs.Event] = []
        deleted, at = rows.deleted, 0
        async for records in source.each(rows.records(_BATCH)):
            gone = deleted[at : at + len(records)].tolist()
            at += len(records)
            for record, dead in zip(records, gone, strict=True):
                waiting.append(await self._event(source, Change(record, dead), asked, oldest))
            whole = _whole(waiting, ended=at == len(rows))
            for events in _answers(waiting[:whole]):
                yield stubs.WatchResponse(header=self.header, events=events)
            del waiting[:whole]

    async def _event(
        self, source: FileSource, change: Change, asked: Watch, oldest: int
    ) -> stubs.Event:
        """One change; what was there before as far as the file still knows it."""
        record = change.record
        if change.deleted:
            kv = stubs.KeyValue(key=record.key, mod_revision=record.mod_revision)
            event = stubs.Event(type=stubs.Event.DELETE, kv=kv)
        else:
            event = stubs.Event(kv=_key_value(record))
        before = record.mod_revision - 1
        created = record.create_revision == record.mod_revision
        if asked.prev_kv and not created and before >= oldest:
            found = (await source.fetch([record.key], at=before)).get(record.key)
            if found is not None:
                event.prev_kv.CopyFrom(_key_value(found))
        return event

    async def _rows(self, request: stubs.RangeRequest) -> Rows:
        """All keys of the range, ascending."""
        if not request.key:
            raise InvalidInput("etcdserver: key is not provided")
        source = self._source
        await self._check(request.revision)
        wanted = KeyRange(request.key, request.range_end)
        if isinstance(source, FileSource):
            return await source.live(wanted, at=request.revision)
        by_value = request.sort_target == _Request.VALUE
        values = not request.count_only and (by_value or not request.keys_only)
        gatherer = Gatherer(await self._spooled())
        found = source.within(wanted, at=request.revision, values=values)
        async with aclosing(found) as batches:
            async for records in batches:
                await settled(asyncio.to_thread(gatherer.add, records))
        return await settled(asyncio.to_thread(gatherer.rows))

    async def _check(self, revision: int) -> None:
        source = self._source
        if revision > source.revision:
            raise InvalidInput(
                "etcdserver: mvcc: required revision is a future revision",
                hint=f"{source.name} is of revision {source.revision}",
            )
        if revision and revision < (oldest := await source.oldest()):
            raise Compacted(
                "etcdserver: mvcc: required revision has been compacted",
                hint=f"{source.name} reaches back to revision {oldest}",
            )

    async def _keys(
        self, rows: Rows, *, keys_only: bool
    ) -> AsyncGenerator[list[stubs.KeyValue], None]:
        batches = _bare(rows) if keys_only else rows.records(_BATCH)
        async for records in self._each(batches):
            yield [_key_value(record) for record in records]

    async def _each(self, batches: Iterator[list[Record]]) -> AsyncIterator[list[Record]]:
        if isinstance(self._source, FileSource):
            async for batch in self._source.each(batches):
                yield batch
            return
        while (found := await settled(asyncio.to_thread(next_batch, batches))) is not None:
            yield found


def _bounded(rows: Rows, request: stubs.RangeRequest) -> Rows:
    """Those within the bounds that the request sets for their revisions."""
    for numbers, low, high in (
        ("mod_revision", request.min_mod_revision, request.max_mod_revision),
        ("create_revision", request.min_create_revision, request.max_create_revision),
    ):
        if low:
            rows = rows[getattr(rows, numbers) >= low]
        if high:
            rows = rows[getattr(rows, numbers) <= high]
    return rows


def _ordered(rows: Rows, request: stubs.RangeRequest) -> Rows:
    """In the order that is asked for; equals stay in the order of their keys. Blocking."""
    down = request.sort_order == _Request.DESCEND
    match request.sort_target:
        case _Request.KEY:
            return rows[::-1] if down else rows
        case _Request.VERSION:
            numbers = rows.version
        case _Request.CREATE:
            numbers = rows.create_revision
        case _Request.MOD:
            numbers = rows.mod_revision
        case _:
            numbers = _ranks(rows.values())
    return rows[np.argsort(-numbers if down else numbers, kind="stable")]


def _ranks(values: list[bytes]) -> Offsets:
    """Of each value, how many different lower ones there are."""
    ranks = {value: rank for rank, value in enumerate(sorted(set(values)))}
    return np.fromiter((ranks[value] for value in values), dtype=np.int64, count=len(values))


def _bare(rows: Rows) -> Iterator[list[Record]]:
    """Without values."""
    for first in range(0, len(rows), _KEYS):
        part = rows[first : first + _KEYS]
        numbers = (part.create_revision, part.mod_revision, part.version, part.lease)
        columns = [column.tolist() for column in numbers]
        yield [Record(key, b"", *rest) for key, *rest in zip(part.keys(), *columns, strict=True)]


def _key_value(record: Record) -> stubs.KeyValue:
    return stubs.KeyValue(
        key=record.key,
        value=record.value,
        create_revision=record.create_revision,
        mod_revision=record.mod_revision,
        version=record.version,
        lease=record.lease,
    )


def _whole(events: list[stubs.Event], *, ended: bool) -> int:
    """How many of them belong to revisions of which nothing more can come."""
    if ended:
        return len(events)
    last, whole = events[-1].kv.mod_revision, len(events)
    while whole and events[whole - 1].kv.mod_revision == last:
        whole -= 1
    return whole


def _answers(events: list[stubs.Event]) -> Iterator[list[stubs.Event]]:
    """As many revisions as etcd puts into one answer."""
    answer: list[stubs.Event] = []
    for number, (_, together) in enumerate(groupby(events, lambda event: event.kv.mod_revision)):
        if number and number % _REVISIONS == 0:
            yield answer
            answer = []
        answer += together
    if answer:
        yield answer
