"""What is due for an etcd that is looked after, from spec, status, observation and time: pure.

The status is the schedule's only memory, as with backups. What an alarm or a stalled compaction
asks for is decided from the latest observation alone, so it needs no memory and no write: on the
day etcd is full, the API server takes none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from etcd_steward.engine.schedule import offset
from etcd_steward.errors import InvalidSchedule
from etcd_steward.handlers import words
from etcd_steward.handlers.maintained import Maintained
from etcd_steward.handlers.quantities import span
from etcd_steward.handlers.ticks import Standing, TooLate, aside, follow, too_late, unscheduled
from etcd_steward.kube import Key
from etcd_steward.models.maintenance_kinds import (
    Compaction,
    EtcdMaintenanceSpec,
    EtcdMaintenanceStatus,
)
from etcd_steward.models.observation import Observation

Task = Literal["round", "compaction", "rescue"]
Mode = Literal["Apply", "Plan"]

RESCUE_AGAIN: Final = timedelta(minutes=5)
"""After a rescue that left the alarm standing; then after as long as that has stood by then."""
RESCUE_AT_LEAST_EVERY: Final = timedelta(hours=1)
COMPACTION_EVERY: Final = timedelta(minutes=5)
"""As the API server does."""
PREPARED_EVERY: Final = timedelta(days=1)
"""So often it is made sure that a rescue's tokens stand in etcd, which takes none when it is full;
whoever looks at whether to compact does that."""
STALLED_AFTER: Final = timedelta(minutes=30)
_OF_THE_SCHEDULE: Final = (
    "observed_schedule",
    "anchor_time",
    "last_schedule_time",
    "next_schedule_time",
    "missed_runs",
)
STALE: Final = timedelta(minutes=3)
"""An observation older than this says nothing about now."""
SKEW: Final = timedelta(minutes=1)
"""A moment further ahead than this was told by a clock that has been set back since."""


@dataclass(slots=True)
class Memory:
    """What this operator remembers of an etcd that it looks after."""

    compaction_checked: datetime | None = None
    """When it was last looked at whether to compact."""
    prepared: datetime | None = None
    """When it was last made sure that a later rescue finds what it needs."""
    full_since: datetime | None = None
    """Since when NOSPACE has been seen at each look."""
    not_before: datetime | None = None
    """When a round that did not get through is to be tried again."""
    _looked: datetime | None = None

    def look(self, now: datetime) -> None:
        """Begin a look; what a clock tells that was set back since would hold everything up."""
        if self._looked is not None and now < self._looked - SKEW:
            self.compaction_checked = self.prepared = self.full_since = self.not_before = None
        self._looked = now


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of an etcd beside its resource."""

    observation: Observation | None = None
    elder: Key | None = None
    """Another EtcdMaintenance for the same etcd, which comes first."""
    memory: Memory = field(default_factory=Memory)


@dataclass(frozen=True, slots=True)
class Due:
    """A task that should begin."""

    task: Task
    mode: Mode
    why: str
    """For the log and the event."""
    then: Mapping[str, object] = field(default_factory=dict)
    """What changes in the status once it has begun."""
    ends_at: datetime | None = None
    """When its window is over."""
    attempt: int = 1
    snapshot: str = ""
    """Of a rescue: what an earlier one has taken since etcd became full, when writes ended."""


@dataclass(frozen=True, slots=True)
class Agenda:
    """What is to be done now, and when to look again."""

    status: EtcdMaintenanceStatus
    due: Due | None = None
    next: datetime | None = None
    """The next moment at which something may become due."""
    problem: InvalidSchedule | None = None
    missed: str | None = None
    """Words about rounds that will never be made; the status counts them."""


def agenda(order: Maintained, seen: Seen, now: datetime, *, busy: bool = False) -> Agenda:
    """What is due: a rescue first, then what was begun, was asked for, or is scheduled.

    While a task is under way (`busy`) nothing is; what the schedule asks for meanwhile comes when
    that has ended.
    """
    spec = order.spec
    if order.deleting or spec is None:
        return Agenda(unscheduled(order.status))
    if seen.elder is not None:
        return Agenda(aside(Standing(order.version.uid, order.created, order.status, spec)))
    plan = _scheduled(order, spec, now, busy=busy or _needs_care(seen))
    if busy or spec.suspend or seen.observation is None:
        return plan
    due = _rescue(order, plan.status, seen, now)
    if due is None:
        due = _ordinary(order, seen, plan, now)
    return replace(plan, due=due)


def _ordinary(order: Maintained, seen: Seen, plan: Agenda, now: datetime) -> Due | None:
    spec, observation = order.spec, seen.observation
    assert spec is not None  # noqa: S101  # `agenda` has looked
    assert observation is not None  # noqa: S101
    if observation.has_alarm("CORRUPT"):
        return None
    if _waits(order):
        again = seen.memory.not_before
        early = again is not None and now < again
        return None if early else _again(plan.status)
    full = observation.has_alarm("NOSPACE")
    asked = None if full and spec.mode == "Apply" else _asked(order, spec, plan)
    due = asked or plan.due
    if due is None and not full:
        return _compaction(spec, seen, now)
    return due


def must_stop(order: Maintained | None, seen: Seen) -> str:
    """Why a task that is under way must end before its next member; empty if it may go on."""
    if order is None or order.deleting:
        return "the EtcdMaintenance was deleted"
    if order.spec is not None and order.spec.suspend:
        return "spec.suspend was set"
    if seen.observation is not None and seen.observation.has_alarm("CORRUPT"):
        return "etcd has raised CORRUPT: nothing is done to it any more"
    return ""


