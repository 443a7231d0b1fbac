"""What the port `Store` promises, asked of every store: a real S3 server and a directory."""

import asyncio
import os
import random
import resource
import stat
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import google_crc32c
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etcd_steward.errors import (
    AlreadyExists,
    IntegrityError,
    InvalidInput,
    NotFound,
    OutOfSpace,
    Refused,
    Unauthorized,
)
from etcd_steward.models.connection import LocalSettings, S3Settings
from etcd_steward.models.ports import ObjectInfo, OpenUpload, Store, Written
from etcd_steward.store import open_store
from etcd_steward.store.keys import check_key, check_prefix
from etcd_steward.store.parts import MAX_PARTS, MIB, PART_SIZE, Part, cut, part_size_for
from tests.testbed import SeaweedFS, wait_until

PART = 5 * MIB  # the least that S3 takes for all parts but the last


def s3_settings(server: SeaweedFS, bucket: str, **changed: object) -> S3Settings:
    given = {
        "bucket": bucket,
        "prefix": "prod",
        "endpoint": server.endpoint_url,
        "region": server.region,
        "ca": server.ca_file.read_text() if server.ca_file else None,
        "access_key": server.access_key,
        "secret_key": server.secret_key,
        "retry_seconds": 20,
    }
    return S3Settings.model_validate(given | changed)


@pytest.fixture(params=["s3", "local"])
def store_settings(request: pytest.FixtureRequest, tmp_path: Path) -> S3Settings | LocalSettings:
    if request.param == "local":
        root = tmp_path / "store"
        root.mkdir()
        return LocalSettings(path=root)
    # Asked for only here, so that the directory's tests start no server.
    return s3_settings(request.getfixturevalue("seaweedfs"), request.getfixturevalue("bucket"))


@pytest.fixture
async def store(store_settings: S3Settings | LocalSettings) -> AsyncIterator[Store]:
    async with open_store(store_settings, part_size=PART) as opened:
        yield opened


async def stream(data: bytes, sizes: Iterable[int] | None = None) -> AsyncIterator[bytes]:
    """`data` in chunks of these sizes, over and over; or whole."""
    turns = list(sizes or [len(data) or 1])
    offset = turn = 0
    while offset < len(data):
        size = turns[turn % len(turns)]
        yield data[offset : offset + size]
        offset, turn = offset + size, turn + 1


class Journal:
    """Remembers what a write reports."""

    def __init__(self) -> None:
        self.uploads: list[OpenUpload] = []
        self.sent: list[int] = []

    async def started(self, upload: OpenUpload) -> None:
        self.uploads.append(upload)

    def progress(self, total: int) -> None:
        self.sent.append(total)


async def write(
    store: Store, key: str, chunks: AsyncIterator[bytes], journal: Journal | None = None
) -> Written:
    journal = journal or Journal()
    return await store.write(
        key, chunks, size_hint=10 * MIB, started=journal.started, sent=journal.progress
    )


async def listed(store: Store, prefix: str = "") -> list[str]:
    return [info.key async for info in store.list(prefix)]


async def open_uploads(store: Store, prefix: str = "") -> list[OpenUpload]:
    return [upload async for upload in store.uploads(prefix)]


def some_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311


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


