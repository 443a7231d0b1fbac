"""`etcd-steward defrag`: one round over all members, or what it would do."""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from etcd_steward.cli.etcd_flags import etcd_options
from etcd_steward.cli.framework import Option, Verb
from etcd_steward.cli.maintenance_flags import holder, maintenance_options
from etcd_steward.cli.output import emit, output_option, print_table
from etcd_steward.cli.progress import progress_option, reporting
from etcd_steward.cli.running import run
from etcd_steward.cli.values import DURATION
from etcd_steward.config import EtcdFlags
from etcd_steward.models.maintenance import MaintenanceOptions, MemberReport, RoundReport
from etcd_steward.models.maintenance_run import (
    MaintenanceEnded,
    MaintenanceRequest,
    MemberDone,
    MemberTurn,
    RoundEnded,
)
from etcd_steward.units import size

if TYPE_CHECKING:
    from etcd_steward.engine.report import Report

_EXIT = {"Refused": 3, "Stopped": 1, "WindowOver": 4}
_HEADER = ("MEMBER", "OUTCOME", "BEFORE", "AFTER", "RECLAIMED", "SECONDS", "WHY")
_STOPPING = "Stopping as soon as no member is at work: etcd can't stop a defragmentation."
_AT_ONCE = (
    "Stopped at once. If a member was at work, it still is; the lock on this etcd goes when the "
    "next maintenance finds that nobody holds it."
)
_STEPS = {
    "WaitingForSnapshot": "waiting for a snapshot or hash of it to end",
    "MovingLeader": "it leads: handing leadership over",
    "Defragmenting": "defragmenting",
    "Settling": "waiting until all is well",
}
_WORDS = {
    "Done": "Done",
    "NothingToDo": "Nothing to do",
    "Refused": "Refused: nothing was touched",
    "Stopped": "Stopped before the end",
    "WindowOver": "The time is over before the end",
}


@click.command(
    "defrag",
    cls=Verb,
    short_help="Defragment all members safely, one at a time, the leader last.",
    examples="""
etcd-steward defrag --plan --endpoints 10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379 \\
    --cacert ca.crt --cert client.crt --key client.key
etcd-steward defrag --endpoints 10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379 --disk-room 10Gi
etcd-steward defrag --always --within 1h -o json
""",
)
@click.option(
    "--plan", "plan", cls=Option, is_flag=True, help="Only say what would be done, and why."
)
@click.option(
    "--within",
    "within",
    cls=Option,
    type=DURATION,
    metavar="DURATION",
    help="Begin no member's turn that would not be over by then.  [default: no limit]",
)
@maintenance_options(rule=True)
@etcd_options()
@output_option
@progress_option
def defrag(  # one for each flag, all passed by name
    plan: bool,
    within: float | None,
    options: MaintenanceOptions,
    etcd: EtcdFlags | None,
    output: str,
    progress: bool,
) -> int:
    """Defragment the members that are worth it, one at a time, the leader last.

    Every voter must be among --endpoints. Before each member the whole cluster is looked at again;
    leadership is handed over before the leader's turn, and at the first surprise the round ends.
    Other maintenance of this etcd, by whomever, is kept out; a snapshot or a hash of a member is
    waited for. Ctrl-C ends the round between two members. Exit code 3: it must not be done now;
    1: it ended early; 4: the time was over.
    """
    now = datetime.now(UTC)
    request = MaintenanceRequest(
        task="round",
        etcd=(etcd or EtcdFlags()).connection(),
        options=options,
        mode="Plan" if plan else "Apply",
        holder=holder(),
        run=secrets.token_hex(4),
        ends_at=None if within is None else now + timedelta(seconds=within),
    )
    last: list[MaintenanceEnded] = []
    with reporting(progress=progress) as report:
        tell = teller(report.say, last)
        try:
            done = run(_work(request, report, tell), stopping=_STOPPING, at_once=_AT_ONCE)
        finally:
            for stopped in last:
                if isinstance(stopped, RoundEnded):
                    show(stopped.report, output)
    show(done, output)
    return exit_code(done)


