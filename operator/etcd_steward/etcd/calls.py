"""etcd's calls with the whole of their answers, for whoever shows these as they are.

`EtcdClient` has methods with plain values for what this program does itself. etcdctl's verbs print
headers, too, and send whatever a request can say.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from grpc import aio

from etcd_steward.deadline import Deadline
from etcd_steward.errors import TransientError, Unavailable
from etcd_steward.etcd import stubs
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.endpoint import Endpoint

Request = TypeVar("Request")
Response = TypeVar("Response")

_AGAIN = 0.5
"""Seconds between two attempts to renew a lease, as etcd's own client has it."""
_RENEWALS = 3
"""A lease is renewed so many times within its time to live."""


@dataclass(frozen=True, slots=True)
class Rpc(Generic[Request, Response]):
    """One of etcd's unary calls."""

    what: str
    """Completes "the endpoint did not ...\""""
    method: Callable[[Endpoint], aio.UnaryUnaryMultiCallable[Request, Response]]
    write: bool = False
    """It goes to another endpoint only if it was surely not sent."""
    leader: bool = True
    """A member that has lost its leader says so at once, instead of letting the call wait."""

    async def ask(
        self, client: EtcdClient, request: Request, *, deadline: Deadline | None = None
    ) -> Response:
        """Make the call at any endpoint. Raises `StewardError`."""

        async def ask(via: Endpoint, limit: Deadline) -> Response:
            return await via.call(
                self.method(via),
                request,
                what=self.what,
                deadline=limit,
                read=not self.write,
                leader=self.leader,
            )

        return await client.anywhere(ask, write=self.write, deadline=deadline)


LINEARIZABLE_RANGE: Rpc[stubs.RangeRequest, stubs.RangeResponse] = Rpc(
    "read keys", lambda via: via.kv.Range
)
SERIALIZABLE_RANGE: Rpc[stubs.RangeRequest, stubs.RangeResponse] = Rpc(
    "read keys", lambda via: via.kv.Range, leader=False
)
PUT: Rpc[stubs.PutRequest, stubs.PutResponse] = Rpc(
    "write a key", lambda via: via.kv.Put, write=True
)
DELETE_RANGE: Rpc[stubs.DeleteRangeRequest, stubs.DeleteRangeResponse] = Rpc(
    "delete keys", lambda via: via.kv.DeleteRange, write=True
)
COMPACT: Rpc[stubs.CompactionRequest, stubs.CompactionResponse] = Rpc(
    "compact", lambda via: via.kv.Compact, write=True
)
LEASE_GRANT: Rpc[stubs.LeaseGrantRequest, stubs.LeaseGrantResponse] = Rpc(
    "grant a lease", lambda via: via.lease.LeaseGrant, write=True
)
LEASE_REVOKE: Rpc[stubs.LeaseRevokeRequest, stubs.LeaseRevokeResponse] = Rpc(
    "revoke the lease", lambda via: via.lease.LeaseRevoke, write=True
)
LEASE_TIME_TO_LIVE: Rpc[stubs.LeaseTimeToLiveRequest, stubs.LeaseTimeToLiveResponse] = Rpc(
    "tell a lease's time to live", lambda via: via.lease.LeaseTimeToLive
)
LEASES: Rpc[stubs.LeaseLeasesRequest, stubs.LeaseLeasesResponse] = Rpc(
    "list its leases", lambda via: via.lease.LeaseLeases
)


async def renew(
    client: EtcdClient, lease: int, *, deadline: Deadline | None = None
) -> stubs.LeaseKeepAliveResponse:
    """Renew a lease once; `TTL` is 0 if there is none. Raises `StewardError`."""

    async def ask(via: Endpoint, limit: Deadline) -> stubs.LeaseKeepAliveResponse:
        async with (
            limit.enforce("renewing the lease"),
            via.keep_alive(_once(lease), deadline=limit) as answers,
        ):
            async for answer in answers:
                return answer
        raise Unavailable(f"{via.url} did not renew the lease", hint="Try again")

    return await client.anywhere(ask, deadline=deadline)


async def keep_alive(
    client: EtcdClient, lease: int, *, patience: float
) -> AsyncGenerator[stubs.LeaseKeepAliveResponse, None]:
    """Renew a lease for as long as it lives, telling of each time; ends when it is gone.

    While nobody answers it is tried again until the lease must have expired; `patience` seconds
    before its time to live is known. Raises `StewardError` of the permanent kind.
    """
    until = Deadline.after(patience)
    while not until.passed:
        try:
            answer = await renew(client, lease, deadline=until)
        except TransientError:
            await asyncio.sleep(_AGAIN)
            continue
        if answer.TTL <= 0:
            return
        yield answer
        until = Deadline.after(answer.TTL)
        await asyncio.sleep(answer.TTL / _RENEWALS)


async def _once(lease: int) -> AsyncGenerator[stubs.LeaseKeepAliveRequest, None]:
    yield stubs.LeaseKeepAliveRequest(ID=lease)
    await asyncio.Event().wait()  # the end of the requests would be the end of the stream
