"""One run, from its claim to its end, whatever dies on the way.

The state is the EtcdSnapshot's status; what is decided here is decided from it, so that a new
operator goes on where the old one was killed:

    no phase   claim it: copy the backup's spec, then attempt 1
    Pending    begin (or begin again) the attempt that `attempt` says
    Running    that attempt's process died with its operator, once it has been silent for so long:
               what it left is settled, adopted if it is complete; else the next attempt follows, or
               none if that was the last
    Failed     with a journal: nobody could look at what it left; each new operator tries it once
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal, TypeVar

from pydantic import ValidationError

from etcd_steward.deadline import Deadline
from etcd_steward.errors import (
    InvalidInput,
    NotFound,
    StewardError,
    TransientError,
    Unauthorized,
)
from etcd_steward.handlers import status as transition
from etcd_steward.handlers import words
from etcd_steward.handlers.child import Limits, Lost, Outcome, Stopped, run_child
from etcd_steward.handlers.context import Context
from etcd_steward.handlers.identity import Identity
from etcd_steward.handlers.read import in_words
from etcd_steward.handlers.reporter import Reporter
from etcd_steward.handlers.request import request_of
from etcd_steward.handlers.resolve import resolve_store
from etcd_steward.handlers.takeover import Takeover
from etcd_steward.handlers.waits import held_unless, sleep_unless
from etcd_steward.handlers.writer import FOREVER, Gone, StatusWriter
from etcd_steward.kube import BACKUPS
from etcd_steward.models.kinds import EtcdBackupSpec, EtcdSnapshotStatus
from etcd_steward.models.run import (
    ExportRequest,
    Failure,
    Journal,
    Result,
    Settled,
    SettleRequest,
    SnapshotRequest,
)

DEADLINE_SLACK = 60.0
"""Seconds that a child gets beyond its own deadline before it is killed."""
LAST_WORDS = 5.0
"""Seconds to write down that a run was stopped."""

Answer = TypeVar("Answer")

Announce = Callable[[Literal["Normal", "Warning"], str, str], None]
"""Post an event: type, reason, message."""

INTERRUPTED = Failure(
    reason="Interrupted",
    message="the operator died in mid-run",
    hint="Its pod's last state says why",
    transient=True,
)


@dataclass(slots=True)
class ActiveRun:
    """Drives one EtcdSnapshot to its end."""

    context: Context
    identity: Identity
    writer: StatusWriter[EtcdSnapshotStatus]
    announce: Announce
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def status(self) -> EtcdSnapshotStatus:
        """As it is, whether the API server has it already or not."""
        return self.writer.status

    @property
    def spec(self) -> EtcdBackupSpec:
        """The backup's spec as it was when this run was claimed."""
        if self.status.backup_spec is None:
            raise InvalidInput(f"EtcdSnapshot {self.identity.key} has lost its backupSpec")
        return self.status.backup_spec

    async def drive(self) -> None:
        """Run until the run has ended, `stop` is set or the object is gone."""
        try:
            if await self.context.leading(self.stop):
                await self._drive()
        except Gone:
            return
        finally:
            self.context.under_way.discard(self.identity.uid)

    async def _drive(self) -> None:
        attempt = await self._pick_up()
        if attempt is None:
            return
        lock = self.context.turns[self.identity.backup]
        if lock.locked():
            await self._set(transition.waiting(self.status, "Another run is under way"))
        async with held_unless(self.stop, lock) as ours:
            if ours and (self.status.backup_spec is not None or await self._claim()):
                while await self._another(await self._attempt(attempt), attempt):
                    attempt += 1

    async def _pick_up(self) -> int | None:
        """Conclude what was begun before us; says which attempt comes next, None if there is none.

        It needs no turn: no run of ours can be in the way of a dead one.
        """
        if transition.must_be_settled(self.status):
            await self._settle_failed()
            return None
        if self.status.backup_spec is None:
            return 1
        if not await Takeover(self.context, self.writer, self.stop).take():
            return None
        attempt = self.status.attempt or 1
        if self.status.phase != "Running":
            return attempt
        outcome = await self._after_loss(INTERRUPTED)
        if isinstance(outcome, Stopped):
            return None  # as it was: the next operator settles it, and counts the attempt
        return attempt + 1 if await self._another(outcome, attempt) else None

    async def _settle_failed(self) -> None:
        """Look at what a failed run left, now that it may be possible."""
        shown = self.status.progress
        outcome = await self.settle()
        if isinstance(outcome, Result):
            await self._complete(outcome)
            return
        status = self.status.model_copy(update={"progress": shown})
        cleaned = isinstance(outcome, Settled)
        await self._set(transition.settled(status) if cleaned else status)

    async def _confirm(self) -> None:
        """Ask the API server, for as long as it takes, whether the run is ours still."""
        while not self.stop.is_set():
            try:
                await self.writer.confirm()
            except StewardError:
                await sleep_unless(self.stop, self.context.timing.progress_every)
            else:
                return

    async def _set(self, status: EtcdSnapshotStatus, *, at_last: bool = False) -> bool:
        """Have it written; only the end of a run is worth waiting for. Says whether it is."""
        self.writer.status = status
        patience = FOREVER if at_last else self.context.timing.write_patience
        return await self.writer.write(self.stop, patience)

    async def _believed(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask again while the API server refuses: only a refusal that lasts is believed."""
        deadline = Deadline.after(self.context.timing.refusal_patience)
        while True:
            try:
                return await ask()
            except Unauthorized:
                if deadline.passed or self.stop.is_set():
                    raise
            pause = min(self.context.timing.progress_every, deadline.left())
            await sleep_unless(self.stop, pause)

    async def _claim(self) -> bool:
        """Fix what this run will do. False if that can't be known, or there is no time left."""
        while not self.stop.is_set():
            try:
                spec, uid = await self._believed(self._backup)
            except StewardError as error:
                if self.stop.is_set():
                    return False
                if isinstance(error, TransientError) or self._may_come(error):
                    await sleep_unless(self.stop, self.context.timing.progress_every)
                    continue
                await self._fail(Failure.of(error))
                return False
            await self._set(
                transition.claimed(
                    self.status,
                    spec=spec,
                    backup_uid=uid,
                    now=datetime.now(UTC),
                    generation=self.identity.generation,
                )
            )
            return True
        return False

    def _may_come(self, error: StewardError) -> bool:
        age = (datetime.now(UTC) - self.identity.created).total_seconds()
        return isinstance(error, NotFound) and age < self.context.timing.backup_patience

    async def _backup(self) -> tuple[EtcdBackupSpec, str]:
        """The EtcdBackup's spec, as it is now, and its uid."""
        where = self.identity.backup
        try:
            backup = await self.context.kube.get(BACKUPS, where)
            spec = EtcdBackupSpec.model_validate(backup["spec"])
        except NotFound as error:
            raise NotFound(f"there is no EtcdBackup {where}", hint="Create it first") from error
        except ValidationError as error:
            raise InvalidInput(f"EtcdBackup {where}: {in_words(error)}") from error
        return spec, str(backup["metadata"]["uid"])

    async def _attempt(self, attempt: int) -> Outcome:
        """One attempt, when there is room for one more run."""
        slots = self.context.slots
        if slots.locked():
            await self._set(transition.waiting(self.status, "Waiting for other runs to end"))
        async with held_unless(self.stop, slots) as ours:
            if not ours:
                return Stopped(clean=not self._journals())
            return await self._attempt_now(attempt)

    async def _attempt_now(self, attempt: int) -> Outcome:
        """Resolve what the attempt needs, then let a child do it."""
        if not await self.context.leading(self.stop):
            return Stopped(clean=not self._journals())
        self.context.under_way.add(self.identity.uid)
        starts = (self.status.starts or 0) + 1
        try:
            request = await self._believed(lambda: self._request(starts))
        except StewardError as error:
            if self.stop.is_set():
                return Stopped(clean=not self._journals())
            return Failure.of(error)
        await self._set(
            transition.started(self.status, attempt=attempt, starts=starts, now=datetime.now(UTC))
        )
        if self.stop.is_set():
            return Stopped(clean=not self._journals())
        self.announce(
            "Normal",
            "RunStarted",
            f"{self.identity.key.name}: attempt {attempt} of {self.spec.attempts}",
        )
        outcome = await self._child(
            request, self.spec.active_deadline_seconds, self.context.timing.limits
        )
        if isinstance(outcome, Stopped) and request.earlier and request.earlier == self._journals():
            return Stopped(clean=False)  # it may not have got to what was there before it
        return outcome

    async def _request(self, starts: int) -> SnapshotRequest | ExportRequest:
        return await request_of(
            self.context, self.identity, self.status, self.spec, starts, self._journals()
        )

    def _journals(self) -> tuple[Journal, ...]:
        journal = self.status.journal
        if journal is None:
            return ()
        return (Journal(folder=journal.folder, key=journal.key, upload_id=journal.upload_id),)

    async def _child(
        self,
        request: SnapshotRequest | ExportRequest | SettleRequest,
        seconds: float,
        limits: Limits,
    ) -> Outcome:
        """Run a child with its progress written; past its deadline it is lost."""
        reporter = Reporter(self.writer, self.stop, self.context.timing, self.announce)
        try:
            async with asyncio.timeout(seconds + DEADLINE_SLACK), reporter.reporting():
                return await run_child(
                    self.context.command,
                    request,
                    reporter,
                    self.stop,
                    limits,
                )
        except TimeoutError:
            return Lost(
                Failure(
                    reason="TimedOut",
                    message=f"the run did not end within {seconds:.0f} s",
                    hint="Raise spec.activeDeadlineSeconds if your etcd is that large",
                    transient=True,
                )
            )

    async def settle(self) -> Outcome:
        """Find out what this run's dead processes left: adopt it, or clean up after them."""
        try:
            store = await resolve_store(
                self.spec, self.identity.key.namespace, self.context.config, self.context.kube
            )
        except StewardError as error:
            return Failure.of(error)
        seconds = self.context.timing.settle_within
        request = SettleRequest(
            store=store,
            spool=self.context.config.spool,
            run=self.identity.digits,
            earlier=self._journals(),
            timeout=seconds,
        )
        # It has nothing to report before it is done.
        limits = replace(self.context.timing.limits, silence=seconds + DEADLINE_SLACK)
        return await self._child(request, seconds, limits)

    async def _after_loss(self, failure: Failure) -> Outcome:
        """Settle what a lost process left; if it was not complete, its loss is a failure.

        Raises `Gone` if another operator has taken the run over: what looks like the lost one's may
        be that one's. (Perhaps we were frozen, and our process lost because of that.)
        """
        await self._confirm()
        self.context.under_way.add(self.identity.uid)
        outcome = await self.settle()
        match outcome:
            case Result():
                return outcome
            case Stopped():
                return Stopped(clean=False)
            case Settled():
                self.writer.status = transition.settled(self.status)
                return failure
            case Lost(failure=other) | (Failure() as other):
                journal = self.status.journal
                where = f" in folder {journal.folder}" if journal else ""
                hints = (
                    failure.hint,
                    f"What it left in the store{where} could not be looked at: {other.text}",
                )
                return failure.model_copy(update={"hint": ". ".join(filter(None, hints))})
            case _:
                raise AssertionError(f"a settlement does not answer {outcome}")

    async def _another(self, outcome: Outcome, attempt: int) -> bool:
        """Draw the conclusion; True if another attempt is to follow, now."""
        if isinstance(outcome, Lost):
            outcome = await self._after_loss(outcome.failure)
        elif (
            isinstance(outcome, Failure)
            and self._journals()
            and not (outcome.transient and attempt < self.spec.attempts)
            and outcome.reason != INTERRUPTED.reason  # that one was settled
        ):
            outcome = await self._after_loss(outcome)
        match outcome:
            case Result():
                await self._complete(outcome)
            case Stopped(clean=clean):
                await self._stopped(clean=clean)
            case Failure(transient=True) if attempt < self.spec.attempts:
                return await self._back_off(outcome, attempt)
            case Failure():
                await self._fail(outcome)
            case _:
                raise AssertionError(f"a snapshot's child does not answer {outcome}")
        return False

    async def _complete(self, result: Result) -> None:
        status = transition.completed(self.status, result, now=datetime.now(UTC))
        if not await self._set(status, at_last=True):
            return  # stopped: the next operator finds the manifest, and says so
        self._count("complete")
        self.context.look_through(self.identity.backup, prune=transition.verified(self.status))
        self.announce(
            "Normal",
            "Complete",
            f"{self.identity.key.name}: {transition.complete_message(result)}, "
            f"in {self.status.duration}",
        )

    async def _fail(self, failure: Failure) -> None:
        status = transition.failed(
            self.status, failure, backup_name=self.identity.backup_name, now=datetime.now(UTC)
        )
        if not await self._set(status, at_last=True):
            return
        self._count("failed")
        self.announce("Warning", failure.reason, f"{self.identity.key.name} failed: {failure.text}")

    def _count(self, result: str) -> None:
        self.context.metrics.count(*self.identity.backup, self.status.backup_uid, result)

    async def _back_off(self, failure: Failure, attempt: int) -> bool:
        delay = self.context.timing.back_off(attempt)
        await self._set(
            transition.retrying(
                self.status,
                failure,
                attempt=attempt,
                delay=delay,
                now=datetime.now(UTC),
            )
        )
        self.announce(
            "Warning",
            "Retrying",
            f"{self.identity.key.name}: attempt {attempt} of {self.spec.attempts} failed, the next "
            f"one comes in {words.duration(delay)}: {failure.text}",
        )
        self.context.under_way.discard(self.identity.uid)
        return not await sleep_unless(self.stop, delay)

    async def _stopped(self, *, clean: bool) -> None:
        """Leave word for whoever comes next: the same attempt begins again."""
        if clean:
            self.context.clean.add(self.identity.uid)
            self.writer.status = transition.settled(self.status)
        self.writer.status = transition.waiting(self.status, "Stopped with the operator")
        await self.writer.write(asyncio.Event(), LAST_WORDS)
