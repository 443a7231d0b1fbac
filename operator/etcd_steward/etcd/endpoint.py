"""One endpoint: its channel, and how a call through it is made, retried and explained."""

from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import grpc
from grpc import aio

from etcd_steward.deadline import Deadline
from etcd_steward.errors import StewardError
from etcd_steward.etcd import diagnosis, errors, stubs
from etcd_steward.etcd.address import Address
from etcd_steward.etcd.auth import Tokens
from etcd_steward.etcd.streaming import SnapshotStream
from etcd_steward.etcd.tls import Material
from etcd_steward.models.connection import EtcdConnection

Request = TypeVar("Request")
Response = TypeVar("Response")

_KEEPALIVE_MS = 10_000  # etcd closes connections that ping more often than every 5 s
_LONGEST_MS = (1 << 31) - 1
_WINDOW = 4 << 20  # bytes that etcd may send ahead of the reader: 200 MB/s at 20 ms


class Endpoint:
    """A channel to one endpoint. It belongs to the running loop, and is closed by its owner."""

    def __init__(
        self,
        address: Address,
        connection: EtcdConnection,
        material: Material | None,
        tokens: Tokens | None,
    ) -> None:
        self.url = address.url
        self._address = address
        self._connection = connection
        self._material = material
        self._tokens = tokens
        options = _options(address, connection)
        if material is None:
            self._channel = aio.insecure_channel(_target(address), options)
        else:
            self._channel = aio.secure_channel(
                _target(address), material.channel_credentials(), options
            )
        self.kv = stubs.KVStub(self._channel)
        self.raw_range: aio.UnaryUnaryMultiCallable[stubs.RangeRequest, bytes] = (
            self._channel.unary_unary(
                "/etcdserverpb.KV/Range",
                request_serializer=stubs.RangeRequest.SerializeToString,
            )
        )
        self.lease = stubs.LeaseStub(self._channel)
        self.cluster = stubs.ClusterStub(self._channel)
        self.maintenance = stubs.MaintenanceStub(self._channel)
        self._watch = stubs.WatchStub(self._channel)
        self._auth = stubs.AuthStub(self._channel)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def call(
        self,
        method: aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        what: str,
        deadline: Deadline | None,
        read: bool = False,
        leader: bool = True,
    ) -> Response:
        """Make one call.

        `what` completes "the endpoint did not …". A `read` is asked once more after a change of
        leader. With `leader`, a member that has lost its leader says so at once instead of letting
        the call wait. A token that etcd no longer takes is renewed once. Raises `StewardError`.
        """
        deadline = deadline or Deadline.after(self._connection.command_timeout)
        renewed = asked_again = False
        token = await self._token(deadline)
        while True:
            try:
                return await method(
                    request, timeout=deadline.left(), metadata=_metadata(token, leader=leader)
                )
            except aio.AioRpcError as error:
                if self._tokens is not None and not renewed and errors.token_is_stale(error):
                    token, renewed = await self._token(deadline, stale=token), True
                elif read and not asked_again and errors.leader_changed(error):
                    asked_again = True
                else:
                    raise await self._explain(error, what, deadline) from error

    @asynccontextmanager
    async def snapshot(self, *, deadline: Deadline) -> AsyncIterator[SnapshotStream]:
        """Begin a snapshot and hold its stream open for the body, which reads it in a thread.

        What the stream raises in the body leaves here as a `StewardError`. Nothing is retried once
        the first message has come.
        """
        with self._blocking_channel() as channel:
            try:
                stream = await self._begin(channel, deadline)
                try:
                    yield stream
                finally:
                    stream.cancel()
            except grpc.RpcError as error:
                what = "send a whole snapshot"
                raise await self._explain(errors.failure(error), what, deadline) from error

    @asynccontextmanager
    async def watch(
        self, requests: AsyncIterator[stubs.WatchRequest], *, deadline: Deadline
    ) -> AsyncIterator[AsyncIterable[stubs.WatchResponse]]:
        """A stream of answers to `requests`, open for the body.

        A member that loses its leader ends it rather than fall silent. `deadline` bounds logging
        in and explaining errors, not the stream. The stream's errors are `StewardError`s.
        """
        async with self._stream(self._watch.Watch, requests, "go on watching", deadline) as answers:
            yield answers

    @asynccontextmanager
    async def keep_alive(
        self, requests: AsyncIterator[stubs.LeaseKeepAliveRequest], *, deadline: Deadline
    ) -> AsyncIterator[AsyncIterable[stubs.LeaseKeepAliveResponse]]:
        """The same for renewing leases."""
        method = self.lease.LeaseKeepAlive
        async with self._stream(method, requests, "renew the lease", deadline) as answers:
            yield answers

    @asynccontextmanager
    async def _stream(
        self,
        method: aio.StreamStreamMultiCallable[Request, Response],
        requests: AsyncIterator[Request],
        what: str,
        deadline: Deadline,
    ) -> AsyncIterator[AsyncIterable[Response]]:
        token = await self._token(deadline)
        call = method(requests, metadata=_metadata(token, leader=True))
        try:
            yield call
        except aio.AioRpcError as error:
            raise await self._explain(error, what, deadline) from error
        finally:
            call.cancel()

    async def _begin(self, channel: grpc.Channel, deadline: Deadline) -> SnapshotStream:
        token = await self._token(deadline)
        try:
            return await SnapshotStream.begin(channel, _metadata(token, leader=False), deadline)
        except grpc.RpcError as error:
            if self._tokens is None or not errors.token_is_stale(errors.failure(error)):
                raise
        token = await self._token(deadline, stale=token)
        return await SnapshotStream.begin(channel, _metadata(token, leader=False), deadline)

    def _blocking_channel(self) -> grpc.Channel:
        """A second channel, for streams that are read at full speed by one thread.

        Measured on two shared cores: `grpc.aio` gave 160 MB/s and took 2.6 cpu-s/GB beyond hashing
        and writing, this 190 MB/s and 1.7, since no message changes threads on its way.
        """
        options = [*_options(self._address, self._connection), ("SingleThreadedUnaryStream", 1)]
        if self._material is None:
            return grpc.insecure_channel(_target(self._address), options)
        credentials = self._material.channel_credentials()
        return grpc.secure_channel(_target(self._address), credentials, options)

    async def _token(self, deadline: Deadline, *, stale: str | None = None) -> str:
        if self._tokens is None:
            return ""

        async def authenticate(user: str, password: str) -> str:
            return await self._authenticate(user, password, deadline)

        if stale is None:
            return await self._tokens.current(authenticate)
        return await self._tokens.renewed(stale, authenticate)

    async def _authenticate(self, user: str, password: str, deadline: Deadline) -> str:
        request = stubs.AuthenticateRequest(name=user, password=password)
        try:
            return (await self._auth.Authenticate(request, timeout=deadline.left())).token
        except aio.AioRpcError as error:
            if errors.text_of(error) == "authentication is not enabled":
                return ""  # as etcdctl has it: credentials nobody asks for do no harm
            raise await self._explain(error, f"log in user {user!r}", deadline) from error

    async def _explain(
        self, error: errors.RpcFailure, what: str, deadline: Deadline
    ) -> StewardError:
        """Our error for gRPC's, after a look at the connection where gRPC names no cause."""
        unconnected = error.code() is grpc.StatusCode.UNAVAILABLE or (
            error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            and self._channel.get_state() is not grpc.ChannelConnectivity.READY
        )
        if unconnected and not errors.said_by_etcd(error) and not self._connection.use_proxy:
            found = await diagnosis.diagnose(self._address, self._material, deadline)
            if found is not None:
                return found
        return errors.translate(error, endpoint=self.url, what=what)


