"""What a restore's process says to the operator: plans and reports, cut to what a status holds."""

from collections import Counter
from datetime import datetime

from etcd_steward.engine.restore.place import Place
from etcd_steward.models.restore import Plan, RestoreReport
from etcd_steward.models.restore_kinds import FIRST_ITEMS
from etcd_steward.models.restore_place import UndoReport
from etcd_steward.models.restore_run import PlanMade, RestoreEnded


def plan_made(plan: Plan, place: Place, *, applying: bool) -> PlanMade:
    """A plan: its figures, and the first of its keys."""
    return PlanMade(
        applying=applying,
        digest=plan.digest,
        url=f"{place.url}/plan.json",
        source=plan.source,
        made_at=plan.made_at,
        expires_at=plan.expires_at,
        writes=plan.writes,
        counts=dict(plan.counts),
        reasons=dict(Counter(item.reason for item in plan.items if item.reason)),
        items=plan.items[:FIRST_ITEMS],
        warnings=plan.warnings,
    )


def ended(report: RestoreReport | UndoReport, place: Place, *, before: bool) -> RestoreEnded:
    """How it went; `before`: long ago, and nothing was done now."""
    if isinstance(report, UndoReport):
        return _undone(report, place, before=before)
    failures = [one for one in report.restored if one.outcome in {"failed", "changed-since"}]
    return RestoreEnded(
        digest=report.digest,
        url=f"{place.url}/result.json",
        undo=report.undo,
        started_at=report.started_at,
        finished_at=report.finished_at,
        before=before,
        counts=dict(report.counts),
        read_back=report.read_back,
        second_look=datetime.fromisoformat(report.second_look) if report.second_look else None,
        taken_since=report.taken_since[:FIRST_ITEMS],
        failures=tuple(
            f"{one.key}: {one.message or one.outcome}" for one in failures[:FIRST_ITEMS]
        ),
        warnings=report.warnings,
    )


def _undone(report: UndoReport, place: Place, *, before: bool) -> RestoreEnded:
    failed = [one for one in report.undone if one.outcome == "failed"]
    stays = [one for one in report.undone if one.outcome in {"left", "changed-since"}]
    told = tuple(f"{one.key} stays: {one.message}" for one in stays[:FIRST_ITEMS])
    return RestoreEnded(
        digest=report.digest,
        url=f"{place.url}/undone.json",
        undo=place.undo_url,
        started_at=report.started_at,
        finished_at=report.finished_at,
        before=before,
        counts=dict(report.counts),
        read_back=0,
        second_look=None,
        taken_since=(),
        failures=tuple(f"{one.key}: {one.message}" for one in failed[:FIRST_ITEMS]),
        warnings=(*told, *report.warnings),
    )
