"""`etcd-steward registry export`: the live keys of an etcd as one Parquet file in a store."""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from etcd_steward.cli.backup_name import BACKUP_NAME
from etcd_steward.cli.etcd_flags import etcd_options
from etcd_steward.cli.framework import Option, Verb
from etcd_steward.cli.output import emit, output_option
from etcd_steward.cli.progress import progress_option, reporting
from etcd_steward.cli.registry_prefix import registry_prefix_option
from etcd_steward.cli.running import run, timeout_option
from etcd_steward.cli.snapshot_output import as_json
from etcd_steward.cli.store_flags import StoreFlags, spool_options, store_options
from etcd_steward.config import EtcdFlags
from etcd_steward.models.manifest import BackupRef, RunRef
from etcd_steward.models.registry import Filter, Selection
from etcd_steward.models.run import ExportRequest, Result, SpoolSettings

_WHAT = "What"
_FILTERS = (
    ("namespaces", "namespace", "NS", "namespaces, such as shop or team-*", ("-n",)),
    ("resources", "resource", "NAME", "resources, such as secrets or deployments.apps", ()),
    ("names", "object-name", "NAME", "objects of this name", ()),
    ("key_prefixes", "key-prefix", "KEY", "keys of etcd that begin so", ()),
)


def _filter_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb the flags of a selection; it receives `include_…` and `exclude_…`."""
    for side, before in (("exclude", "exclude-"), ("include", "")):
        only = "Only" if side == "include" else "Not"
        function = click.option(
            f"--{before}selector",
            *(("-l",) if side == "include" else ()),
            f"{side}_label_selector",
            cls=Option,
            section=_WHAT,
            metavar="SELECTOR",
            help=f"{only} objects with these labels, as for `kubectl get -l`.",
        )(function)
        for field, word, metavar, what, short in reversed(_FILTERS):
            function = click.option(
                f"--{before}{word}",
                *(short if side == "include" else ()),
                f"{side}_{field}",
                cls=Option,
                section=_WHAT,
                multiple=True,
                metavar=metavar,
                help=f"{only} {what}; may be given again.",
            )(function)
    return function


@click.command(
    "export",
    cls=Verb,
    short_help="Store the live keys of an etcd as one Parquet file.",
    examples="""
etcd-steward registry export --endpoints 10.0.0.1:2379 --store s3://etcd-backups/prod
etcd-steward registry export --store file:///var/backups/etcd -n shop --exclude-resource events
etcd-steward registry export --store file:///var/backups/etcd -l app=shop -o json | jq .liveKeys
""",
)
@etcd_options()
@store_options(writes=True)
@spool_options
@_filter_options
@click.option(
    "--at",
    cls=Option,
    section=_WHAT,
    type=click.IntRange(min=1),
    metavar="REVISION",
    help="As of this revision of etcd, as long as etcd has not compacted it.  [default: now]",
)
@registry_prefix_option(_WHAT)
@click.option(
    "--name",
    cls=Option,
    type=BACKUP_NAME,
    default="manual",
    help="Name of the backup that this export belongs to, as _cli.NAME.  [default: manual]",
)
@timeout_option
@output_option
@progress_option
def export(  # noqa: PLR0917  # one for each flag, all passed by name
    etcd: EtcdFlags,
    store: StoreFlags,
    spool: SpoolSettings,
    at: int | None,
    registry_prefix: str,
    name: BackupRef,
    timeout: float,
    output: str,
    progress: bool,
    **selected: Any,  # noqa: ANN401  # the flags of `_filter_options`
) -> None:
    """Store every live key of an etcd with its value as one Parquet file; print its URL.

    With -o json or yaml, its manifest is printed. All keys are read at one revision, from a healthy
    follower, and no more than a page of them at a time; the file is sorted by namespace and key,
    and DuckDB, Spark and pandas open it. It is read back whole and compared with what was read from
    etcd before its manifest is written: an export without one does not exist.
    """
    request = ExportRequest(
        etcd=etcd.connection(),
        store=store.settings(),
        spool=spool,
        backup=name,
        requester=RunRef(),
        run=secrets.token_hex(4),
        tick=datetime.now(UTC).replace(microsecond=0),
        registry_prefix=registry_prefix,
        timeout=timeout,
        selection=Selection(
            include=_filter("include", selected), exclude=_filter("exclude", selected)
        ),
        revision=at or 0,
    )
    result = _take(request, progress=progress)
    if output == "table":
        click.echo(result.url)
    else:
        emit(as_json(result.manifest), output)


def _filter(side: str, selected: dict[str, Any]) -> Filter | None:
    given = {
        name.removeprefix(f"{side}_"): value
        for name, value in selected.items()
        if name.startswith(f"{side}_") and value
    }
    return Filter(**given) if given else None


def _take(request: ExportRequest, *, progress: bool) -> Result:
    from etcd_steward.app import take_snapshot  # noqa: PLC0415  # grpc, boto3 and numpy: slow

    with reporting(progress=progress) as report:
        return run(take_snapshot(request, report))