class TestWrite:
    @pytest.mark.parametrize(
        "size", [0, 1, PART - 1, PART, PART + 1, 2 * PART, 3 * PART + 17], ids=str
    )
    @pytest.mark.parametrize("chunk", [10_007, PART, 10 * PART], ids=str)
    async def test_stores_the_stream(self, store: Store, size: int, chunk: int) -> None:
        data = some_bytes(size)
        journal = Journal()
        written = await write(store, "c/b/r/snapshot.db.zst", stream(data, [chunk]), journal)
        assert written.key == "c/b/r/snapshot.db.zst"
        assert written.size == size
        assert written.crc32c == google_crc32c.value(data)
        assert [(part.offset, part.size) for part in written.parts] == [
            (offset, min(PART, size - offset)) for offset in range(0, size or 1, PART)
        ]
        for part in written.parts:
            piece = data[part.offset : part.offset + part.size]
            assert part.crc32c == google_crc32c.value(piece)
        assert await store.read("c/b/r/snapshot.db.zst", limit=size) == data
        assert journal.sent == sorted(journal.sent)
        assert journal.sent[-1] == size
        assert len(journal.sent) == len(written.parts)
        assert await open_uploads(store) == []

    async def test_confirms_only_what_the_store_itself_computed(self, store: Store) -> None:
        written = await write(store, "k", stream(b"x" * PART * 3))
        assert written.confirmed == store.url.startswith("s3://")

    async def test_reports_the_upload_before_the_first_byte(self, store: Store) -> None:
        seen: list[list[OpenUpload]] = []
        asked = False

        async def source() -> AsyncIterator[bytes]:
            nonlocal asked
            asked = True
            yield b"data"

        async def started(upload: OpenUpload) -> None:
            assert not asked
            seen.append([upload])
            seen.append(await open_uploads(store, "c/"))

        await store.write("c/k", source(), size_hint=4, started=started, sent=lambda _: None)
        assert len(seen) == 2
        assert seen[0] == seen[1]
        assert seen[0][0].key == "c/k"

    async def test_is_not_listed_before_it_is_whole(self, store: Store) -> None:
        async def source() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"x" * PART
                assert await listed(store) == []
                assert await store.find("k") is None

        await write(store, "k", source())
        assert await listed(store) == ["k"]

    async def test_replaces_an_object_of_that_name(self, store: Store) -> None:
        await write(store, "k", stream(b"old" * 1000))
        await write(store, "k", stream(b"new"))
        assert await store.read("k", limit=100) == b"new"

    @pytest.mark.parametrize("error", [ValueError("broken"), GeneratorExit(), NotFound("gone")])
    async def test_a_failing_source_leaves_nothing(
        self, store: Store, error: BaseException
    ) -> None:
        async def source() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"x" * PART
            raise error

        with pytest.raises(type(error)) as raised:
            await write(store, "k", FromGenerator(source(), error))
        assert raised.value is error
        assert not getattr(error, "__notes__", [])
        assert await listed(store) == []
        assert await open_uploads(store) == []

    async def test_a_journal_that_fails_leaves_nothing(self, store: Store) -> None:
        async def started(_: OpenUpload) -> None:
            raise OSError("journal")

        with pytest.raises(OSError, match="journal"):
            await store.write("k", stream(b"x"), size_hint=1, started=started, sent=lambda _: None)
        assert await listed(store) == []
        assert await open_uploads(store) == []

    async def test_a_progress_report_that_fails_leaves_nothing(self, store: Store) -> None:
        def sent(_: int) -> None:
            raise OSError("progress")

        journal = Journal()
        data = stream(b"x" * PART * 3, [PART])
        with pytest.raises(OSError, match="progress"):
            await store.write("k", data, size_hint=1, started=journal.started, sent=sent)
        assert await listed(store) == []
        assert await open_uploads(store) == []

    @pytest.mark.parametrize("cancellations", [1, 3])
    async def test_cancelled_it_leaves_nothing(self, store: Store, cancellations: int) -> None:
        journal = Journal()
        ended = False

        async def source() -> AsyncIterator[bytes]:
            nonlocal ended
            try:
                for _ in range(3):
                    yield b"x" * PART
                await asyncio.Event().wait()
            finally:
                ended = True

        task = asyncio.create_task(write(store, "k", source(), journal))

        async def all_sent() -> bool:
            return bool(journal.sent) and journal.sent[-1] == 3 * PART

        await wait_until(all_sent, "three parts sent")
        for _ in range(cancellations):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended
        assert await listed(store) == []
        assert await open_uploads(store) == []

    @pytest.mark.parametrize("delay", [0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4])
    async def test_cancelled_at_any_moment_it_leaves_nothing_or_all(
        self, store: Store, delay: float
    ) -> None:
        task = asyncio.create_task(write(store, "k", stream(b"x" * PART * 5, [PART])))
        await asyncio.sleep(delay)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await listed(store) == []
        assert await open_uploads(store) == []

    async def test_concurrent_writes_do_not_meet(self, store: Store) -> None:
        contents = {f"f{number}/k": some_bytes(PART + 1 + number, number) for number in range(4)}
        async with asyncio.TaskGroup() as group:
            for key, data in contents.items():
                group.create_task(write(store, key, stream(data, [50_000])))
        for key, data in contents.items():
            assert await store.read(key, limit=len(data)) == data


class FromGenerator:
    """An iterator that may raise what a generator can't: GeneratorExit."""

    def __init__(self, inner: AsyncIterator[bytes], last: BaseException) -> None:
        self._inner = inner
        self._last = last

    def __aiter__(self) -> "FromGenerator":
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._inner)
        except (RuntimeError, GeneratorExit):
            raise self._last from None


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
        keys = [f"many/{number:05}" for number in range(1100)]
        keys += [f"many/{number:05}/x" for number in range(1200, 1300)]
        keys += [f"many/{number:05}-x" for number in range(1250, 1300)]
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

        with pytest.raises(NotFound):
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


