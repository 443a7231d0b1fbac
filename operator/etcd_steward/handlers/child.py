"""A run's child process: spawned, listened to, stopped.

The child is the same engine in a process of its own (`etcd_steward.runner`). Its standard input is
its lifeline: when that closes, because we want it to or because we are dead, it aborts its upload
and exits. Spawned from the event loop, that is from the main thread.
"""

import asyncio
import contextlib
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from etcd_steward.models.jobs import EVENT, Request
from etcd_steward.models.maintenance_run import MaintenanceEnded, MemberDone, MemberTurn
from etcd_steward.models.observation import Observation
from etcd_steward.models.restore_run import PlanMade, RestoreEnded
from etcd_steward.models.run import (
    BackupRequest,
    Catalogued,
    CatalogueEntry,
    Failure,
    Journal,
    Progress,
    Result,
    Settled,
    Warned,
)

log = logging.getLogger(__name__)

RUNNER = (sys.executable, "-m", "etcd_steward.runner")
LINE_LIMIT = 4 << 20
"""Bytes; a manifest has at most one MiB."""


class Listener:
    """Whoever is told what a child says; this one minds nothing but what its job may not do."""

    def progress(self, progress: Progress) -> None:
        """The run is this far. Must not block."""

    def warning(self, message: str) -> None:
        """Something to look at though the run goes on. Must not block."""

    def entry(self, entry: CatalogueEntry) -> None:
        """A backup lies in the store. Must not block."""
        raise AssertionError(f"this job lists nothing, and found {entry.url}")

    def planned(self, plan: PlanMade) -> None:
        """A restore is about to write this. Must not block."""
        raise AssertionError(f"this job restores nothing, and planned {plan.url}")

    def member(self, event: MemberTurn | MemberDone) -> None:
        """A member's turn has come, or is over. Must not block."""
        raise AssertionError(f"this job maintains nothing, and told of {event}")

    async def journal(self, journal: Journal) -> None:
        """Write this down; the child goes on when this returns."""
        raise AssertionError(f"this job uploads nothing, and began {journal.key}")


@dataclass(frozen=True, slots=True)
class Stopped:
    """The child was told to stop before it was done."""

    clean: bool
    """It said as its last word that nothing of it is left in the store."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The child is gone without an outcome of its own: what it left must be settled."""

    failure: Failure


Outcome = (
    Result
    | Settled
    | Catalogued
    | PlanMade
    | RestoreEnded
    | MaintenanceEnded
    | Failure
    | Stopped
    | Lost
)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a child may be silent, and how long it may take to stop."""

    silence: float = 90.0
    """Seconds; a child reports at least every 15."""
    grace: float = 20.0
    """Seconds to abort an upload after it was told to stop."""


async def run_child(
    command: Sequence[str],
    request: Request,
    listener: Listener,
    stop: asyncio.Event,
    limits: Limits,
) -> Outcome:
    """Run one job to its end, or until `stop` is set; the child is gone when this returns.

    Whatever becomes of the child is an outcome, not an exception.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
            start_new_session=True,  # Ctrl-C at a terminal is for us alone: we stop it in order
        )
    except OSError as error:
        return _unborn(error)
    child = _Child(process, listener, stop, limits)
    stopper = asyncio.create_task(child.stop_when_told(), name="stop the run when told")
    try:
        await child.say(request.model_dump_json(by_alias=True))
        outcome = await child.listen()
        if isinstance(outcome, Settled) and isinstance(request, BackupRequest):
            return Stopped(clean=True) if stop.is_set() else _died(0)
        return outcome
    finally:
        stopper.cancel()
        if process.returncode is None:
            process.kill()
        await process.wait()


@dataclass(slots=True)
class _Child:
    process: asyncio.subprocess.Process
    listener: Listener
    stop: asyncio.Event
    limits: Limits

    async def say(self, line: str) -> None:
        """One line to the child; if it is gone, its end says why."""
        stdin = self.process.stdin
        if stdin is None or stdin.is_closing():
            return
        with contextlib.suppress(ConnectionError):
            stdin.write(line.encode() + b"\n")
            await stdin.drain()

    async def listen(self) -> Outcome:
        """Hear it out."""
        outcome: Outcome | None = None
        while outcome is None:
            try:
                async with asyncio.timeout(self.limits.silence):
                    line = await self._read_line()
            except TimeoutError:
                return _silent(self.limits.silence)
            if not line:
                return await self._ended()
            outcome = await self._hear(line)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.limits.grace):
                await self.process.wait()
        return outcome

    async def _read_line(self) -> bytes:
        stdout = self.process.stdout
        return b"" if stdout is None else await stdout.readline()

    async def _hear(self, line: bytes) -> Outcome | None:
        try:
            event = EVENT.validate_json(line)
        except ValidationError:
            log.error("a run's process said something that is no event (%d bytes)", len(line))  # noqa: TRY400 - the line itself may hold anything
            return _lost(
                reason="Internal",
                message="the run's process said something that can't be understood",
                hint="This is a bug; its log lines are in the operator's log",
            )
        match event:
            case Journal():
                await self.listener.journal(event)
                await self.say("ok")
            case Progress() | Warned() | CatalogueEntry() | MemberTurn() | MemberDone():
                self._pass_on(event)
            case PlanMade(applying=True):
                self.listener.planned(event)
            case Observation():
                raise AssertionError("the observer's child is followed by the observer")
            case _:
                return event
        return None

    def _pass_on(self, event: Progress | Warned | CatalogueEntry | MemberTurn | MemberDone) -> None:
        match event:
            case Progress():
                self.listener.progress(event)
            case Warned():
                self.listener.warning(event.message)
            case CatalogueEntry():
                self.listener.entry(event)
            case MemberTurn() | MemberDone():
                self.listener.member(event)

    async def _ended(self) -> Outcome:
        code = await self.process.wait()
        if self.stop.is_set():
            return Stopped(clean=False)
        return _died(code)

    async def stop_when_told(self) -> None:
        """Close the lifeline when `stop` is set, and kill a child that does not mind."""
        await self.stop.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        await asyncio.sleep(self.limits.grace)
        if self.process.returncode is None:
            log.warning("a run's process did not stop within %.0f s: killed", self.limits.grace)
            self.process.kill()


def _silent(seconds: float) -> Lost:
    return _lost(
        reason="Silent",
        message=f"the run's process said nothing for {seconds:.0f} s and was killed",
        hint="Look at the load of the operator's node and at its log",
    )


def _died(code: int) -> Lost:
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    return _lost(
        reason="Died",
        message=f"the run's process {how} without a word",
        hint="If memory was short, raise the operator's memory limit; its log says more",
    )


def _unborn(error: OSError) -> Lost:
    return _lost(
        reason="Died",
        message=f"no process could be started for the run: {error.strerror or error}",
        hint="Look at the operator's limits of memory and of processes (pids), and at its node",
    )


def _lost(reason: str, message: str, hint: str) -> Lost:
    return Lost(Failure(reason=reason, message=message, hint=hint, transient=True))
