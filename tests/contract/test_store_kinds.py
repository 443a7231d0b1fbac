"""What is promised of one kind of store only."""

import asyncio
import os
import resource
import stat
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from etcd_steward.errors import (
    IntegrityError,
    InvalidInput,
    NotFound,
    OutOfSpace,
    Refused,
    Unauthorized,
)
from etcd_steward.models.connection import LocalSettings
from etcd_steward.models.ports import OpenUpload
from etcd_steward.store import open_store
from tests.contract.support import (
    PART,
    Journal,
    listed,
    open_uploads,
    s3_settings,
    stream,
    write,
)
from tests.testbed import SeaweedFS


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
                range(1010),
            ):
                begun.add(answer["UploadId"])
        async with open_store(s3_settings(seaweedfs, bucket)) as store:
            found = await open_uploads(store)
            assert len(found) == 1010
            assert {upload.upload_id for upload in found} == begun
            assert len(await open_uploads(store, "3/")) == 144

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
