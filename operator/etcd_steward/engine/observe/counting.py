"""How many keys there are per resource and per namespace, by reads that load hardly any value.

Keys per resource are counted by etcd in its index (`count_only`), folder by folder. For namespaces
keys must be read; up to 3.6 etcd loads their values for that, and drops them (server/storage/mvcc/
kvstore_txn.go), so the rest of a namespace that goes beyond a page is counted and skipped. All is
asked of one member, without consensus and at no particular revision: figures of a moment, give or
take what is written meanwhile.
"""

from collections import Counter
from typing import Final

from etcd_steward.deadline import Deadline
from etcd_steward.engine.folders import OUTSIDE, folders, resource_in
from etcd_steward.etcd import stubs
from etcd_steward.etcd.keys import EVERYTHING
from etcd_steward.etcd.member import Member
from etcd_steward.registry.paths import parse, root_of
from etcd_steward.registry.selection import end_of

PAGE: Final = 500
"""Keys that are read at once."""
_ANSWER: Final = 15.0
"""Seconds that one answer may take."""


class Counting:
    """The keys of one etcd, as one member has them. All methods raise only `StewardError`."""

    def __init__(self, member: Member, prefix: str) -> None:
        self._member = member
        self._prefix = prefix

    async def folders(self) -> list[bytes]:
        """Where the objects of each resource lie, built-in ones and all others that there are."""

        async def read(
            key: bytes, end: bytes, *, limit: int, revision: int, keys_only: bool
        ) -> stubs.RangeResponse:
            del revision  # each is read as it is now
            return await self._read(key, end, limit=limit, keys_only=keys_only)

        return await folders(read, self._prefix, 0)

    async def resources(self, within: list[bytes]) -> Counter[str]:
        """Keys per resource; what is no API object's has a name in brackets."""
        found: Counter[str] = Counter()
        for folder in within:
            if count := await self._count(folder, end_of(folder)):
                found[resource_in(folder, self._prefix)] += count
        root = root_of(self._prefix)
        for at, end in ((EVERYTHING, root), (end_of(root), EVERYTHING)):
            if count := await self._count(at, end):
                found[OUTSIDE] += count
        return found

    async def namespaces(self, within: list[bytes]) -> Counter[str]:
        """Keys per namespace, of API objects alone."""
        found: Counter[str] = Counter()
        for folder in within:
            if parse(folder + b"-/-", self._prefix) is None:
                continue  # of cluster-scoped objects
            at, end = folder, end_of(folder)
            while at < end:
                at = await self._page(found, at, end)
        return found

    async def _page(self, found: Counter[str], at: bytes, end: bytes) -> bytes:
        """Count a page of keys; where the next begins."""
        answer = await self._read(at, end, limit=PAGE, keys_only=True)
        names = [self._namespace_of(kv.key) for kv in answer.kvs]
        found.update(name for name in names if name)
        if not answer.more:
            return end
        last, name = answer.kvs[-1].key, names[-1]
        if not name:
            return last + b"\0"
        rest = end_of(last[: last.rindex(b"/") + 1])
        found[name] += await self._count(last + b"\0", rest)
        return rest

    def _namespace_of(self, key: bytes) -> str:
        """Empty for what has none."""
        path = parse(key, self._prefix)
        return (path.namespace or "") if path is not None else ""

    async def _count(self, at: bytes, end: bytes) -> int:
        return (await self._read(at, end, count_only=True)).count

    async def _read(
        self,
        at: bytes,
        end: bytes,
        *,
        limit: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
    ) -> stubs.RangeResponse:
        return await self._member.range(
            at,
            end,
            limit=limit,
            keys_only=keys_only,
            count_only=count_only,
            serializable=True,
            deadline=Deadline.after(_ANSWER),
        )
