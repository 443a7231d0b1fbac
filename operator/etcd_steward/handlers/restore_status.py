"""What the status of an EtcdRestore says: from one to the next, pure. See also `status`."""

from collections.abc import Iterable
from datetime import datetime

from etcd_steward.handlers import words
from etcd_steward.handlers.status import WARNINGS_KEPT, Holds, set_condition
from etcd_steward.models.kinds import RunProgress
from etcd_steward.models.restore_kinds import (
    EtcdRestoreStatus,
    Requester,
    RestorePlan,
    RestorePlanItem,
    RestoreResult,
)
from etcd_steward.models.restore_run import PlanMade, RestoreEnded
from etcd_steward.models.run import Failure

_LONGEST = 512
"""Characters of one sentence in a status: an API server refuses objects of more than 1.5 MB."""


def _with(status: EtcdRestoreStatus, **changes: object) -> EtcdRestoreStatus:
    return status.model_copy(update=changes)


def _said(
    status: EtcdRestoreStatus, outcomes: Iterable[tuple[str, Holds, str, str]], now: datetime
) -> EtcdRestoreStatus:
    conditions = status.conditions
    for type_, holds, reason, message in outcomes:
        conditions = set_condition(
            conditions,
            type_,
            holds,
            reason,
            message,
            now=now,
            generation=status.observed_generation,
        )
    return _with(status, conditions=conditions)


def begun(
    status: EtcdRestoreStatus,
    *,
    applying: bool,
    attempt: int,
    requester: Requester | None,
    generation: int,
    now: datetime,
) -> EtcdRestoreStatus:
    """A process is about to be started for it."""
    message = "Being applied" if applying else "Being planned"
    status = _with(
        status,
        phase="Running",
        observed_generation=generation,
        requester=status.requester or requester,
        attempt=attempt,
        starts=(status.starts or 0) + 1,
        applying=applying,
        message=message,
        start_time=status.start_time or words.timestamp(now),
        heartbeat_time=words.timestamp(now),
        progress=RunProgress(step="Starting", text="Starting"),
        failed_side=None,
    )
    return _said(status, [("Complete", "False", "Running", message)], now)


def plan_of(made: PlanMade) -> RestorePlan:
    """What a status shows of a plan."""
    return RestorePlan(
        digest=made.digest,
        url=made.url,
        source=made.source.name,
        revision=made.source.revision,
        made_time=words.timestamp(made.made_at),
        expires_time=words.timestamp(made.expires_at),
        writes=made.writes,
        counts=made.counts,
        reasons=made.reasons,
        items=tuple(
            RestorePlanItem(
                key=item.key,
                verdict=item.verdict,
                reason=item.reason,
                message=item.message[:_LONGEST],
                notes=tuple(note[:_LONGEST] for note in item.notes),
                write=item.write,
            )
            for item in made.items
        ),
        warnings=tuple(one[:_LONGEST] for one in made.warnings[:WARNINGS_KEPT]),
    )


def planned(status: EtcdRestoreStatus, made: PlanMade, *, now: datetime) -> EtcdRestoreStatus:
    """There is a plan; where it is not applied at once, it waits for somebody's approval."""
    told = f"{in_words(made.counts)}; {amount(made.writes)} would be written"
    status = _said(
        _with(status, plan=plan_of(made)), [("Planned", "True", "Planned", f"{told}.")], now
    )
    if made.applying:
        return status
    message = f"{told}. To apply it, set spec.approvedPlanDigest to {made.digest}"
    return _said(
        _with(
            status,
            phase="Planned",
            applying=False,
            message=message,
            progress=RunProgress(step="Planned", text="Waiting for approval"),
            heartbeat_time=words.timestamp(now),
        ),
        [("Complete", "False", "WaitingForApproval", message)],
        now,
    )


