"""How a large range is read page by page, on an etcd that only counts."""

import asyncio
import bisect
import contextlib
import gc
import weakref
from collections.abc import Callable
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcd_steward.errors import Compacted, IntegrityError
from etcd_steward.etcd.keys import EVERYTHING, KeyRange
from etcd_steward.etcd.paging import pages, pages_of

REVISION = 7
NAMES = st.lists(st.sampled_from(["a", "b", "pods", "team-1", "team-10", "x.example.com"]))
PATHS = NAMES.map(lambda words: "/".join(["/registry", *words]).encode())


class Etcd:
    """Answers ranges over some keys, and keeps count of what that costs."""

    def __init__(self, keys: set[bytes], value: bytes = b"v") -> None:
        self.keys = sorted(keys)
        self.value = value
        self.requests = self.visited = self.largest = 0
        self.lie = 0

    async def range(self, key: bytes, end: bytes = b"", **asked: Any) -> Any:  # noqa: ANN401
        """What etcd answers (server/etcdserver/txn/range.go)."""
        limit = asked["limit"]
        first = bisect.bisect_left(self.keys, key)
        last = len(self.keys) if end == EVERYTHING else bisect.bisect_left(self.keys, end or key)
        if not end:
            last = first + (key in self.keys)
        found = self.keys[first:last]
        self.requests += 1
        self.visited += len(found)
        self.largest = max(self.largest, min(len(found), limit))
        return SimpleNamespace(
            kvs=[SimpleNamespace(key=one, value=self.value) for one in found[:limit]],
            more=len(found) > limit,
            count=len(found) + self.lie,
            ByteSize=lambda: 10 + len(found[:limit]) * (60 + len(self.value)),
            header=SimpleNamespace(revision=REVISION),
        )

    async def read(self, wanted: KeyRange) -> list[bytes]:
        """All keys of a range, by pages."""
        found: list[bytes] = []
        async for page in pages(self.range, wanted):
            assert page.revision == REVISION
            assert page.kvs
            found += [kv.key for kv in page.kvs]
        return found


@given(
    st.sets(st.one_of(st.binary(min_size=1, max_size=6), PATHS), max_size=400),
    st.one_of(st.binary(max_size=3), st.just(b"/registry/"), st.just(b"/registry/pods/")),
)
async def test_each_key_of_a_prefix_comes_once_and_in_order(
    keys: set[bytes], prefix: bytes
) -> None:
    expected = sorted(key for key in keys if key.startswith(prefix))
    assert await Etcd(keys).read(KeyRange.prefix(prefix)) == expected


@pytest.mark.parametrize(
    ("layout", "most"), [("namespaces", 12), ("one directory", 12), ("numbers", 4), ("bytes", 12)]
)
async def test_a_hundred_thousand_keys_are_counted_a_few_times_each(layout: str, most: int) -> None:
    count = 100_000
    layouts: dict[str, Callable[[int], bytes]] = {
        "namespaces": lambda n: f"/registry/{n % 7}/team-{n // 7 % 50:04d}/name-{n:08d}".encode(),
        "one directory": lambda n: f"/registry/pods/shop/api-{n * 7919 % 999_983:06x}".encode(),
        "numbers": lambda n: f"/registry/pods/shop/p-{n:07d}".encode(),
        "bytes": lambda n: (n * 2_654_435_761 % 2**32).to_bytes(4, "big"),
    }
    etcd = Etcd({layouts[layout](number) for number in range(count)})
    assert await etcd.read(KeyRange.prefix(b"")) == etcd.keys
    # With a limit alone it would be fifty times each; and as many requests as pages at least.
    assert etcd.visited < most * count
    assert etcd.requests < 1200


async def test_a_directory_of_long_names_is_left_in_a_few_steps() -> None:
    name = "a-name-of-forty-letters-as-there-are-many"
    spaces = {"a-shop": 20_000, "web": 60_000}
    etcd = Etcd(
        {
            f"/registry/pods/{space}/{name}-{number:05d}".encode()
            for space, count in spaces.items()
            for number in range(count)
        }
    )
    assert await etcd.read(KeyRange.prefix(b"")) == etcd.keys
    assert etcd.requests < 140  # it was 165, letter by letter
    assert etcd.visited < 4 * len(etcd.keys)


