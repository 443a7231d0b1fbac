"""What the S3 store does when networks, servers and people fail it."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from etcd_steward.errors import (
    InvalidInput,
    NotFound,
    Unauthorized,
    Unavailable,
    Untrusted,
)
from etcd_steward.models.ports import OpenUpload, Store
from etcd_steward.store.parts import MIB
from tests.faults.s3_support import (
    DATA,
    PART,
    SECRET,
    chunks,
    everything_said,
    is_whole,
    listed,
    open_uploads,
    opened,
    settings_for,
    write,
)
from tests.testbed import Authority, Direction, FaultProxy, SeaweedFS


@pytest.fixture
async def proxy(seaweedfs: SeaweedFS) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(seaweedfs.port) as between:
        yield between


@pytest.fixture
async def store(seaweedfs: SeaweedFS, bucket: str, proxy: FaultProxy) -> AsyncIterator[Store]:
    async with opened(settings_for(seaweedfs, bucket, endpoint=proxy.address())) as through:
        yield through


class TestNetwork:
    async def test_a_connection_reset_in_mid_part(self, store: Store, proxy: FaultProxy) -> None:
        proxy.to_server.cut_after = PART + PART // 2
        written = await write(store)
        assert proxy.to_server.cut_after is None
        assert written.confirmed
        assert await is_whole(store)

    async def test_a_stall_in_mid_part(self, store: Store, proxy: FaultProxy) -> None:
        task = asyncio.create_task(write(store))
        await proxy.forwarded(Direction.TO_SERVER, PART)
        proxy.to_server.stall()
        await asyncio.sleep(5)  # longer than both time-outs: the stall itself is what is tested
        await proxy.reset()
        proxy.to_server.resume()
        assert (await task).confirmed
        assert await is_whole(store)

    async def test_a_part_that_flows_slowly_is_not_a_stall(
        self, store: Store, proxy: FaultProxy
    ) -> None:
        """Each connection takes 3 s for a part and is given 2 s to make any progress."""
        proxy.to_server.bytes_per_second = PART / 3
        written = await write(store)
        assert written.confirmed
        assert proxy.to_server.total < 1.2 * len(DATA)

    async def test_bytes_damaged_on_the_way_are_sent_again(
        self, store: Store, proxy: FaultProxy
    ) -> None:
        proxy.to_server.corrupt_at = PART // 2
        assert (await write(store)).confirmed
        assert proxy.to_server.corrupt_at is None
        assert await is_whole(store)

    async def test_a_store_that_goes_away_half_way(
        self, seaweedfs: SeaweedFS, bucket: str, proxy: FaultProxy
    ) -> None:
        """Nothing can be cleaned up then: the error says so, and the next start does it."""
        short = settings_for(seaweedfs, bucket, endpoint=proxy.address(), retry_seconds=2)
        journal: list[OpenUpload] = []

        async def started(upload: OpenUpload) -> None:
            journal.append(upload)

        async with opened(short) as store:
            task = asyncio.create_task(
                store.write(
                    "k", chunks(), size_hint=len(DATA), started=started, sent=lambda _: None
                )
            )
            await proxy.forwarded(Direction.TO_SERVER, PART)
            await proxy.refuse()
            await proxy.reset()
            with pytest.raises(Unavailable, match=r"tried for \d+ s") as raised:
                await task
            assert "may still be there" in raised.value.__notes__[0]
            await proxy.accept()
            assert await open_uploads(store) == journal
            await store.abort(journal[0])
            assert await open_uploads(store) == []
            assert await store.find("k") is None

    async def test_cancelled_on_a_slow_line_it_ends_soon(
        self, store: Store, proxy: FaultProxy
    ) -> None:
        proxy.to_server.bytes_per_second = 100_000
        task = asyncio.create_task(write(store))
        await proxy.forwarded(Direction.TO_SERVER, 200_000)
        task.cancel()
        proxy.to_server.bytes_per_second = None
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await open_uploads(store) == []
        assert proxy.to_server.total < len(DATA)

    async def test_reading_goes_on_after_a_cut(self, store: Store, proxy: FaultProxy) -> None:
        await write(store)
        reader = await store.open("k")
        proxy.to_client.cut_after = PART
        assert await asyncio.to_thread(reader.read_at, 1, 2 * PART) == DATA[1 : 1 + 2 * PART]
        assert proxy.to_client.cut_after is None

    async def test_nobody_answers(self, seaweedfs: SeaweedFS, proxy: FaultProxy) -> None:
        await proxy.refuse()
        settings = settings_for(seaweedfs, "b", endpoint=proxy.address(), retry_seconds=1)
        async with opened(settings) as store:
            for call in (store.find("k"), store.put_new("k", b""), write(store), store.delete("k")):
                with pytest.raises(Unavailable, match=r"127\.0\.0\.1"):
                    await call

    async def test_a_host_that_does_not_exist(self, seaweedfs: SeaweedFS) -> None:
        settings = settings_for(
            seaweedfs, "bucket", endpoint="http://s3.nowhere.invalid", retry_seconds=1
        )
        async with opened(settings) as store:
            with pytest.raises(Unavailable, match=r"s3\.nowhere\.invalid.*path style"):
                await store.find("k")


class TestLostAnswers:
    async def test_of_create(
        self, seaweedfs: SeaweedFS, store: Store, proxy: FaultProxy, bucket: str
    ) -> None:
        """The upload whose ID nobody learned is aborted, or it would stay for ever."""
        proxy.drop_answer(f"POST /{bucket}/prod/k?uploads".encode())
        seen: list[dict[str, str]] = []

        async def started(_: OpenUpload) -> None:
            seen.append(await seaweedfs.open_uploads(bucket))

        await store.write("k", chunks(), size_hint=1, started=started, sent=lambda _: None)
        await proxy.answer_dropped()
        assert list(seen[0].values()) == ["prod/k"]
        assert await is_whole(store)

    async def test_of_a_part(self, store: Store, proxy: FaultProxy, bucket: str) -> None:
        proxy.drop_answer(f"PUT /{bucket}/prod/k?".encode())
        assert (await write(store)).confirmed
        await proxy.answer_dropped()
        assert await is_whole(store)

    async def test_of_complete(self, store: Store, proxy: FaultProxy, bucket: str) -> None:
        proxy.drop_answer(f"POST /{bucket}/prod/k?uploadId".encode())
        assert (await write(store)).confirmed
        await proxy.answer_dropped()
        assert await is_whole(store)

    async def test_of_put_new(self, store: Store, proxy: FaultProxy, bucket: str) -> None:
        proxy.drop_answer(f"PUT /{bucket}/prod/m".encode())
        await store.put_new("m", b"{}")
        await proxy.answer_dropped()
        assert await store.read("m", limit=2) == b"{}"

    async def test_of_abort_and_delete(
        self, store: Store, proxy: FaultProxy, bucket: str, seaweedfs: SeaweedFS
    ) -> None:
        client = seaweedfs.client()
        begun = client.create_multipart_upload(Bucket=bucket, Key="prod/k")["UploadId"]
        proxy.drop_answer(f"DELETE /{bucket}/prod/k".encode())
        await store.abort(OpenUpload("k", begun))
        await proxy.answer_dropped()
        assert await open_uploads(store) == []
        await store.put_new("m", b"")
        proxy.drop_answer(f"DELETE /{bucket}/prod/m".encode())
        await store.delete("m")
        await proxy.answer_dropped()
        assert await store.find("m") is None


class TestServer:
    async def test_killed_and_started_again_in_mid_upload(self, tmp_path: Path) -> None:
        async with SeaweedFS(tmp_path / "s3") as server, FaultProxy(server.port) as proxy:
            bucket = await server.create_bucket("bucket")
            settings = settings_for(server, bucket, endpoint=proxy.address())
            async with opened(settings) as store:
                task = asyncio.create_task(write(store))
                await proxy.forwarded(Direction.TO_SERVER, PART + MIB)
                await server.server.kill()
                await server.server.start()
                assert (await task).confirmed
                assert await is_whole(store)

    @pytest.fixture
    async def tls(self, tmp_path: Path) -> AsyncIterator[SeaweedFS]:
        async with SeaweedFS(tmp_path / "tls", tls=True) as server:
            await server.create_bucket("bucket")
            yield server

    async def test_certificates(
        self, tls: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        foreign = Authority.create(tmp_path / "foreign", "foreign").ca_file
        started = time.monotonic()
        for ca in (foreign.read_text(), None):
            async with opened(settings_for(tls, "bucket", ca=ca)) as store:
                for call in (store.put_new("m", b""), store.find("m"), write(store)):
                    with pytest.raises(Untrusted, match=r"can't be trusted.*CA"):
                        await call
        assert time.monotonic() - started < 20  # never retried
        named = tls.endpoint_url.replace("127.0.0.1", "127.1")  # the same host, by another name
        renamed = settings_for(tls, "bucket", endpoint=named, force_path_style=True)
        async with opened(renamed) as store:
            with pytest.raises(Untrusted, match=r"certificate of https://127\.1"):
                await store.find("m")
        # The CA that was given wins over what the environment says.
        monkeypatch.setenv("AWS_CA_BUNDLE", str(foreign))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(foreign))
        async with opened(settings_for(tls, "bucket")) as store:
            assert (await write(store)).confirmed
            reader = await store.open("k")
            assert await asyncio.to_thread(reader.read_at, PART, 10) == DATA[PART : PART + 10]

    async def test_the_wrong_scheme(self, tls: SeaweedFS, seaweedfs: SeaweedFS) -> None:
        plain = tls.endpoint_url.replace("https", "http")
        async with opened(settings_for(tls, "bucket", endpoint=plain, retry_seconds=1)) as store:
            with pytest.raises(Unavailable, match="begin its endpoint with https://"):
                await store.put_new("m", b"")
        encrypted = seaweedfs.endpoint_url.replace("http", "https")
        async with opened(settings_for(seaweedfs, "bucket", endpoint=encrypted)) as store:
            with pytest.raises(InvalidInput, match="http://"):
                await store.put_new("m", b"")

    async def test_the_ca_file_is_private_and_goes(
        self, tls: SeaweedFS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        async with opened(settings_for(tls, "bucket")):
            files = list(tmp_path.glob("etcd-steward-ca-*"))  # noqa: ASYNC240
            assert [oct(os.stat(file).st_mode & 0o777) for file in files] == ["0o600"]  # noqa: PTH116
        assert not list(tmp_path.glob("etcd-steward-ca-*"))  # noqa: ASYNC240


class TestRights:
    async def test_wrong_keys(self, seaweedfs: SeaweedFS, bucket: str) -> None:
        wrong = {"secret_key": SECRET}, {"access_key": "AKUNKNOWN", "secret_key": SECRET}
        for changed in wrong:
            async with opened(settings_for(seaweedfs, bucket, **changed)) as store:
                for call in (store.put_new("m", b""), write(store), store.find("m"), listed(store)):
                    started = time.monotonic()
                    with pytest.raises(Unauthorized, match=r"keys?\b") as raised:
                        await call
                    assert time.monotonic() - started < 5
                    assert SECRET not in everything_said(raised.value)

    async def test_no_keys_at_all(self, seaweedfs: SeaweedFS, bucket: str) -> None:
        settings = settings_for(seaweedfs, bucket, access_key=None, secret_key=None)
        async with opened(settings) as store:
            with pytest.raises(Unauthorized, match="credentials"):
                await store.find("m")

    async def test_keys_of_the_environment(
        self, seaweedfs: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in seaweedfs.environment().items():
            monkeypatch.setenv(name, value)
        settings = settings_for(seaweedfs, bucket, access_key=None, secret_key=None)
        async with opened(settings) as store:
            await store.put_new("m", b"")

    async def test_a_right_that_is_missing_is_named(
        self, seaweedfs: SeaweedFS, bucket: str
    ) -> None:
        reader = seaweedfs.reader
        settings = settings_for(
            seaweedfs, bucket, access_key=reader.access_key, secret_key=reader.secret_key
        )
        async with opened(settings) as store:
            for call, right in (
                (store.put_new("m", b""), "s3:PutObject"),
                (write(store), "s3:PutObject"),
                (store.delete("m"), "s3:DeleteObject"),
            ):
                with pytest.raises(Unauthorized, match=right):
                    await call
            assert await store.find("m") is None
            assert await listed(store) == []

    async def test_an_unknown_bucket_is_not_an_empty_one(self, seaweedfs: SeaweedFS) -> None:
        async with opened(settings_for(seaweedfs, "no-such-bucket")) as store:
            for call in (
                store.put_new("m", b""),
                write(store),
                store.read("m", limit=1),
                store.open("m"),
                store.find("m"),
                listed(store),
                open_uploads(store),
                store.delete("m"),
                store.abort(OpenUpload("m", "id")),
            ):
                with pytest.raises(NotFound, match="bucket no-such-bucket does not exist at http"):
                    await call
