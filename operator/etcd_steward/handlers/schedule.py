"""What is due, and what the standing orders' status and metrics say: one loop for all of them.

Handlers only tell which order has changed. The loop then looks at all that the watches have shown
of it: level-triggered, so nothing is lost when an event, or a write of ours, is. An order at which
nothing happens costs nothing until its next tick.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from etcd_steward.errors import AlreadyExists, NotFound, StewardError
from etcd_steward.handlers.agenda import Agenda, Due, agenda
from etcd_steward.handlers.context import Context
from etcd_steward.handlers.records import snapshot_of
from etcd_steward.handlers.reference import announce, reference
from etcd_steward.handlers.standing import Order, Run, backup_status, figures, of_order
from etcd_steward.handlers.status import change, must_be_settled
from etcd_steward.kube import BACKUPS, SNAPSHOTS, Key

log = logging.getLogger(__name__)

COALESCE = 0.2
"""Seconds; a burst of events is one look."""
AGAIN = timedelta(seconds=10)
"""After which a look that failed is made again."""
EVERYTHING = 300.0
"""Seconds after which every order is looked at, whether it has changed or not."""
CLOCK_MARGIN = 1.0
"""Seconds that the two clocks may drift apart in one turn before the wall clock counts as set."""


@dataclass(slots=True)
class Scheduler:
    """The loop's own memory: when each order wants to be looked at again."""

    context: Context
    wake: dict[Key, datetime] = field(default_factory=dict)
    everything_at: float = 0.0
    drift: float = 0.0
    """How far the clock was ahead of the monotonic one, which nobody sets, at the last turn."""

    async def run(self) -> None:
        """Look at orders whenever they have changed or something is due, for ever."""
        context = self.context
        await context.inventory.complete.wait()
        while True:
            context.changed.clear()
            if context.leads():
                await self.turn(context.clock())
            context.turned_at = time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await context.changed.wait()
                    await asyncio.sleep(COALESCE)

    def _pause(self) -> float:
        """Seconds until the next order wants to be looked at; few, for the clock's sake."""
        idle = self.context.timing.idle
        soonest = min(self.wake.values(), default=None)
        if soonest is None or not self.context.leads():
            return idle
        return min(idle, max(0.0, (soonest - self.context.clock()).total_seconds()))

    async def turn(self, now: datetime) -> None:
        """Look at each order that has changed, and at each that wants to be looked at."""
        keys = self._to_look_at(now)
        for key in keys:
            await self._look_at(key, now)
        if keys:
            context = self.context
            context.metrics.keep_only(order.key for order in context.orders())

    def _to_look_at(self, now: datetime) -> set[Key]:
        context = self.context
        keys = {key for key, when in self.wake.items() if when <= now} | context.dirty
        context.dirty.clear()
        drift = now.timestamp() - time.monotonic()
        was_set = abs(drift - self.drift) > CLOCK_MARGIN
        self.drift = drift
        if was_set or time.monotonic() >= self.everything_at:
            self.everything_at = time.monotonic() + EVERYTHING
            keys |= {order.key for order in context.orders()}
        return keys

    async def _look_at(self, key: Key, now: datetime) -> None:
        self.wake.pop(key, None)
        order = self.context.order(key)
        if order is None:
            self.context.looked.pop(key, None)
            return
        runs = self.context.runs_of(key)
        try:
            plan = await look(self.context, order, runs, now)
        except StewardError as error:
            log.warning("EtcdBackup %s: %s; tried again soon", key, error)
            self.wake[key] = now + AGAIN
        else:
            if plan.next is not None:
                self.wake[key] = max(plan.next, now + timedelta(seconds=COALESCE))
        self.context.metrics.show(key, order.version.uid, figures(order, runs))


async def look(context: Context, order: Order, runs: Sequence[Run], now: datetime) -> Agenda:
    """One look at one order: create what is due, write a status that has changed, tidy up."""
    plan = agenda(order, runs, now)
    if plan.due is not None:
        await _create(context, order, plan.due)
    if plan.missed is not None:
        log.warning("EtcdBackup %s: %s", order.key, plan.missed)
        about = reference("EtcdBackup", order.key, order.version.uid)
        announce(context, about, "Warning", "MissedSchedule", plan.missed)
    status = backup_status(
        replace(order, status=plan.status),
        runs,
        now,
        problem=plan.problem,
        looked=context.looked.get(order.key),
    )
    if patch := change(order.status, status):
        with contextlib.suppress(NotFound):  # deleted meanwhile
            await context.kube.patch_status(BACKUPS, order.key, order.version, patch)
    for run in forgettable(order, runs):
        with contextlib.suppress(NotFound):
            await context.kube.delete(SNAPSHOTS, run.key, run.version)
    return plan


def forgettable(order: Order, runs: Sequence[Run]) -> list[Run]:
    """Failed runs beyond those that are kept; they have left nothing in the store.

    One of which that is not known stays.
    """
    if order.spec is None or order.deleting:
        return []
    failed = [
        run
        for run in of_order(order, runs)
        if run.status.phase == "Failed" and run.terminal and not must_be_settled(run.status)
    ]
    failed.sort(key=lambda run: (run.ended, run.key), reverse=True)
    return failed[order.spec.failed_history_limit :]


async def _create(context: Context, order: Order, due: Due) -> None:
    """Create a run. No owner reference: a record outlives the order that it came from."""
    key = order.key
    with contextlib.suppress(AlreadyExists):  # somebody was faster: done
        await context.kube.create(SNAPSHOTS, snapshot_of(key, due.name))
        log.info("EtcdBackup %s: created EtcdSnapshot %s (%s)", key, due.name, due.why)
