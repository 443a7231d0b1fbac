"""The fault proxy, in front of a plain echo server, of S3 and of etcd."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

from tests.testbed import Direction, EtcdCluster, FaultProxy, SeaweedFS, TestbedError
from tests.testbed.bulk import load

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    """A proxy in front of a server that sends back what it gets."""
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    async with server, FaultProxy(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy


@contextlib.asynccontextmanager
async def connected(proxy: FaultProxy) -> AsyncIterator[Pair]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def roundtrip(pair: Pair, data: bytes) -> bytes:
    reader, writer = pair
    writer.write(data)
    await writer.drain()
    return await reader.readexactly(len(data))


async def test_without_faults_everything_passes(proxy: FaultProxy) -> None:
    data = bytes(range(256)) * 4096
    async with connected(proxy) as pair:
        sent = asyncio.create_task(roundtrip(pair, data))
        assert await sent == data
        pair[1].write_eof()
        assert await pair[0].read() == b""  # a half-close passes too
    assert proxy.to_server.total == proxy.to_client.total == len(data)
    assert proxy.accepted == 1


async def test_cut_after_n_bytes_happens_once(proxy: FaultProxy) -> None:
    proxy.to_client.cut_after = 1000
    async with connected(proxy) as pair:
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await roundtrip(pair, b"x" * 5000)
    assert proxy.to_client.total == 1000
    async with connected(proxy) as pair:
        assert await roundtrip(pair, b"again") == b"again"


async def test_corrupt_flips_one_bit(proxy: FaultProxy) -> None:
    proxy.to_server.corrupt_at = 3
    async with connected(proxy) as pair:
        assert await roundtrip(pair, b"aaaaaa") == b"aaa`aa"
        assert await roundtrip(pair, b"aaaaaa") == b"aaaaaa"


async def test_stall_holds_bytes_back_until_resumed(proxy: FaultProxy) -> None:
    async with connected(proxy) as pair:
        proxy.to_server.stall()
        waiting = asyncio.create_task(roundtrip(pair, b"late"))
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        assert not done
        proxy.to_server.resume()
        assert await waiting == b"late"


async def test_delay_and_throttle_take_their_time(proxy: FaultProxy) -> None:
    async with connected(proxy) as pair:
        proxy.to_client.delay = 0.2
        begin = time.monotonic()
        await roundtrip(pair, b"x")
        assert time.monotonic() - begin >= 0.2
        proxy.to_client.delay = 0
        proxy.to_server.bytes_per_second = 100_000
        begin = time.monotonic()
        await roundtrip(pair, b"x" * 50_000)
        assert time.monotonic() - begin >= 0.5


async def test_reset_refuse_accept_and_blackhole(proxy: FaultProxy) -> None:
    async with connected(proxy) as pair:
        await roundtrip(pair, b"x")
        await proxy.refuse()
        assert await roundtrip(pair, b"x") == b"x"  # what exists goes on
        await proxy.reset()
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await roundtrip(pair, b"x")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", proxy.port)
    await proxy.accept()
    proxy.blackhole = True
    async with connected(proxy) as pair:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(roundtrip(pair, b"x"), 0.3)


async def test_a_lost_answer_of_s3_leaves_the_object_written(
    seaweedfs: SeaweedFS, bucket: str
) -> None:
    async with FaultProxy(seaweedfs.port) as proxy:
        client = seaweedfs.client(endpoint_url=proxy.address(), attempts=1)
        proxy.drop_answer(f"PUT /{bucket}/key".encode())
        with pytest.raises(BotoCoreError, match=r"(?i)connection"):
            await asyncio.to_thread(client.put_object, Bucket=bucket, Key="key", Body=b"data")
        await asyncio.wait_for(proxy.answer_dropped(), 5)
        assert await seaweedfs.read(bucket, "key") == b"data"
        await asyncio.to_thread(client.put_object, Bucket=bucket, Key="other", Body=b"data")
    assert set(await seaweedfs.objects(bucket)) == {"key", "other"}


async def test_a_lost_answer_of_etcd_leaves_the_key_written(
    etcd: EtcdCluster, key_prefix: str
) -> None:
    async with FaultProxy(etcd.members[0].client_port) as proxy:
        proxy.drop_answer(key_prefix.encode())
        with pytest.raises(TestbedError):
            await etcd.etcdctl(
                *("put", f"{key_prefix}key", "value", "--command-timeout=3s"),
                endpoints=[proxy.address()],
            )
        await asyncio.wait_for(proxy.answer_dropped(), 5)
    assert await etcd.etcdctl("get", f"{key_prefix}key", "--print-value-only") == "value\n"


async def test_a_snapshot_cut_half_way_fails_in_etcdctl(tmp_path: Path) -> None:
    async with (
        EtcdCluster(tmp_path) as etcd,
        FaultProxy(etcd.members[0].client_port) as proxy,
    ):
        await load(etcd, 5000)
        proxy.to_client.cut_after = 2_000_000
        save = etcd.etcdctl(
            "snapshot", "save", tmp_path / "cut.db", endpoints=[proxy.address()], timeout=20
        )
        with pytest.raises(TestbedError, match="snapshot save"):
            await save
        assert proxy.to_client.total >= 2_000_000
        await etcd.etcdctl("snapshot", "save", tmp_path / "whole.db", endpoints=[proxy.address()])
        assert (tmp_path / "whole.db").stat().st_size > 2_000_000
        await asyncio.wait_for(proxy.forwarded(Direction.TO_CLIENT, 4_000_000), 5)
