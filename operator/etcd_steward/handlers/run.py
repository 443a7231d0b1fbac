"""One run, from its claim to its end, whatever dies on the way.

The state is the EtcdSnapshot's status; what is decided here is decided from it, so that a new
operator goes on where the old one was killed:

    no phase   claim it: copy the backup's spec, then attempt 1
    Pending    begin (or begin again) the attempt that `attempt` says
    Running    that attempt's process died with its operator: what it left is settled, adopted if it
               is complete; else the next attempt follows, or none if that was the last
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from pydantic import ValidationError

from etcd_steward.errors import InvalidInput, NotFound, StewardError, TransientError
from etcd_steward.handlers import status as transition
from etcd_steward.handlers import words
from etcd_steward.handlers.child import Limits, Lost, Outcome, Stopped, run_child
from etcd_steward.handlers.context import Context
from etcd_steward.handlers.reporter import Reporter
from etcd_steward.handlers.resolve import resolve_etcd, resolve_store
from etcd_steward.handlers.schedule import tick_of
from etcd_steward.handlers.waits import held_unless, sleep_unless
from etcd_steward.handlers.writer import Gone, StatusWriter
from etcd_steward.kube import BACKUPS, Key
from etcd_steward.models.kinds import EtcdBackupSpec, EtcdSnapshotStatus
from etcd_steward.models.manifest import BackupRef, RunRef
from etcd_steward.models.run import (
    Failure,
    Journal,
    Result,
    Settled,
    SettleRequest,
    SnapshotRequest,
)

SETTLE_TIMEOUT = 120.0
"""Seconds to find out what a dead run left."""
DEADLINE_SLACK = 60.0
"""Seconds that a child gets beyond its own deadline before it is killed."""
LAST_WORDS = 5.0
"""Seconds to write down that a run was stopped."""

Announce = Callable[[Literal["Normal", "Warning"], str, str], None]
"""Post an event: type, reason, message."""

INTERRUPTED = Failure(
    reason="Interrupted",
    message="the operator died in mid-run",
    hint="Its pod's last state says why",
    transient=True,
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Which EtcdSnapshot."""

    key: Key
    uid: str
    generation: int
    created: datetime
    backup_name: str
    made_by_us: bool
    """The scheduler created it, not a person."""

    @property
    def digits(self) -> str:
        """The run's own digits in the store."""
        return self.uid.replace("-", "")[:8]

    @property
    def backup(self) -> Key:
        """The EtcdBackup that it names."""
        return Key(self.key.namespace, self.backup_name)


