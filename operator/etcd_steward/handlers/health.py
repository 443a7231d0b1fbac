"""Whether the operator still sees what happens: not only that a port answers.

kopf's watch can die in a living process (nolar/kopf#1276). So what the watches have shown is
compared with a list of names and versions that the API server gives from its memory: an event that
is overdue means a dead watch; where nothing happens, nothing can be missed. `/healthz` and
`/readyz` are answered by the event loop that all handlers share, so a loop that hangs is silent.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web

from etcd_steward.errors import StewardError
from etcd_steward.handlers.asked import Asked
from etcd_steward.handlers.context import Context, Timing
from etcd_steward.handlers.elector import Elector
from etcd_steward.handlers.maintained import Maintained
from etcd_steward.handlers.pages import serving
from etcd_steward.handlers.standing import Order, Run
from etcd_steward.kube import BACKUPS, MAINTENANCES, RESTORES, SNAPSHOTS, Key, Version

log = logging.getLogger(__name__)

FIRST = 0.1
"""Seconds between the first two comparisons; then ever more, until everything was seen."""
COST = 100.0
"""A comparison may take a hundredth of a core: with thousands of objects it is made less often. In
between the API server is only asked whether it answers."""

Seen = Mapping[Key, Version]


@dataclass(slots=True)
class Overdue:
    """Which events of one kind have not come, and since when we know."""

    since: dict[tuple[Key, Version | None], float] = field(default_factory=dict)

    def compare(self, listed: Seen, shown: Seen, now: float) -> None:
        """Note what the API server lists and the watch has not shown yet."""
        missing: set[tuple[Key, Version | None]] = {
            (key, version)
            for key, version in listed.items()
            if key not in shown or _older(shown[key], version)
        }
        # A newer version asked for does not make the first one less overdue.
        missing |= {
            (key, version)
            for key, version in self.since
            if version is not None and key in listed and _older(shown.get(key), version)
        }
        missing |= {(key, None) for key in shown if key not in listed}
        self.since = {one: self.since.get(one, now) for one in missing}

    def longest(self, now: float) -> float:
        """Seconds that the oldest of them has been overdue."""
        return max((now - since for since in self.since.values()), default=0.0)


def _older(shown: Version | None, listed: Version) -> bool:
    if shown is None:
        return True
    return shown.uid != listed.uid or shown.resource_version < listed.resource_version


class Probed(Protocol):
    """Whoever can say whether this process is well."""

    def not_ready(self) -> list[str]:
        """Why it can't do its work now; empty if it can."""
        ...

    def not_alive(self) -> list[str]:
        """Why only a restart will help; empty if it lives."""
        ...