def _target(address: Address) -> str:
    return f"ipv6:{address.authority}" if ":" in address.host else f"dns:///{address.authority}"


def _options(address: Address, connection: EtcdConnection) -> list[tuple[str, int | str]]:
    dial_ms = int(connection.dial_timeout * 1000)
    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", -1),  # etcd bounds what it takes, not what it answers
        ("grpc.min_reconnect_backoff_ms", min(_LONGEST_MS, dial_ms)),  # = time to connect
        ("grpc.initial_reconnect_backoff_ms", 250),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_MS),
        (
            "grpc.http2.ping_timeout_ms",
            _KEEPALIVE_MS,
        ),  # else a minute, whatever the line above says
        ("grpc.http2.max_pings_without_data", 0),  # a long snapshot sends nothing our way round
        ("grpc.http2.bdp_probe", 0),  # a probed window grows to tens of MB when the reader is slow
        ("grpc.http2.lookahead_bytes", _WINDOW),
        ("grpc.use_local_subchannel_pool", 1),  # no back-off inherited from another client
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.enable_http_proxy", int(connection.use_proxy)),
    ]
    if address.secure and connection.tls is not None and connection.tls.server_name:
        options.append(("grpc.ssl_target_name_override", connection.tls.server_name))
    else:
        # gRPC percent-encodes an IPv6 authority, which Go's HTTP/2 server refuses.
        options.append(("grpc.default_authority", address.authority))
    return options


def _metadata(token: str, *, leader: bool) -> tuple[tuple[str, str], ...]:
    """What etcd's own client sends: its token, and that a member without leader is of no use."""
    sent = (("hasleader", "true"),) if leader else ()
    return (*sent, ("token", token)) if token else sent