def not_this_plan(
    status: EtcdRestoreStatus, approved: str, *, generation: int, now: datetime
) -> EtcdRestoreStatus:
    """Somebody approved another plan than ours."""
    ours = status.plan.digest if status.plan else "none"
    message = f"spec.approvedPlanDigest is {approved}, but the plan is {ours}: nothing is applied"
    return _said(
        _with(status, observed_generation=generation, message=message),
        [("Complete", "False", "AnotherPlanApproved", message)],
        now,
    )


def completed(
    status: EtcdRestoreStatus, ended: RestoreEnded, *, now: datetime
) -> EtcdRestoreStatus:
    """It was applied, now or long ago; with failures it is `Failed`."""
    took = (ended.finished_at - ended.started_at).total_seconds()
    failed = bool(ended.failures or ended.taken_since)
    message = summary(ended)
    outcomes: list[tuple[str, Holds, str, str]] = [
        ("Complete", "False" if failed else "True", "Incomplete" if failed else "Applied", message),
        ("Failed", "True" if failed else "False", "Incomplete" if failed else "Applied", message),
    ]
    status = _with(
        status,
        phase="Failed" if failed else "Complete",
        applying=False,
        message=message,
        completion_time=words.timestamp(ended.finished_at),
        heartbeat_time=words.timestamp(now),
        duration=words.duration(took),
        progress=RunProgress(step="Complete", text=f"Done in {words.duration(took)}"),
        failed_side=None,
        result=RestoreResult(
            url=ended.url,
            undo=ended.undo,
            counts=ended.counts,
            read_back=ended.read_back,
            second_look_time=words.timestamp(ended.second_look) if ended.second_look else None,
            taken_since=tuple(one[:_LONGEST] for one in ended.taken_since),
            failures=tuple(one[:_LONGEST] for one in ended.failures),
        ),
        warnings=tuple(dict.fromkeys((*status.warnings, *ended.warnings)))[-WARNINGS_KEPT:],
    )
    return _said(status, outcomes, now)


def summary(ended: RestoreEnded) -> str:
    """One sentence about an apply."""
    took = (ended.finished_at - ended.started_at).total_seconds()
    told = f"{in_words(ended.counts)}, in {words.duration(took)}"
    if ended.before:
        at = words.timestamp(ended.finished_at)
        return f"Already applied at {at} ({told}): nothing was done now"
    if ended.failures:
        return f"{told}; {ended.failures[0]}"
    if ended.taken_since:
        return f"{told}; since then: {ended.taken_since[0]}"
    return told


def failed(
    status: EtcdRestoreStatus, failure: Failure, *, generation: int, now: datetime
) -> EtcdRestoreStatus:
    """It has failed for good."""
    step = status.progress.step if status.progress else "Starting"
    message = failure.text
    status = _with(
        status,
        phase="Failed",
        observed_generation=generation,
        applying=False,
        message=message,
        completion_time=words.timestamp(now),
        progress=RunProgress(step="Failed", text=f"Failed ({step})"),
        failed_side=failure.side,
    )
    outcomes: list[tuple[str, Holds, str, str]] = [
        ("Failed", "True", failure.reason, message),
        ("Complete", "False", failure.reason, message),
    ]
    return _said(status, outcomes, now)


def retrying(
    status: EtcdRestoreStatus, failure: Failure, *, attempt: int, delay: float, now: datetime
) -> EtcdRestoreStatus:
    """An attempt failed in a way that may pass."""
    message = f"Attempt {attempt} failed: {failure.text}"
    text = f"Attempt {attempt + 1} in {words.duration(delay)}"
    status = _with(
        status,
        phase="Pending",
        attempt=attempt + 1,
        message=message,
        heartbeat_time=words.timestamp(now),
        progress=RunProgress(step="Waiting", text=text),
        failed_side=failure.side,
    )
    return _said(status, [("Complete", "False", failure.reason, message)], now)


def in_words(counts: dict[str, int]) -> str:
    """`212 create, 3 excluded`."""
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "no keys"


def amount(keys: int) -> str:
    """`1 key`, `212 keys`."""
    return f"{keys} key" if keys == 1 else f"{keys} keys"
