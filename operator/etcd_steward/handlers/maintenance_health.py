"""What the status of an EtcdMaintenance says of the etcd itself, and its conditions: pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from etcd_steward.errors import StewardError
from etcd_steward.handlers import words
from etcd_steward.handlers.maintained import Maintained
from etcd_steward.handlers.maintenance_agenda import Seen
from etcd_steward.handlers.maintenance_status import GOOD
from etcd_steward.handlers.standing import Said
from etcd_steward.handlers.status import Holds, find_condition, set_condition
from etcd_steward.models.kinds import Condition
from etcd_steward.models.maintenance_kinds import (
    EtcdMaintenanceSpec,
    EtcdMaintenanceStatus,
    ObservedEtcd,
)
from etcd_steward.models.maintenance_kinds import ObservedMember as MemberStatus
from etcd_steward.models.observation import Observation, ObservedMember
from etcd_steward.units import size

_LONGEST = 1000
"""Characters of one sentence in a status."""
_CORRUPT = (
    "Its members' data differ: nothing is done to this etcd any more. Find out which member is "
    "wrong (`etcd-steward hashkv`), replace it, then disarm"
)
_NOT_RESCUED = (
    "`etcd-steward alarm rescue` frees it; with alarms.noSpace: Rescue it is done without asking"
)


def observed(
    status: EtcdMaintenanceStatus, seen: Observation, *, every: timedelta
) -> EtcdMaintenanceStatus:
    """What was seen of the etcd: on a change of health, else when the figures are old enough.

    They are after a task of ours. The status lies in the very etcd that it tells of, which must not
    fill up with figures.
    """
    before, now = status.etcd, _observed(seen, status.etcd)
    if before is not None and _health(before) == _health(now):
        age = seen.at - words.moment(before.time)
        touched = before.time <= _touched(status) < now.time
        if timedelta() <= age < every and not touched:
            return status
    return status.model_copy(update={"etcd": now})


def _touched(status: EtcdMaintenanceStatus) -> str:
    """When a task of ours ended last; timestamps of one format compare as text."""
    ended = (status.last_round, status.last_rescue)
    return max((one.completion_time for one in ended if one is not None), default="")


def _health(etcd: ObservedEtcd) -> tuple[object, ...]:
    members = tuple(
        (m.name, m.member_id, m.up, m.leader, m.learner, m.version) for m in etcd.members
    )
    return etcd.cluster_id, etcd.leader, etcd.version, etcd.alarms, members


def _observed(seen: Observation, before: ObservedEtcd | None) -> ObservedEtcd:
    at = words.timestamp(seen.at)
    if not seen.reachable and before is not None:  # sizes as they were known last
        members = tuple(
            one.model_copy(update={"up": False, "leader": False}) for one in before.members
        )
        return before.model_copy(update={"time": at, "leader": "", "members": members})
    since, used = seen.compact_revision_since, seen.quota_used
    return ObservedEtcd(
        time=at,
        cluster_id=seen.cluster_id,
        leader=seen.leader or "",
        version=seen.version,
        revision=seen.revision or 0,
        compact_revision=seen.compact_revision,
        compacted_time=words.timestamp(since) if since is not None else None,
        leases=seen.leases,
        db_size=_size(seen.db_size),
        in_use=_size(seen.db_in_use),
        quota_used=f"{used:.0%}" if used is not None else "",
        alarms=alarms(seen),
        members=tuple(_member(one) for one in seen.members),
    )


def alarms(seen: Observation) -> tuple[str, ...]:
    """Alarms with the members that have raised them."""
    return tuple(sorted(f"{one.kind} {one.member or one.member_id}" for one in seen.alarms))


def _member(seen: ObservedMember) -> MemberStatus:
    return MemberStatus(
        name=seen.name,
        member_id=seen.member_id or "0",
        up=bool(seen.up),
        leader=seen.leader,
        learner=seen.learner,
        version=seen.version,
        db_size=_size(seen.db_size),
        db_size_bytes=seen.db_size or 0,
        in_use=_size(seen.db_in_use),
        in_use_bytes=seen.db_in_use or 0,
        quota_bytes=seen.quota,
        lag=seen.lag or 0,
        message=seen.error[:_LONGEST],
    )


def _size(count: int | None) -> str:
    return "" if count is None else size(count)


@dataclass(frozen=True, slots=True)
class News:
    """A condition that has changed, for an event."""

    good: bool
    reason: str
    message: str


def with_conditions(
    order: Maintained,
    status: EtcdMaintenanceStatus,
    seen: Seen,
    problem: StewardError | None,
    now: datetime,
) -> EtcdMaintenanceStatus:
    """The status with its conditions; `problem` is what keeps us from doing our job."""
    conditions = status.conditions
    said = {
        "Ready": _ready(order, status, seen, problem),
        "EtcdReachable": _reachable(seen, problem, status),
        "EtcdHealthy": _healthy(order, seen.observation),
    }
    if status.last_round is not None:
        ended = status.last_round
        succeeded: Holds = "True" if ended.outcome in GOOD else "False"
        said["RoundSucceeded"] = (succeeded, ended.reason or ended.outcome, ended.message)
    for type_, (holds, reason, message) in said.items():
        conditions = set_condition(
            conditions, type_, holds, reason, message, now=now, generation=order.generation
        )
    changes: dict[str, object] = {
        "conditions": conditions,
        "observed_generation": order.generation,
    }
    if status.task is None:
        suspended = order.spec is not None and order.spec.suspend
        changes["phase"] = "Suspended" if suspended else "Observing"
        changes["message"] = _standing(conditions, status)
    return status.model_copy(update=changes)


def _standing(conditions: tuple[Condition, ...], status: EtcdMaintenanceStatus) -> str:
    """How it stands while nothing is under way: what is wrong, else what was done last."""
    healthy, ready = (find_condition(conditions, one) for one in ("EtcdHealthy", "Ready"))
    for one in (healthy, ready):
        if one is not None and one.status == "False":
            return one.message
    if status.last_round is not None:
        return f"Last round: {status.last_round.message}"
    return ready.message if ready is not None else ""


def news(before: tuple[Condition, ...], after: tuple[Condition, ...]) -> list[News]:
    """What has changed and is worth an event; a round's outcome has one of its own."""
    found: list[News] = []
    for one in after:
        old = find_condition(before, one.type)
        if one.type == "RoundSucceeded" or one.status == "Unknown":
            continue
        if old is not None and (old.status, old.reason) == (one.status, one.reason):
            continue
        if one.status == "False":
            if one.type != "Ready" or not _told_elsewhere(one, after):
                found.append(News(good=False, reason=one.reason, message=one.message))
        elif old is not None and old.status == "False":
            found.append(News(good=True, reason=one.type, message=one.message))
    return found