@dataclass(slots=True)
class Health:
    """What the probes say, and why."""

    context: Context
    answered_at: float = field(default_factory=time.monotonic)
    """When the API server last answered our comparison."""
    compared: bool = False
    words: str = "the API server has not been asked yet"
    overdue: dict[str, Overdue] = field(
        default_factory=lambda: {
            plural: Overdue() for plural in (BACKUPS, SNAPSHOTS, RESTORES, MAINTENANCES)
        }
    )

    async def watch(self) -> None:
        """Compare from time to time, for ever; at first until everything was seen once."""
        timing, complete = self.context.timing, self.context.inventory.complete
        pause, due = FIRST, 0.0
        while True:
            try:
                if time.monotonic() < due:
                    await self.ping()
                else:
                    began = time.thread_time()
                    await self.compare()
                    cost = time.thread_time() - began
                    pause = min(max(pause * 2, cost * 4), timing.check_every)
                    if complete.is_set():
                        due = time.monotonic() + min(cost * COST, timing.stale_after)
                        pause = timing.check_every
            except StewardError as error:
                self.words = str(error)
                log.warning("the watches can't be checked: %s", error)
            await asyncio.sleep(pause)

    async def ping(self) -> None:
        """Ask the API server for something that costs neither side anything."""
        await self.context.kube.ping()
        self.answered_at = time.monotonic()

    async def compare(self) -> None:
        """Compare what the watches have shown with what there is."""
        for plural, overdue in self.overdue.items():
            listed = await self.context.kube.versions(plural)
            overdue.compare(listed, self._shown(plural), time.monotonic())
        self.answered_at = time.monotonic()
        self.compared = True
        if not any(overdue.since for overdue in self.overdue.values()):
            self.context.inventory.complete.set()

    def _shown(self, plural: str) -> Seen:
        held: Sequence[Order | Run | Asked | Maintained] = self.context.runs()
        if plural == BACKUPS:
            held = self.context.orders()
        elif plural == RESTORES:
            held = self.context.restores()
        elif plural == MAINTENANCES:
            held = self.context.maintained()
        return {one.key: one.version for one in held}

    def not_ready(self) -> list[str]:
        """Why the operator can't do its work now; empty if it can."""
        limit = self.context.timing.not_ready_after
        faults = self._overdue(limit)
        silent = time.monotonic() - self.answered_at
        if not self.compared or silent > limit:
            faults.append(f"no answer of the API server for {silent:.0f} s: {self.words}")
        return faults

    def not_alive(self) -> list[str]:
        """Why only a restart will help; empty if the operator lives.

        An API server that is gone is no reason, unless it lasts so long that it may be us; while a
        run is under way it is none at all, for the run needs no API server.
        """
        timing, now = self.context.timing, time.monotonic()
        faults = self._overdue(timing.stale_after)
        if self.context.elector is not None:
            faults += stuck(self.context.elector, timing)
        if self.context.changed.is_set() and now - self.context.turned_at > timing.stale_after:
            faults.append("the scheduler's loop does not turn")
        if now - self.answered_at > timing.alone_limit and not self.context.under_way:
            faults.append(f"no answer of the API server for {now - self.answered_at:.0f} s")
        return faults

    def _overdue(self, limit: float) -> list[str]:
        now = time.monotonic()
        return [
            f"the watch of {plural} is {longest:.0f} s behind"
            for plural, overdue in self.overdue.items()
            if (longest := overdue.longest(now)) > limit
        ]


@dataclass(frozen=True, slots=True)
class Standby:
    """What the probes say of a replica that does not act."""

    elector: Elector
    timing: Timing

    def not_ready(self) -> list[str]:
        """Why it could not take over; empty if it could."""
        silent = time.monotonic() - self.elector.answered_at
        if silent > self.timing.not_ready_after:
            return [f"no answer of the API server about the Lease: {self.elector.words}"]
        return [] if self.elector.replaced else ["nobody is known to lead"]

    def not_alive(self) -> list[str]:
        """Why only a restart will help; empty if it lives."""
        return stuck(self.elector, self.timing)


def stuck(elector: Elector, timing: Timing) -> list[str]:
    """What to say of an elector that does not turn any more."""
    silent = time.monotonic() - elector.turned_at
    return ["the elector does not turn"] if silent > timing.stale_after else []


@asynccontextmanager
async def serving_probes(probed: Callable[[], Probed | None], port: int) -> AsyncIterator[None]:
    """Answer `/healthz` and `/readyz` while the body runs; `InvalidInput` if the port is taken."""
    nobody = ["it neither acts nor stands by"]

    def answer(faults: list[str]) -> web.Response:
        return web.Response(
            status=503 if faults else 200, text="".join(f"{one}\n" for one in faults or ["ok"])
        )

    async def healthz(_: web.Request) -> web.Response:
        asked = probed()
        return answer(asked.not_alive() if asked else nobody)

    async def readyz(_: web.Request) -> web.Response:
        asked = probed()
        return answer(asked.not_ready() if asked else nobody)

    pages = {"/healthz": healthz, "/readyz": readyz}
    async with serving(pages, port, what="health"):
        yield
