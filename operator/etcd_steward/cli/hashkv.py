"""`etcd-steward hashkv`: one hash over all keys, of a file, of a backup, of every member."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from etcd_steward.cli.etcd_flags import etcd_options
from etcd_steward.cli.framework import Option, Verb
from etcd_steward.cli.output import emit, output_option, print_table
from etcd_steward.cli.progress import progress_option, reporting
from etcd_steward.cli.running import run, timeout_option
from etcd_steward.cli.snapshot_find import (
    SOMETHING_TO_LOOK_AT,
    filters,
    resolve,
    split_url,
    with_store,
)
from etcd_steward.cli.store_flags import StoreFlags, spool_options, store_options
from etcd_steward.config import EtcdFlags
from etcd_steward.deadline import Deadline
from etcd_steward.models.ports import Store
from etcd_steward.models.run import SpoolSettings

if TYPE_CHECKING:  # numpy and grpc are imported where they are needed
    from etcd_steward.engine.hashkv import Hashed
    from etcd_steward.engine.report import Report

_HEADER = ("SOURCE", "MEMBER", "HASH", "REVISION", "COMPACTED")
_WORDS = {
    "Same": "They hold the same data",
    "Different": "They hold DIFFERENT data: find the odd one out before all else",
    "NotComparable": "They can't be compared: their revisions differ, or a compaction came between",
    "Incomplete": "Those that have answered hold the same data",
}


@click.command(
    "hashkv",
    cls=Verb,
    examples="""
etcd-steward hashkv etcd.db
etcd-steward hashkv s3://etcd-backups/prod
etcd-steward hashkv --endpoints 10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379 \\
    --cacert ca.crt --cert client.crt --key client.key
etcd-steward hashkv etcd.db --endpoints 10.0.0.1:2379 -o json
""",
)
@click.argument("snapshot", metavar="[FILE|SNAPSHOT]", required=False)
@click.option(
    "--rev",
    "revision",
    cls=Option,
    type=click.IntRange(min=1),
    metavar="REVISION",
    help="Hash up to this revision.  [default: the file's newest, or the cluster's]",
)
@click.option(
    "--members",
    "members",
    cls=Option,
    is_flag=True,
    help="Beside a file, ask every member that ETCDCTL_ENDPOINTS names as well; --endpoints does "
    "so by itself.",
)
@etcd_options(optional=True)
@store_options()
@filters
@spool_options
@timeout_option
@output_option
@progress_option
def hashkv(  # noqa: PLR0917  # one for each flag, all passed by name
    snapshot: str | None,
    revision: int | None,
    members: bool,
    etcd: EtcdFlags | None,
    store: StoreFlags,
    cluster: str | None,
    backup: str | None,
    spool: SpoolSettings,
    timeout: float,
    output: str,
    progress: bool,
) -> int:
    """Hash all keys and their history, as etcd's HashKV does: equal hashes mean equal data.

    With a file or a stored snapshot, it is hashed as it is, without an etcd and without changing
    it. Without one, or with --endpoints beside it, every member is asked, one after the other: at
    the file's revision, to be compared with it. A member stands still while it reads all its keys.
    Exit code 4: they differ, or can't be compared.
    """
    flags = _asked(etcd or EtcdFlags(), beside=snapshot is not None, members=members)

    async def work(report: "Report") -> "list[Hashed]":
        deadline = Deadline.after(timeout)
        found: list[Hashed] = []
        async with deadline.enforce("hashing all keys"):
            if snapshot is not None:
                what = (store, cluster, backup)
                found.append(await _stored(snapshot, what, revision or 0, spool, report))
            if flags is not None:
                told = found[0].hash if found else None
                at = told.hash_revision if told else revision or 0
                found += await _members(flags, at, report, deadline)
        return found

    with reporting(progress=progress) as report:
        found = run(work(report), stopping="Stopping.")
    return _show(found, output)


def _asked(etcd: EtcdFlags, *, beside: bool, members: bool) -> EtcdFlags | None:
    """Whom to ask: beside a file nobody, unless that was said in so many words."""
    source = click.get_current_context().get_parameter_source("etcd_endpoints")
    return etcd if members or not beside or source is ParameterSource.COMMANDLINE else None


async def _stored(
    snapshot: str,
    what: tuple[StoreFlags, str | None, str | None],
    at: int,
    spool: SpoolSettings,
    report: "Report",
) -> "Hashed":
    from etcd_steward.engine.hashkv import hash_backup, hash_file  # noqa: PLC0415  # numpy: slow

    if "://" not in snapshot:
        return await hash_file(Path(snapshot), at, spool, report)
    store, cluster, backup = what
    url, folder = split_url(snapshot)

    async def work(opened: Store) -> "Hashed":
        manifest = (await resolve(opened, folder, cluster, backup)).manifest
        return await hash_backup(opened, manifest, at, spool, report)

    return await with_store(store, url, work)


async def _members(
    etcd: EtcdFlags, at: int, report: "Report", deadline: Deadline
) -> "list[Hashed]":
    from etcd_steward.engine.hash_members import hash_members  # noqa: PLC0415  # grpc: slow
    from etcd_steward.etcd.client import EtcdClient  # noqa: PLC0415

    async with EtcdClient.connect(etcd.connection()) as client:
        return await hash_members(client, at, report, deadline=deadline)


def _show(found: "list[Hashed]", output: str) -> int:
    from etcd_steward.engine.hashkv import Verdict, judge  # noqa: PLC0415  # loaded by now

    verdict = judge(found)
    if output == "table":
        print_table(_HEADER, [_row(one) for one in found])
        for one in found:
            if one.error is not None:
                click.echo(f"{one.source}: {one.error}", err=True)
        if len(found) > 1:
            click.echo(_WORDS[verdict.value])
    else:
        emit({"verdict": verdict.value, "hashes": [_view(one) for one in found]}, output)
    return 0 if verdict is Verdict.SAME else SOMETHING_TO_LOOK_AT


def _row(one: "Hashed") -> tuple[str, ...]:
    told = one.hash
    if told is None:
        return one.source, one.member, "none", "", ""
    compacted = "never" if told.compact_revision < 0 else str(told.compact_revision)
    return one.source, one.member, str(told.hash), str(told.hash_revision), compacted


def _view(one: "Hashed") -> dict[str, Any]:
    view: dict[str, Any] = {"source": one.source}
    if one.member:
        view["member"] = one.member
    if one.hash is not None:
        view |= {
            "hash": one.hash.hash,
            "hashRevision": one.hash.hash_revision,
            "compactRevision": one.hash.compact_revision,
        }
    if one.error is not None:
        view["error"] = str(one.error)
    return view
