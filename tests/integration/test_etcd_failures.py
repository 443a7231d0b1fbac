"""What goes wrong on the way to an etcd is said in words, and each with its own kind of error."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from etcd_steward.deadline import Deadline
from etcd_steward.errors import (
    NoLeader,
    StewardError,
    TransientError,
    Unavailable,
    Unsupported,
    Untrusted,
)
from etcd_steward.etcd import stubs
from etcd_steward.etcd.address import Address
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.diagnosis import diagnose
from etcd_steward.etcd.member import Alarm, MemberFailure, MemberStatus
from etcd_steward.etcd.tls import load
from etcd_steward.models.connection import EtcdConnection, EtcdTLS
from tests.integration.etcd_connections import connection_to, tls_with
from tests.testbed import Authority, EtcdCluster, FaultProxy
from tests.testbed.certs import DAY
from tests.testbed.ports import reserved_ports

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[[Any, Context], Awaitable[object]]
Method = tuple[Handler, type[Message], type[Message]]


async def failure(connection: EtcdConnection) -> StewardError:
    """What a read by this connection raises, the same as `members` reports."""
    async with EtcdClient.connect(connection) as client:
        with pytest.raises(StewardError) as caught:
            await client.get(b"key")
        (member,) = await client.members()
    assert isinstance(member, MemberFailure)
    assert type(member.error) is type(caught.value)
    assert "BEGIN" not in str(caught.value)  # no PEM in a message
    return caught.value


@asynccontextmanager
async def server(answer: bytes, *, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A TCP server that sends `answer` to whoever says something; its port."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if await reader.read(1):
                writer.write(answer)
                await writer.drain()
        except OSError:
            pass  # the client has left: that is its business
        finally:
            writer.close()

    listening = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


async def test_nothing_listens() -> None:
    with reserved_ports(1) as (port,):
        error = await failure(EtcdConnection(endpoints=(f"http://127.0.0.1:{port}",)))
    assert isinstance(error, Unavailable)
    assert f"nothing listens at http://127.0.0.1:{port}" in str(error)


async def test_unknown_name() -> None:
    error = await failure(EtcdConnection(endpoints=("http://no-such-host.invalid:2379",)))
    assert isinstance(error, Unavailable)
    assert "no-such-host.invalid" in str(error)
    assert "can't be resolved" in str(error)


async def test_a_listener_that_stays_silent_costs_no_more_than_dialling() -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(silence, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        connection = EtcdConnection(endpoints=(f"http://127.0.0.1:{port}",), dial_timeout=0.5)
        started = asyncio.get_running_loop().time()
        async with EtcdClient.connect(connection) as client:
            (member,) = await client.members()
        assert isinstance(member, MemberFailure)
        assert isinstance(member.error, TransientError | Unsupported)
        assert asyncio.get_running_loop().time() - started < 5


async def test_a_web_server() -> None:
    answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
    async with server(answer) as port:
        error = await failure(EtcdConnection(endpoints=(f"http://127.0.0.1:{port}",)))
    assert isinstance(error, Unsupported)
    assert "is not an etcd" in str(error)
    assert "web server" in str(error)


async def test_a_port_of_another_protocol() -> None:
    async with server(b"SSH-2.0-OpenSSH_9.2\r\n") as port:
        error = await failure(EtcdConnection(endpoints=(f"http://127.0.0.1:{port}",)))
    assert isinstance(error, Unsupported)
    assert "another protocol" in str(error)


async def test_a_web_server_with_tls(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    pair = authority.issue("web")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)
    async with server(b"HTTP/1.1 400 Bad Request\r\n\r\n", context=context) as port:
        error = await failure(
            EtcdConnection(endpoints=(f"https://127.0.0.1:{port}",), tls=tls_with(authority, None))
        )
    assert isinstance(error, Unsupported)
    assert "is not an etcd" in str(error)


async def test_tls_asked_of_a_plaintext_etcd(etcd: EtcdCluster, tmp_path: Path) -> None:
    endpoint = etcd.endpoints[0].replace("http://", "https://")
    tls = tls_with(Authority.create(tmp_path), None)
    error = await failure(EtcdConnection(endpoints=(endpoint,), tls=tls))
    assert isinstance(error, Untrusted)
    assert "does not speak TLS" in str(error)
    assert etcd.endpoints[0] in error.hint


async def test_plaintext_asked_of_a_tls_etcd(etcd_mtls: EtcdCluster) -> None:
    endpoint = etcd_mtls.endpoints[0].replace("https://", "http://")
    error = await failure(EtcdConnection(endpoints=(endpoint,)))
    assert isinstance(error, Untrusted)
    assert "speaks TLS" in str(error)
    assert etcd_mtls.endpoints[0] in error.hint


def one_endpoint(etcd: EtcdCluster, tls: EtcdTLS) -> EtcdConnection:
    return EtcdConnection(endpoints=(etcd.endpoints[0],), tls=tls)


async def test_client_certificate_is_missing(etcd_mtls: EtcdCluster) -> None:
    assert etcd_mtls.tls is not None
    error = await failure(one_endpoint(etcd_mtls, tls_with(etcd_mtls.tls.authority, None)))
    assert isinstance(error, Untrusted)
    assert "wants a client certificate" in str(error)


async def test_client_certificate_has_expired(etcd_mtls: EtcdCluster) -> None:
    assert etcd_mtls.tls is not None
    old = etcd_mtls.tls.authority.issue("old", valid_from=-2 * DAY, valid_for=-DAY)
    error = await failure(one_endpoint(etcd_mtls, tls_with(etcd_mtls.tls.authority, old)))
    assert isinstance(error, Untrusted)
    assert "CN=old expired on" in str(error)


async def test_client_certificate_of_another_ca(etcd_mtls: EtcdCluster, tmp_path: Path) -> None:
    assert etcd_mtls.tls is not None
    foreign = Authority.create(tmp_path, "foreign").issue("stranger")
    error = await failure(one_endpoint(etcd_mtls, tls_with(etcd_mtls.tls.authority, foreign)))
    assert isinstance(error, Untrusted)
    assert "refused our client certificate CN=stranger" in str(error)


async def test_server_certificate_of_an_unknown_ca(etcd_mtls: EtcdCluster, tmp_path: Path) -> None:
    assert etcd_mtls.tls is not None
    tls = tls_with(Authority.create(tmp_path, "foreign"), etcd_mtls.tls.client)
    error = await failure(one_endpoint(etcd_mtls, tls))
    assert isinstance(error, Untrusted)
    assert "can't be trusted" in str(error)
    assert "Give the CA" in error.hint


async def test_server_certificate_of_another_name(etcd_mtls: EtcdCluster) -> None:
    assert etcd_mtls.tls is not None
    tls = tls_with(etcd_mtls.tls.authority, etcd_mtls.tls.client)
    wrong = tls.model_copy(update={"server_name": "etcd.example"})
    error = await failure(one_endpoint(etcd_mtls, wrong))
    assert isinstance(error, Untrusted)
    assert "not made for etcd.example" in error.hint


async def test_server_name_may_differ_from_the_endpoint(etcd_mtls: EtcdCluster) -> None:
    assert etcd_mtls.tls is not None
    tls = tls_with(etcd_mtls.tls.authority, etcd_mtls.tls.client)
    named = tls.model_copy(update={"server_name": "localhost"})
    async with EtcdClient.connect(one_endpoint(etcd_mtls, named)) as client:
        assert isinstance((await client.members())[0], MemberStatus)


async def test_expired_server_certificate(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    pair = authority.issue("old-server", valid_from=-2 * DAY, valid_for=-DAY)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)
    async with server(b"", context=context) as port:
        error = await failure(
            EtcdConnection(endpoints=(f"https://127.0.0.1:{port}",), tls=tls_with(authority, None))
        )
    assert isinstance(error, Untrusted)
    assert "expired" in str(error)


async def test_proxy_variables_are_ignored(
    etcd: EtcdCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with EtcdClient.connect(connection_to(etcd)) as client:
        await client.get(b"key")
    asked = connection_to(etcd, use_proxy=True, command_timeout=2)
    async with EtcdClient.connect(asked) as client:
        with pytest.raises(Unavailable):
            await client.get(b"key")


@asynccontextmanager
async def grpc_server(service: str, **methods: Method) -> AsyncIterator[str]:
    """A gRPC server that knows these methods of one of etcd's services; its URL."""
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            handler,
            request_deserializer=request.FromString,
            response_serializer=answer.SerializeToString,
        )
        for name, (handler, request, answer) in methods.items()
    }
    generic = grpc.method_handlers_generic_handler(f"etcdserverpb.{service}", handlers)
    running = grpc.aio.server()
    running.add_generic_rpc_handlers((generic,))
    port = running.add_insecure_port("127.0.0.1:0")
    await running.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await running.stop(None)


