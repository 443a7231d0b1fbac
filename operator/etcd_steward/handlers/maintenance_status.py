"""What the status of an EtcdMaintenance says: from one to the next, pure. See also `status`."""

from datetime import datetime

from etcd_steward.handlers import words
from etcd_steward.handlers.maintenance_agenda import Due
from etcd_steward.metrics.maintenance import (
    Defragmented,
    MaintenanceFigures,
    Result,
    Task,
)
from etcd_steward.models.maintenance import (
    CompactionReport,
    MemberReport,
    RescueReport,
    RoundReport,
)
from etcd_steward.models.maintenance_kinds import (
    EtcdMaintenanceStatus,
    LastCompaction,
    LastRescue,
    MaintenanceProgress,
    Round,
    RoundMember,
)
from etcd_steward.models.maintenance_run import MemberDone, MemberTurn
from etcd_steward.models.run import Failure
from etcd_steward.units import size

_LONGEST = 1000
"""Characters of one sentence in a status."""
_MANY = 20
"""So many warnings, objections and members of a round are kept."""
_STEPS = {
    "WaitingForSnapshot": "Waiting for a snapshot of {name}",
    "MovingLeader": "Moving the leader away from {name}",
    "Defragmenting": "Defragmenting {name}",
    "Settling": "Waiting for all to be well after {name}",
}
GOOD = ("Done", "NothingToDo", "Planned", "WindowOver")
"""Outcomes of a round that nobody need look at."""


def _with(status: EtcdMaintenanceStatus, **changes: object) -> EtcdMaintenanceStatus:
    return status.model_copy(update=changes)


def begun(
    status: EtcdMaintenanceStatus, due: Due, *, generation: int, now: datetime
) -> EtcdMaintenanceStatus:
    """A process is about to be started."""
    resumed = status.task == due.task and status.phase == "Pending"
    return _with(
        status,
        **due.then,
        phase="Running",
        observed_generation=generation,
        message=f"{_name(due.task, due.mode)}: {due.why}"[:_LONGEST],
        task=due.task,
        task_mode=due.mode,
        task_end_time=words.timestamp(due.ends_at) if due.ends_at else None,
        attempt=due.attempt,
        start_time=status.start_time if resumed and status.start_time else words.timestamp(now),
        starts=(status.starts or 0) + 1,
        heartbeat_time=words.timestamp(now),
        progress=MaintenanceProgress(step="Starting", text="Starting"),
    )


def _name(task: str, mode: str) -> str:
    return "Plan of a round" if mode == "Plan" else task.capitalize()


def lives(status: EtcdMaintenanceStatus, step: str, *, now: datetime) -> EtcdMaintenanceStatus:
    """Its process says that it lives, and what it does."""
    before = status.progress
    shown = before if before is not None and before.step in _STEPS else None
    progress = shown or MaintenanceProgress(step=step, text=step)
    return _with(status, heartbeat_time=words.timestamp(now), progress=progress)


def turned(
    status: EtcdMaintenanceStatus, turn: MemberTurn, *, now: datetime
) -> EtcdMaintenanceStatus:
    """A member's turn has come."""
    text = f"{_STEPS[turn.step].format(name=turn.name)}, {turn.position} of {turn.total}"
    return _with(
        status,
        heartbeat_time=words.timestamp(now),
        message=text,
        progress=MaintenanceProgress(step=turn.step, text=text),
    )


def member_done(
    status: EtcdMaintenanceStatus, done: MemberDone, *, now: datetime
) -> EtcdMaintenanceStatus:
    """A member's turn is over."""
    text = f"{done.position} of {done.total}: {said_of(done.member)}"
    status = _with(
        status,
        heartbeat_time=words.timestamp(now),
        progress=MaintenanceProgress(step="BetweenMembers", text=text),
    )
    if done.member.outcome == "Defragmented":
        return _with(status, last_defragmentation_time=words.timestamp(now))
    return status


def said_of(member: MemberReport) -> str:
    """One sentence about a member's turn."""
    match member.outcome:
        case "Defragmented":
            return (
                f"{member.name} defragmented in {words.duration(member.seconds)}: "
                f"{size(member.before_bytes)} before, {size(member.after_bytes)} after"
            )
        case "WouldDefragment":
            return (
                f"{member.name} would be defragmented, in about "
                f"{words.duration(member.estimated_seconds)}: {member.reason}"
            )
        case "Skipped":
            return f"{member.name} is left as it is: {member.reason}"
        case "NotReached":
            return f"{member.name}: its turn did not come"
        case "Failed" | "Unknown":
            return f"{member.name}: {member.reason}"


