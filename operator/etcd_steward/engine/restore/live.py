"""What is there now: the etcd that a restore would write into, at one revision."""

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from itertools import islice
from types import MappingProxyType
from typing import Final

import stamina

from etcd_steward.engine.restore.drafts import Seen, digest
from etcd_steward.engine.tasks import together
from etcd_steward.errors import Compacted, TransientError, Unavailable
from etcd_steward.etcd import stubs
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.keys import KeyRange
from etcd_steward.models.registry import Record
from etcd_steward.registry import envelope, paths

_KEYS_AT_ONCE: Final = 64
"""In one transaction; etcd takes 128 (`--max-txn-ops`), and values may have 1.5 MB."""
_BYTES_AT_ONCE: Final = 4 << 20
_IN_FLIGHT: Final = 4
_PATIENCE: Final = 20.0
"""Seconds that an election may last."""


class Live:
    """An etcd at the revision that a plan is made at."""

    def __init__(self, client: EtcdClient, prefix: str, revision: int, cluster_id: int) -> None:
        self._client = client
        self.root = paths.root_of(prefix)
        self.revision = revision
        self.cluster_id = f"{cluster_id:x}"

    @classmethod
    async def open(cls, client: EtcdClient, prefix: str) -> "Live":
        """Ask for the revision, by a key below `prefix`: a user may be allowed no others."""
        header = (await client.range(paths.root_of(prefix), count_only=True)).header
        return cls(client, prefix, header.revision, header.cluster_id)

    async def get(self, keys: Iterable[bytes]) -> dict[bytes, Record]:
        """Some keys in full, those that are there; for as many as fit into memory."""
        found: dict[bytes, Record] = {}
        async for records in self._batches([(key, self.revision) for key in keys]):
            found |= {one.key: one for one in records}
        return found

    async def at(self, wanted: Sequence[tuple[bytes, int]]) -> AsyncGenerator[list[Record], None]:
        """Keys as they were, each at a revision of its own; those that were there."""
        async with aclosing(self._batches(wanted)) as batches:
            async for records in batches:
                yield records

    async def look(
        self, keys: Iterable[bytes], expected: Mapping[bytes, int] = MappingProxyType({})
    ) -> dict[bytes, Seen]:
        """What is there under these keys, but their values.

        `expected`: bytes that some of them may have, so that not too many are read at once.
        """
        found: dict[bytes, Seen] = {}
        async for records in self._batches([(key, self.revision) for key in keys], expected):
            for one in records:
                uid = envelope.header(one.value)[3]
                found[one.key] = Seen(one.mod_revision, uid, digest(one.value))
        return found

    async def below(self, folder: bytes) -> AsyncGenerator[list[Record], None]:
        """Everything in a folder, in pages."""
        pages = self._client.pages(KeyRange.prefix(folder), revision=self.revision)
        async with aclosing(pages):
            try:
                async for page in pages:
                    yield [_record(kv) for kv in page.kvs]
            except Compacted as error:
                raise self._overtaken() from error

    async def _batches(
        self,
        wanted: Sequence[tuple[bytes, int]],
        expected: Mapping[bytes, int] = MappingProxyType({}),
    ) -> AsyncGenerator[list[Record], None]:
        """Some transactions at a time, so that memory holds no more than theirs."""
        parts = _parts(wanted, expected)
        while some := list(islice(parts, _IN_FLIGHT)):
            async with together() as group:
                tasks = [group.create_task(self._read(part)) for part in some]
            for task in tasks:
                yield task.result()

    async def _read(self, wanted: Sequence[tuple[bytes, int]]) -> list[Record]:
        ops = [
            stubs.RequestOp(request_range=stubs.RangeRequest(key=key, revision=revision))
            for key, revision in wanted
        ]
        try:
            async for attempt in stamina.retry_context(
                on=TransientError, attempts=None, timeout=_PATIENCE, wait_initial=0.2, wait_max=2.0
            ):
                with attempt:
                    answer = await self._client.txn((), ops)
        except Compacted as error:
            oldest = min(revision for _, revision in wanted)
            if oldest == self.revision:
                raise self._overtaken() from error
            raise Compacted(
                f"etcd has compacted revision {oldest} while it was read",
                hint="take a backup that was made before: `etcd-steward snapshot list`",
            ) from error
        return [_record(kv) for one in answer.responses for kv in one.response_range.kvs]

    def _overtaken(self) -> Unavailable:
        return Unavailable(
            f"etcd has compacted revision {self.revision} while the plan was made",
            hint="make it again; a smaller selection takes less time",
        )


def _parts(
    wanted: Iterable[tuple[bytes, int]], expected: Mapping[bytes, int]
) -> Iterator[list[tuple[bytes, int]]]:
    """Keys of one transaction each."""
    part: list[tuple[bytes, int]] = []
    size = 0
    for key, revision in wanted:
        size += expected.get(key, 0)
        if part and (len(part) == _KEYS_AT_ONCE or size > _BYTES_AT_ONCE):
            yield part
            part, size = [], expected.get(key, 0)
        part.append((key, revision))
    if part:
        yield part


def _record(kv: stubs.KeyValue) -> Record:
    return Record(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)