def _told_elsewhere(ready: Condition, conditions: tuple[Condition, ...]) -> bool:
    return any(
        one.reason == ready.reason and one.status == "False" and one.type != "Ready"
        for one in conditions
    )


def _ready(
    order: Maintained, status: EtcdMaintenanceStatus, seen: Seen, problem: StewardError | None
) -> Said:
    if order.spec is None:
        return "False", "InvalidSpec", order.fault
    if seen.elder is not None:
        why = f"EtcdMaintenance {seen.elder} is for the same etcd, and is older: this one only"
        return "False", "AnotherMaintains", f"{why} observes. Delete one of them"
    if problem is not None:
        return "False", problem.reason, str(problem)
    reached = _reachable(seen, None, status)
    if reached[0] != "True":
        return reached
    if (trouble := _last_trouble(status, seen)) is not None:
        return trouble
    return _plans(order.spec)


def _last_trouble(status: EtcdMaintenanceStatus, seen: Seen) -> Said | None:
    full = seen.observation is not None and seen.observation.has_alarm("NOSPACE")
    rescue, ended = status.last_rescue, status.last_round
    if full and rescue is not None and rescue.outcome != "Rescued":
        return "False", f"Rescue{rescue.outcome}", rescue.message
    if ended is not None and ended.outcome not in GOOD and ended.reason != "Cancelled":
        return "False", f"Round{ended.outcome}", ended.message
    return None


def _plans(spec: EtcdMaintenanceSpec) -> Said:
    if spec.suspend:
        return "True", "Suspended", "It is suspended: etcd is observed, nothing is done"
    sections = ("defragmentation", "compaction", "alarms")
    set_ = [name for name in sections if getattr(spec, name) is not None]
    if not set_:
        return "True", "Observing", "etcd is observed; no section of the spec asks for more"
    return "True", "Observing", f"etcd is observed, and looked after: {', '.join(set_)}"


def _reachable(seen: Seen, problem: StewardError | None, status: EtcdMaintenanceStatus) -> Said:
    observation = seen.observation
    if observation is None:
        if problem is not None and problem.side == "etcd":
            return "False", problem.reason, str(problem)
        return "Unknown", "NotObservedYet", "Nobody has looked at this etcd yet"
    if not observation.reachable:
        before = find_condition(status.conditions, "EtcdReachable")
        if before is not None and before.reason == "EtcdUnreachable":
            return "False", before.reason, before.message  # each look has its own words
        return "False", "EtcdUnreachable", observation.error or "No member answers"
    return "True", "Answers", "Its members were asked for their status"


def _healthy(order: Maintained, seen: Observation | None) -> Said:
    if seen is None or not seen.reachable:
        return "Unknown", "NotObservedYet" if seen is None else "EtcdUnreachable", ""
    raised = f"Alarms: {', '.join(alarms(seen))}. "
    if seen.has_alarm("CORRUPT"):
        return "False", "Corrupt", raised + _CORRUPT
    if seen.has_alarm("NOSPACE"):
        next_ = "A rescue begins at once" if order.rescues else _NOT_RESCUED
        return "False", "NoSpace", f"{raised}etcd is full and refuses writes. {next_}"
    if seen.leader is None:
        return "False", "NoLeader", "No member knows of a leader: etcd takes no writes"
    down = [one.name for one in seen.members if one.up is False]
    if down:
        return "False", "MemberDown", f"No answer from {', '.join(down)}"
    return "True", "AllWell", "All members answer, they have a leader, no alarm is raised"