def waiting(status: EtcdMaintenanceStatus, why: str, *, attempt: int) -> EtcdMaintenanceStatus:
    """What was begun goes on later."""
    return _with(
        status,
        phase="Pending",
        attempt=attempt,
        message=why[:_LONGEST],
        progress=MaintenanceProgress(step="Waiting", text=why[:_LONGEST]),
    )


def idle(status: EtcdMaintenanceStatus) -> EtcdMaintenanceStatus:
    """Nothing is under way any more."""
    return _with(
        status,
        phase="Observing",
        task=None,
        task_mode=None,
        task_end_time=None,
        attempt=None,
        start_time=None,
        heartbeat_time=None,
        progress=None,
    )


def round_of(report: RoundReport) -> Round:
    """What a status shows of a round."""
    return Round(
        mode=report.mode,
        outcome=report.outcome,
        reason=report.outcome,
        message=summary(report)[:_LONGEST],
        start_time=words.timestamp(report.started_at),
        completion_time=words.timestamp(report.finished_at),
        reclaimed=size(report.reclaimed_bytes) if report.reclaimed_bytes else "",
        objections=tuple(one[:_LONGEST] for one in report.objections[:_MANY]),
        members=tuple(_round_member(one) for one in report.members[:_MANY]),
        warnings=tuple(one[:_LONGEST] for one in report.warnings[:_MANY]),
    )


def _round_member(member: MemberReport) -> RoundMember:
    planned = member.outcome == "WouldDefragment"
    seconds = member.estimated_seconds if planned else member.seconds
    return RoundMember(
        name=member.name,
        member_id=member.member_id,
        leader=member.leader,
        outcome=member.outcome,
        reason=member.reason[:_LONGEST],
        before=size(member.before_bytes) if member.before_bytes else "",
        after=size(member.after_bytes) if member.after_bytes else "",
        reclaimed=size(member.reclaimed_bytes) if member.reclaimed_bytes else "",
        reclaimed_bytes=member.reclaimed_bytes,
        milliseconds=round(member.seconds * 1000),
        seconds=words.duration(seconds) if seconds else "",
    )


def summary(report: RoundReport) -> str:
    """One sentence about a round."""
    count = sum(one.outcome == "Defragmented" for one in report.members)
    would = sum(one.outcome == "WouldDefragment" for one in report.members)
    told = f"{count} of {len(report.members)} members defragmented"
    if report.reclaimed_bytes:
        told = f"{told}, {size(report.reclaimed_bytes)} given back to the disks"
    match report.outcome:
        case "Done":
            return told
        case "NothingToDo":
            return f"Nothing to gain: {report.reason}" if report.reason else "Nothing to gain"
        case "Planned":
            against = f"; {report.objections[0]}" if report.objections else ""
            return f"{would} of {len(report.members)} members would be defragmented{against}"
        case "Refused":
            why = report.reason or "; ".join(report.objections)
            return f"Nothing was touched: {why}"
        case "Stopped" | "WindowOver":
            return f"{told}; {report.reason or 'its window was over'}"


def round_ended(
    status: EtcdMaintenanceStatus, report: RoundReport, *, why_stopped: str = ""
) -> EtcdMaintenanceStatus:
    """A round has ended by itself, or because of `why_stopped`."""
    ended = round_of(report)
    if why_stopped and report.outcome == "Stopped":
        told = f"{ended.message.partition(';')[0]}; stopped: {why_stopped}"
        ended = ended.model_copy(update={"reason": "Cancelled", "message": told})
    status = idle(status)
    if report.mode == "Plan":
        return _with(status, plan=ended)
    changes: dict[str, object] = {"last_round": ended}
    if report.outcome in {"Done", "NothingToDo"}:
        changes["last_successful_time"] = ended.completion_time
    if report.speed is not None:
        changes["speed"] = max(1, round(report.speed))
    return _with(status, **changes)


def round_failed(
    status: EtcdMaintenanceStatus, failure: Failure, *, now: datetime
) -> EtcdMaintenanceStatus:
    """A round could not begin, or its process is gone."""
    mode = status.task_mode or "Apply"
    ended = Round(
        mode=mode,
        outcome="Failed",
        reason=failure.reason,
        message=failure.text[:_LONGEST],
        start_time=status.start_time or words.timestamp(now),
        completion_time=words.timestamp(now),
    )
    status = idle(status)
    return _with(status, plan=ended) if mode == "Plan" else _with(status, last_round=ended)