async def test_what_only_looks_like_an_etcd_has_no_snapshot() -> None:
    """k3s' kine over SQLite: its gRPC server knows KV and Status, and no Snapshot."""

    async def status(_: object, __: Context) -> object:
        return stubs.etcdrpc.StatusResponse(version="3.5.13", dbSize=4096)

    known = (status, stubs.StatusRequest, stubs.etcdrpc.StatusResponse)
    async with (
        grpc_server("Maintenance", Status=known) as url,
        EtcdClient.connect(EtcdConnection(endpoints=(url,))) as client,
    ):
        (found,) = await client.members()
        assert isinstance(found, MemberStatus)
        assert (found.member_id, found.version, found.name) == (0, "3.5.13", "")
        with pytest.raises(Unsupported, match="kine"):
            async with client.member(found).snapshot(deadline=Deadline.after(10)):
                pass


async def test_alarms_as_any_version_writes_them() -> None:
    async def status(_: object, __: Context) -> object:
        texts = ["memberID:5 alarm:NOSPACE ", "memberID:6  alarm:NOSPACE", "alarm:CORRUPT ", "x"]
        return stubs.etcdrpc.StatusResponse(errors=texts)

    known = (status, stubs.StatusRequest, stubs.etcdrpc.StatusResponse)
    async with (
        grpc_server("Maintenance", Status=known) as url,
        EtcdClient.connect(EtcdConnection(endpoints=(url,))) as client,
    ):
        (found,) = await client.members()
    assert isinstance(found, MemberStatus)
    assert found.alarms == (Alarm(5, "NOSPACE"), Alarm(6, "NOSPACE"), Alarm(0, "CORRUPT"))
    assert found.errors == ("x",)


