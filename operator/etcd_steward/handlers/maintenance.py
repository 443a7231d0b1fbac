"""One task of maintenance, from its claim to its end, whatever dies on the way.

The state is the EtcdMaintenance's status; a new operator goes on where the old one was killed:

    Running    its process died with its operator, once it has been silent for so long: a round is
               begun again, for members that were done need nothing any more
    Pending    begin it again, as long as its window lasts

What must never happen twice at once is fenced in etcd itself, by the lock of a round and the tokens
of a rescue. So a rescue asks neither the Lease nor the status before it begins: a full etcd lets
nobody write them. And a lost Lease ends no round in the middle.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from etcd_steward.errors import StewardError
from etcd_steward.handlers import maintenance_status as step
from etcd_steward.handlers.child import Lost, Outcome, Stopped, run_child
from etcd_steward.handlers.context import Context
from etcd_steward.handlers.maintained import Maintained
from etcd_steward.handlers.maintenance_agenda import Due
from etcd_steward.handlers.maintenance_request import holder_of, maintenance_request
from etcd_steward.handlers.reference import Kind
from etcd_steward.handlers.reporter import Reporter
from etcd_steward.handlers.takeover import Takeover
from etcd_steward.handlers.words import duration
from etcd_steward.handlers.writer import Gone, StatusWriter
from etcd_steward.metrics.maintenance import Result, Task
from etcd_steward.models.connection import EtcdConnection
from etcd_steward.models.maintenance import CompactionReport, RescueReport, RoundReport
from etcd_steward.models.maintenance_kinds import EtcdMaintenanceStatus
from etcd_steward.models.maintenance_run import (
    CompactionEnded,
    MaintenanceRequest,
    MemberDone,
    MemberTurn,
    RescueEnded,
    RoundEnded,
)
from etcd_steward.models.run import Failure, Journal, Progress

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""So often a round may be refused, or fail by what passes, before it waits for its next time."""
LAST_WORDS = 5.0
"""Seconds to write down that a task was stopped."""

Tell = Callable[[Kind, str, str], None]
"""Post an event: type, reason, message."""
Count = Callable[[Task, Result], None]
"""Count a task that has ended."""
Settle = Callable[[], None]
"""Have the conditions of the status, and what stands beside them, say what the rest of it says."""

INTERRUPTED = Failure(
    reason="Interrupted",
    message="the operator died while this was under way",
    hint="Its pod's last state says why",
    transient=True,
)


class _Reporter(Reporter):
    """Writes how far a task is. Whoever has taken it over may write; the task itself goes on."""

    writer: StatusWriter[EtcdMaintenanceStatus]

    def __init__(self, active: "ActiveTask", tell: Tell) -> None:
        super().__init__(active.writer, asyncio.Event(), active.context.timing, tell)
        self._tell = tell

    def progress(self, progress: Progress) -> None:
        if self.writer.status.task is None:  # a look at compaction is not worth two writes
            return
        self.update(step.lives(self.writer.status, progress.step, now=datetime.now(UTC)))

    def warning(self, message: str) -> None:
        self._tell("Warning", "MaintenanceWarning", message)

    async def journal(self, journal: Journal) -> None:
        """Only log it: the snapshot of a rescue goes where nothing else can be written."""
        log.info("a rescue uploads its snapshot to %s (%s)", journal.key, journal.upload_id)

    def member(self, event: MemberTurn | MemberDone) -> None:
        now = datetime.now(UTC)
        if isinstance(event, MemberTurn):
            self.update(step.turned(self.writer.status, event, now=now))
            return
        self.update(step.member_done(self.writer.status, event, now=now))
        said = f"{event.position} of {event.total}: {step.said_of(event.member)}"
        match event.member.outcome:
            case "Defragmented":
                self._tell("Normal", "MemberDefragmented", said)
            case "Failed" | "Unknown":
                self._tell("Warning", f"Member{event.member.outcome}", said)
            case "Skipped":
                self._tell("Normal", "MemberSkipped", said)
            case _:
                log.info("%s", said)


