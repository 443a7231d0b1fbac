"""Two etcds side by side, key by key: what a restore must leave equal."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from etcd_steward.etcd.stubs import RangeRequest
from tests.testbed.etcd import EtcdAddress, EtcdCluster
from tests.testbed.rpc import connected

PAGE = 2000


class Entry(NamedTuple):
    """Everything that etcd knows of a key; the value by its digest."""

    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Keys by what is wrong with them, `left` being what was expected."""

    equal: int
    missing: tuple[bytes, ...]
    extra: tuple[bytes, ...]
    altered: tuple[bytes, ...]

    def __str__(self) -> str:
        if not (self.missing or self.extra or self.altered):
            return f"all {self.equal} keys match"
        kinds = (("missing", self.missing), ("extra", self.extra), ("altered", self.altered))
        return "; ".join(f"{len(keys)} {kind}, first {keys[0]!r}" for kind, keys in kinds if keys)


async def entries(etcd: EtcdCluster | EtcdAddress, *, revision: int = 0) -> dict[bytes, Entry]:
    """All keys of an etcd at one revision, by default the current one."""
    found: dict[bytes, Entry] = {}
    start = b"\0"
    async with connected(etcd) as connection:
        while True:
            request = RangeRequest(key=start, range_end=b"\0", limit=PAGE, revision=revision)
            answer = await connection.kv.Range(request, metadata=connection.metadata)
            revision = revision or answer.header.revision
            for kv in answer.kvs:
                digest = hashlib.sha256(kv.value).digest()
                found[kv.key] = Entry(
                    digest, kv.create_revision, kv.mod_revision, kv.version, kv.lease
                )
            if not answer.more:
                return found
            start = answer.kvs[-1].key + b"\0"


def compare(left: Mapping[bytes, Entry], right: Mapping[bytes, Entry]) -> Difference:
    """What `right` has otherwise than `left`."""
    common = left.keys() & right.keys()
    altered = tuple(sorted(key for key in common if left[key] != right[key]))
    return Difference(
        equal=len(common) - len(altered),
        missing=tuple(sorted(left.keys() - right.keys())),
        extra=tuple(sorted(right.keys() - left.keys())),
        altered=altered,
    )