@dataclass(slots=True)
class ActiveRun:
    """Drives one EtcdSnapshot to its end."""

    context: Context
    identity: Identity
    writer: StatusWriter
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
        lock = self.context.turns[self.identity.backup]
        with contextlib.suppress(Gone):
            if lock.locked():
                await self._set(transition.waiting(self.status, "Another run is under way"))
            async with held_unless(self.stop, lock) as ours:
                if ours:
                    await self._drive()

    async def _drive(self) -> None:
        if self.status.backup_spec is None and not await self._claim():
            return
        attempt = self.status.attempt or 1
        if self.status.phase == "Running":
            outcome = await self._after_loss(INTERRUPTED)
        else:
            outcome = await self._attempt(attempt)
        while await self._another(outcome, attempt):
            attempt += 1
            outcome = await self._attempt(attempt)

    async def _set(self, status: EtcdSnapshotStatus) -> None:
        self.writer.status = status
        await self.writer.write(self.stop)

    async def _claim(self) -> bool:
        """Fix what this run will do. False if that can't be known, or there is no time left."""
        while not self.stop.is_set():
            try:
                spec, uid = await self._backup()
            except TransientError:
                await sleep_unless(self.stop, self.context.timing.progress_every)
                continue
            except StewardError as error:
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

    async def _backup(self) -> tuple[EtcdBackupSpec, str]:
        """The EtcdBackup's spec, as it is now, and its uid."""
        where = self.identity.backup
        try:
            backup = await self.context.kube.get(BACKUPS, where)
            spec = EtcdBackupSpec.model_validate(backup["spec"])
        except NotFound as error:
            raise NotFound(f"there is no EtcdBackup {where}", hint="Create it first") from error
        except ValidationError as error:
            faults = (f"{fault['loc']}: {fault['msg']}" for fault in error.errors())
            raise InvalidInput(f"EtcdBackup {where}: {'; '.join(faults)}") from error
        return spec, str(backup["metadata"]["uid"])

    async def _attempt(self, attempt: int) -> Outcome:
        """One attempt: resolve what it needs, then let a child do it."""
        try:
            request = await self._request(attempt)
        except _Sided as error:
            return Failure.of(error.error).model_copy(update={"side": error.side})
        await self._set(transition.started(self.status, attempt=attempt, now=datetime.now(UTC)))
        if self.stop.is_set():
            return Stopped(clean=True)
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

    async def _request(self, attempt: int) -> SnapshotRequest:
        identity, context, spec = self.identity, self.context, self.spec
        namespace = identity.key.namespace
        with _side("etcd"):
            etcd = await resolve_etcd(spec, namespace, context.config, context.kube)
        with _side("store"):
            store = await resolve_store(spec, namespace, context.config, context.kube)
        by = f"EtcdBackup {identity.backup}" if identity.made_by_us else "a person"
        return SnapshotRequest(
            etcd=etcd,
            store=store,
            spool=context.config.spool,
            backup=BackupRef(
                namespace=namespace, name=identity.backup_name, uid=self.status.backup_uid
            ),
            requester=RunRef(name=identity.key.name, uid=identity.uid, requested_by=by),
            run=identity.digits if attempt == 1 else f"{identity.digits}.{attempt}",
            tick=tick_of(identity.key.name, identity.backup_name, identity.created),
            registry_prefix=context.config.registry_prefix,
            timeout=float(spec.active_deadline_seconds),
            earlier=self._journals(),
        )

    def _journals(self) -> tuple[Journal, ...]:
        journal = self.status.journal
        if journal is None:
            return ()
        return (Journal(folder=journal.folder, key=journal.key, upload_id=journal.upload_id),)

    async def _child(
        self, request: SnapshotRequest | SettleRequest, seconds: float, limits: Limits
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
        request = SettleRequest(
            store=store,
            spool=self.context.config.spool,
            run=self.identity.digits,
            earlier=self._journals(),
            timeout=SETTLE_TIMEOUT,
        )
        # It has nothing to report before it is done.
        limits = replace(self.context.timing.limits, silence=SETTLE_TIMEOUT + DEADLINE_SLACK)
        return await self._child(request, SETTLE_TIMEOUT, limits)

    async def _after_loss(self, failure: Failure) -> Outcome:
        """Settle what a lost process left; if it was not complete, its loss is a failure."""
        outcome = await self.settle()
        match outcome:
            case Result():
                return outcome
            case Stopped():
                return Stopped(clean=False)
            case Settled():
                self.writer.status = self.status.model_copy(update={"journal": None})
                return failure
            case Lost(failure=other) | (Failure() as other):
                hint = f"What it left in the store could not be looked at: {other.text}"
                return failure.model_copy(update={"hint": hint})

    async def _another(self, outcome: Outcome, attempt: int) -> bool:
        """Draw the conclusion; True if another attempt is to follow, now."""
        if isinstance(outcome, Lost):
            outcome = await self._after_loss(outcome.failure)
        match outcome:
            case Result():
                await self._complete(outcome)
            case Stopped(clean=clean):
                await self._stopped(clean=clean)
            case Failure(transient=True) if attempt < self.spec.attempts:
                return await self._back_off(outcome, attempt)
            case Failure():
                await self._fail(outcome)
            case Settled() | Lost():
                raise AssertionError("a snapshot's child does not settle")
        return False

    async def _complete(self, result: Result) -> None:
        await self._set(transition.completed(self.status, result, now=datetime.now(UTC)))
        self.context.metrics.count(*self.identity.backup, "complete")
        self.announce(
            "Normal",
            "Complete",
            f"{self.identity.key.name}: {transition.complete_message(result)}, "
            f"in {self.status.duration}",
        )

    async def _fail(self, failure: Failure) -> None:
        await self._set(
            transition.failed(
                self.status,
                failure,
                backup_name=self.identity.backup_name,
                now=datetime.now(UTC),
            )
        )
        self.context.metrics.count(*self.identity.backup, "failed")
        self.announce("Warning", failure.reason, f"{self.identity.key.name} failed: {failure.text}")

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
        return not await sleep_unless(self.stop, delay)

    async def _stopped(self, *, clean: bool) -> None:
        """Leave word for whoever comes next: the same attempt begins again."""
        if clean:
            self.context.clean.add(self.identity.uid)
            self.writer.status = self.status.model_copy(update={"journal": None})
        self.writer.status = transition.waiting(self.status, "Stopped with the operator")
        await self.writer.write(asyncio.Event(), LAST_WORDS)


class _Sided(Exception):
    """An error, and which side it came from."""

    def __init__(self, side: Literal["etcd", "store"], error: StewardError) -> None:
        super().__init__(str(error))
        self.side = side
        self.error = error


@contextlib.contextmanager
def _side(side: Literal["etcd", "store"]) -> Iterator[None]:
    try:
        yield
    except StewardError as error:
        raise _Sided(side, error) from error
