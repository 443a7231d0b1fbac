"""What the port `Store` promises, asked of every store; see test_store_write.py for `write`."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcd_steward.errors import (
    AlreadyExists,
    IntegrityError,
    InvalidInput,
    NotFound,
    Unavailable,
)
from etcd_steward.models.ports import ObjectInfo, OpenUpload, Store
from etcd_steward.store.keys import check_key, check_prefix
from tests.contract.support import (
    PART,
    Journal,
    listed,
    open_uploads,
    some_bytes,
    stream,
    write,
)
from tests.testbed import wait_until


class TestPutNew:
    async def test_writes_what_read_returns(self, store: Store) -> None:
        await store.put_new("c/b/r/manifest.json", b"{}")
        assert await store.read("c/b/r/manifest.json", limit=2) == b"{}"

    async def test_the_same_bytes_again_count_as_written(self, store: Store) -> None:
        await store.put_new("m", b"same")
        await store.put_new("m", b"same")
        assert await store.read("m", limit=100) == b"same"

    @pytest.mark.parametrize("other", [b"", b"othe", b"other", b"longer than the first"])
    async def test_other_bytes_are_refused_and_change_nothing(
        self, store: Store, other: bytes
    ) -> None:
        await store.put_new("m", b"first")
        with pytest.raises(AlreadyExists, match="m is there already"):
            await store.put_new("m", other)
        assert await store.read("m", limit=100) == b"first"

    async def test_an_empty_object_is_an_object(self, store: Store) -> None:
        await store.put_new("empty", b"")
        assert await store.read("empty", limit=0) == b""

    async def test_of_sixteen_writers_one_wins(self, store: Store) -> None:
        results = await asyncio.gather(
            *(store.put_new("race", b"writer %d" % number) for number in range(16)),
            return_exceptions=True,
        )
        winners = [number for number, result in enumerate(results) if result is None]
        assert len(winners) == 1
        assert all(isinstance(result, AlreadyExists) for result in results if result is not None)
        assert await store.read("race", limit=100) == b"writer %d" % winners[0]

    async def test_leaves_no_upload(self, store: Store) -> None:
        await store.put_new("m", b"first")
        with pytest.raises(AlreadyExists):
            await store.put_new("m", b"other")
        assert await open_uploads(store) == []


class TestRead:
    async def test_of_nothing_is_not_found(self, store: Store) -> None:
        await store.put_new("a/b", b"x")
        for key in ("none", "a", "a/b/c", "a/c"):
            with pytest.raises(NotFound):
                await store.read(key, limit=100)
            with pytest.raises(NotFound):
                await store.open(key)

    async def test_is_bounded(self, store: Store) -> None:
        await store.put_new("k", b"12345")
        assert await store.read("k", limit=5) == b"12345"
        with pytest.raises(IntegrityError, match="larger than 4 bytes"):
            await store.read("k", limit=4)

    async def test_many_come_in_the_order_that_was_asked_for(self, store: Store) -> None:
        for key in ("a", "b/ä +%", "c"):
            await store.put_new(key, key.encode())
        await store.put_new("long", b"123456789")
        keys = ["c", "none", "b/ä +%", "long", "long", "a", "c"]
        found = await store.read_many(keys, limit=8)
        assert [one for one in found if isinstance(one, bytes)] == [
            b"c",
            "b/ä +%".encode(),
            b"a",
            b"c",
        ]
        assert [type(one) for one in found] == [
            bytes,
            NotFound,
            bytes,
            IntegrityError,
            IntegrityError,
            bytes,
            bytes,
        ]
        assert await store.read_many([], limit=8) == []


class TestOpen:
    @pytest.mark.parametrize(
        ("offset", "length"),
        [
            (0, 0),
            (0, 1),
            (0, 1000),
            (0, 5000),
            (999, 1),
            (999, 2),
            (1000, 1),
            (2000, 5),
            (500, 100),
        ],
    )
    async def test_reads_at_every_edge(self, store: Store, offset: int, length: int) -> None:
        data = some_bytes(1000)
        await store.put_new("k", data)
        reader = await store.open("k")
        assert reader.size == 1000
        read = await asyncio.to_thread(reader.read_at, offset, length)
        assert read == data[offset : offset + length]

    async def test_of_an_empty_object(self, store: Store) -> None:
        await store.put_new("k", b"")
        reader = await store.open("k")
        assert reader.size == 0
        assert await asyncio.to_thread(reader.read_at, 0, 10) == b""

    @pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1)])
    async def test_refuses_what_is_before_the_beginning(
        self, store: Store, offset: int, length: int
    ) -> None:
        await store.put_new("k", b"123")
        reader = await store.open("k")
        with pytest.raises(InvalidInput):
            reader.read_at(offset, length)

    async def test_is_thread_safe(self, store: Store) -> None:
        data = some_bytes(2 * PART)
        await write(store, "k", stream(data))
        reader = await store.open("k")
        ranges = [(n * 7919 % len(data), 3000 + n) for n in range(64)]

        def read_all() -> list[bytes]:
            with ThreadPoolExecutor(8) as threads:
                return list(threads.map(lambda r: reader.read_at(*r), ranges))

        for (offset, length), read in zip(ranges, await asyncio.to_thread(read_all), strict=True):
            assert read == data[offset : offset + length]

    async def test_never_mixes_two_contents(self, store: Store) -> None:
        old, new = b"o" * PART * 2, b"n" * PART * 2
        await write(store, "k", stream(old))
        reader = await store.open("k")
        assert await asyncio.to_thread(reader.read_at, 0, PART) == old[:PART]
        await write(store, "k", stream(new))
        try:
            rest = await asyncio.to_thread(reader.read_at, PART, PART)
        except IntegrityError as error:
            assert "changed while it was being read" in str(error)  # noqa: PT017
        else:
            assert rest == old[PART:]


class TestFind:
    async def test_tells_size_time_and_tag(self, store: Store) -> None:
        await store.put_new("a/k", b"12345")
        info = await store.find("a/k")
        assert info is not None
        assert (info.key, info.size) == ("a/k", 5)
        assert info.modified.utcoffset() == timedelta(0)
        assert abs(datetime.now(UTC) - info.modified) < timedelta(minutes=1)
        assert [entry async for entry in store.list("a/")] == [info]

    async def test_tag_changes_with_the_content(self, store: Store) -> None:
        await write(store, "k", stream(b"one"))
        first = await store.find("k")
        await write(store, "k", stream(b"two"))
        second = await store.find("k")
        assert isinstance(first, ObjectInfo)
        assert isinstance(second, ObjectInfo)
        assert first.etag != second.etag

    async def test_is_none_for_what_is_not_there(self, store: Store) -> None:
        await store.put_new("a/b", b"x")
        for key in ("none", "a", "a/b/c", "a/none"):
            assert await store.find(key) is None


class TestList:
    KEYS = (
        "etcd-main/a",
        "etcd-main/b/c",
        "etcd-main/b/d/e",
        "etcd-main2/a",
        "etcd-main-3/a",
        "etcd-main.4",
        "etcd-m",
        "Z",
        "ü/ö",
        "with space/and+plus&amp;%2F",
    )

    async def test_finds_all_below_a_prefix_and_no_sibling(self, store: Store) -> None:
        for key in self.KEYS:
            await store.put_new(key, b"x")
        assert sorted(await listed(store)) == sorted(self.KEYS)
        for prefix in ("etcd-main/", "etcd-main/b/", "etcd-main/b/d/", "etcd-main2/", "ü/"):
            below = [key for key in self.KEYS if key.startswith(prefix)]
            assert sorted(await listed(store, prefix)) == sorted(below)
        for prefix in ("none/", "Z/", "etcd-main/a/"):
            assert await listed(store, prefix) == []

    async def test_of_an_empty_store_is_empty(self, store: Store) -> None:
        assert await listed(store) == []

    async def test_goes_on_after_a_page(self, store: Store) -> None:
        keys = [f"many/{number:05}" for number in range(970)]
        keys += [f"many/{number:05}/x" for number in range(970, 1030)]
        keys += [f"many/{number:05}-x" for number in range(980, 1020)]
        random.shuffle(keys)
        slots = asyncio.Semaphore(16)

        async def put(key: str) -> None:
            async with slots:
                await store.put_new(key, b"")

        async with asyncio.TaskGroup() as group:
            for key in keys:
                group.create_task(put(key))
        found = await listed(store, "many/")
        assert len(found) == len(keys)
        assert set(found) == set(keys)
        siblings = [key for key in found if key.count("/") == 1]
        assert siblings == sorted(siblings)

    @pytest.mark.parametrize("prefix", ["a", "/", "/a/", "a//", "../", "a/../", "./"])
    async def test_refuses_a_prefix_that_is_no_folder(self, store: Store, prefix: str) -> None:
        with pytest.raises(InvalidInput):
            await listed(store, prefix)
        with pytest.raises(InvalidInput):
            await open_uploads(store, prefix)


class TestDelete:
    async def test_deletes_one_object_and_again_without_complaint(self, store: Store) -> None:
        for key in ("a/k", "a/k2", "b"):
            await store.put_new(key, b"x")
        await store.delete("a/k")
        assert sorted(await listed(store)) == ["a/k2", "b"]
        for key in ("a/k", "a/k/x", "none", "a"):
            await store.delete(key)
        assert sorted(await listed(store)) == ["a/k2", "b"]
        await store.put_new("a/k", b"again")
        assert await store.read("a/k", limit=5) == b"again"


class TestUploads:
    async def test_lists_and_aborts_what_a_crash_left(self, store: Store) -> None:
        """A process that dies in mid-write can't clean up: another finds what it left."""
        tasks = []
        for key in ("etcd-main/r1/k", "etcd-main/r1/k", "etcd-main/r2/k", "etcd-main2/k"):
            journal = Journal()

            async def endless() -> AsyncIterator[bytes]:
                yield b"x" * PART * 2
                await asyncio.Event().wait()

            task = asyncio.create_task(write(store, key, endless(), journal))
            tasks.append(task)

            async def begun(journal: Journal = journal) -> bool:
                return bool(journal.sent)

            await wait_until(begun, "an upload begun")
        found = await open_uploads(store)
        assert sorted(upload.key for upload in found) == [
            "etcd-main/r1/k",
            "etcd-main/r1/k",
            "etcd-main/r2/k",
            "etcd-main2/k",
        ]
        first_run = await open_uploads(store, "etcd-main/r1/")
        assert [upload.key for upload in first_run] == ["etcd-main/r1/k"] * 2
        assert len({upload.upload_id for upload in first_run}) == 2
        for upload in first_run:
            await store.abort(upload)
            await store.abort(upload)
        assert await open_uploads(store, "etcd-main/r1/") == []
        assert len(await open_uploads(store, "etcd-main/")) == 1
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await open_uploads(store) == []
        assert await listed(store) == []

    async def test_aborting_an_unknown_upload_succeeds(self, store: Store) -> None:
        await store.put_new("k", b"x")
        await store.abort(OpenUpload("k", "00000000000000000000000000000000"))
        assert await store.read("k", limit=1) == b"x"

    async def test_a_write_whose_upload_was_aborted_fails(self, store: Store) -> None:
        journal = Journal()

        async def source() -> AsyncIterator[bytes]:
            yield b"x" * PART
            await store.abort(journal.uploads[0])
            yield b"x" * PART

        with pytest.raises(Unavailable):  # for a run, which may begin another one
            await write(store, "k", source(), journal)
        assert await listed(store) == []
        assert await open_uploads(store) == []