async def _work(
    request: MaintenanceRequest,
    report: "Report",
    tell: Callable[[MemberTurn | MemberDone | MaintenanceEnded], None],
) -> RoundReport:
    from etcd_steward.app import maintain  # noqa: PLC0415  # grpc: slow

    ended = await maintain(request, report, tell)
    if isinstance(ended, RoundEnded):
        return ended.report
    raise AssertionError("a round was asked for")


def teller(
    say: Callable[[str], None], last: list[MaintenanceEnded]
) -> Callable[[MemberTurn | MemberDone | MaintenanceEnded], None]:
    """What says each step; how an interrupted round, or rescue, ended is kept in `last`."""

    def tell(event: MemberTurn | MemberDone | MaintenanceEnded) -> None:
        if isinstance(event, MemberTurn):
            say(f"[{event.position}/{event.total}] {event.name}: {_STEPS[event.step]}")
        elif isinstance(event, MemberDone):
            one = event.member
            say(f"[{event.position}/{event.total}] {one.name}: {_in_words(one)}")
        else:
            last.append(event)

    return tell


def _in_words(one: MemberReport) -> str:
    if one.outcome == "Defragmented":
        sizes = f"{size(one.before_bytes)} -> {size(one.after_bytes)}"
        return f"{sizes} in {one.seconds:.1f} s"
    return f"{one.outcome.lower()}: {one.reason}"


def exit_code(report: RoundReport) -> int:
    """What a round, or a plan of one, makes a verb return."""
    if report.outcome == "Planned" and report.objections:
        return _EXIT["Refused"]
    return _EXIT.get(report.outcome, 0)


def show(report: RoundReport, output: str) -> None:
    """Print what came of a round."""
    if output != "table":
        emit(view(report), output)
        return
    if report.members:
        print_table(_HEADER, [_row(one) for one in report.members])
    if report.outcome == "Planned":
        _show_plan(report)
    else:
        _show_end(report)
    for warning in report.warnings:
        click.echo(f"{click.style('Warning:', fg='yellow')} {warning}", err=True)


def view(report: RoundReport) -> dict[str, Any]:
    """The report for programs."""
    told = report.model_dump(mode="json", by_alias=True)
    for shown, one in zip(told["members"], report.members, strict=True):
        shown["reclaimedBytes"] = one.reclaimed_bytes
    return {**told, "reclaimedBytes": report.reclaimed_bytes}


def _row(one: MemberReport) -> tuple[str, ...]:
    done = one.outcome == "Defragmented"
    name = f"{one.name} (leader)" if one.leader else one.name
    seconds = f"{one.seconds:.1f}" if one.seconds else ""
    if one.outcome == "WouldDefragment":
        seconds = f"about {one.estimated_seconds:.0f}"
    return (
        name,
        one.outcome,
        size(one.before_bytes),
        size(one.after_bytes) if one.after_bytes else "",
        size(one.reclaimed_bytes) if done else "",
        seconds,
        one.reason,
    )


def _show_plan(report: RoundReport) -> None:
    if report.objections:
        click.echo("Now it would be refused:")
        for text in report.objections:
            click.echo(f"  - {text}")
        return
    planned = [one for one in report.members if one.outcome == "WouldDefragment"]
    if not planned:
        click.echo(_WORDS["NothingToDo"])
        return
    expected = sum(one.before_bytes - one.in_use_bytes for one in planned)
    leads = any(one.leader for one in planned) and len(report.members) > 1
    click.echo(
        f"{len(planned)} of {len(report.members)} members would be defragmented in this order"
        + (", leadership handed over before the last" if leads else "")
        + f": about {size(expected)} in all"
    )


def _show_end(report: RoundReport) -> None:
    words = _WORDS[report.outcome]
    if report.outcome == "Done":
        words += f": {size(report.reclaimed_bytes)} reclaimed"
    move = report.leader_move
    if move is not None:
        words += f"; leadership went from {move.from_name} to {move.to_name}"
        words += f" in {move.seconds:.1f} s"
    click.echo(words)
    reasons = report.objections or ((report.reason,) if report.reason else ())
    for text in reasons:
        click.echo(f"  - {text}", err=report.outcome == "Refused")