@pytest.mark.parametrize("changes", [1, 2])
async def test_a_read_is_asked_once_more_after_a_change_of_leader(changes: int) -> None:
    """Too rare to provoke: one in 17,500 reads under 12 changes of leader."""
    asked = 0

    async def kv_range(_: object, context: Context) -> object:
        nonlocal asked
        asked += 1
        if asked <= changes:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "etcdserver: leader changed")
        return stubs.RangeResponse(kvs=[stubs.KeyValue(key=b"a", value=b"b")])

    async def kv_put(_: object, context: Context) -> object:
        nonlocal asked
        asked += 1
        await context.abort(grpc.StatusCode.UNAVAILABLE, "etcdserver: leader changed")

    async with (
        grpc_server(
            "KV",
            Range=(kv_range, stubs.RangeRequest, stubs.RangeResponse),
            Put=(kv_put, stubs.PutRequest, stubs.PutResponse),
        ) as url,
        EtcdClient.connect(EtcdConnection(endpoints=(url,))) as client,
    ):
        if changes == 1:
            found = await client.get(b"a")
            assert found is not None
            assert found.value == b"b"
        else:
            with pytest.raises(NoLeader):
                await client.get(b"a")
        assert asked == 2
        with pytest.raises(NoLeader):
            await client.put(b"a", b"b")  # may have been done: never again unasked
        assert asked == 3


async def test_snapshot_cut_half_way(etcd: EtcdCluster) -> None:
    async with FaultProxy(etcd.members[0].client_port) as proxy:
        connection = EtcdConnection(endpoints=(proxy.address("http"),))
        async with EtcdClient.connect(connection) as client:
            (status,) = await client.members()
            assert isinstance(status, MemberStatus)
            await client.put(b"/cut/padding", b"x" * 1_000_000)
            proxy.to_client.cut_after = 100_000
            with pytest.raises(Unavailable, match="send a whole snapshot"):
                async with client.member(status).snapshot(deadline=Deadline.after(30)) as stream:
                    await asyncio.to_thread(list, stream)


async def test_an_endpoint_that_goes_while_it_is_looked_at_is_unavailable() -> None:
    connections = 0
    listening: asyncio.Server

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections == 2:  # the handshake
            listening.close()
        writer.transport.abort()

    listening = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    address = Address.parse(f"https://127.0.0.1:{port}", secure=True)
    found = await diagnose(address, load(EtcdTLS()), Deadline.after(30))
    assert isinstance(found, Unavailable)
    assert connections == 2
