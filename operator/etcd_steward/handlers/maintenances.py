"""The loop that looks after all EtcdMaintenances: what is seen, what is due, what is said of it.

Level-triggered, as the scheduler is: each turn looks at what the watch shows and at what was last
seen of the etcd. A status that can't be written, because that very etcd is full, is kept here and
written later; nothing waits for it but what needs a schedule's memory.
"""

import asyncio
import contextlib
import functools
import logging
import time
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from etcd_steward.errors import StewardError
from etcd_steward.handlers import maintenance_status as step
from etcd_steward.handlers.context import Context
from etcd_steward.handlers.maintained import Maintained
from etcd_steward.handlers.maintenance import ActiveTask
from etcd_steward.handlers.maintenance_agenda import Due, Memory, Seen, agenda, must_stop
from etcd_steward.handlers.maintenance_health import news, observed, with_conditions
from etcd_steward.handlers.maintenance_request import backups_for, watched_cluster
from etcd_steward.handlers.reference import Kind, announce, reference
from etcd_steward.handlers.writer import Gone, StatusWriter
from etcd_steward.kube import MAINTENANCES, Key
from etcd_steward.metrics.maintenance import MaintenanceMetrics
from etcd_steward.models.maintenance_kinds import EtcdMaintenanceStatus
from etcd_steward.models.observation import WatchedCluster
from etcd_steward.models.run import Failure

log = logging.getLogger(__name__)

COALESCE = 0.2
"""Seconds; a burst of events is one look."""
NEVER = float("-inf")
_BUG = Failure(
    reason="Internal",
    message="what was done for it ended by a bug: it is only observed from now on",
    hint="Report what the operator's log says; started again, the operator tries again",
)


@dataclass(slots=True)
class Upkeep:
    """What is known of one EtcdMaintenance beside what the watch shows."""

    order: Maintained
    writer: StatusWriter[EtcdMaintenanceStatus]
    cluster: WatchedCluster | None = None
    """How its etcd is reached, as last known."""
    problem: StewardError | None = None
    """Why that is not known (any more)."""
    schedule_problem: StewardError | None = None
    """Why its schedule can't be followed."""
    resolved_at: float = NEVER
    resolved_of: int = 0
    """The generation that this was resolved of."""
    active: ActiveTask | None = None
    task: asyncio.Task[None] | None = None
    memory: Memory = field(default_factory=Memory)
    next: datetime | None = None
    """When something may become due."""
    broken: bool = False
    """Its task has ended by a bug of ours: nothing is begun for it before the next operator."""
    words: str = ""
    """Why its status was not written, as last logged."""


