"""Which run of a standing order is due, decided from its status and the time: pure.

The status is the only memory: `anchorTime` says up to which moment the schedule has been followed.
A run is claimed by creating its EtcdSnapshot, whose name is made of its tick, so whoever finds it
due creates it once; the anchor moves when it is there. A restart neither loses nor doubles one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from etcd_steward.errors import InvalidSchedule
from etcd_steward.handlers import words
from etcd_steward.handlers.standing import Order, Run, of_order
from etcd_steward.handlers.ticks import AHEAD, Standing, follow, too_late, unscheduled
from etcd_steward.models.kinds import EtcdBackupStatus

TICK_AGE = timedelta(days=366)
"""A run may be made up for so much later than its tick."""


@dataclass(frozen=True, slots=True)
class Due:
    """A run that should exist and does not."""

    name: str
    """The same for everybody who finds the run due, so that it is created once."""
    why: str
    """For the log and the event."""
    then: EtcdBackupStatus
    """What the order's status says once the run exists."""


@dataclass(frozen=True, slots=True)
class Agenda:
    """What is to be done for an order now, and when to look again."""

    status: EtcdBackupStatus
    due: Due | None = None
    next: datetime | None = None
    """The next moment at which something may become due."""
    problem: InvalidSchedule | None = None
    missed: str | None = None
    """Words about runs that will never be made; the status counts them."""


def agenda(order: Order, runs: Sequence[Run], now: datetime) -> Agenda:
    """What is due: a run asked for first, then what the schedule says."""
    status = order.status
    if order.deleting or order.spec is None:
        return Agenda(status)
    asked = order.requested_at
    if asked is not None and asked != status.last_handled_requested_at:
        # Of an order that was deleted and made anew the same request is another one.
        digits = hashlib.sha256(f"{order.version.uid} {asked}".encode()).hexdigest()[:8]
        then = status.model_copy(update={"last_handled_requested_at": asked})
        # With a letter, so that it is never taken for a tick.
        return _claim(runs, Due(f"{order.key.name}-r{digits}", "asked for by annotation", then))
    if order.spec.schedule is None:
        return _once(order, runs)
    return _scheduled(order, of_order(order, runs), now)


def _claim(runs: Sequence[Run], due: Due) -> Agenda:
    """The run, or, if it exists, only what follows from that."""
    if any(run.key.name == due.name for run in runs):
        return Agenda(due.then)
    return Agenda(due.then, due)


def _once(order: Order, runs: Sequence[Run]) -> Agenda:
    """Without a schedule it runs once; its tick is its creation.

    A run that was deleted does not come back: the order's status remembers it.
    """
    status = unscheduled(order.status)
    done = status.active_snapshot_name or status.last_snapshot_name
    if done or order.spec is None or order.spec.suspend:
        return Agenda(status)
    return _claim(runs, Due(run_name(order, order.created), "it has no schedule: once", status))


def run_name(order: Order, tick: datetime) -> str:
    """The name of the run for a tick."""
    return f"{order.key.name}-{int(tick.timestamp())}"


def _scheduled(order: Order, runs: Sequence[Run], now: datetime) -> Agenda:
    spec = order.spec
    assert spec is not None  # noqa: S101  # `agenda` has looked
    # A run may exist though the write of the status that tells of it was lost.
    made = {tick_of(run.key.name, order.key.name, run.created, made_by_us=True) for run in runs}
    tick = follow(
        Standing(order.version.uid, order.created, order.status, spec),
        now,
        made=made,
        busy=any(not run.terminal for run in runs),
        late=too_late(spec.starting_deadline_seconds),
    )
    if tick.due is None:
        return Agenda(tick.status, None, tick.next, tick.problem, tick.missed)
    due = Due(run_name(order, tick.due), f"its tick {words.timestamp(tick.due)}", tick.status)
    claimed = _claim(runs, due)
    missed = tick.missed if claimed.due is not None else None
    return Agenda(claimed.status, claimed.due, tick.next, missed=missed)


def tick_of(name: str, backup_name: str, created: datetime, *, made_by_us: bool) -> datetime:
    """The moment that a run stands for: in its name if `run_name` named it, else its creation.

    A person may name a run like one of ours, and copy its label: a tick after the creation, or long
    before it, is none.
    """
    digits = name.removeprefix(f"{backup_name}-")
    if made_by_us and digits != name and digits.isdecimal() and len(digits) <= 11:
        tick = datetime.fromtimestamp(int(digits), UTC)
        if created - TICK_AGE <= tick <= created + AHEAD:
            return tick
    return created
