"""Asking a cluster all the time, as its clients do, and noting what they would notice."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from etcd_steward.deadline import Deadline
from etcd_steward.errors import StewardError
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.models.maintenance_run import MemberDone, MemberTurn
from tests.support.runs import connection
from tests.testbed import EtcdCluster

EVERY = 0.01
"""Seconds between two probes through one member."""
AGAIN = 0.2
"""Seconds until what fell into an election is asked once more."""
PATIENCE = 30.0
"""Seconds for an answer: what takes longer has failed."""
ELECTION = 1.0
"""Seconds of etcd's own election time-out."""
DROPPED = 5.0 + 2 * ELECTION
"""Seconds until etcd answers a write that it has dropped in silence (server/config/config.go:
`ReqTimeout`)."""
PASSING = ("leader changed", "no leader", "raft proposal dropped", "request timed out")
"""What etcd says of requests that fell into a change of leader."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One linearizable read or write."""

    member: str
    write: bool
    at: float
    """By `time.monotonic()`."""
    seconds: float
    """Of the first attempt."""
    first: str
    """What its first attempt was told; empty if it was answered."""
    error: str
    """What its second attempt was told, if there had to be one."""
    again: float
    """Seconds of the second attempt."""

    @property
    def passing(self) -> bool:
        """Whether its first attempt was told what once more is the cure for."""
        return any(text in self.first for text in PASSING)

    def during(self, begin: float, end: float) -> bool:
        """Whether it was under way between these moments."""
        return self.at < end and self.at + self.seconds > begin


@dataclass
class Prober:
    """Reads and writes in turn, through every member, every 10 ms, whether answered or not."""

    probes: list[Probe] = field(default_factory=list)
    over: bool = False
    """No more are made; those under way are waited for."""

    async def one(self, client: EtcdClient, member: str, number: int) -> None:
        """Make one probe; what fails for a passing reason is asked once more."""
        begin = time.monotonic()
        first = await self._ask(client, member, number)
        seconds, error = time.monotonic() - begin, ""
        if first:
            await asyncio.sleep(AGAIN)
            error = await self._ask(client, member, number)
        again = time.monotonic() - begin - seconds - AGAIN if first else 0.0
        self.probes.append(Probe(member, number % 2 == 1, begin, seconds, first, error, again))

    async def _ask(self, client: EtcdClient, member: str, number: int) -> str:
        key, deadline = f"/probe/{member}".encode(), Deadline.after(PATIENCE)
        try:
            if number % 2 == 1:
                await client.put(key, b"%d" % number, deadline=deadline)
            else:
                await client.get(key, deadline=deadline)
        except StewardError as error:
            return str(error)
        return ""

    async def through(self, client: EtcdClient, member: str) -> None:
        """Probe through one member until it is over, and hear of what etcd has dropped by then."""
        async with asyncio.TaskGroup() as group:
            for number in itertools.count():
                if self.over:
                    break
                group.create_task(self.one(client, member, number))
                await asyncio.sleep(EVERY)


@asynccontextmanager
async def probing(etcd: EtcdCluster) -> AsyncIterator[Prober]:
    """Probe through every member while the body runs."""
    prober = Prober()
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                EtcdClient.connect(connection(etcd, endpoints=(member.endpoint,)))
            )
            for member in etcd.members
        ]
        async with asyncio.TaskGroup() as group:
            for client, member in zip(clients, etcd.members, strict=True):
                group.create_task(prober.through(client, member.name))
            yield prober
            prober.over = True


@dataclass(frozen=True, slots=True)
class Window:
    """When a member was at work."""

    member: str
    begin: float
    end: float

    def holds(self, probe: Probe) -> bool:
        """Whether the probe asked this member while it was at work."""
        return probe.member == self.member and probe.during(self.begin, self.end)


@dataclass
class Seen:
    """What a round did when, as it tells of it."""

    windows: list[Window] = field(default_factory=list)
    moved: tuple[float, float] = (0.0, 0.0)
    """From when to when leadership was handed over."""
    _began: float = 0.0

    def note(self, event: MemberTurn | MemberDone) -> None:
        """Take the time."""
        now = time.monotonic()
        if isinstance(event, MemberDone):
            self.windows.append(Window(event.member.name, self._began, now))
        elif event.step == "MovingLeader":
            self.moved = (now, now)
        elif event.step == "Defragmenting":
            self._began = now
            if self.moved[0] == self.moved[1] != 0.0:
                self.moved = (self.moved[0], now)

    def elsewhere(self, probes: list[Probe]) -> list[Probe]:
        """Those that did not ask the member at work."""
        return [one for one in probes if not any(window.holds(one) for window in self.windows)]
