"""`etcd-steward alarm …`: what etcd complains of, and the way out of a full etcd."""

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import click

from etcd_steward.cli.backup_name import BACKUP_NAME
from etcd_steward.cli.defrag import show as show_round
from etcd_steward.cli.defrag import teller
from etcd_steward.cli.etcd_flags import etcd_options
from etcd_steward.cli.framework import Option, Verb, Verbs
from etcd_steward.cli.maintenance_flags import holder, maintenance_options
from etcd_steward.cli.output import emit, output_option, print_table, warn
from etcd_steward.cli.progress import progress_option, reporting
from etcd_steward.cli.registry_prefix import registry_prefix_option
from etcd_steward.cli.running import run, timeout_option
from etcd_steward.cli.snapshot_find import SOMETHING_TO_LOOK_AT
from etcd_steward.cli.store_flags import StoreFlags, spool_options, store_options
from etcd_steward.config import EtcdFlags
from etcd_steward.deadline import Deadline
from etcd_steward.models.maintenance import MaintenanceOptions, RescueReport
from etcd_steward.models.maintenance_run import (
    MaintenanceEnded,
    MaintenanceRequest,
    MemberDone,
    MemberTurn,
    RescueBackup,
    RescueEnded,
)
from etcd_steward.models.manifest import BackupRef, RunRef
from etcd_steward.models.run import SpoolSettings
from etcd_steward.units import size

if TYPE_CHECKING:  # grpc and numpy are imported where they are needed
    from etcd_steward.engine.maintenance.disarm import Kind, Raised
    from etcd_steward.engine.report import Report

_HEADER = ("MEMBER", "ID", "ALARM", "FILE", "QUOTA", "USED")
_NEXT = {
    "NOSPACE": "NOSPACE: etcd refuses all writes. `etcd-steward alarm rescue` makes room and "
    "disarms it",
    "CORRUPT": "CORRUPT: the members hold different data. Find the bad one before all else: "
    "`etcd-steward hashkv` with all members as --endpoints",
}
_EXIT = {"Refused": 3, "Stopped": 1}
_STOPPING = "Stopping as soon as no member is at work; no alarm is taken back any more."
_AT_ONCE = (
    "Stopped at once. If a member was at work, it still is; the next rescue goes on from there."
)


@click.group(
    "alarm",
    cls=Verbs,
    examples="""
etcd-steward alarm list --endpoints 10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379
etcd-steward alarm rescue --store s3://etcd-backups/prod
""",
)
def alarm() -> None:
    """List alarms, make a full etcd take writes again, take single alarms back."""


@alarm.command(
    "list",
    cls=Verb,
    short_help="List all alarms, and what to do about them.",
    examples="""
etcd-steward alarm list --endpoints 10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379
etcd-steward alarm list -o json | jq -r '.[].alarm'
""",
)
@maintenance_options(rule=False)
@etcd_options()
@output_option
def list_alarms(options: MaintenanceOptions, etcd: EtcdFlags, output: str) -> int:
    """List all alarms. Exit code 4: there are some."""

    async def work() -> "list[Raised]":
        from etcd_steward.app import open_etcd  # noqa: PLC0415  # grpc: slow
        from etcd_steward.engine.maintenance.disarm import raised  # noqa: PLC0415

        async with open_etcd(etcd.connection()) as client:
            return await raised(client, options)

    found = run(work())
    if output == "table":
        _show(found)
    else:
        emit([_view(one) for one in found], output)
    return SOMETHING_TO_LOOK_AT if found else 0


def _show(found: "list[Raised]") -> None:
    if not found:
        click.echo("No alarm is raised")
        return
    print_table(_HEADER, [_row(one) for one in found])
    for kind in sorted({one.alarm.kind for one in found}):
        click.echo(_NEXT.get(kind, f"{kind}: see etcd's documentation"))


def _row(one: "Raised") -> tuple[str, ...]:
    quota = size(one.quota) if one.quota else ""
    used = f"{100 * one.db_size / one.quota:.0f} %" if one.quota and one.db_size else ""
    return (
        one.name or "unknown",
        f"{one.alarm.member_id:x}",
        one.alarm.kind,
        size(one.db_size) if one.db_size else "",
        quota,
        used,
    )


def _view(one: "Raised") -> dict[str, Any]:
    return {
        "member": one.name,
        "memberID": f"{one.alarm.member_id:x}",
        "alarm": one.alarm.kind,
        "dbSizeBytes": one.db_size or None,
        "quotaBytes": one.quota,
    }