async def parts_of(chunks: list[bytes], size: int) -> list[Part]:
    async def source() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return [part async for part in cut(source(), size)]


class TestCut:
    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.binary(max_size=40), max_size=12), st.integers(1, 17))
    def test_loses_and_moves_nothing(self, chunks: list[bytes], size: int) -> None:
        whole = b"".join(chunks)
        parts = asyncio.run(parts_of(chunks, size))
        assert b"".join(part.data for part in parts) == whole
        assert [part.number for part in parts] == list(range(1, len(parts) + 1))
        assert all(len(part.data) == size for part in parts[:-1])
        assert len(parts) == max(1, -(-len(whole) // size))
        for part in parts:
            assert whole[part.offset :].startswith(part.data)
            assert part.crc32c == google_crc32c.value(part.data)
            so_far = whole[: part.offset + len(part.data)]
            assert part.crc32c_so_far == google_crc32c.value(so_far)

    @given(st.integers(0, 50 * 1024**4))
    def test_part_size_keeps_to_the_count(self, size: int) -> None:
        part_size = part_size_for(size, PART_SIZE)
        assert part_size >= PART_SIZE
        assert part_size * MAX_PARTS >= size
        assert part_size == PART_SIZE or part_size < size / MAX_PARTS + MIB


class TestS3:
    async def test_two_prefixes_of_one_bucket_never_meet(
        self, seaweedfs: SeaweedFS, bucket: str
    ) -> None:
        async with (
            open_store(s3_settings(seaweedfs, bucket, prefix="prod")) as prod,
            open_store(s3_settings(seaweedfs, bucket, prefix="prod2")) as prod2,
            open_store(s3_settings(seaweedfs, bucket, prefix="")) as whole,
        ):
            await prod.put_new("k", b"1")
            await prod2.put_new("k", b"2")
            assert (prod.url, whole.url) == (f"s3://{bucket}/prod", f"s3://{bucket}")
            assert await listed(prod) == ["k"]
            assert await prod2.read("k", limit=1) == b"2"
            assert sorted(await listed(whole)) == ["prod/k", "prod2/k"]

    async def test_more_uploads_than_a_page_are_listed(
        self, seaweedfs: SeaweedFS, bucket: str
    ) -> None:
        client = seaweedfs.client()
        begun = set()
        with ThreadPoolExecutor(8) as threads:
            for answer in threads.map(
                lambda n: client.create_multipart_upload(Bucket=bucket, Key=f"prod/{n % 7}/{n}"),
                range(1100),
            ):
                begun.add(answer["UploadId"])
        async with open_store(s3_settings(seaweedfs, bucket)) as store:
            found = await open_uploads(store)
            assert len(found) == 1100
            assert {upload.upload_id for upload in found} == begun
            assert len(await open_uploads(store, "3/")) == 157

    async def test_storage_class_reaches_the_store(self, seaweedfs: SeaweedFS, bucket: str) -> None:
        changed = s3_settings(seaweedfs, bucket, storage_class="STANDARD_IA")
        async with open_store(changed) as store:
            await write(store, "k", stream(b"x"))
        head = seaweedfs.client().head_object(Bucket=bucket, Key="prod/k")
        assert head.get("StorageClass") == "STANDARD_IA"

    @pytest.mark.parametrize("storage_class", ["GLACIER", "DEEP_ARCHIVE"])
    async def test_classes_that_must_thaw_are_refused(
        self, seaweedfs: SeaweedFS, storage_class: str
    ) -> None:
        with pytest.raises(Refused, match="can't be read for hours"):
            async with open_store(s3_settings(seaweedfs, "b", storage_class=storage_class)):
                pass

    async def test_needs_no_more_memory_than_its_parts(
        self, seaweedfs: SeaweedFS, bucket: str
    ) -> None:
        """Parts that wait behind a slow one are held back at their source."""
        pulled = 0
        parts = 10
        journal = Journal()

        async def source() -> AsyncIterator[bytes]:
            nonlocal pulled
            for _ in range(parts):
                pulled += 1
                yield b"x" * PART
                assert pulled - len(journal.sent) <= 4 + 1

        async with open_store(
            s3_settings(seaweedfs, bucket), part_size=PART, parts_in_flight=4
        ) as store:
            await write(store, "k", source(), journal)
        assert pulled == parts


class TestLocal:
    async def test_files_are_private(self, tmp_path: Path) -> None:
        root = tmp_path / "new" / "store"
        async with open_store(LocalSettings(path=root), part_size=PART) as store:
            await store.put_new("a/m", b"x")
            await write(store, "a/b/k", stream(b"x"))
        for path in (root, root / "a", root / "a/b", root / ".partial"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
        for path in (root / "a/m", root / "a/b/k"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert path.stat().st_nlink == 1

    async def test_deletes_folders_that_are_empty(self, tmp_path: Path) -> None:
        async with open_store(LocalSettings(path=tmp_path)) as store:
            await store.put_new("a/b/c/k", b"x")
            await store.put_new("a/l", b"x")
            await store.delete("a/b/c/k")
            assert os.listdir(tmp_path / "a") == ["l"]  # noqa: PTH208
            await store.delete("a/l")
            assert "a" not in os.listdir(tmp_path)  # noqa: PTH208

    async def test_writers_and_deleters_of_one_folder_do_not_disturb_each_other(
        self, tmp_path: Path
    ) -> None:
        async with open_store(LocalSettings(path=tmp_path)) as store:

            async def come_and_go(key: str) -> None:
                for _ in range(30):
                    await store.put_new(key, b"x")
                    await store.delete(key)

            async with asyncio.TaskGroup() as group:
                for number in range(4):
                    group.create_task(come_and_go(f"a/b/{number}"))
            assert await listed(store) == []

    async def test_a_directory_that_is_not_there_is_not_an_empty_store(
        self, tmp_path: Path
    ) -> None:
        async with open_store(LocalSettings(path=tmp_path / "unmounted")) as store:
            for call in (
                store.find("k"),
                store.read("k", limit=1),
                store.open("k"),
                store.delete("k"),
                listed(store),
                open_uploads(store),
            ):
                with pytest.raises(NotFound, match="unmounted does not exist"):
                    await call

    async def test_a_file_where_a_folder_is_needed(self, tmp_path: Path) -> None:
        async with open_store(LocalSettings(path=tmp_path)) as store:
            await store.put_new("a", b"file")
            await store.put_new("f/k", b"x")
            for key in ("a/b", "f"):
                with pytest.raises(InvalidInput, match="A file lies where a folder is needed"):
                    await store.put_new(key, b"x")
                with pytest.raises(InvalidInput, match="A file lies where a folder is needed"):
                    await write(store, key, stream(b"x"))
            assert sorted(await listed(store)) == ["a", "f/k"]
            assert await open_uploads(store) == []

    async def test_a_name_too_long_for_the_file_system(self, tmp_path: Path) -> None:
        async with open_store(LocalSettings(path=tmp_path)) as store:
            with pytest.raises(InvalidInput, match="Choose a shorter name"):
                await store.put_new("x" * 300, b"")

    async def test_a_change_in_place_is_noticed(self, tmp_path: Path) -> None:
        async with open_store(LocalSettings(path=tmp_path)) as store:
            await store.put_new("k", b"12345")
            reader = await store.open("k")
            (tmp_path / "k").write_bytes(b"1234")
            with pytest.raises(IntegrityError, match="changed while it was being read"):
                reader.read_at(0, 5)

    async def test_a_full_disk_leaves_nothing(self, tmp_path: Path) -> None:
        """A limit on the size of files stands for a full disk: the system answers alike."""
        async with open_store(LocalSettings(path=tmp_path), part_size=PART) as store:
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (3 * PART, hard))
            try:
                with pytest.raises(OutOfSpace, match="Free space"):
                    await write(store, "k", stream(b"x" * 5 * PART, [PART]))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert await listed(store) == []
            assert await open_uploads(store) == []

    async def test_aborting_removes_nothing_but_unfinished_files(self, tmp_path: Path) -> None:
        async with open_store(LocalSettings(path=tmp_path)) as store:
            await store.put_new("k", b"x")
            for upload_id in ("../k", "..", "", "k.", "k.0"):
                await store.abort(OpenUpload("k", upload_id))
            assert await store.read("k", limit=1) == b"x"

    async def test_a_denied_directory(self) -> None:
        """Nobody may create a folder in /sys, not even root."""
        async with open_store(LocalSettings(path=Path("/sys/etcd-steward"))) as store:
            with pytest.raises(Unauthorized, match="Give this user the right"):
                await store.put_new("k", b"x")