@dataclass(slots=True)
class Maintenances:
    """Starts, stops, says and forgets."""

    context: Context
    metrics: MaintenanceMetrics = field(init=False)
    upkeeps: dict[str, Upkeep] = field(default_factory=dict)
    """By uid."""
    ending: bool = False
    """Nothing is begun any more."""

    def __post_init__(self) -> None:
        """Show figures where all others are shown."""
        self.metrics = MaintenanceMetrics(self.context.metrics.board)

    async def run(self) -> None:
        """Look after them, for ever."""
        context = self.context
        context.observer.listeners.append(lambda *_: context.maintained_changed.set())
        await context.inventory.complete.wait()
        while True:
            context.maintained_changed.clear()
            await self.turn(context.clock())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await context.maintained_changed.wait()
                    await asyncio.sleep(COALESCE)

    def _pause(self) -> float:
        """Seconds until something may be due; few, for the clock's sake."""
        idle, now = self.context.timing.idle, self.context.clock()
        soonest = min((one.next for one in self.upkeeps.values() if one.next), default=None)
        if soonest is None or not self.context.leads():
            return idle
        return min(idle, max(COALESCE, (soonest - now).total_seconds()))

    async def turn(self, now: datetime) -> None:
        """Look at each of them."""
        self._follow()
        upkeeps = sorted(self.upkeeps.values(), key=lambda one: one.order.rank)
        async with asyncio.TaskGroup() as group:
            for one in upkeeps:
                group.create_task(self._resolve(one))
        clusters = [one.cluster for one in upkeeps if one.cluster and not one.order.deleting]
        self.context.observer.watch(clusters)
        async with asyncio.TaskGroup() as group:
            for one in upkeeps:
                group.create_task(self._look_at(one, now))
        for one in upkeeps:
            figures = step.figures(one.order.created, one.writer.status)
            self.metrics.show(str(one.order.key), figures)
        self.metrics.keep_only(str(one.order.key) for one in upkeeps)

    def _follow(self) -> None:
        """Take over what the watch shows, and forget what is gone and has nothing under way."""
        there = {order.version.uid: order for order in self.context.maintained()}
        for uid, upkeep in list(self.upkeeps.items()):
            if upkeep.task is not None and upkeep.task.done():
                self._ended(upkeep, upkeep.task)
            if uid in there:
                upkeep.order = there[uid]
            elif upkeep.active is None:
                del self.upkeeps[uid]
            else:
                upkeep.active.end(must_stop(None, Seen()))
        for uid in there.keys() - self.upkeeps.keys():
            order = there[uid]
            writer = StatusWriter(
                self.context.kube, order.key, order.version, order.status, MAINTENANCES
            )
            self.upkeeps[uid] = Upkeep(order, writer)

    def _ended(self, upkeep: Upkeep, task: asyncio.Task[None]) -> None:
        if upkeep.active is not None:
            upkeep.memory.not_before = upkeep.active.not_before
            upkeep.memory.prepared = upkeep.active.prepared or upkeep.memory.prepared
        upkeep.active = upkeep.task = None
        if not task.cancelled() and (bug := task.exception()) is not None:
            upkeep.broken = True
            log.error("EtcdMaintenance %s is only observed now", upkeep.order.key, exc_info=bug)
            status, now = upkeep.writer.status, self.context.clock()
            upkeep.writer.status = step.failed(status, status.task or "round", _BUG, now=now)
            self._tell(upkeep, "Warning", _BUG.reason, _BUG.text)

    async def _resolve(self, upkeep: Upkeep) -> None:
        """Find out how the etcd is reached; where that fails, what was known stays in use."""
        order, since = upkeep.order, time.monotonic() - upkeep.resolved_at
        fresh = upkeep.resolved_of == order.generation and upkeep.problem is None
        wait = self.context.timing.secrets_every if fresh else self.context.timing.progress_every
        if order.spec is None or (upkeep.resolved_of == order.generation and since < wait):
            return
        try:
            upkeep.cluster = await watched_cluster(self.context, order)
            upkeep.problem = None
        except StewardError as error:
            upkeep.problem = error
            if upkeep.resolved_of != order.generation:
                upkeep.cluster = None  # that was another etcd, perhaps
        upkeep.resolved_at, upkeep.resolved_of = time.monotonic(), order.generation

    def _seen(self, upkeep: Upkeep) -> Seen:
        observer, name = self.context.observer, str(upkeep.order.key)
        elder = observer.same_as(name)
        return Seen(
            observation=observer.latest(name),
            elder=None if elder is None else Key(*elder.split("/")),
            memory=upkeep.memory,
        )

    async def _look_at(self, upkeep: Upkeep, now: datetime) -> None:
        """One look at one of them: stop or begin a task, say how it stands."""
        self._remember(upkeep, now)
        seen = self._seen(upkeep)
        why = must_stop(upkeep.order, seen)
        if upkeep.active is not None and why:
            upkeep.active.end(why)
        if not self.context.leads() or upkeep.order.deleting:
            return
        if why and upkeep.active is None and upkeep.writer.status.phase == "Pending":
            status, cancelled = upkeep.writer.status, Failure(reason="Cancelled", message=why)
            upkeep.writer.status = step.failed(status, "round", cancelled, now=now)
        due = self._say(upkeep, seen, now)
        if not self.ending and not upkeep.broken:
            self._begin(upkeep, due)
        await self._write(upkeep)

    def _remember(self, upkeep: Upkeep, now: datetime) -> None:
        """Note since when etcd is full; what a rescue needs has to be put anew afterwards."""
        memory = upkeep.memory
        memory.look(now)
        seen = self.context.observer.latest(str(upkeep.order.key))
        if seen is None or not seen.reachable:
            return
        if not seen.has_alarm("NOSPACE"):
            memory.full_since = None
        elif memory.full_since is None:
            memory.full_since, memory.prepared = now, None

    def _begin(self, upkeep: Upkeep, due: Due | None) -> None:
        """Start what is due; what another operator has left is concluded first.

        That has to be written, so it can't be on a full etcd: a rescue waits for nothing.
        """
        rescue = due is not None and due.task == "rescue"
        left = upkeep.writer.status.phase == "Running"
        if upkeep.active is not None:
            if rescue and upkeep.active.due is None:
                upkeep.active.end("")
        elif rescue or not left:
            if due is not None:
                self._start(upkeep, due)
        else:
            self._start(upkeep, None)

    def _say(self, upkeep: Upkeep, seen: Seen, now: datetime) -> Due | None:
        """Put into the status what there is to say; what is due."""
        order = replace(upkeep.order, status=upkeep.writer.status)
        busy = upkeep.active is not None and upkeep.active.due is not None
        plan = agenda(order, seen, now, busy=busy)
        upkeep.next = plan.next
        if plan.missed is not None:
            self._tell(upkeep, "Warning", "MissedSchedule", plan.missed)
        status = plan.status
        if seen.observation is not None:
            every = timedelta(seconds=self.context.timing.figures_every)
            status = observed(status, seen.observation, every=every)
        upkeep.writer.status, upkeep.schedule_problem = status, plan.problem
        self._settle(upkeep)
        return plan.due

    def _settle(self, upkeep: Upkeep) -> None:
        """Let the conditions say what the rest of the status says, and tell what is new in them."""
        order, before, now = upkeep.order, upkeep.writer.status, self.context.clock()
        problem = upkeep.problem or upkeep.schedule_problem
        status = with_conditions(order, before, self._seen(upkeep), problem, now)
        upkeep.writer.status = status
        for one in news(before.conditions, status.conditions):
            self._tell(upkeep, "Normal" if one.good else "Warning", one.reason, one.message)
            if one.reason == "Corrupt":
                self._freeze_backups(order)

    def _freeze_backups(self, order: Maintained) -> None:
        """Have the backups of a corrupt etcd looked through: that marks what nobody vouches for."""
        for backup in backups_for(self.context, order):
            self.context.look_through(backup.key, prune=False)

    def _start(self, upkeep: Upkeep, due: Due | None) -> None:
        cluster = upkeep.cluster
        if cluster is None and due is not None:
            return
        if due is not None and due.task == "compaction":
            upkeep.memory.compaction_checked = self.context.clock()
        active = ActiveTask(
            self.context,
            replace(upkeep.order, status=upkeep.writer.status),
            upkeep.writer,
            cluster.etcd if cluster is not None else None,
            due,
            tell=lambda kind, reason, message: self._tell(upkeep, kind, reason, message),
            count=functools.partial(self.metrics.count, str(upkeep.order.key)),
            settle=functools.partial(self._settle, upkeep),
        )
        task = asyncio.create_task(active.drive(), name=f"EtcdMaintenance {upkeep.order.key}")
        task.add_done_callback(lambda _: self.context.maintained_changed.set())
        upkeep.active, upkeep.task = active, task

    async def _write(self, upkeep: Upkeep) -> None:
        """Write what has changed; where that fails, the next turn makes up for it."""
        try:
            await upkeep.writer.try_write()
        except StewardError as error:
            if str(error) != upkeep.words:
                log.warning("status of EtcdMaintenance %s: %s", upkeep.order.key, error)
            upkeep.words = str(error)
        except Gone:
            if upkeep.active is None:  # begin anew from what the watch shows
                self.upkeeps.pop(upkeep.order.version.uid, None)
        else:
            upkeep.words = ""

    def _tell(self, upkeep: Upkeep, kind: Kind, reason: str, message: str) -> None:
        order = upkeep.order
        about = reference("EtcdMaintenance", order.key, order.version.uid)
        announce(self.context, about, kind, reason, message[:1000])

    async def stop(self) -> None:
        """Stop what is under way, in order: before kopf ends, which cancels whatever is left."""
        self.ending = True
        running = [one for one in self.upkeeps.values() if one.task is not None]
        for upkeep in running:
            if upkeep.active is not None:
                upkeep.active.end("")
        if running:
            await asyncio.wait([one.task for one in running if one.task is not None])
