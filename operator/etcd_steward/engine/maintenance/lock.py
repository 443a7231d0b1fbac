"""One maintenance at a time for each etcd, whoever does it and from where.

The lock is a key in the very etcd. It hangs on no lease: a leased key expires while its member is
being defragmented, and etcd goes on defragmenting when whoever asked for it is dead (etcd
server/etcdserver/api/v3rpc/maintenance.go: `Defragment` takes no context). Its holder writes it
anew every few seconds. One that is seen to fall silent is dead; its lock is broken only if the
member that it was at answers, and so is not at work any more, or if no defragmentation takes that
long. A holder that was only slow finds out before it touches the next member.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, Protocol, TypeVar

import stamina
from pydantic import Field, ValidationError

from etcd_steward.engine.tasks import together
from etcd_steward.errors import Refused, StewardError, TransientError
from etcd_steward.etcd import stubs
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.member import MemberStatus
from etcd_steward.models.base import Hex64, Model

Result = TypeVar("Result")

KEY: Final = b"/etcdsteward.io/lock/maintenance"
"""Left out of registry exports, like all below `/etcdsteward.io/`."""
_BEAT: Final = 5.0
"""Seconds between two signs of life."""
SILENT: Final = 20.0
"""Seconds without one, every look answered, after which a holder is dead."""
_LOOK: Final = 1.0
"""Seconds between two looks at somebody else's lock."""
_SLOW: Final = 2.0
"""Seconds for a look's answer; after a slower one the holder may have been stalled just as long."""
_ELECTION: Final = 20.0
"""Seconds for a cluster to find a new leader, and to say so of the writes that fell into it."""


class LockRecord(Model):
    """What the key says."""

    holder: str
    """For people: whose maintenance it is."""
    run: str
    """Tells two runs of one holder apart."""
    since: datetime
    beat: int = 0
    """Grows with each sign of life."""
    member_id: Hex64 | Literal[""] = Field(default="", alias="memberID")
    """Which member is being defragmented now; empty between two of them."""
    member: str = ""
    """Its name."""
    until: datetime | None = None
    """No defragmentation of this member takes longer than that, by the holder's clock."""


class Held(Refused):
    """Somebody who lives holds the lock."""

    def __init__(self, record: LockRecord) -> None:
        where = f", at member {record.member} now" if record.member else ""
        since = f"{record.since:%Y-%m-%d %H:%M:%S} UTC"
        super().__init__(
            f"{record.holder} maintains this etcd since {since}{where}", hint="wait for its end"
        )
        self.holder = record.holder


class Fence(Protocol):
    """Whatever makes sure that nobody else maintains this etcd at the same time."""

    async def enter(self, status: MemberStatus, *, longest: float) -> None:
        """Say that this member is next, for `longest` seconds at most; raise if that may not be."""
        ...

    async def leave(self) -> None:
        """Say that no member is at work. Raises what `enter` raises."""
        ...

    def abandon(self) -> None:
        """Leave everything as it is at the end: a member may still be at work."""
        ...


@asynccontextmanager
async def maintenance_lock(
    client: EtcdClient, *, holder: str, run: str
) -> AsyncIterator["MaintenanceLock"]:
    """Hold this etcd's maintenance lock while the body runs.

    Raises `Refused` if somebody who lives holds it, or if the member that a dead one was at may
    still be at work; finding out takes up to half a minute.
    """
    record = LockRecord(holder=holder, run=run, since=datetime.now(UTC))
    lock = MaintenanceLock(client, record)
    await lock.take()
    try:
        async with together() as group:
            beating = group.create_task(lock.beat(), name="beat")
            try:
                yield lock
            finally:
                beating.cancel()
    finally:
        await lock.give_back()


@dataclass(slots=True)
class MaintenanceLock:
    """The lock that this process holds."""

    _client: EtcdClient
    _record: LockRecord
    _revision: int = 0
    """ModRevision of what we wrote last."""
    _lost: StewardError | None = None
    _abandoned: bool = False
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def enter(self, status: MemberStatus, *, longest: float) -> None:
        """Write down which member is next. Raises `Refused` if the lock is not ours any more."""
        until = datetime.now(UTC) + timedelta(seconds=longest)
        member = {"member_id": f"{status.member_id:x}", "member": status.name, "until": until}
        await settled(lambda: self._write(member))

    async def leave(self) -> None:
        """Write down that no member is at work. Raises what `enter` raises."""
        await settled(lambda: self._write({"member_id": "", "member": "", "until": None}))

    def abandon(self) -> None:
        """Leave the key at the end: others break it once its member answers."""
        self._abandoned = True

    async def take(self) -> None:
        """Put the key, once nobody holds it who lives."""
        there = await self._client.get(KEY)
        if there is not None:
            self._revision = await _broken(self._client, there)
        await settled(lambda: self._write({}))

    async def beat(self) -> None:
        """Give a sign of life, again and again.

        Whatever hinders it must not end what goes on under the lock: `enter` and `leave` tell.
        """
        while self._lost is None:
            await asyncio.sleep(_BEAT)
            with suppress(StewardError):
                await self._write({})

    async def give_back(self) -> None:
        """Delete the key if it is still ours; where etcd can't, the next one finds us dead."""
        if self._abandoned or self._lost is not None:
            return
        delete = stubs.RequestOp(request_delete_range=stubs.DeleteRangeRequest(key=KEY))
        with suppress(StewardError):
            await settled(lambda: self._client.txn([_unchanged(self._revision)], [delete]))

    async def _write(self, changes: dict[str, object]) -> None:
        """Write the record with these changes, over nothing but what we wrote before."""
        async with self._writing:
            if self._lost is not None:
                raise self._lost
            update = {**changes, "beat": self._record.beat + 1}
            record = self._record.model_copy(update=update)
            value = record.model_dump_json(by_alias=True, exclude_none=True).encode()
            put = stubs.RequestOp(request_put=stubs.PutRequest(key=KEY, value=value))
            while not (
                answer := await self._client.txn([_unchanged(self._revision)], [put])
            ).succeeded:
                there = await self._client.get(KEY)
                if there is None or parsed(there.value).run != record.run:
                    self._lost = _taken(there, held=self._record.beat > 0)
                    raise self._lost
                self._revision = there.mod_revision  # of a write of ours whose answer was lost
            self._revision, self._record = answer.header.revision, record


