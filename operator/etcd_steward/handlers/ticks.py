"""What a schedule asks for, of whatever standing order: pure.

The status is the only memory: `anchorTime` says up to which moment the schedule has been followed.
It moves when what was due is begun, so a restart neither loses nor doubles anything.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from etcd_steward.engine.schedule import Schedule, offset
from etcd_steward.errors import InvalidSchedule
from etcd_steward.handlers import words
from etcd_steward.models.kinds import EtcdBackupSpec, EtcdBackupStatus
from etcd_steward.models.maintenance_kinds import EtcdMaintenanceSpec, EtcdMaintenanceStatus

AHEAD = timedelta(minutes=1)
"""An anchor further ahead than this was set while the clock was wrong."""

Status = TypeVar("Status", EtcdBackupStatus, EtcdMaintenanceStatus)


@dataclass(frozen=True, slots=True)
class TooLate:
    """From when on a time of the schedule is not made up for."""

    seconds: float
    why: str
    """For the event."""


@dataclass(frozen=True, slots=True)
class Standing(Generic[Status]):
    """Whose schedule is followed."""

    uid: str
    created: datetime
    status: Status
    spec: EtcdBackupSpec | EtcdMaintenanceSpec


@dataclass(frozen=True, slots=True)
class Tick(Generic[Status]):
    """What the schedule asks for now."""

    status: Status
    """What the order's status says; where something is `due`, once that has begun."""
    due: datetime | None = None
    """The time of the schedule that is to be made."""
    next: datetime | None = None
    """The next moment at which something may become due."""
    problem: InvalidSchedule | None = None
    missed: str | None = None
    """Words about times that will never be made; the status counts them."""


def follow(
    order: Standing[Status],
    now: datetime,
    *,
    made: Collection[datetime] = (),
    busy: bool = False,
    late: TooLate | None = None,
) -> Tick[Status]:
    """Follow a schedule; `made` are its times that are known to have been made.

    What is due while the order is `busy` comes when that has ended.
    """
    spec, status = order.spec, order.status
    assert spec.schedule is not None  # noqa: S101  # callers have looked
    observed = f"{spec.schedule} {spec.time_zone}"
    try:
        schedule = Schedule.parse(spec.schedule, spec.time_zone)
    except InvalidSchedule as error:
        return Tick(status.model_copy(update={"next_schedule_time": None}), problem=error)
    anchor = _anchor(order, observed, now)
    status = status.model_copy(
        update={"observed_schedule": observed, "anchor_time": words.timestamp(anchor)}
    )
    if spec.suspend:
        return Tick(status.model_copy(update={"next_schedule_time": None}))
    shift = offset(order.uid, spec.spread)
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
    if late is not None and (now - passed.newest - shift).total_seconds() > late.seconds:
        count = passed.earlier + 1
        return Tick(
            _missing(followed, count),
            next=after,
            missed=f"{_times(count)} until {words.timestamp(passed.newest)} passed with no run: "
            f"{late.why}",
        )
    if busy:
        return Tick(status, next=after)  # when that ends, the newest is made up for
    then = _missing(followed, passed.earlier).model_copy(
        update={"last_schedule_time": words.timestamp(passed.newest)}
    )
    missed = f"{_times(passed.earlier)} before this run passed with none"
    return Tick(then, passed.newest, after, missed=missed if passed.earlier else None)


def unscheduled(status: Status) -> Status:
    """What the status of an order without a schedule says."""
    return status.model_copy(
        update={"observed_schedule": None, "anchor_time": None, "next_schedule_time": None}
    )


def aside(order: Standing[Status]) -> Status:
    """What the status says while another order acts in its place: later it begins at that time."""
    anchor = order.status.anchor_time or words.timestamp(order.created)
    return unscheduled(order.status).model_copy(update={"anchor_time": anchor})


def too_late(deadline: int | None) -> TooLate | None:
    """What `startingDeadlineSeconds` says."""
    if deadline is None:
        return None
    return TooLate(deadline, f"later than startingDeadlineSeconds ({deadline}) allows")


def _waiting(status: Status, then: datetime) -> Tick[Status]:
    return Tick(status.model_copy(update={"next_schedule_time": words.timestamp(then)}), next=then)


def _missing(status: Status, count: int) -> Status:
    if not count:
        return status
    return status.model_copy(update={"missed_runs": (status.missed_runs or 0) + count})


def _times(count: int) -> str:
    return "1 time of the schedule" if count == 1 else f"{count} times of the schedule"


def _anchor(order: Standing[Status], observed: str, now: datetime) -> datetime:
    """Up to when the schedule has been followed.

    A schedule that was changed is followed from now on. An anchor that lies ahead was set while the
    clock was wrong; runs that were made then keep their names, so none of them is made twice.
    """
    status = order.status
    if status.anchor_time is None:
        return min(order.created, now)
    anchor = words.moment(status.anchor_time)
    return now if status.observed_schedule != observed or anchor > now + AHEAD else anchor
