"""Telling others that a member is being read: defragmenting it now would take it down.

A defragmentation waits for all open read transactions while it holds every lock of the member, so a
snapshot and a defragmentation together mean no answers until the stream ends (etcd
server/storage/backend/backend.go). Whoever defragments looks for this key first.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TypeVar

import stamina

from etcd_steward.deadline import Deadline
from etcd_steward.engine.members import leaderless
from etcd_steward.engine.report import Report
from etcd_steward.errors import NoLeader, OutOfSpace, StewardError, TransientError
from etcd_steward.etcd.client import EtcdClient

Result = TypeVar("Result")

_ELECTION = 20.0
"""Seconds for a cluster to find a new leader, and to say so of the writes that fell into it."""
PREFIX = "/etcdsteward.io/lock/snapshot/"
"""Beside the maintenance lock, left out of registry exports: `<prefix><member ID in hex>/<run>`."""


@asynccontextmanager
async def announced(
    client: EtcdClient, member_id: int, run: str, *, seconds: float, report: Report
) -> AsyncIterator[None]:
    """Hold the announcement while the body reads the member.

    The key hangs on a lease as long as the run may take, so that a dead run's goes by itself. A
    full etcd takes no write; the backup it needs most is then taken unannounced, and that is said.
    Raises `NoLeader` for an etcd whose members had not noticed yet that they are too few.
    """
    lease: int | None = None
    value = json.dumps({"run": run, "start": datetime.now(UTC).isoformat(timespec="seconds")})
    try:
        try:
            lease = await _settled(lambda: client.grant_lease(int(seconds) + 60))
            key = f"{PREFIX}{member_id:x}/{run}".encode()
            await _settled(lambda: client.put(key, value.encode(), lease=lease or 0))
        except OutOfSpace:
            report.warning(
                "etcd is full: this snapshot can't be announced; don't defragment meanwhile"
            )
        except NoLeader as error:
            raise leaderless() from error
        yield
    finally:
        if lease is not None:
            await _withdraw(client, lease, report)


async def _settled(write: Callable[[], Awaitable[Result]]) -> Result:
    """What `write` returns, which may be done twice: a write that fell into an election is again.

    The lease of a grant whose answer was lost ends by itself.
    """
    async for attempt in stamina.retry_context(
        on=TransientError, attempts=None, timeout=_ELECTION, wait_initial=0.5, wait_max=2.0
    ):
        with attempt:
            return await write()
    raise AssertionError("stamina returns or raises")


async def _withdraw(client: EtcdClient, lease: int, report: Report) -> None:
    try:
        await client.revoke_lease(lease, deadline=Deadline.after(5))
    except StewardError as error:
        report.warning(f"the snapshot's announcement stays until its lease ends: {error.message}")
