"""A snapshot when things break half-way: what is said, and that nothing is left behind."""

import asyncio
import json
import resource
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from etcd_steward.app import settle_run, take_snapshot
from etcd_steward.errors import OutOfSpace, StewardError, TransientError, Unavailable
from etcd_steward.models.connection import EtcdConnection, S3Settings
from etcd_steward.models.jobs import EVENT, Event
from etcd_steward.models.run import (
    Failure,
    Journal,
    Progress,
    Result,
    Settled,
    SettleRequest,
    SnapshotRequest,
    SpoolSettings,
)
from tests.support.runs import Heard, connection, s3_settings, snapshot_request
from tests.testbed import Direction, EtcdCluster, FaultProxy, SeaweedFS, wait_until
from tests.testbed.bulk import load


@pytest.fixture(scope="module")
async def loaded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EtcdCluster]:
    """An etcd with some 40 MB in it."""
    async with EtcdCluster(tmp_path_factory.mktemp("loaded")) as cluster:
        await load(cluster, 30_000, value_size=1000, namespaces=10, seed=3)
        yield cluster


class Child:
    """A run as the operator starts it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.journals: list[Journal] = []

    async def next(self) -> Event | None:
        """The next event; journals are answered. None at the end."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            return None
        event = EVENT.validate_json(line)
        if isinstance(event, Journal):
            self.journals.append(event)
            await self.answer()
        return event

    async def answer(self) -> None:
        """Let the run go on after a journal."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"ok\n")
        await self.process.stdin.drain()

    async def outcome(self) -> Event | None:
        """The last event."""
        last = None
        while (event := await self.next()) is not None:
            last = event
        await self.process.wait()
        return last

    async def kill(self) -> None:
        """As the kernel's OOM killer does."""
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def child(request: SnapshotRequest, *, file_limit: int | None = None) -> AsyncIterator[Child]:
    """A runner with its request given."""

    def limit() -> None:
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "etcd_steward.runner",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, preexec_fn=limit,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(request.model_dump_json(by_alias=True).encode() + b"\n")
    await process.stdin.drain()
    try:
        yield Child(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def _glob(directory: Path, pattern: str) -> list[Path]:
    return list(directory.glob(pattern))


async def _nothing_left(s3: SeaweedFS, bucket: str) -> None:
    assert await s3.objects(bucket) == {}
    assert await s3.open_uploads(bucket) == {}


async def test_a_stream_cut_half_way(
    loaded: EtcdCluster, seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    async with FaultProxy(loaded.members[0].client_port) as proxy:
        proxy.to_client.cut_after = 10_000_000
        request = snapshot_request(
            connection(loaded, endpoints=(proxy.address("http"),)),
            s3_settings(seaweedfs, bucket),
            tmp_path,
        )
        with pytest.raises(TransientError) as caught:
            await take_snapshot(request, Heard())
    assert caught.value.side == "etcd"
    assert proxy.address("http") in str(caught.value)
    await _nothing_left(seaweedfs, bucket)
    assert not _glob(tmp_path, "*/")


async def test_a_bit_flipped_on_the_way_is_found(
    loaded: EtcdCluster, seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    async with FaultProxy(loaded.members[0].client_port) as proxy:
        proxy.to_client.corrupt_at = 10_000_000
        request = snapshot_request(
            connection(loaded, endpoints=(proxy.address("http"),)),
            s3_settings(seaweedfs, bucket),
            tmp_path,
        )
        with pytest.raises(StewardError):  # by the digest, or by gRPC if it hit a frame's header
            await take_snapshot(request, Heard())
    await _nothing_left(seaweedfs, bucket)


async def test_s3_gone_half_way_is_cleaned_up_at_the_next_start(
    loaded: EtcdCluster, seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    async with FaultProxy(seaweedfs.port) as proxy:
        proxy.to_server.cut_after = 3_000_000
        broken = s3_settings(seaweedfs, bucket, endpoint=proxy.address("http"), retry_seconds=2.0)
        request = snapshot_request(connection(loaded), broken, tmp_path, timeout=60.0)

        async def cut() -> bool:
            return proxy.to_server.cut_after is None

        async def gone() -> None:
            await wait_until(cut, "the connection to be cut", timeout=60)
            await proxy.refuse()

        async with asyncio.TaskGroup() as group:
            group.create_task(gone())
            with pytest.raises(Unavailable):
                await take_snapshot(request, Heard())
        assert await seaweedfs.open_uploads(bucket) != {}
        await proxy.accept()
        again = request.model_copy(update={"run": "feedbeef"})
        result = await take_snapshot(again, Heard())
    assert await seaweedfs.open_uploads(bucket) == {}
    folders = {key.rsplit("/", 1)[0] for key in await seaweedfs.objects(bucket)}
    assert {folder.removesuffix("/proofs") for folder in folders} == {
        f"prod/{result.manifest.folder}"
    }
    assert not _glob(tmp_path, "*.orphan.json")


async def test_a_spool_too_small_is_said_before_the_stream(
    loaded: EtcdCluster, seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    request = snapshot_request(
        connection(loaded), s3_settings(seaweedfs, bucket), tmp_path
    ).model_copy(update={"spool": SpoolSettings(directory=tmp_path, limit=1 << 20)})
    heard = Heard()
    with pytest.raises(OutOfSpace, match="--spool-limit"):
        await take_snapshot(request, heard)
    assert {progress.raw_bytes for progress in heard.steps} == {0}
    await _nothing_left(seaweedfs, bucket)


async def test_a_spool_full_half_way(
    loaded: EtcdCluster, seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    request = snapshot_request(connection(loaded), s3_settings(seaweedfs, bucket), tmp_path)
    async with child(request, file_limit=16 << 20) as run:
        failure = await run.outcome()
    assert isinstance(failure, Failure)
    assert failure.reason == "OutOfSpace"
    assert failure.side is None
    assert not failure.transient
    await _nothing_left(seaweedfs, bucket)
    assert not _glob(tmp_path, "*/")


async def test_killed_while_streaming_leaves_nothing(
    loaded: EtcdCluster, seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    async with FaultProxy(loaded.members[0].client_port) as proxy:
        proxy.to_client.bytes_per_second = 5e6
        request = snapshot_request(
            connection(loaded, endpoints=(proxy.address("http"),)),
            s3_settings(seaweedfs, bucket),
            tmp_path,
        )
        async with child(request) as run:
            while (event := await run.next()) is not None:
                if event.event == "progress" and event.raw_bytes > 0:
                    break
            await run.kill()
    spooled = _glob(tmp_path, "*/snapshot.db")
    assert len(spooled) == 1
    async with child(
        snapshot_request(connection(loaded), s3_settings(seaweedfs, bucket), tmp_path)
    ) as run:
        assert isinstance(await run.outcome(), Result)
    assert not _glob(tmp_path, "*/")
    assert not any(request.run in key for key in await seaweedfs.objects(bucket))


async def test_killed_while_uploading_is_settled_and_tried_again(
    loaded: EtcdCluster, seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    async with FaultProxy(seaweedfs.port) as proxy:
        slow = s3_settings(seaweedfs, bucket, endpoint=proxy.address("http"))
        request = snapshot_request(connection(loaded), slow, tmp_path, run="abcd0001")
        async with child(request) as run:
            while not run.journals:
                assert await run.next() is not None
            proxy.to_server.bytes_per_second = 1e6
            await proxy.forwarded(Direction.TO_SERVER, 1_000_000)
            await run.kill()
        assert await seaweedfs.open_uploads(bucket) != {}
    second = snapshot_request(
        connection(loaded),
        s3_settings(seaweedfs, bucket),
        tmp_path / "other-host",
        run="abcd0001.2",
        tick=request.tick,
        earlier=tuple(run.journals),
    )
    result = await take_snapshot(second, Heard())
    assert result.manifest.folder.endswith("-abcd0001.2")
    assert await seaweedfs.open_uploads(bucket) == {}
    assert all("abcd0001.2" in key for key in await seaweedfs.objects(bucket))


async def test_killed_after_the_manifest_is_adopted(
    loaded: EtcdCluster, seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    settings = s3_settings(seaweedfs, bucket)
    request = snapshot_request(connection(loaded), settings, tmp_path, run="abcd0002")
    async with child(request) as run:
        first = await run.outcome()
    assert isinstance(first, Result)
    before = await seaweedfs.objects(bucket)

    settle = SettleRequest(
        store=settings,
        spool=SpoolSettings(directory=tmp_path),
        run="abcd0002",
        earlier=tuple(run.journals),
    )
    adopted = await settle_run(settle, Heard())
    assert isinstance(adopted, Result)
    assert adopted == first
    again = request.model_copy(update={"run": "abcd0002.2", "earlier": tuple(run.journals)})
    assert await take_snapshot(again, Heard()) == first
    assert await seaweedfs.objects(bucket) == before


async def test_killed_between_upload_and_manifest_leaves_no_file(
    loaded: EtcdCluster, seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    settings = s3_settings(seaweedfs, bucket)
    request = snapshot_request(connection(loaded), settings, tmp_path, run="abcd0003")
    result = await take_snapshot(request, heard := Heard())
    client = seaweedfs.client()
    for key in await seaweedfs.objects(bucket):
        if not key.endswith("snapshot.db.zst"):
            await asyncio.to_thread(client.delete_object, Bucket=bucket, Key=key)
    assert len(await seaweedfs.objects(bucket)) == 1

    settle = SettleRequest(
        store=settings,
        spool=SpoolSettings(directory=tmp_path),
        run="abcd0003",
        earlier=tuple(heard.journals),
    )
    assert isinstance(await settle_run(settle, Heard()), Settled)
    await _nothing_left(seaweedfs, bucket)
    assert result.manifest.run.uid is None


async def test_a_parent_that_goes_away_stops_the_run(
    loaded: EtcdCluster, seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    async with FaultProxy(seaweedfs.port) as proxy:
        slow = s3_settings(seaweedfs, bucket, endpoint=proxy.address("http"))
        async with child(snapshot_request(connection(loaded), slow, tmp_path)) as run:
            while not run.journals:
                assert await run.next() is not None
            proxy.to_server.bytes_per_second = 5e6
            assert run.process.stdin is not None
            run.process.stdin.close()
            async with asyncio.timeout(40):
                assert await run.outcome() == Settled(aborted=1)
            assert run.process.returncode == 130
    await _nothing_left(seaweedfs, bucket)
    assert not _glob(tmp_path, "*/")


@pytest.mark.parametrize("earlier", [False, True])
async def test_only_a_clean_stop_is_called_one(tmp_path: Path, *, earlier: bool) -> None:
    """A run that could not yet settle what others had begun says nothing of it."""
    connected = asyncio.Event()

    class Silent(asyncio.Protocol):
        def connection_made(self, _: asyncio.BaseTransport) -> None:
            connected.set()

    server = await asyncio.get_running_loop().create_server(Silent, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    folder = "1f0c9a3e/ns.nightly/20261122T021700Z-abcd0006"
    journal = Journal(folder=folder, key=f"{folder}/snapshot.db.zst", upload_id="u")
    request = snapshot_request(
        EtcdConnection(endpoints=(address,)),
        S3Settings(
            bucket="b",
            endpoint=address,
            access_key="a",
            secret_key=SecretStr("b"),
            connect_timeout=2,
            read_timeout=2,
        ),
        tmp_path,
        run="abcd0006",
        earlier=(journal,) if earlier else (),
    )
    async with server, child(request) as run:
        async with asyncio.timeout(30):
            await connected.wait()
            assert run.process.stdin is not None
            run.process.stdin.close()
            last = await run.outcome()
        assert run.process.returncode == 130
    assert last == Settled(aborted=0) if not earlier else isinstance(last, Progress | None)


async def test_no_secret_leaves_a_run(
    seaweedfs: SeaweedFS, bucket: str, etcd_mtls: EtcdCluster, tmp_path: Path
) -> None:
    settings = s3_settings(seaweedfs, bucket, secret_key="not-the-key-at-all")
    request = snapshot_request(connection(etcd_mtls), settings, tmp_path)
    async with child(request) as run:
        failure = await run.outcome()
    assert isinstance(failure, Failure)
    assert failure.reason == "Unauthorized"
    assert failure.side == "store"
    said = json.dumps(failure.model_dump())
    assert "not-the-key" not in said
    assert "PRIVATE KEY" not in said


@pytest.mark.parametrize("line", [b"\n", b"{}\n", b'{"job": "snapshot"}\n', b""])
async def test_a_request_that_makes_no_sense_is_answered(line: bytes) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "etcd_steward.runner",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    stdout, _ = await process.communicate(line)
    failure = EVENT.validate_json(stdout)
    assert isinstance(failure, Failure)
    assert failure.reason == "InvalidInput"
    assert process.returncode == 0


async def test_an_upload_nobody_journalled_is_found_by_its_folder(
    seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    client = seaweedfs.client()
    lost = "prod/1f0c9a3e/ns.nightly/20261122T021700Z-abcd0004.2/snapshot.db.zst"
    foreign = "prod/1f0c9a3e/ns.nightly/20261122T021700Z-abcd0005/snapshot.db.zst"
    for key in (lost, foreign, "prod/else/abcd0004"):
        await asyncio.to_thread(client.create_multipart_upload, Bucket=bucket, Key=key)
    request = SettleRequest(
        store=s3_settings(seaweedfs, bucket),
        spool=SpoolSettings(directory=tmp_path),
        run="abcd0004",
    )
    assert await settle_run(request, Heard()) == Settled(aborted=1)
    left = (await seaweedfs.open_uploads(bucket)).values()
    assert sorted(left) == sorted([foreign, "prod/else/abcd0004"])
