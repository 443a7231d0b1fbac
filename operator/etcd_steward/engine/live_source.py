"""The live etcd, looked into: paged ranges at one revision, and watches for its history."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from etcd_steward.engine.folders import folders
from etcd_steward.engine.sources import Change, Sized, Wanted, revision_at, sized
from etcd_steward.engine.tasks import together
from etcd_steward.errors import Compacted
from etcd_steward.etcd import stubs
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.keys import EVERYTHING, KeyRange
from etcd_steward.etcd.member import MemberStatus
from etcd_steward.models.registry import Record
from etcd_steward.registry import paths

_KEYS_AT_ONCE = 50_000
_GETS_AT_ONCE = 16
_DELETE = stubs.Event.DELETE


class LiveSource:
    """A live etcd as it was at one revision: the newest when it was opened."""

    ordered = True

    def __init__(self, client: EtcdClient, name: str, root: bytes, revision: int) -> None:
        self._client = client
        self._root = root
        self.name = name
        self.revision = revision
        self._oldest: int | None = None

    @classmethod
    async def open(
        cls, client: EtcdClient, prefix: str, name: str = "the live etcd"
    ) -> "LiveSource":
        """Ask for the revision, by a key below `prefix`: a user may be allowed no others."""
        root = paths.root_of(prefix)
        answer = await client.range(root, count_only=True)
        return cls(client, name, root, answer.header.revision)

    async def members(self) -> list[MemberStatus]:
        """What those of its members say that answer: sizes of their files above all."""
        found = await self._client.members()
        return [one for one in found if isinstance(one, MemberStatus)]

    async def oldest(self) -> int:
        """The revision of the last compaction."""
        if self._oldest is None:
            self._oldest = max(1, await self._client.compact_revision(self._root))
        return self._oldest

    async def records(
        self, wanted: Wanted, *, at: int = 0, values: bool = True
    ) -> AsyncGenerator[list[Record], None]:
        """The keys that are meant, in order."""
        revision = await self._revision(at)
        read = self._pages if values or wanted.by_value else self._keys
        for part in await self._ranges(wanted, revision):
            async with aclosing(read(part, revision)) as batches:
                async for batch in batches:
                    kept = [record for record in batch if wanted.wants(record)]
                    if kept:
                        yield kept if values else [one._replace(value=b"") for one in kept]

    async def sizes(self, wanted: Wanted, *, at: int = 0) -> AsyncGenerator[list[Sized], None]:
        """The keys that are meant, in order; etcd tells sizes only with the values."""
        async with aclosing(self.records(wanted, at=at)) as batches:
            async for batch in batches:
                yield [sized(record) for record in batch]

    async def fetch(self, keys: Sequence[bytes], *, at: int = 0) -> dict[bytes, Record]:
        """Some keys in full."""
        revision = await self._revision(at)
        found: dict[bytes, Record] = {}
        for start in range(0, len(keys), _GETS_AT_ONCE):
            async with together() as group:
                tasks = [
                    group.create_task(self._client.get(key, revision=revision))
                    for key in keys[start : start + _GETS_AT_ONCE]
                ]
            got = [task.result() for task in tasks]
            found |= {kv.key: _record(kv) for kv in got if kv is not None}
        return found

    async def changes(
        self, wanted: Wanted, *, after: int = 0, upto: int = 0
    ) -> AsyncGenerator[list[Change], None]:
        """What changed since the last compaction, no later than the revision of this source."""
        last = await self._revision(upto)
        start = 1 + (after or await self.oldest())
        if start > last:
            return
        watched = self._client.watch(_around(wanted), start=start, upto=last)
        async with aclosing(watched):
            async for sent in watched:
                changes = [_change(event) for event in sent.events]
                found = [
                    change
                    for change in changes
                    if change.record.mod_revision <= last and wanted.wants(change.record)
                ]
                if found:
                    yield found

    async def watch(self, wanted: Wanted) -> AsyncGenerator[list[Change], None]:
        """What changes from now on, for as long as somebody listens."""
        async with aclosing(self._client.watch(_around(wanted))) as watched:
            async for sent in watched:
                changes = [_change(event) for event in sent.events]
                yield [change for change in changes if wanted.wants(change.record)]

    async def _revision(self, at: int) -> int:
        oldest = await self.oldest() if 0 < at < self.revision else 0
        return revision_at(at, self.name, self.revision, oldest)

    async def _ranges(self, wanted: Wanted, revision: int) -> list[KeyRange]:
        """The ranges to read: where only namespaces are named, those in each resource's folder."""
        namespaces = wanted.chosen.namespaces()
        if wanted.chosen.ranges() is None and namespaces is not None:
            found = await folders(self._client.range, wanted.prefix, revision)
            within = sorted(
                folder + f"{namespace}/".encode() for folder in found for namespace in namespaces
            )
            return [KeyRange.prefix(one) for one in within]
        return _ranges(wanted)

    async def _pages(self, wanted: KeyRange, revision: int) -> AsyncGenerator[list[Record], None]:
        try:
            async with aclosing(self._client.pages(wanted, revision=revision)) as pages:
                async for page in pages:
                    yield [_record(kv) for kv in page.kvs]
        except Compacted as error:
            raise await self._overtaken(revision) from error

    async def _keys(self, wanted: KeyRange, revision: int) -> AsyncGenerator[list[Record], None]:
        start, more = wanted.start, True
        while more:
            try:
                answer = await self._client.range(
                    start, wanted.end, limit=_KEYS_AT_ONCE, revision=revision, keys_only=True
                )
            except Compacted as error:
                raise await self._overtaken(revision) from error
            more = answer.more
            if answer.kvs:
                start = answer.kvs[-1].key + b"\0"
                yield [_record(kv) for kv in answer.kvs]

    async def _overtaken(self, revision: int) -> Compacted:
        return Compacted(
            f"{self.name} has compacted revision {revision} while it was read",
            hint="try again; a smaller selection takes less time",
        )


def _record(kv: stubs.KeyValue) -> Record:
    return Record(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)


def _ranges(wanted: Wanted) -> list[KeyRange]:
    ranges = wanted.chosen.ranges()
    if ranges is not None:
        return [KeyRange(start, end) for start, end in ranges]
    return [KeyRange.prefix(paths.root_of(wanted.prefix) if wanted.objects_only else b"")]


def _around(wanted: Wanted) -> KeyRange:
    """One range that holds all that is meant."""
    ranges = _ranges(wanted)
    last = EVERYTHING if any(one.end == EVERYTHING for one in ranges) else ranges[-1].end
    return KeyRange(ranges[0].start, last)


def _change(event: stubs.Event) -> Change:
    return Change(_record(event.kv), event.type == _DELETE)
