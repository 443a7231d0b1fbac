"""`etcd-steward maintenance compact`: forgetting history, guarded."""

import secrets
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from etcd_steward.cli.etcd_flags import etcd_options
from etcd_steward.cli.framework import Option, Verb, Verbs
from etcd_steward.cli.maintenance_flags import holder
from etcd_steward.cli.output import emit, output_option, warn
from etcd_steward.cli.registry_prefix import registry_prefix_option
from etcd_steward.cli.running import run
from etcd_steward.cli.values import DURATION
from etcd_steward.config import EtcdFlags
from etcd_steward.errors import Compacted
from etcd_steward.models.maintenance import (
    CompactionOptions,
    CompactionReport,
    MaintenanceOptions,
)
from etcd_steward.models.maintenance_run import MaintenanceRequest

if TYPE_CHECKING:  # grpc is imported where it is needed
    from etcd_steward.etcd.client import EtcdClient

_REFUSED = 3


@click.group(
    "maintenance",
    cls=Verbs,
    examples="""
etcd-steward maintenance compact --retain-duration 10m --plan
""",
)
def maintenance() -> None:
    """Maintain an etcd; see also `defrag` and `alarm`."""


@maintenance.command(
    "compact",
    cls=Verb,
    short_help="Forget old history, and never what somebody still reads.",
    examples="""
etcd-steward maintenance compact --retain-revisions 10000 --plan
etcd-steward maintenance compact --retain-duration 10m --endpoints 10.0.0.1:2379
etcd-steward maintenance compact --revision 1234567
""",
)
@click.option(
    "--revision",
    cls=Option,
    type=click.IntRange(min=1),
    metavar="REVISION",
    help="The oldest revision that is to stay readable.",
)
@click.option(
    "--retain-revisions",
    cls=Option,
    type=click.IntRange(min=1),
    metavar="COUNT",
    help="Keep the newest so many revisions readable.",
)
@click.option(
    "--retain-duration",
    cls=Option,
    type=DURATION,
    metavar="DURATION",
    help="Keep what was there so long ago; with both, what either asks for.",
)
@click.option("--plan", cls=Option, is_flag=True, help="Only say what would be done, and why.")
@registry_prefix_option()
@etcd_options()
@output_option
def compact(  # one for each flag, all passed by name
    revision: int | None,
    retain_revisions: int | None,
    retain_duration: float | None,
    plan: bool,
    registry_prefix: str,
    etcd: EtcdFlags,
    output: str,
) -> int:
    """Compact etcd's history, guarded.

    Never to the newest revision, and never past one that a running export reads. Which revision was
    there when, the Leases in a Kubernetes registry tell, or what the operator has observed; an etcd
    with neither knows only counts.
    Plain `compact` does what etcdctl's does. Exit code 3: refused.
    """
    if revision is not None and (retain_revisions or retain_duration):
        raise click.UsageError("--revision says it all: leave out --retain-…")
    if revision is None and retain_revisions is None and retain_duration is None:
        raise click.UsageError("say what stays: --retain-revisions, --retain-duration, --revision")
    request = MaintenanceRequest(
        task="compaction",
        etcd=etcd.connection(),
        options=MaintenanceOptions(
            compaction=CompactionOptions(
                mode="Retain", retain_revisions=retain_revisions, retain_seconds=retain_duration
            )
        ),
        mode="Plan" if plan else "Apply",
        holder=holder(),
        run=secrets.token_hex(4),
        compact_to=revision,
    )
    done = run(_compact(request, registry_prefix), stopping="Stopping.")
    _show(done, output)
    return _REFUSED if done.outcome == "Refused" else 0


async def _compact(request: MaintenanceRequest, prefix: str) -> CompactionReport:
    from etcd_steward.app import open_etcd  # noqa: PLC0415  # grpc: slow
    from etcd_steward.engine.maintenance.compaction import compact as engine  # noqa: PLC0415

    rule = request.options.compaction
    async with open_etcd(request.etcd) as client:
        if rule is not None and rule.retain_seconds is not None:
            request = await _by_the_clock(client, request, rule, rule.retain_seconds, prefix)
        return await engine(client, request)


async def _by_the_clock(
    client: "EtcdClient",
    request: MaintenanceRequest,
    rule: CompactionOptions,
    seconds: float,
    prefix: str,
) -> MaintenanceRequest:
    """The same request with the revision that was there at the time: the registry's clock tells."""
    from etcd_steward.engine.clock import clock_of  # noqa: PLC0415  # grpc: slow
    from etcd_steward.engine.live_source import LiveSource  # noqa: PLC0415

    source = await LiveSource.open(client, prefix)
    now = datetime.now(UTC)
    revision = 1  # all stays, where history does not reach back so far
    with suppress(Compacted):
        clock = await clock_of(source, prefix)
        revision = clock.at(now - timedelta(seconds=seconds), now).revision
    revision = min(revision, source.revision - (rule.retain_revisions or 1))
    return request.model_copy(update={"compact_to": max(1, revision)})


def _show(done: CompactionReport, output: str) -> None:
    if output != "table":
        emit(done.model_dump(mode="json", by_alias=True), output)
        return
    for warning in done.warnings:
        warn(warning)
    match done.outcome:
        case "Compacted":
            word = "Would compact" if done.mode == "Plan" else "Compacted"
            before = f"from {done.compacted_from} " if done.compacted_from else ""
            click.echo(
                f"{word}: history {before}begins at revision {done.compact_revision} now, of "
                f"{done.revision} ({done.reason})"
            )
        case "NotNeeded":
            click.echo(f"Nothing to do: {done.reason}")
        case "Refused":
            click.echo(f"Refused: {done.reason}", err=True)