@dataclass(slots=True)
class ActiveTask:
    """Drives one task to its end, or takes over what another operator has left."""

    context: Context
    order: Maintained
    writer: StatusWriter[EtcdMaintenanceStatus]
    etcd: EtcdConnection | None
    """None only where nothing is begun."""
    due: Due | None
    """None: its status says that it is under way, and nobody here has begun it."""
    tell: Tell
    count: Count
    settle: Settle
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    why: str = ""
    """Why it was stopped; empty where this operator stops, and the next one goes on."""
    not_before: datetime | None = None
    """When it is to be tried again."""
    prepared: datetime | None = None
    """When it was made sure that a later rescue finds what it needs."""

    def end(self, why: str) -> None:
        """Have it end before its next member; without a reason it is to go on later."""
        if not self.stop.is_set():
            self.why = why
            self.stop.set()

    async def drive(self) -> None:
        """Run until it has ended or was stopped, or the object is gone."""
        try:
            if self.due is None:
                await self._take_over()
            else:
                await self._run(self.due)
        except Gone:
            log.warning("EtcdMaintenance %s is another operator's by now", self.order.key)
        finally:
            self.context.under_way.discard(self.order.version.uid)

    async def _take_over(self) -> None:
        """Wait until whoever had it is surely dead, then conclude or have it begun again."""
        if not await Takeover(self.context, self.writer, self.stop).take():
            return
        if self.writer.status.phase == "Running":
            self._again_or(INTERRUPTED)
            self.settle()
            await self.writer.write(self.stop, self.context.timing.write_patience)

    async def _run(self, due: Due) -> None:
        if not await self.context.leading(self.stop):
            return
        self.context.under_way.add(self.order.version.uid)
        if not await self._claim(due):
            return
        self._conclude(await self._outcome(due))
        self.settle()  # whoever waits for its end reads the conditions of that end
        patience = LAST_WORDS if self.stop.is_set() else self.context.timing.write_patience
        await self.writer.write(asyncio.Event(), patience)  # if in vain, the loop writes it later

    async def _outcome(self, due: Due) -> Outcome:
        assert self.etcd is not None  # noqa: S101  # whoever begins something knows it
        try:
            request, note = await maintenance_request(self.context, self.order, due, self.etcd)
        except StewardError as error:
            return Failure.of(error)
        self._say_begun(due, request, note)
        return await self._child(request)

    async def _claim(self, due: Due) -> bool:
        """Write that it begins. A rescue does not wait for that, and a compaction needs none."""
        if due.task == "compaction":
            return True
        before = self.writer.status
        generation, now = self.order.generation, datetime.now(UTC)
        self.writer.status = step.begun(before, due, generation=generation, now=now)
        if due.task == "rescue":
            return True
        if await self.writer.write(self.stop, self.context.timing.write_patience):
            return True
        log.warning("EtcdMaintenance %s: %s waits for its status", self.order.key, due.task)
        self.writer.status = before
        return False

    def _say_begun(self, due: Due, request: MaintenanceRequest, note: str) -> None:
        log.info("EtcdMaintenance %s: %s begins (%s)", self.order.key, due.task, due.why)
        if due.task == "round":
            plan = "PlanStarted" if due.mode == "Plan" else "RoundStarted"
            self.tell("Normal", plan, f"attempt {due.attempt} of {ATTEMPTS}, {due.why}")
        elif due.task == "rescue":
            self.tell("Warning", "RescueStarted", due.why)
            if request.backup is not None and request.backup.store is None:
                kept = "the snapshot taken before the rescue stays on the operator's disk"
                self.tell("Warning", "RescueBackupMissing", f"{kept}: {note}")

    async def _child(self, request: MaintenanceRequest) -> Outcome:
        timing = self.context.timing
        limits = replace(timing.limits, grace=timing.member_patience)
        reporter = _Reporter(self, self.tell)
        async with reporter.reporting():
            return await run_child(self.context.command, request, reporter, self.stop, limits)

    def _conclude(self, outcome: Outcome) -> None:
        """Draw the conclusion."""
        match outcome:
            case RoundEnded(report=report):
                self._round_ended(report)
            case CompactionEnded(report=report):
                self._compaction_ended(report)
            case RescueEnded(report=report):
                self._rescue_ended(report)
            case Failure() as failure:
                self._again_or(failure)
            case Lost(failure=failure):
                self._again_or(failure)
            case Stopped():
                self._stopped()
            case _:
                raise AssertionError(f"a maintenance child does not answer {outcome}")

    def _round_ended(self, report: RoundReport) -> None:
        if report.outcome == "Stopped" and self.stop.is_set() and not self.why:
            self._stopped()
            return
        ours = report.held_by == holder_of(self.order)  # another operator's, whose process lives on
        again = self._may_try_again() or (ours and not self.stop.is_set())
        if report.outcome == "Refused" and report.mode == "Apply" and again:
            self._back_off(step.summary(report), counts=not ours)
            return
        status = step.round_ended(self.writer.status, report, why_stopped=self.why)
        self.writer.status = status
        ended = status.plan if report.mode == "Plan" else status.last_round
        message = ended.message if ended is not None else ""
        if report.mode == "Plan":
            self.tell("Normal", "Planned", message)
            return
        self.count("round", "complete" if self.why else step.result_of(report.outcome))
        good = report.outcome in step.GOOD or bool(self.why)
        self.tell("Normal" if good else "Warning", f"Round{report.outcome}", message)

    def _compaction_ended(self, report: CompactionReport) -> None:
        before = self.writer.status.last_compaction
        self.prepared = self.context.clock()
        self.writer.status = step.compaction_ended(self.writer.status, report)
        self.count("compaction", step.result_of(report.outcome))
        if report.outcome == "Compacted":
            self.tell("Normal", "Compacted", report.reason)
        elif report.outcome == "Refused" and (before is None or before.outcome != "Refused"):
            self.tell("Warning", "CompactionRefused", report.reason)

    def _rescue_ended(self, report: RescueReport) -> None:
        if report.outcome == "Stopped" and self.stop.is_set() and not self.why:
            self._stopped()
            return
        self.writer.status = step.rescue_ended(self.writer.status, report)
        self.count("rescue", step.result_of(report.outcome))
        message = step.rescue_summary(report)
        if report.outcome == "Rescued":
            self.tell("Normal", "Rescued", message)
        elif report.outcome != "NotNeeded":
            self.tell("Warning", f"Rescue{report.outcome}", message)

    def _stopped(self) -> None:
        """Leave word for whoever comes next; what was ended by somebody's wish is over."""
        now, status = datetime.now(UTC), self.writer.status
        if self.why and self._task != "compaction":
            wish = Failure(reason="Cancelled", message=self.why)
            self.writer.status = step.failed(status, self._task, wish, now=now)
        elif self._task == "round":
            said, attempt = "Stopped with the operator", status.attempt or 1
            self.writer.status = step.waiting(status, said, attempt=attempt)
        else:
            self.writer.status = step.idle(status)  # whoever comes next sees that it is due

    @property
    def _task(self) -> Task:
        if self.due is not None:
            return self.due.task
        return self.writer.status.task or "round"

    def _may_try_again(self) -> bool:
        return (self.writer.status.attempt or 1) < ATTEMPTS and not self.stop.is_set()

    def _back_off(self, message: str, *, counts: bool = True) -> None:
        attempt = self.writer.status.attempt or 1
        delay = self.context.timing.back_off(attempt if counts else ATTEMPTS)
        self.not_before = self.context.clock() + timedelta(seconds=delay)
        said = (
            f"attempt {attempt} of {ATTEMPTS}, the next one comes in {duration(delay)}: {message}"
        )
        self.writer.status = step.waiting(self.writer.status, said, attempt=attempt + counts)
        self.tell("Warning", "RoundWaits", said)

    def _again_or(self, failure: Failure) -> None:
        """Try a round again after what may pass; everything else has failed."""
        task, again = self._task, failure.transient or failure.reason == "Refused"
        if task == "round" and again and self._may_try_again():
            self._back_off(failure.text)
            return
        before = self.writer.status.last_compaction
        self.writer.status = step.failed(self.writer.status, task, failure, now=datetime.now(UTC))
        self.count(task, "refused" if failure.reason == "Refused" else "failed")
        if task == "compaction" and before is not None and before.outcome == "Failed":
            return  # it was said before, and is tried every few minutes
        self.tell("Warning", f"{task.capitalize()}Failed", failure.text)