async def test_large_values_come_a_few_at_a_time() -> None:
    etcd = Etcd({f"/registry/secrets/shop/{n:04d}".encode() for n in range(300)}, bytes(1 << 19))
    assert len(await etcd.read(KeyRange.prefix(b"/registry/"))) == 300
    # Only the first page is as large as that; the others weigh 2 MiB.
    assert etcd.largest == 100
    assert etcd.requests > 40


async def test_a_range_is_counted_while_the_one_before_is_read() -> None:
    """And whoever stops reading leaves nothing behind that goes on."""
    etcd = Etcd({f"/registry/{kind}/{n:04d}".encode() for kind in "abd" for n in range(3000)})
    parts = [KeyRange.prefix(f"/registry/{letter}".encode()) for letter in "abcd"]
    asked: list[bytes] = []

    async def read(key: bytes, end: bytes = b"", **more: Any) -> Any:  # noqa: ANN401
        asked.append(key)
        await asyncio.sleep(0)
        return await etcd.range(key, end, **more)

    async with aclosing(pages_of(read, parts, revision=REVISION)) as walked:
        assert [kv.key async for page in walked for kv in page.kvs] == etcd.keys
    of_a = [number for number, key in enumerate(asked) if key.startswith(b"/registry/a")]
    assert asked.index(b"/registry/b") < max(of_a)

    async with aclosing(pages_of(read, parts, revision=REVISION)) as walked:
        await anext(walked)
    before = len(asked)
    await asyncio.sleep(0.01)
    assert len(asked) == before
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_fails_ahead_is_told_in_its_turn() -> None:
    etcd = Etcd({b"/registry/a/1", b"/registry/b/1"})

    async def read(key: bytes, end: bytes = b"", **more: Any) -> Any:  # noqa: ANN401
        if key.startswith(b"/registry/b"):
            raise Compacted("gone")
        return await etcd.range(key, end, **more)

    parts = [KeyRange.prefix(b"/registry/a"), KeyRange.prefix(b"/registry/b")]
    walked = pages_of(read, parts, revision=REVISION)
    assert [kv.key for kv in (await anext(walked)).kvs] == [b"/registry/a/1"]
    with pytest.raises(Compacted):
        await anext(walked)


@pytest.mark.parametrize("reads", [1, 5, 20])
async def test_a_reading_that_failed_is_forgotten_at_once(reads: int) -> None:
    """It may hold a hundred megabytes, and the next one begins: no search for cycles is waited for.

    A failed task that something it has raised through still holds would be such a cycle.
    """
    etcd = Etcd({f"/registry/{kind}/{n:05d}".encode() for kind in "ab" for n in range(9000)})

    class Reading:
        """What a reading has collected."""

    async def fail(collected: Reading) -> None:
        async def read(key: bytes, end: bytes = b"", **more: Any) -> Any:  # noqa: ANN401
            await asyncio.sleep(0)
            if etcd.requests >= reads:
                raise Compacted("gone")
            assert collected is not None
            return await etcd.range(key, end, **more)

        parts = [KeyRange.prefix(b"/registry/a"), KeyRange.prefix(b"/registry/b")]
        async with aclosing(pages_of(read, parts, revision=REVISION)) as walked:
            async for _ in walked:
                pass

    gc.disable()
    try:
        collected = Reading()
        kept = weakref.ref(collected)
        with contextlib.suppress(Compacted):
            await fail(collected)
        del collected
        await asyncio.sleep(0)
        assert kept() is None
    finally:
        gc.enable()


async def test_one_key_and_none() -> None:
    etcd = Etcd({b"a", b"b"})
    assert await etcd.read(KeyRange.key(b"a")) == [b"a"]
    assert await etcd.read(KeyRange.key(b"c")) == []
    assert await etcd.read(KeyRange.prefix(b"c")) == []


@pytest.mark.parametrize("lie", [-1, 1])
async def test_an_etcd_that_counts_otherwise_than_it_reads_is_not_believed(lie: int) -> None:
    etcd = Etcd({f"/registry/pods/shop/{n:04d}".encode() for n in range(2000)})
    etcd.lie = lie
    with pytest.raises(IntegrityError, match="counted other keys"):
        await etcd.read(KeyRange.prefix(b"/registry/"))
