"""One etcd cluster: its members, and the calls that any of them may answer."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

from etcd_steward.deadline import Deadline
from etcd_steward.errors import (
    Compacted,
    InvalidInput,
    StewardError,
    TransientError,
    Unavailable,
    Untrusted,
)
from etcd_steward.etcd import auth, errors, paging, stubs, tls, watching
from etcd_steward.etcd.address import Address
from etcd_steward.etcd.endpoint import Endpoint
from etcd_steward.etcd.keys import EVERYTHING, KeyRange
from etcd_steward.etcd.member import Alarm, Member, MemberFailure, MemberStatus
from etcd_steward.models.connection import EtcdConnection, EtcdTLS

Result = TypeVar("Result")

_EXPLAINING_SECONDS = 2.0
"""What finding out why an endpoint does not answer may take beyond connecting."""


@dataclass(frozen=True, slots=True)
class MemberInfo:
    """One entry of etcd's member list."""

    member_id: int
    name: str
    """Empty until the member was started for the first time."""
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool


class EtcdClient:
    """A connection to a cluster.

    A read goes to the next endpoint when one fails for a passing reason; a write only if it surely
    was not sent. All methods raise only `StewardError`, and take a `deadline`; without one, the
    connection's command time-out holds.
    """

    def __init__(self, connection: EtcdConnection, endpoints: Sequence[Endpoint]) -> None:
        self._connection = connection
        self._endpoints = {endpoint.url: endpoint for endpoint in endpoints}
        self._first = 0

    @classmethod
    @asynccontextmanager
    async def connect(cls, connection: EtcdConnection) -> "AsyncIterator[EtcdClient]":
        """Make a client for the running loop; nothing is dialled before the first call.

        Raises `InvalidInput` for endpoints or certificates that can't be read.
        """
        addresses = dict.fromkeys(
            Address.parse(text, secure=connection.tls is not None) for text in connection.endpoints
        )
        if not addresses:
            raise InvalidInput("no etcd endpoint is given", hint="Give at least one (--endpoints)")
        material = None
        if any(address.secure for address in addresses):
            material = await asyncio.to_thread(tls.load, connection.tls or EtcdTLS())
        tokens = auth.credentials(connection.user, connection.password)
        async with AsyncExitStack() as stack:
            endpoints = []
            for address in addresses:
                given = material if address.secure else None
                endpoints.append(Endpoint(address, connection, given, tokens))
                stack.push_async_callback(endpoints[-1].close)
            yield cls(connection, endpoints)

    @property
    def endpoints(self) -> list[Endpoint]:
        """All of them, the one that answered last first."""
        every = list(self._endpoints.values())
        return every[self._first :] + every[: self._first]

    @property
    def command_timeout(self) -> float:
        """Seconds that a call may take where nobody says otherwise."""
        return self._connection.command_timeout

    def member(self, status: MemberStatus) -> Member:
        """The member that told `status`, by the same endpoint."""
        via = self._endpoints[status.endpoint]
        return Member(status.endpoint, status.name, status.member_id, via)

    async def members(
        self, *, deadline: Deadline | None = None
    ) -> list[MemberStatus | MemberFailure]:
        """Ask all endpoints for their status at once.

        One entry per member that answers, however many endpoints lead to it, and one per endpoint
        that does not: that never makes the call fail, nor take longer than connecting may.
        """
        limit = Deadline.after(self._connection.dial_timeout + _EXPLAINING_SECONDS)
        if deadline is not None:
            limit = deadline.within(limit.left())
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(_ask(via, limit)) for via in self._endpoints.values()]
        answers = [task.result() for task in asked]
        infos = [info for answer in answers for info in answer.listed]
        names = {info.member_id: info.name for info in infos}
        by_url = {url.rstrip("/"): info for info in infos for url in info.client_urls}
        found: dict[int | str, MemberStatus | MemberFailure] = {}
        for said in (answer.said for answer in answers):
            if isinstance(said, MemberStatus):
                # An ID of 0 tells nothing: kine (k3s on SQLite) sends it.
                same = found.setdefault(said.member_id or said.endpoint, said)
                if same is said:
                    named = replace(said, name=names.get(said.member_id, ""))
                    found[said.member_id or said.endpoint] = named
            elif said.endpoint in by_url:
                info = by_url[said.endpoint]
                found[said.endpoint] = replace(said, name=info.name, member_id=info.member_id)
            else:
                found[said.endpoint] = said
        return list(found.values())

    async def member_list(
        self, *, linearizable: bool = True, deadline: Deadline | None = None
    ) -> list[MemberInfo]:
        """The members that the cluster consists of, running or not."""

        async def ask(via: Endpoint, limit: Deadline) -> list[MemberInfo]:
            return await _listed(via, limit, linearizable=linearizable)

        return await self._anywhere(ask, deadline)

    async def get(
        self, key: bytes, *, revision: int = 0, deadline: Deadline | None = None
    ) -> stubs.KeyValue | None:
        """One key, by a linearizable read; None if there is no such key."""
        answer = await self.range(key, revision=revision, deadline=deadline)
        return answer.kvs[0] if answer.kvs else None

    async def range(
        self,
        key: bytes,
        end: bytes = b"",
        *,
        limit: int = 0,
        revision: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        serializable: bool = False,
        deadline: Deadline | None = None,
    ) -> stubs.RangeResponse:
        """Read keys; linearizable unless `serializable`. For many keys there is `pages`."""

        async def ask(via: Endpoint, limit_: Deadline) -> stubs.RangeResponse:
            return await Member(via.url, "", 0, via).range(
                key,
                end,
                limit=limit,
                revision=revision,
                keys_only=keys_only,
                count_only=count_only,
                serializable=serializable,
                deadline=limit_,
            )

        return await self._anywhere(ask, deadline)

    def pages(
        self, wanted: KeyRange, *, revision: int = 0, deadline: Deadline | None = None
    ) -> AsyncGenerator[paging.Page, None]:
        """Everything in a large range, at one revision: see `paging.pages`."""
        return paging.pages(self.range, wanted, revision=revision, deadline=deadline)

    async def watch(
        self, wanted: KeyRange, *, start: int = 0, upto: int | None = None
    ) -> AsyncGenerator[watching.Changes, None]:
        """Changes from revision `start` on (0 = after now), as `watching.watch` tells of them.

        The endpoint is chosen once; where the stream breaks, this raises.
        """
        via, now = await self._answering(wanted.start)
        deadline = Deadline.after(self._connection.command_timeout)
        changes = watching.watch(via, wanted, start=start or now + 1, upto=upto, deadline=deadline)
        async with aclosing(changes):
            async for change in changes:
                yield change

    async def compact_revision(self, key: bytes = EVERYTHING) -> int:
        """The oldest revision that can still be read; 0 if nothing was ever compacted.

        `key` is any that this user may read.
        """
        try:
            await self.range(key, revision=1, count_only=True)
        except Compacted:
            via, _ = await self._answering(key)
            deadline = Deadline.after(self._connection.command_timeout)
            return await watching.compact_revision(via, key, deadline=deadline)
        return 0

    async def put(
        self, key: bytes, value: bytes, *, lease: int = 0, deadline: Deadline | None = None
    ) -> stubs.PutResponse:
        """Write one key."""
        request = stubs.PutRequest(key=key, value=value, lease=lease)

        async def ask(via: Endpoint, limit: Deadline) -> stubs.PutResponse:
            return await via.call(via.kv.Put, request, what="write a key", deadline=limit)

        return await self._anywhere(ask, deadline, write=True)

    async def delete(
        self, key: bytes, end: bytes = b"", *, deadline: Deadline | None = None
    ) -> int:
        """Delete one key or a range; how many there were."""
        request = stubs.DeleteRangeRequest(key=key, range_end=end)

        async def ask(via: Endpoint, limit: Deadline) -> int:
            answer = await via.call(via.kv.DeleteRange, request, what="delete keys", deadline=limit)
            return answer.deleted

        return await self._anywhere(ask, deadline, write=True)

    async def txn(
        self,
        compare: Sequence[stubs.Compare],
        success: Sequence[stubs.RequestOp],
        failure: Sequence[stubs.RequestOp] = (),
        *,
        deadline: Deadline | None = None,
    ) -> stubs.TxnResponse:
        """Do `success` if all of `compare` holds, else `failure`; `succeeded` says which."""
        request = stubs.TxnRequest(compare=compare, success=success, failure=failure)

        async def ask(via: Endpoint, limit: Deadline) -> stubs.TxnResponse:
            return await via.call(via.kv.Txn, request, what="do a transaction", deadline=limit)

        return await self._anywhere(ask, deadline, write=True)

    async def compact(
        self, revision: int, *, physical: bool = False, deadline: Deadline | None = None
    ) -> None:
        """Forget the history before `revision`; `physical` waits until one member has done so.

        Raises `Compacted` if that was done before.
        """
        request = stubs.CompactionRequest(revision=revision, physical=physical)

        async def ask(via: Endpoint, limit: Deadline) -> None:
            await via.call(via.kv.Compact, request, what="compact", deadline=limit)

        await self._anywhere(ask, deadline, write=True)

    async def alarms(self, *, deadline: Deadline | None = None) -> list[Alarm]:
        """All alarms. This is a raft proposal: to poll, read `MemberStatus.alarms`."""
        request = stubs.AlarmRequest(action=stubs.AlarmRequest.GET)

        async def ask(via: Endpoint, limit: Deadline) -> list[Alarm]:
            answer = await via.call(
                via.maintenance.Alarm, request, what="list its alarms", deadline=limit, read=True
            )
            return [Alarm(one.memberID, stubs.AlarmType.Name(one.alarm)) for one in answer.alarms]

        return await self._anywhere(ask, deadline)

    async def disarm(self, alarm: Alarm, *, deadline: Deadline | None = None) -> None:
        """Take back exactly this alarm, and no other."""
        request = stubs.AlarmRequest(
            action=stubs.AlarmRequest.DEACTIVATE,
            memberID=alarm.member_id,
            alarm=alarm.kind,
        )

        async def ask(via: Endpoint, limit: Deadline) -> None:
            await via.call(via.maintenance.Alarm, request, what="disarm an alarm", deadline=limit)

        await self._anywhere(ask, deadline, write=True)

    async def grant_lease(
        self, ttl: int, *, lease_id: int = 0, deadline: Deadline | None = None
    ) -> int:
        """A new lease of `ttl` seconds; its ID, chosen by etcd if 0. May raise `AlreadyExists`."""
        request = stubs.LeaseGrantRequest(TTL=ttl, ID=lease_id)

        async def ask(via: Endpoint, limit: Deadline) -> int:
            answer = await via.call(
                via.lease.LeaseGrant, request, what="grant a lease", deadline=limit
            )
            return answer.ID

        return await self._anywhere(ask, deadline, write=True)

    async def revoke_lease(self, lease_id: int, *, deadline: Deadline | None = None) -> None:
        """End a lease, and delete its keys. Raises `NotFound`."""
        request = stubs.LeaseRevokeRequest(ID=lease_id)

        async def ask(via: Endpoint, limit: Deadline) -> None:
            await via.call(via.lease.LeaseRevoke, request, what="revoke the lease", deadline=limit)

        await self._anywhere(ask, deadline, write=True)

    async def leases(self, *, deadline: Deadline | None = None) -> list[int]:
        """The IDs of all leases."""

        async def ask(via: Endpoint, limit: Deadline) -> list[int]:
            answer = await via.call(
                via.lease.LeaseLeases,
                stubs.LeaseLeasesRequest(),
                what="list its leases",
                deadline=limit,
                read=True,
            )
            return [lease.ID for lease in answer.leases]

        return await self._anywhere(ask, deadline)

    async def lease_time_to_live(
        self, lease_id: int, *, keys: bool = False, deadline: Deadline | None = None
    ) -> stubs.LeaseTimeToLiveResponse:
        """A lease's remaining and granted seconds (`TTL` is -1 if there is none), and its keys."""
        request = stubs.LeaseTimeToLiveRequest(ID=lease_id, keys=keys)

        async def ask(via: Endpoint, limit: Deadline) -> stubs.LeaseTimeToLiveResponse:
            return await via.call(
                via.lease.LeaseTimeToLive,
                request,
                what="tell a lease's time to live",
                deadline=limit,
                read=True,
            )

        return await self._anywhere(ask, deadline)

    async def _answering(self, key: bytes) -> tuple[Endpoint, int]:
        """An endpoint that lets us read `key`, with a token that it takes, and its revision."""

        async def ask(via: Endpoint, limit: Deadline) -> tuple[Endpoint, int]:
            member = Member(via.url, "", 0, via)
            answer = await member.range(key, count_only=True, deadline=limit)
            return via, answer.header.revision

        return await self._anywhere(ask, None)

    async def anywhere(
        self,
        ask: Callable[[Endpoint, Deadline], Awaitable[Result]],
        *,
        write: bool = False,
        deadline: Deadline | None = None,
    ) -> Result:
        """Any call for which there is no method here, with all that is said above: see `calls`."""
        return await self._anywhere(ask, deadline, write=write)

    async def _anywhere(
        self,
        ask: Callable[[Endpoint, Deadline], Awaitable[Result]],
        deadline: Deadline | None,
        *,
        write: bool = False,
    ) -> Result:
        """Ask one endpoint after the other, the one that answered last first."""
        deadline = deadline or Deadline.after(self._connection.command_timeout)
        endpoints = list(self._endpoints.values())
        failures: list[StewardError] = []
        for step in range(len(endpoints)):
            index = (self._first + step) % len(endpoints)
            # A read that hangs at one endpoint must leave time for the others.
            share = deadline.left() / (len(endpoints) - len(failures))
            limit = deadline if write else deadline.within(share)
            try:
                result = await ask(endpoints[index], limit)
            except StewardError as error:
                passing = isinstance(error, TransientError | Untrusted)
                if not (errors.never_sent(error.__cause__) or (passing and not write)):
                    raise
                failures.append(error)
            else:
                self._first = index
                return result
        raise joined(failures)