BAD_KEYS = (
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/..",
    "a/./b",
    "a\0b",
    "a\nb",
    "\ud800",
)


class TestKeys:
    @pytest.mark.parametrize("key", [*BAD_KEYS, ".partial", ".partial/x"])
    async def test_every_method_refuses_a_key_that_means_nothing(
        self, store: Store, key: str
    ) -> None:
        upload = OpenUpload(key, "id")
        for call in (
            store.put_new(key, b""),
            write(store, key, stream(b"x")),
            store.read(key, limit=1),
            store.open(key),
            store.find(key),
            store.delete(key),
            store.abort(upload),
        ):
            with pytest.raises(InvalidInput):
                await call

    @given(st.text(st.sampled_from("a./\0\n-é"), max_size=8))
    def test_no_accepted_key_leaves_its_root(self, key: str) -> None:
        try:
            check_key(key)
        except InvalidInput:
            return
        assert os.path.normpath(f"/root/{key}") == f"/root/{key}"
        check_prefix(f"{key}/")


class TestUrl:
    async def test_names_the_place_without_a_slash_at_the_end(self, store: Store) -> None:
        assert store.url.startswith(("s3://test-", "file:///"))
        assert not store.url.endswith("/")


class TestFolders:
    async def test_are_those_directly_under_a_prefix_that_hold_something(
        self, store: Store
    ) -> None:
        for key in ("a/x", "a/b/x", "a/b/c/x", "a/d/e/f", "ab/x", "x"):
            await store.put_new(key, b"")
        assert await store.folders("") == ("a/", "ab/")
        assert await store.folders("a/") == ("a/b/", "a/d/")
        assert await store.folders("a/b/c/") == await store.folders("none/") == ()

    async def test_there_may_be_more_than_a_page_of_them(self, store: Store) -> None:
        keys = [f"f{number:04}/x" for number in range(1100)]
        await asyncio.gather(*(store.put_new(key, b"") for key in keys))
        assert await store.folders("") == tuple(key[:-1] for key in keys)