async def record_at(client: EtcdClient) -> tuple[int, LockRecord | None]:
    """What the lock says, and its ModRevision; 0 and None where nobody holds it."""
    there = await settled(lambda: client.get(KEY))
    return (there.mod_revision, parsed(there.value)) if there is not None else (0, None)


async def nobody_alive(client: EtcdClient) -> None:
    """Return once nobody who lives holds the lock, for whoever can't write it on a full etcd.

    Raises `Refused` as `maintenance_lock` does. A round that a full etcd has overtaken can't write
    down its next member either, and so touches none.
    """
    there = await settled(lambda: client.get(KEY))
    if there is not None:
        await _broken(client, there)


async def clear_of(client: EtcdClient, member_id: int, revision: int) -> int:
    """Wait until nobody defragments this member, nor is about to, as the lock at `revision` says.

    The ModRevision of the lock if its holder is dead, and the member answers: it need not be waited
    for; else 0. Raises `TransientError` if etcd does not answer.
    """
    async with aclosing(_looks(client, revision)) as looks:
        async for there, silent in looks:
            record = None if there is None else parsed(there.value)
            if there is None or record is None or record.member_id != f"{member_id:x}":
                return 0
            if silent > SILENT and await _idle(client, record):
                return there.mod_revision
    raise AssertionError("looks never end by themselves")


def parsed(value: bytes) -> LockRecord:
    """What a lock says; nothing of one that somebody else's hand has written."""
    try:
        return LockRecord.model_validate_json(value)
    except ValidationError:
        return LockRecord(holder="somebody unknown", run="", since=datetime.now(UTC))


async def settled(ask: Callable[[], Awaitable[Result]]) -> Result:
    """What `ask` returns; what fell into an election is asked again, so it may be done twice."""
    async for attempt in stamina.retry_context(
        on=TransientError, attempts=None, timeout=_ELECTION, wait_initial=0.5, wait_max=2.0
    ):
        with attempt:
            return await ask()
    raise AssertionError("stamina returns or raises")


async def _broken(client: EtcdClient, there: stubs.KeyValue) -> int:
    """The ModRevision that a dead holder's lock may be overwritten at; 0 once it is gone."""
    first = there.mod_revision
    async with aclosing(_looks(client, first)) as looks:
        async for now, silent in looks:
            if now is None:
                return 0
            record = parsed(now.value)
            if now.mod_revision != first:
                raise Held(record)
            if silent > SILENT:
                if await _idle(client, record):
                    return first
                raise Refused(
                    f"{record.holder} was defragmenting member {record.member} when it died, and "
                    "the member does not answer: it may still be at work",
                    hint="wait until the member answers, then try again",
                )
    raise AssertionError("looks never end by themselves")


async def _looks(
    client: EtcdClient, seen: int
) -> AsyncGenerator[tuple[stubs.KeyValue | None, float], None]:
    """The key, every second, and for how many seconds it has not changed though etcd answered.

    `seen` is its ModRevision when it was last looked at.
    """
    since = time.monotonic()
    while True:
        asked = time.monotonic()
        there = await settled(lambda: client.get(KEY))
        now = time.monotonic()
        revision = there.mod_revision if there is not None else 0
        if revision != seen or now - asked > _SLOW:
            seen, since = revision, now
        yield there, now - since
        await asyncio.sleep(_LOOK)


async def _idle(client: EtcdClient, record: LockRecord) -> bool:
    """Whether the member that a dead holder was at is surely not being defragmented.

    A member that is answers no Status: etcd's `Defragment` holds the lock that Status needs
    (server/etcdserver/server.go).
    """
    if not record.member_id or (record.until is not None and datetime.now(UTC) > record.until):
        return True
    up = [one.member_id for one in await client.members() if isinstance(one, MemberStatus)]
    there = [one.member_id for one in await client.member_list()]
    member = int(record.member_id, 16)
    return member in up or member not in there


def _unchanged(revision: int) -> stubs.Compare:
    return stubs.Compare(
        result=stubs.Compare.EQUAL, target=stubs.Compare.MOD, key=KEY, mod_revision=revision
    )


def _taken(there: stubs.KeyValue | None, *, held: bool) -> Refused:
    if not held and there is not None:
        return Held(parsed(there.value))
    by = "it is gone" if there is None else f"{parsed(there.value).holder} holds it now"
    return Refused(
        f"the maintenance lock was taken from us: {by}",
        hint="we were silent for too long; see who else maintains this etcd",
    )
