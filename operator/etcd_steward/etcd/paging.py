"""Reading a large range whole, at one revision, without hurting etcd or our own memory.

Paging by `limit` alone is quadratic: etcd up to 3.6 counts all remaining keys for every page (1 M
keys of 200 B at 5,000 a page took 31.6 s). So one pass reads keys only, in large pages, and tells
where bounded ranges without limit begin and end; a few of those are read at a time (5.6 s).
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from etcd_steward.deadline import Deadline
from etcd_steward.errors import IntegrityError
from etcd_steward.etcd import stubs
from etcd_steward.etcd.keys import KeyRange

_KEYS_AT_ONCE = 50_000
_IN_FLIGHT = 4
_PAGE_BYTES = 2 << 20
"""What a page should weigh: the event loop stays lively, and memory flat."""
_PAGE_KEYS = 250
"""At most. etcd tells no sizes beforehand: this bounds what sudden large values cost."""
_FIRST_PAGE_KEYS = 100


class Range(Protocol):
    """How keys are read: `EtcdClient.range`."""

    async def __call__(
        self,
        key: bytes,
        end: bytes = b"",
        *,
        limit: int = 0,
        revision: int = 0,
        keys_only: bool = False,
        deadline: Deadline | None = None,
    ) -> stubs.RangeResponse:
        """Read keys."""
        ...


@dataclass(frozen=True, slots=True)
class Page:
    """Neighbouring keys with their values, as of `revision`."""

    revision: int
    kvs: Sequence[stubs.KeyValue] = field(repr=False)


async def pages(
    read: Range, wanted: KeyRange, *, revision: int = 0, deadline: Deadline | None = None
) -> AsyncGenerator[Page, None]:
    """All of `wanted` in key order, at `revision` (0 = now), which every page carries.

    An empty range gives no page. `deadline` is that of the whole; without one, each request has the
    connection's time-out. Raises `Compacted` if the revision goes while reading.
    """
    size = _FIRST_PAGE_KEYS
    under_way: deque[asyncio.Task[Page]] = deque()
    try:
        async with aclosing(_keys(read, wanted, revision, deadline)) as batches:
            async for at, keys in batches:
                start = 0
                while start < len(keys) or under_way:
                    while start < len(keys) and len(under_way) < _IN_FLIGHT:
                        part = keys[start : start + size]
                        under_way.append(asyncio.create_task(_page(read, part, at, deadline)))
                        start += size
                    page = await under_way.popleft()
                    size = _next_size(page)
                    yield page
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


def _next_size(page: Page) -> int:
    """How many keys like these weigh as much as a page should; at most twice as many as these."""
    weight = sum(len(kv.key) + len(kv.value) for kv in page.kvs)
    fitting = _PAGE_BYTES * len(page.kvs) // max(weight, 1)
    return max(1, min(fitting, 2 * len(page.kvs), _PAGE_KEYS))


async def _page(read: Range, keys: Sequence[bytes], at: int, deadline: Deadline | None) -> Page:
    after_last = keys[-1] + b"\0"
    answer = await read(keys[0], after_last, revision=at, deadline=deadline)
    if len(answer.kvs) != len(keys):
        raise IntegrityError(
            f"etcd read {len(answer.kvs)} keys where it had listed {len(keys)} at revision {at}",
            hint="The members disagree: compare their hashes (HashKV) before all else",
        )
    return Page(at, answer.kvs)


async def _keys(
    read: Range, wanted: KeyRange, revision: int, deadline: Deadline | None
) -> AsyncGenerator[tuple[int, list[bytes]], None]:
    """The keys alone, in large batches, with the revision that they were read at."""
    start, more = wanted.start, True
    while more:
        answer = await read(
            start,
            wanted.end,
            limit=_KEYS_AT_ONCE,
            revision=revision,
            keys_only=True,
            deadline=deadline,
        )
        revision = revision or answer.header.revision
        keys = [kv.key for kv in answer.kvs]
        more = answer.more
        if keys:
            start = keys[-1] + b"\0"
            yield revision, keys
