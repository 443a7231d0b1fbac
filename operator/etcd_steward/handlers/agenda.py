"""Which run of a standing order is due, decided from its status and the time: pure.

The status is the only memory: `anchorTime` says up to which moment the schedule has been followed.
A run is claimed by creating its EtcdSnapshot, whose name is made of its tick, so whoever finds it
due creates it once; the anchor moves when it is there. A restart neither loses nor doubles one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from etcd_steward.engine.schedule import Schedule, offset
from etcd_steward.errors import InvalidSchedule
from etcd_steward.handlers import words
from etcd_steward.handlers.standing import Order, Run, of_order
from etcd_steward.models.kinds import EtcdBackupStatus

AHEAD = timedelta(minutes=1)
"""An anchor further ahead than this was set while the clock was wrong."""
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
        digits = hashlib.sha256(asked.encode()).hexdigest()[:8]
        then = status.model_copy(update={"last_handled_requested_at": asked})
        # With a letter, so that it is never taken for a tick.
        return _claim(runs, Due(f"{order.key.name}-r{digits}", "asked for by annotation", then))
    if order.spec.schedule is None:
        return _once(order, runs)
    return _scheduled(order, order.spec.schedule, of_order(order, runs), now)


def _claim(runs: Sequence[Run], due: Due) -> Agenda:
    """The run, or, if it exists, only what follows from that."""
    if any(run.key.name == due.name for run in runs):
        return Agenda(due.then)
    return Agenda(due.then, due)


def _once(order: Order, runs: Sequence[Run]) -> Agenda:
    """Without a schedule it runs once; its tick is its creation.

    A run that was deleted does not come back: the order's status remembers it.
    """
    status = order.status.model_copy(
        update={"observed_schedule": None, "anchor_time": None, "next_schedule_time": None}
    )
    done = status.active_snapshot_name or status.last_snapshot_name
    if done or order.spec is None or order.spec.suspend:
        return Agenda(status)
    return _claim(runs, Due(run_name(order, order.created), "it has no schedule: once", status))


def run_name(order: Order, tick: datetime) -> str:
    """The name of the run for a tick."""
    return f"{order.key.name}-{int(tick.timestamp())}"


def _scheduled(order: Order, expression: str, runs: Sequence[Run], now: datetime) -> Agenda:
    spec, status = order.spec, order.status
    assert spec is not None  # noqa: S101  # `agenda` has looked
    observed = f"{expression} {spec.time_zone}"
    try:
        schedule = Schedule.parse(expression, spec.time_zone)
    except InvalidSchedule as error:
        return Agenda(status.model_copy(update={"next_schedule_time": None}), problem=error)
    anchor = _anchor(order, observed, now)
    status = status.model_copy(
        update={"observed_schedule": observed, "anchor_time": words.timestamp(anchor)}
    )
    if spec.suspend:
        return Agenda(status.model_copy(update={"next_schedule_time": None}))
    shift = offset(order.version.uid, spec.spread)
    # A run may exist though the write of the status that tells of it was lost.
    made = {tick_of(run.key.name, order.key.name, run.created, made_by_us=True) for run in runs}
    passed = schedule.missed(anchor, now - shift, made)
    if passed is None:
        return _waiting(status, schedule.next(max(anchor, now - shift)) + shift)
    after = schedule.next(passed.newest) + shift
    followed = status.model_copy(
        update={
            "anchor_time": words.timestamp(passed.newest),
            "next_schedule_time": words.timestamp(after),
        }
    )
    deadline = spec.starting_deadline_seconds
    late = (now - passed.newest - shift).total_seconds()
    if deadline is not None and late > deadline:
        count = passed.earlier + 1
        return Agenda(
            _missing(followed, count),
            next=after,
            missed=f"{_times(count)} until {words.timestamp(passed.newest)} passed with no run: "
            f"later than startingDeadlineSeconds ({deadline}) allows",
        )
    if any(not run.terminal for run in runs):
        return Agenda(status, next=after)  # when that one ends, the newest is made up for
    then = _missing(followed, passed.earlier).model_copy(
        update={"last_schedule_time": words.timestamp(passed.newest)}
    )
    due = Due(run_name(order, passed.newest), f"its tick {words.timestamp(passed.newest)}", then)
    claimed = _claim(runs, due)
    missed = None
    if claimed.due is not None and passed.earlier:
        missed = f"{_times(passed.earlier)} before this run passed with none"
    return Agenda(claimed.status, claimed.due, after, missed=missed)


def _waiting(status: EtcdBackupStatus, then: datetime) -> Agenda:
    return Agenda(
        status.model_copy(update={"next_schedule_time": words.timestamp(then)}), next=then
    )


def _missing(status: EtcdBackupStatus, count: int) -> EtcdBackupStatus:
    if not count:
        return status
    return status.model_copy(update={"missed_runs": (status.missed_runs or 0) + count})


def _times(count: int) -> str:
    return "1 time of the schedule" if count == 1 else f"{count} times of the schedule"


def _anchor(order: Order, observed: str, now: datetime) -> datetime:
    """Up to when the schedule has been followed.

    A schedule that was changed is followed from now on. An anchor that lies ahead was set while the
    clock was wrong; runs that were made then keep their names, so none of them is made twice.
    """
    status = order.status
    if status.anchor_time is None:
        return min(order.created, now)
    anchor = words.moment(status.anchor_time)
    return now if status.observed_schedule != observed or anchor > now + AHEAD else anchor


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
