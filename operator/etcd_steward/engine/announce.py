"""Telling others that a member is being read: defragmenting it now would take it down.

A defragmentation waits for all open read transactions while it holds every lock of the member, so a
snapshot and a defragmentation together mean no answers until the stream ends (etcd
server/storage/backend/backend.go). Whoever defragments first writes into the maintenance lock which
member is next, and then looks for this key; whoever reads puts this key first, and then looks at
the lock. So at least one of two sees the other: who reads stands back.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from etcd_steward.deadline import Deadline
from etcd_steward.engine.maintenance import token
from etcd_steward.engine.maintenance.lock import clear_of, record_at, settled
from etcd_steward.engine.members import leaderless
from etcd_steward.engine.report import Report
from etcd_steward.errors import IntegrityError, NoLeader, OutOfSpace, StewardError
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.keys import KeyRange

PREFIX = "/etcdsteward.io/lock/snapshot/"
"""Beside the maintenance lock, left out of registry exports: `<prefix><member ID in hex>/<run>`."""
REVISIONS = "/etcdsteward.io/lock/revision/"
"""`<prefix><run>`: at which revision a running export reads, so that nobody compacts past it."""


def _nothing() -> None:
    """Nobody wants to know."""


@asynccontextmanager
async def announced(
    client: EtcdClient,
    member_id: int,
    run: str,
    *,
    seconds: float,
    report: Report,
    waiting: Callable[[], None] = _nothing,
) -> AsyncIterator[None]:
    """Hold the announcement while the body reads the member.

    A defragmentation of the member that is under way is waited for; `waiting` hears of it. The key
    hangs on a lease as long as the run may take, so that a dead run's goes by itself. A full etcd
    takes no write; the backup it needs most is then taken unannounced, and that is said. Who is
    about to defragment the member is then only waited for, or warned of, as far as reading tells.
    Raises `NoLeader` for an etcd whose members had not noticed yet that they are too few.
    """
    announcement = _Announcement(client, member_id, run, int(seconds) + 60, report)
    try:
        try:
            await announcement.make(waiting)
        except IntegrityError:
            pass  # CORRUPT is set: etcd takes no write, and nobody defragments it
        except NoLeader as error:
            raise leaderless() from error
        yield
    finally:
        await announcement.withdraw()


@dataclass(slots=True)
class _Announcement:
    client: EtcdClient
    member_id: int
    run: str
    seconds: int
    """That its lease lives."""
    report: Report
    lease: int | None = None
    past: int = 0
    """The lock of a holder that is dead, and whose member answers: to be looked past."""

    async def make(self, waiting: Callable[[], None]) -> None:
        """Put the key, once nobody defragments the member; on a full etcd only wait for that."""
        try:
            await self._put()
            while (busy := await self._busy()) is not None:
                waiting()
                await self.withdraw()
                self.past = await clear_of(self.client, self.member_id, busy)
                await self._put()
        except OutOfSpace:
            self.report.warning(
                "etcd is full: this snapshot can't be announced; don't defragment meanwhile"
            )
            await self._look_only(waiting)

    async def _look_only(self, waiting: Callable[[], None]) -> None:
        """Do what can be done without a write.

        A rescue that has begun is not waited for: it may be our own, after one that has died.
        """
        while (busy := await self._busy()) is not None:
            waiting()
            self.past = await clear_of(self.client, self.member_id, busy)
        left = await settled(lambda: token.standing(self.client))
        if left and left[0] != 1:
            self.report.warning(
                "a rescue seems to be at work on this etcd: while it defragments the member that "
                "is read, that one may be silent for a while"
            )

    async def _put(self) -> None:
        start = datetime.now(UTC).isoformat(timespec="seconds")
        value = json.dumps({"run": self.run, "start": start}).encode()
        self.lease = await settled(lambda: self.client.grant_lease(self.seconds))
        key = f"{PREFIX}{self.member_id:x}/{self.run}".encode()
        await settled(lambda: self.client.put(key, value, lease=self.lease or 0))

    async def _busy(self) -> int | None:
        """The lock's ModRevision if somebody is defragmenting the member."""
        revision, record = await record_at(self.client)
        at_work = record is not None and record.member_id == f"{self.member_id:x}"
        return revision if at_work and revision != self.past else None

    async def withdraw(self) -> None:
        """End the lease, and with it the key."""
        if self.lease is not None:
            await _withdraw(self.client, self.lease, self.report)
            self.lease = None


async def readers(client: EtcdClient, member_id: int) -> list[str]:
    """The runs that read this member now."""
    prefix = f"{PREFIX}{member_id:x}/"
    wanted = KeyRange.prefix(prefix.encode())
    found = await client.range(wanted.start, wanted.end, keys_only=True)
    return [kv.key.decode().removeprefix(prefix) for kv in found.kvs]


@asynccontextmanager
async def needing(
    client: EtcdClient, revision: int, run: str, *, seconds: float, report: Report
) -> AsyncIterator[None]:
    """Say that `revision` is read while the body reads at it, as `announced` says it of a member.

    On a full etcd that can't be said; it is compacted only to be rescued then.
    """
    lease: int | None = None
    try:
        with suppress(OutOfSpace):  # which `announced` has warned of
            lease = await settled(lambda: client.grant_lease(int(seconds) + 60))
            key = f"{REVISIONS}{run}".encode()
            await settled(lambda: client.put(key, b"%d" % revision, lease=lease or 0))
        yield
    finally:
        if lease is not None:
            await _withdraw(client, lease, report)


async def needed(client: EtcdClient) -> dict[str, int]:
    """The revisions that running exports read at, by their runs."""
    wanted = KeyRange.prefix(REVISIONS.encode())
    found = await client.range(wanted.start, wanted.end)
    runs = {kv.key.decode().removeprefix(REVISIONS): kv.value for kv in found.kvs}
    return {run: int(value) for run, value in runs.items() if value.isdigit()}


async def _withdraw(client: EtcdClient, lease: int, report: Report) -> None:
    try:
        await client.revoke_lease(lease, deadline=Deadline.after(5))
    except StewardError as error:
        report.warning(f"the snapshot's announcement stays until its lease ends: {error.message}")