def _needs_care(seen: Seen) -> bool:
    """Whether a round can't begin now; it is made up for when that is over."""
    observation = seen.observation
    return observation is None or any(observation.has_alarm(one) for one in ("NOSPACE", "CORRUPT"))


def _scheduled(
    order: Maintained, spec: EtcdMaintenanceSpec, now: datetime, *, busy: bool
) -> Agenda:
    if spec.schedule is None:
        return Agenda(unscheduled(order.status))
    tick = follow(
        Standing(order.version.uid, order.created, order.status, spec),
        now,
        busy=busy or _waits(order),
        late=_late(spec),
    )
    if tick.due is None:
        return Agenda(tick.status, None, tick.next, tick.problem, tick.missed)
    ends_at = None
    if spec.window is not None:
        ends_at = tick.due + offset(order.version.uid, spec.spread) + span(spec.window.duration)
    why = f"its tick {words.timestamp(tick.due)}"
    if tick.missed is not None:
        why = f"{why}; {tick.missed}"
    then = {name: getattr(tick.status, name) for name in _OF_THE_SCHEDULE}
    return Agenda(order.status, Due("round", spec.mode, why, then, ends_at), tick.next)


def _late(spec: EtcdMaintenanceSpec) -> TooLate | None:
    deadline = too_late(spec.starting_deadline_seconds)
    if spec.window is None:
        return deadline
    window = TooLate(
        span(spec.window.duration).total_seconds(),
        f"its window of {spec.window.duration} was over",
    )
    return window if deadline is None else min(deadline, window, key=lambda one: one.seconds)


def _waits(order: Maintained) -> bool:
    """Whether a round was begun that is to go on: it stopped with its operator, or was refused."""
    return order.status.phase == "Pending" and order.status.task == "round"


def _again(status: EtcdMaintenanceStatus) -> Due:
    ends_at = words.moment(status.task_end_time) if status.task_end_time else None
    mode, attempt = status.task_mode or "Apply", status.attempt or 1
    return Due("round", mode, f"attempt {attempt}", {}, ends_at, attempt)


def _asked(order: Maintained, spec: EtcdMaintenanceSpec, plan: Agenda) -> Due | None:
    asked = order.requested_at
    if asked is None or asked == plan.status.last_handled_requested_at:
        return None
    # What the schedule asks for at the same moment is the same round.
    scheduled = plan.due.then if plan.due is not None else {}
    then = {**scheduled, "last_handled_requested_at": asked}
    if spec.defragmentation is None:
        why = "asked for by annotation; with no spec.defragmentation it is only planned"
        return Due("round", "Plan", why, then)
    return Due("round", spec.mode, "asked for by annotation", then)


def _rescue(
    order: Maintained, status: EtcdMaintenanceStatus, seen: Seen, now: datetime
) -> Due | None:
    """A rescue needs no write before it begins: neither a schedule's nor a request's memory."""
    observation = seen.observation
    assert observation is not None  # noqa: S101  # `agenda` has looked
    if not observation.has_alarm("NOSPACE") or observation.has_alarm("CORRUPT"):
        return None
    spec = order.spec
    asked = order.requested_at not in {None, status.last_handled_requested_at}
    if not order.rescues and not (asked and spec is not None and spec.mode == "Apply"):
        return None
    full_since = seen.memory.full_since
    last, snapshot = status.last_rescue, ""
    if last is not None and words.moment(last.completion_time) <= now + SKEW:
        since = words.moment(last.completion_time) + timedelta(seconds=1)  # they are whole ones
        stood = since - full_since if full_since is not None else timedelta()
        wait = max(RESCUE_AGAIN, min(stood, RESCUE_AT_LEAST_EVERY))
        early = last.outcome != "Rescued" and now - since < wait and not asked
        if early or observation.at <= since:  # seen before it ended: says nothing of what it left
            return None
        begun = words.moment(last.start_time)
        if last.outcome != "Rescued" and full_since is not None and begun >= full_since:
            snapshot = last.snapshot
    then = {"last_handled_requested_at": order.requested_at} if asked else {}
    return Due("rescue", "Apply", "etcd is full and refuses writes", then, snapshot=snapshot)


def _compaction(spec: EtcdMaintenanceSpec, seen: Seen, now: datetime) -> Due | None:
    """A look at whether to compact, where there may be something to do: it is a process."""
    rule, observation, memory = spec.compaction, seen.observation, seen.memory
    assert observation is not None  # noqa: S101  # `agenda` has looked
    if spec.mode == "Plan" or not observation.reachable or now - observation.at > STALE:
        return None
    checked, prepared = memory.compaction_checked, memory.prepared
    if checked is not None and now - checked < compaction_every(rule):
        return None
    unprepared = prepared is None or now - prepared >= PREPARED_EVERY
    if spec.alarms is not None and unprepared:
        return Due("compaction", "Apply", "a later rescue finds what it needs")
    if rule is None:
        return None
    if not _may_compact(rule, observation, now):
        return None
    return Due("compaction", "Apply", f"mode {rule.mode}")


def compaction_every(rule: Compaction | None) -> timedelta:
    """How often it is looked at whether to compact."""
    if rule is None or rule.retain_duration is None:
        return COMPACTION_EVERY
    return min(COMPACTION_EVERY, span(rule.retain_duration) / 4)


def _may_compact(rule: Compaction, observation: Observation, now: datetime) -> bool:
    revision, oldest = observation.revision, observation.compact_revision
    if revision is None or oldest is None:
        return False
    if rule.mode == "Retain":
        return revision - oldest > (rule.retain_revisions or 0)
    since = observation.compact_revision_since
    stalled = span(rule.stalled_after) if rule.stalled_after is not None else STALLED_AFTER
    return revision > oldest and since is not None and now - since >= stalled