@alarm.command(
    "disarm",
    cls=Verb,
    short_help="Take one alarm back, where its cause is gone.",
    examples="""
etcd-steward alarm disarm etcd-1 --endpoints 10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379
etcd-steward alarm disarm                       # NOSPACE of all members
etcd-steward alarm disarm etcd-1 --type CORRUPT # after it was replaced
""",
)
@click.argument("member", metavar="[MEMBER]", required=False)
@click.option(
    "--type",
    "kind",
    cls=Option,
    type=click.Choice(["NOSPACE", "CORRUPT"]),
    default="NOSPACE",
    help="Which alarm.  [default: NOSPACE]",
)
@maintenance_options(rule=False)
@etcd_options()
@timeout_option
@output_option
@progress_option
def disarm(  # one for each flag, all passed by name
    member: str | None,
    kind: str,
    options: MaintenanceOptions,
    etcd: EtcdFlags,
    timeout: float,
    output: str,
    progress: bool,
) -> None:
    """Take back NOSPACE of MEMBER, a name or an ID, or of all members.

    NOSPACE goes only if every voter's file is below 80 % of its quota, else it would come back with
    the next write, and not beside CORRUPT. CORRUPT goes only of a MEMBER that is named, and only if
    the hashes of all members are equal. No other alarm is touched.
    """

    async def work(report: "Report") -> "list[Raised]":
        from etcd_steward.app import open_etcd  # noqa: PLC0415  # grpc: slow
        from etcd_steward.engine.maintenance import disarm as engine  # noqa: PLC0415

        async with open_etcd(etcd.connection()) as client:
            chosen = cast("Kind", kind)
            deadline = Deadline.after(timeout)
            return await engine.disarm(client, options, chosen, member, report, deadline=deadline)

    with reporting(progress=progress) as report:
        done = run(work(report), stopping="Stopping.")
    if output == "table":
        for one in done:
            click.echo(f"{one.alarm.kind} of {one.name or f'{one.alarm.member_id:x}'} is disarmed")
    else:
        emit([_view(one) for one in done], output)


@alarm.command(
    "rescue",
    cls=Verb,
    short_help="Make a full etcd take writes again.",
    examples="""
etcd-steward alarm rescue --endpoints 10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379 \\
    --cacert ca.crt --cert client.crt --key client.key --store s3://etcd-backups/prod
etcd-steward alarm rescue --spool-dir /mnt/roomy   # the snapshot stays there
etcd-steward alarm rescue --quota 2Gi --disk-room 10Gi
""",
)
@maintenance_options(rule=False)
@etcd_options()
@store_options(writes=True)
@spool_options
@click.option(
    "--name",
    cls=Option,
    type=BACKUP_NAME,
    default="before-rescue",
    metavar="NAME",
    help="What the snapshot is called in the store.  [default: before-rescue]",
)
@registry_prefix_option()
@timeout_option
@output_option
@progress_option
def rescue(  # noqa: PLR0917  # one for each flag, all passed by name
    options: MaintenanceOptions,
    etcd: EtcdFlags,
    store: StoreFlags,
    spool: SpoolSettings,
    name: BackupRef,
    registry_prefix: str,
    timeout: float,
    output: str,
    progress: bool,
) -> int:
    """Make an etcd that refuses writes (NOSPACE) take them again.

    A snapshot first, into --store, else it stays in the spool. Then history is compacted, no deeper
    than needed, every member whose file is too large is defragmented, one at a time, and only when
    all files are below 80 % of their quotas exactly these alarms are taken back. A write that
    leaves nothing proves it. No Kubernetes is needed. Exit code 3: it can't be won, or must not be
    tried, and says why; 1: it broke off.
    """
    request = MaintenanceRequest(
        task="rescue",
        etcd=etcd.connection(),
        options=options,
        holder=holder(),
        run=secrets.token_hex(4),
        backup=RescueBackup(
            store=store.settings() if store.url is not None else None,
            spool=spool,
            backup=name,
            requester=RunRef(requested_by="cli: alarm rescue"),
            registry_prefix=registry_prefix,
            timeout=timeout,
        ),
    )
    last: list[MaintenanceEnded] = []
    with reporting(progress=progress) as report:
        work = _rescue(request, report, teller(report.say, last))
        try:
            done = run(work, stopping=_STOPPING, at_once=_AT_ONCE)
        finally:
            for stopped in last:
                if isinstance(stopped, RescueEnded):
                    _show_rescue(stopped.report, output)
    _show_rescue(done, output)
    return _EXIT.get(done.outcome, 0)


async def _rescue(
    request: MaintenanceRequest,
    report: "Report",
    tell: Callable[[MemberTurn | MemberDone | MaintenanceEnded], None],
) -> RescueReport:
    from etcd_steward.app import maintain  # noqa: PLC0415  # grpc: slow

    ended = await maintain(request, report, tell)
    if isinstance(ended, RescueEnded):
        return ended.report
    raise AssertionError("a rescue was asked for")


def _show_rescue(done: RescueReport, output: str) -> None:
    if output != "table":
        emit(done.model_dump(mode="json", by_alias=True), output)
        return
    if done.snapshot:
        click.echo(f"Snapshot: {done.snapshot}")
    if done.compaction is not None and done.compaction.outcome == "Compacted":
        click.echo(f"Compacted: history begins at revision {done.compaction.compact_revision}")
    if done.round is not None and done.round.outcome != "NothingToDo":
        show_round(done.round, output)
    for warning in done.warnings:
        warn(warning)
    click.echo(_in_words(done), err=done.outcome == "Refused")


def _in_words(done: RescueReport) -> str:
    match done.outcome:
        case "Rescued":
            return "Rescued: etcd takes writes again"
        case "NotNeeded":
            return f"Nothing to do: {done.reason}"
        case "Refused":
            return f"Refused: {done.reason}"
        case "Stopped":
            how = "etcd may be" if done.disarmed else "etcd is still"
            return f"Stopped before the end, {how} full: {done.reason}"
