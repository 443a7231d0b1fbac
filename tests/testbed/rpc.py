"""A bare gRPC channel to a test bed's etcd, for what etcdctl has no verb or no speed for."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import grpc.aio

from etcd_steward.etcd.stubs import (
    CORRUPT,
    NOSPACE,
    AlarmRequest,
    AlarmType,
    AuthenticateRequest,
    AuthStub,
    KVStub,
    MaintenanceStub,
)
from tests.testbed.etcd import EtcdAddress, EtcdCluster, EtcdMember

_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.default_authority", "localhost"),  # which the test bed's certificates name
    ("grpc.max_reconnect_backoff_ms", 500),
]


@dataclass(frozen=True, slots=True)
class Connection:
    """A channel that any live member answers, and what each call must carry (root's token)."""

    channel: grpc.aio.Channel
    metadata: tuple[tuple[str, str], ...]

    @property
    def kv(self) -> KVStub:
        """The KV service."""
        return KVStub(self.channel)

    @property
    def maintenance(self) -> MaintenanceStub:
        """The Maintenance service."""
        return MaintenanceStub(self.channel)


@contextlib.asynccontextmanager
async def connected(etcd: EtcdCluster | EtcdAddress) -> AsyncIterator[Connection]:
    """Connect to a cluster, as root if it has users."""
    address = etcd.address if isinstance(etcd, EtcdCluster) else etcd
    async with _channel(address) as channel:
        metadata: tuple[tuple[str, str], ...] = ()
        if address.user:
            request = AuthenticateRequest(name=address.user, password=address.password)
            answer = await AuthStub(channel).Authenticate(request)
            metadata = (("token", answer.token),)
        yield Connection(channel, metadata)


def _channel(address: EtcdAddress) -> grpc.aio.Channel:
    target = "ipv4:" + ",".join(endpoint.rpartition("/")[2] for endpoint in address.endpoints)
    if address.ca_file is None or address.client is None:
        return grpc.aio.insecure_channel(target, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        address.ca_file.read_bytes(),
        address.client.key.read_bytes(),
        address.client.cert.read_bytes(),
    )
    return grpc.aio.secure_channel(target, credentials, options=_OPTIONS)


async def raise_alarm(etcd: EtcdCluster, member: EtcdMember, *, corrupt: bool = False) -> None:
    """Raise a NOSPACE (or CORRUPT) alarm for a member, as it would; `alarm disarm` ends it."""
    alarm: AlarmType = CORRUPT if corrupt else NOSPACE
    request = AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=member.id, alarm=alarm)
    async with connected(etcd) as connection:
        await connection.maintenance.Alarm(request, metadata=connection.metadata)