@dataclass(frozen=True, slots=True)
class _Answer:
    said: MemberStatus | MemberFailure
    listed: list[MemberInfo] = field(default_factory=list)


async def _ask(via: Endpoint, deadline: Deadline) -> _Answer:
    """Status and, for the names, the member list as that very member has it."""
    try:
        status = await Member(via.url, "", 0, via).status(deadline=deadline)
    except StewardError as error:
        return _Answer(MemberFailure(via.url, error))
    try:
        return _Answer(status, await _listed(via, deadline, linearizable=False))
    except StewardError:
        return _Answer(status)  # kine has no member list: names are then unknown, no more


async def _listed(via: Endpoint, deadline: Deadline, *, linearizable: bool) -> list[MemberInfo]:
    answer = await via.call(
        via.cluster.MemberList,
        stubs.MemberListRequest(linearizable=linearizable),
        what="list the members",
        deadline=deadline,
        read=True,
        leader=linearizable,
    )
    return [
        MemberInfo(one.ID, one.name, tuple(one.peerURLs), tuple(one.clientURLs), one.isLearner)
        for one in answer.members
    ]


def joined(failures: Sequence[StewardError]) -> StewardError:
    """One error for what several endpoints said; the most telling one gives kind and hint."""
    if len(failures) == 1:
        return failures[0]
    telling = next((one for one in failures if not isinstance(one, Unavailable)), failures[0])
    texts = "; ".join(one.message for one in failures)
    joined = type(telling)(
        f"none of {len(failures)} endpoints could be used: {texts}", hint=telling.hint
    )
    joined.__cause__ = errors.said_first(failures)
    return joined
