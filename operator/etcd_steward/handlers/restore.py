"""One EtcdRestore, from its plan to its end, whatever dies on the way.

The state is its status; a new operator goes on where the old one was killed:

    no phase   plan it, and with `mode: Apply` apply that plan at once
    Planned    nothing, until `approvedPlanDigest` names that plan
    Pending    begin the next attempt
    Running    its process died with its operator, once it has been silent for so long: begin anew

That an apply happens once is not said by the status, which a whole-cluster restore may bring back
from any moment of its past, but by the claim in the store: a process that is asked to apply what
was applied tells how that went.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime

from etcd_steward.errors import StewardError
from etcd_steward.handlers import restore_status as step
from etcd_steward.handlers import status as transition
from etcd_steward.handlers import words
from etcd_steward.handlers.asked import Asked
from etcd_steward.handlers.child import Lost, Outcome, Stopped, run_child
from etcd_steward.handlers.context import Context
from etcd_steward.handlers.reference import Kind, announce, reference
from etcd_steward.handlers.reporter import Reporter
from etcd_steward.handlers.restore_request import restore_request
from etcd_steward.handlers.takeover import Takeover
from etcd_steward.handlers.waits import held_unless, sleep_unless
from etcd_steward.handlers.writer import FOREVER, Gone, StatusWriter
from etcd_steward.kube import RESTORES
from etcd_steward.metrics import names
from etcd_steward.models.restore_kinds import EtcdRestoreStatus
from etcd_steward.models.restore_run import PlanMade, RestoreEnded, RestoreRequest
from etcd_steward.models.run import Failure

ATTEMPTS = 3
"""So often an attempt may fail by what passes."""
SLACK = 600.0
"""Seconds that a process gets beyond its deadline: its second look comes minutes after the rest."""
LAST_WORDS = 5.0
"""Seconds to write down that a restore was stopped."""


class _Planner(Reporter):
    """Also shows the plan that is about to be applied."""

    writer: StatusWriter[EtcdRestoreStatus]

    def planned(self, plan: PlanMade) -> None:
        self.update(step.planned(self.writer.status, plan, now=datetime.now(UTC)))


@dataclass(slots=True)
class ActiveRestore:
    """Drives one EtcdRestore as far as it can go by itself."""

    context: Context
    asked: Asked
    writer: StatusWriter[EtcdRestoreStatus] = field(init=False)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        """Begin from the status as the watch has shown it."""
        asked = self.asked
        self.writer = StatusWriter(
            self.context.kube, asked.key, asked.version, asked.status, RESTORES
        )

    @property
    def status(self) -> EtcdRestoreStatus:
        """As it is, whether the API server has it already or not."""
        return self.writer.status

    async def drive(self) -> None:
        """Run until it has ended, waits for somebody, `stop` is set or the object is gone."""
        try:
            if await self.context.leading(self.stop):
                await self._drive()
        except Gone:
            return
        finally:
            self.context.under_way.discard(self.asked.version.uid)

    async def _drive(self) -> None:
        running = self.status.phase == "Running"
        if running and not await Takeover(self.context, self.writer, self.stop).take():
            return
        if self._approves_another():
            await self._refuse()
            return
        if self.context.restoring.locked():
            await self._set(transition.waiting(self.status, "Another restore is under way"))
        async with held_unless(self.stop, self.context.restoring) as ours:
            attempt = self.status.attempt or 1
            while ours and not self.stop.is_set():
                outcome = await self._attempt(attempt)
                if not await self._again(outcome, attempt):
                    return
                attempt += 1

    @property
    def _applying(self) -> bool:
        """Whether the next process may write."""
        spec, plan = self.asked.spec, self.status.plan
        if spec is None or spec.mode == "Apply":
            return spec is not None
        return plan is not None and spec.approved_plan_digest == plan.digest

    def _approves_another(self) -> bool:
        spec, plan = self.asked.spec, self.status.plan
        if spec is None or plan is None or spec.approved_plan_digest is None:
            return False
        return spec.mode == "Plan" and spec.approved_plan_digest != plan.digest

    async def _refuse(self) -> None:
        spec = self.asked.spec
        approved = (spec.approved_plan_digest if spec else None) or "none"
        await self._set(
            step.not_this_plan(
                self.status, approved, generation=self.asked.generation, now=datetime.now(UTC)
            ),
            at_last=True,
        )
        self._tell("Warning", "AnotherPlanApproved", self.status.message or "")

    async def _set(self, status: EtcdRestoreStatus, *, at_last: bool = False) -> bool:
        self.writer.status = status
        patience = FOREVER if at_last else self.context.timing.write_patience
        return await self.writer.write(self.stop, patience)

    async def _attempt(self, attempt: int) -> Outcome:
        if not await self.context.leading(self.stop):
            return Stopped(clean=True)
        self.context.under_way.add(self.asked.version.uid)
        applying = self._applying
        try:
            request = await restore_request(self.context, self.asked, applying=applying)
        except StewardError as error:
            return Failure.of(error)
        await self._set(
            step.begun(
                self.status,
                applying=applying,
                attempt=attempt,
                requester=self.asked.requester,
                generation=self.asked.generation,
                now=datetime.now(UTC),
            )
        )
        if self.stop.is_set():
            return Stopped(clean=True)
        reason = "ApplyStarted" if applying else "PlanStarted"
        self._tell("Normal", reason, f"attempt {attempt} of {ATTEMPTS}")
        return await self._child(request)

    async def _child(self, request: RestoreRequest) -> Outcome:
        timing = self.context.timing
        reporter = _Planner(self.writer, self.stop, timing, self._tell)
        try:
            async with asyncio.timeout(request.timeout + SLACK), reporter.reporting():
                return await run_child(
                    self.context.command, request, reporter, self.stop, timing.limits
                )
        except TimeoutError:
            seconds = request.timeout + SLACK
            return Failure(
                reason="TimedOut",
                message=f"the restore did not end within {seconds:.0f} s",
                hint="Raise spec.activeDeadlineSeconds, or restore less at a time",
            )

    async def _again(self, outcome: Outcome, attempt: int) -> bool:
        """Draw the conclusion; whether another attempt is to follow, now."""
        now = datetime.now(UTC)
        if isinstance(outcome, Lost):
            outcome = outcome.failure
        match outcome:
            case PlanMade():
                await self._set(step.planned(self.status, outcome, now=now), at_last=True)
                self._tell("Normal", "Planned", self.status.message or "")
            case RestoreEnded():
                await self._set(step.completed(self.status, outcome, now=now), at_last=True)
                kind: Kind = "Normal" if self.status.phase == "Complete" else "Warning"
                self._tell(kind, self.status.phase or "", self.status.message or "")
                self._count("complete" if kind == "Normal" else "failed")
            case Stopped():
                self.writer.status = transition.waiting(self.status, "Stopped with the operator")
                await self.writer.write(asyncio.Event(), LAST_WORDS)
            case Failure(transient=True) if attempt < ATTEMPTS:
                return await self._back_off(outcome, attempt)
            case Failure():
                await self._fail(outcome)
            case _:
                raise AssertionError(f"a restore's child does not answer {outcome}")
        return False

    async def _fail(self, failure: Failure) -> None:
        status = step.failed(
            self.status, failure, generation=self.asked.generation, now=datetime.now(UTC)
        )
        await self._set(status, at_last=True)
        self._tell("Warning", failure.reason, failure.text)
        self._count("failed")

    def _count(self, result: str) -> None:
        self.context.metrics.board.count("operator", names.RESTORES, result)

    async def _back_off(self, failure: Failure, attempt: int) -> bool:
        delay = self.context.timing.back_off(attempt)
        await self._set(
            step.retrying(self.status, failure, attempt=attempt, delay=delay, now=datetime.now(UTC))
        )
        text = f"attempt {attempt} of {ATTEMPTS} failed, the next one comes in "
        self._tell("Warning", "Retrying", f"{text}{words.duration(delay)}: {failure.text}")
        return not await sleep_unless(self.stop, delay)

    def _tell(self, kind: Kind, reason: str, message: str) -> None:
        about = reference("EtcdRestore", self.asked.key, self.asked.version.uid)
        announce(self.context, about, kind, reason, message[:1000])
