"""What a restore would do and has done: for people, and for programs."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from etcd_steward.cli.output import emit, print_fields, print_table, warn
from etcd_steward.cli.registry_output import amount
from etcd_steward.cli.snapshot_find import SOMETHING_TO_LOOK_AT

if TYPE_CHECKING:
    from etcd_steward.engine.restore.plan import Planned
    from etcd_steward.models.restore import Plan, PlanItem, RestoreReport, Verdict
    from etcd_steward.models.restore_place import UndoReport

_VERDICTS: "tuple[Verdict, ...]" = (
    "create", "identical", "differs", "conflict", "blocked", "excluded",
)  # fmt: skip
_NEED_A_LOOK = {"conflict", "blocked"}
_FEW = 20
"""Objects of one kind of trouble that are named."""


def print_plan(plan: "Plan", *, every_key: bool) -> None:
    """Print what would be done, by resource; then whatever is not simply created."""
    finished = plan.source.finished_at
    print_fields(
        [
            ("Source", plan.source.name),
            ("Revision", f"{plan.source.revision}"),
            ("Taken", f"{finished:%Y-%m-%d %H:%M:%S}Z" if finished else ""),
            ("Into", f"etcd cluster {plan.target_cluster}, as of revision {plan.revision}"),
            ("Via", plan.options.via),
        ]
    )
    click.echo()
    if every_key:
        _print_keys(plan.items)
    else:
        _print_resources(plan.items)
    _print_troubles(plan.items)
    for warning in plan.warnings:
        warn(warning)
    click.echo(f"\n{amount(plan.writes, 'key')} would be written. Plan {plan.digest}")


def _print_resources(items: "Iterable[PlanItem]") -> None:
    counts: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for item in items:
        counts[item.namespace or "", item.resource or "(no object)"][item.verdict] += 1
    if not counts:
        return
    shown = [one for one in _VERDICTS if any(found[one] for found in counts.values())]
    print_table(
        ("NAMESPACE", "RESOURCE", *(one.upper() for one in shown)),
        [
            (namespace or "-", resource, *(str(found[one] or "") for one in shown))
            for (namespace, resource), found in sorted(counts.items())
        ],
    )


def _print_keys(items: "Sequence[PlanItem]") -> None:
    if items:
        rows = [(item.verdict, "yes" if item.write else "", title(item)) for item in items]
        print_table(("VERDICT", "WRITE", "OBJECT"), rows)


def _print_troubles(items: "Sequence[PlanItem]") -> None:
    """Say of everything that is not written why, and of what is, what to know before."""
    reasons: defaultdict[tuple[str, str], list[PlanItem]] = defaultdict(list)
    notes: defaultdict[str, list[PlanItem]] = defaultdict(list)
    for item in items:
        if item.message:
            reasons[item.verdict, item.message].append(item)
        for note in item.notes if item.write else ():
            notes[note].append(item)
    for (verdict, message), those in reasons.items():
        click.secho(f"\n{verdict.capitalize()}: {message}", bold=verdict in _NEED_A_LOOK)
        _print_some(those)
    for note, those in notes.items():
        click.echo(f"\nNote: {note}")
        _print_some(those)


def _print_some(items: "Sequence[PlanItem]") -> None:
    for item in items[:_FEW]:
        click.echo(f"  {title(item)}")
    if len(items) > _FEW:
        click.echo(f"  and {len(items) - _FEW:,} more: --keys shows all")


def title(item: "PlanItem") -> str:
    """`deployments.apps/shop/api`; a key that is no object's, as it is."""
    if not item.resource:
        return item.key
    return "/".join(filter(None, (item.resource, item.namespace, item.name)))


async def print_differences(planned: "Planned") -> None:
    """Print field by field what differs in objects that are there. Secrets are masked."""
    from etcd_steward.cli.registry_diff import in_words  # noqa: PLC0415
    from etcd_steward.engine.restore.differences import differences  # noqa: PLC0415

    async for item, changes, note in differences(planned):
        click.secho(f"\n~ {title(item)}", fg="yellow")
        for change in changes:
            click.echo(f"    {in_words(change)}")
        if note:
            click.echo(f"    {note}")


def print_report(plan: "Plan", report: "RestoreReport", place: str) -> None:
    """Print how an apply went."""
    uids = "same" if plan.options.via == "Registry" else "new"
    took = (report.finished_at - report.started_at).total_seconds()
    counts = report.counts
    told = [f"{amount(counts.get('written', 0), 'object')} back, {uids} uids, in {took:.1f} s"]
    told += [f"{count} {outcome}" for outcome, count in counts.items() if outcome != "written"]
    click.echo(f"\n{'; '.join(told)}")
    print_fields(
        [
            ("Read back", f"{report.read_back:,} through the API server"),
            ("Second look", report.second_look or ""),
            ("Undo", f"etcd-steward restore undo {place}"),
        ]
    )
    for one in report.restored:
        if one.outcome in {"failed", "changed-since"}:
            warn(f"{one.key}: {one.message or one.outcome}")
    for since in report.taken_since:
        warn(f"since then: {since}")
    for warning in report.warnings:
        warn(warning)


def print_undo(report: "UndoReport") -> None:
    """Print how an undo went."""
    told = [f"{count} {outcome}" for outcome, count in report.counts.items()]
    click.echo(", ".join(told) or "nothing to undo")
    for one in report.undone:
        if one.outcome in {"failed", "changed-since", "left"}:
            warn(f"{one.key} ({one.outcome}): {one.message}")
    for warning in report.warnings:
        warn(warning)


def emit_outcome(plan: "Plan", report: "RestoreReport | None", place: str, output: str) -> None:
    """Print both as one object."""
    told: dict[str, Any] = {
        "place": place,
        "digest": plan.digest,
        "plan": plan.model_dump(mode="json", by_alias=True, exclude_defaults=True),
    }
    if report is not None:
        told["result"] = report.model_dump(mode="json", by_alias=True)
    emit(told, output)


def code_of(plan: "Plan", report: "RestoreReport | None" = None) -> int:
    """0, or 4 where something needs a look: keys that should come back, and don't."""
    troubled = any(item.verdict in _NEED_A_LOOK for item in plan.items)
    if report is not None:
        outcomes = {one.outcome for one in report.restored}
        troubled = troubled or bool(outcomes & {"failed", "changed-since"} or report.taken_since)
    return SOMETHING_TO_LOOK_AT if troubled else 0


def undo_code_of(report: "UndoReport") -> int:
    """0, or 4 where something stays that the restore had written."""
    outcomes = {one.outcome for one in report.undone}
    return SOMETHING_TO_LOOK_AT if outcomes & {"failed", "changed-since"} else 0