def compaction_ended(
    status: EtcdMaintenanceStatus, report: CompactionReport
) -> EtcdMaintenanceStatus:
    """It was looked at whether to compact; that it is still not needed, is not worth a write."""
    before = status.last_compaction
    if report.outcome == "NotNeeded" and before is not None and before.outcome == "NotNeeded":
        return status
    last = LastCompaction(
        outcome=report.outcome,
        message=report.reason[:_LONGEST],
        time=words.timestamp(report.finished_at),
        compact_revision=report.compact_revision,
    )
    return _with(status, last_compaction=last)


def compaction_failed(
    status: EtcdMaintenanceStatus, failure: Failure, *, now: datetime
) -> EtcdMaintenanceStatus:
    """It could not be looked at whether to compact."""
    last = LastCompaction(
        outcome="Failed", message=failure.text[:_LONGEST], time=words.timestamp(now)
    )
    return _with(status, last_compaction=last)


def rescue_ended(status: EtcdMaintenanceStatus, report: RescueReport) -> EtcdMaintenanceStatus:
    """A rescue has ended."""
    message = rescue_summary(report)
    last = LastRescue(
        outcome=report.outcome,
        reason=report.outcome,
        message=message[:_LONGEST],
        start_time=words.timestamp(report.started_at),
        completion_time=words.timestamp(report.finished_at),
        snapshot=report.snapshot,
        disarmed=report.disarmed,
    )
    status = _with(idle(status), last_rescue=last)
    if report.round is not None and any(
        one.outcome == "Defragmented" for one in report.round.members
    ):
        return _with(status, last_defragmentation_time=words.timestamp(report.finished_at))
    return status


def rescue_summary(report: RescueReport) -> str:
    """One sentence about a rescue."""
    took = words.duration((report.finished_at - report.started_at).total_seconds())
    snapshot = f"; the snapshot taken before lies in {report.snapshot}" if report.snapshot else ""
    match report.outcome:
        case "Rescued":
            back = size(report.round.reclaimed_bytes) if report.round is not None else "nothing"
            return f"etcd takes writes again after {took}: {back} given back{snapshot}"
        case "NotNeeded":
            return report.reason or "No NOSPACE alarm is raised"
        case "Refused" | "Stopped":
            how = "etcd may be" if report.disarmed else "etcd is still"
            return f"{how} full: {report.reason}{snapshot}"


def rescue_failed(
    status: EtcdMaintenanceStatus, failure: Failure, *, now: datetime
) -> EtcdMaintenanceStatus:
    """A rescue could not begin, or its process is gone."""
    last = LastRescue(
        outcome="Failed",
        reason=failure.reason,
        message=failure.text[:_LONGEST],
        start_time=status.start_time or words.timestamp(now),
        completion_time=words.timestamp(now),
    )
    return _with(idle(status), last_rescue=last)


def failed(
    status: EtcdMaintenanceStatus, task: Task, failure: Failure, *, now: datetime
) -> EtcdMaintenanceStatus:
    """A task has failed for good."""
    match task:
        case "rescue":
            return rescue_failed(status, failure, now=now)
        case "compaction":
            return compaction_failed(status, failure, now=now)
        case "round":
            return round_failed(status, failure, now=now)


def result_of(outcome: str) -> Result:
    """How a task's outcome counts in the metrics."""
    match outcome:
        case "Done" | "Planned" | "Compacted" | "Rescued" | "WindowOver":
            return "complete"
        case "NothingToDo" | "NotNeeded":
            return "nothing_to_do"
        case "Refused":
            return "refused"
        case "Stopped":
            return "aborted"
        case _:
            return "failed"


def figures(created: datetime, status: EtcdMaintenanceStatus) -> MaintenanceFigures:
    """What the metrics of an EtcdMaintenance say."""
    last: dict[Task, float] = {}
    if status.last_successful_time is not None:
        last["round"] = _seconds(status.last_successful_time)
    compaction, rescue, ended = status.last_compaction, status.last_rescue, status.last_round
    if compaction is not None and compaction.outcome in {"Compacted", "NotNeeded"}:
        last["compaction"] = _seconds(compaction.time)
    if rescue is not None and rescue.outcome == "Rescued":
        last["rescue"] = _seconds(rescue.completion_time)
    members: dict[str, Defragmented] = {}
    if ended is not None:
        at = _seconds(ended.completion_time)
        members = {
            one.name: Defragmented(at, one.milliseconds / 1000, one.reclaimed_bytes)
            for one in ended.members
            if one.outcome == "Defragmented"
        }
    next_ = status.next_schedule_time
    return MaintenanceFigures(
        created=created.timestamp(),
        next=_seconds(next_) if next_ is not None else None,
        task=status.task if status.phase == "Running" else None,
        last=last,
        members=members,
        there=frozenset(one.name for one in status.etcd.members) if status.etcd else None,
    )


def _seconds(time: str) -> float:
    return words.moment(time).timestamp()
