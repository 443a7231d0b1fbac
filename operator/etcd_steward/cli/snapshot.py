"""`etcd-steward snapshot …`: take, find, prove and fetch snapshots, with no Kubernetes needed."""

import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from etcd_steward.cli.backup_name import BACKUP_NAME
from etcd_steward.cli.etcd_flags import etcd_options
from etcd_steward.cli.framework import Option, Verb, Verbs
from etcd_steward.cli.output import emit, output_option, warn
from etcd_steward.cli.progress import progress_option, reporting
from etcd_steward.cli.registry_prefix import registry_prefix_option
from etcd_steward.cli.running import run, timeout_option
from etcd_steward.cli.snapshot_delete import delete, prune
from etcd_steward.cli.snapshot_find import (
    SOMETHING_TO_LOOK_AT,
    filters,
    resolve,
    snapshot_argument,
    split_url,
    with_store,
)
from etcd_steward.cli.snapshot_import import import_snapshot
from etcd_steward.cli.snapshot_index import index
from etcd_steward.cli.snapshot_list import list_snapshots
from etcd_steward.cli.snapshot_output import as_json, describe, proof_in_words, view
from etcd_steward.cli.store_flags import StoreFlags, spool_options, store_options
from etcd_steward.config import EtcdFlags
from etcd_steward.models.manifest import BackupRef, Level, Manifest, Proof, RunRef
from etcd_steward.models.ports import Store
from etcd_steward.models.run import Result, SnapshotRequest, SpoolSettings

# What reaches etcd or a store is imported within the verbs: grpc, boto3 and numpy take most of a
# second, and neither `--help` nor a mistyped flag should wait for them.
if TYPE_CHECKING:
    from etcd_steward.engine.manifests import Backup


@click.group(
    "snapshot",
    cls=Verbs,
    examples="""
etcd-steward snapshot save --endpoints 10.0.0.1:2379 --store file:///var/backups/etcd
etcd-steward snapshot list --store s3://etcd-backups/prod
etcd-steward snapshot fetch s3://etcd-backups/prod etcd.db
""",
)
def snapshot() -> None:
    """Take, list, prove, fetch and delete snapshots.

    SNAPSHOT is a snapshot's own URL, as `list` prints it, or a store's URL, which means its newest
    verified one; left out, the store is what --store says.
    """


snapshot.add_command(import_snapshot)
snapshot.add_command(list_snapshots)
snapshot.add_command(delete)
snapshot.add_command(prune)
snapshot.add_command(index)


@snapshot.command(
    "save",
    cls=Verb,
    examples="""
etcd-steward snapshot save --endpoints 10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379 \\
    --cacert ca.crt --cert client.crt --key client.key --store s3://etcd-backups/prod
etcd-steward snapshot save --store file:///var/backups/etcd --name before-upgrade
etcd-steward snapshot save --store file:///var/backups/etcd -o json | jq .revision
""",
)
@etcd_options()
@store_options(writes=True)
@spool_options
@click.option(
    "--name",
    cls=Option,
    type=BACKUP_NAME,
    default="manual",
    help="Name of the backup that this snapshot belongs to, as _cli.NAME.  [default: manual]",
)
@click.option(
    "--emergency",
    cls=Option,
    is_flag=True,
    help="Take what a last member holds, even without a leader or under a CORRUPT alarm; the "
    "snapshot is marked as suspect.",
)
@click.option(
    "--no-index",
    "index_too",
    cls=Option,
    flag_value=False,
    default=True,
    type=bool,
    help="Leave out registry.parquet, which takes memory: about 500 MB for a million keys. "
    "`snapshot index` makes it later, anywhere.",
)
@registry_prefix_option()
@timeout_option
@output_option
@progress_option
def save(  # noqa: PLR0917  # one for each flag, all passed by name
    etcd: EtcdFlags,
    store: StoreFlags,
    spool: SpoolSettings,
    name: BackupRef,
    emergency: bool,
    index_too: bool,
    registry_prefix: str,
    timeout: float,
    output: str,
    progress: bool,
) -> int:
    """Take a snapshot, prove it and store it; print its URL.

    With -o json or yaml, its manifest is printed. The snapshot is read from a healthy follower into
    the spool, proven page by page, compressed and uploaded, and read back. Only then is its
    manifest written: a backup without one does not exist. Last comes registry.parquet, which
    `registry` and `restore` read in place; if only that fails, the exit code is 4.
    """
    request = SnapshotRequest(
        etcd=etcd.connection(),
        store=store.settings(),
        spool=spool,
        backup=name,
        requester=RunRef(),
        run=secrets.token_hex(4),
        tick=datetime.now(UTC).replace(microsecond=0),
        registry_prefix=registry_prefix,
        emergency=emergency,
        index=index_too,
        timeout=timeout,
    )
    result = _take(request, progress=progress)
    if output == "table":
        click.echo(result.url)
    else:
        emit(as_json(result.manifest), output)
    if result.manifest.suspect is not None:
        warn(f"this snapshot is suspect: {result.manifest.suspect}")
    if result.index_failure is not None:
        warn(f"the snapshot is complete, but not indexed: {result.index_failure.text}")
    looked = result.manifest.suspect is not None or result.index_failure is not None
    return SOMETHING_TO_LOOK_AT if looked else 0


def _take(request: SnapshotRequest, *, progress: bool) -> Result:
    from etcd_steward.app import take_snapshot  # noqa: PLC0415  # see the top

    with reporting(progress=progress) as report:
        return run(take_snapshot(request, report))


@snapshot.command(
    "show",
    cls=Verb,
    examples="""
etcd-steward snapshot show s3://etcd-backups/prod
etcd-steward snapshot show s3://etcd-backups/prod/1f0c9a3e/_cli.manual/20261122T021700Z-7c1e04b2
etcd-steward snapshot show --store file:///var/backups/etcd --backup before-upgrade -o yaml
""",
)
@snapshot_argument
@store_options()
@filters
@output_option
def show(
    snapshot_url: str | None,
    store: StoreFlags,
    cluster: str | None,
    backup: str | None,
    output: str,
) -> None:
    """Show what is known of a snapshot: its manifest and its proofs."""

    async def look(opened: Store) -> tuple[str, "Backup"]:
        return opened.url, await resolve(opened, folder, cluster, backup)

    store_url, folder = split_url(snapshot_url)
    url, found = run(with_store(store, store_url, look))
    if output == "table":
        describe(url, found)
    else:
        emit(view(url, found), output)


@snapshot.command(
    "verify",
    cls=Verb,
    short_help="Read a snapshot back whole and prove it.",
    examples="""
etcd-steward snapshot verify s3://etcd-backups/prod
etcd-steward snapshot verify --store file:///var/backups/etcd --level Digest
""",
)
@snapshot_argument
@store_options()
@filters
@spool_options
@click.option(
    "--level",
    cls=Option,
    type=click.Choice([level.value for level in Level], case_sensitive=False),
    default=Level.STRUCTURE.value,
    metavar="LEVEL",
    help="Digest: what lies there is what was stored. Structure: also every page, key and revision "
    "of the database in it is read.  [default: Structure]",
)
@output_option
@progress_option
def verify(
    snapshot_url: str | None,
    store: StoreFlags,
    cluster: str | None,
    backup: str | None,
    spool: SpoolSettings,
    level: str,
    output: str,
    progress: bool,
) -> None:
    """Read a snapshot back whole and prove it; the proof is stored beside it."""
    from etcd_steward.engine import verify as engine  # noqa: PLC0415  # see the top

    store_url, folder = split_url(snapshot_url)
    with reporting(progress=progress) as report:

        async def prove(opened: Store) -> tuple[str, Proof]:
            found = await resolve(opened, folder, cluster, backup)
            proof = await engine.verify(opened, found.manifest, Level(level), spool, report)
            return f"{opened.url}/{found.manifest.folder}", proof

        url, proof = run(with_store(store, store_url, prove))
    if output == "table":
        click.echo(f"{url} verified: {proof_in_words(proof)}")
    else:
        emit({"url": url, "proof": as_json(proof)}, output)


@snapshot.command(
    "fetch",
    cls=Verb,
    short_help="Write a snapshot to a file, for etcdutl to restore.",
    examples="""
etcd-steward snapshot fetch s3://etcd-backups/prod etcd.db
etcdutl snapshot restore etcd.db --data-dir /var/lib/etcd-restored
""",
)
@click.argument("snapshot_url", metavar="SNAPSHOT")
@click.argument("target", metavar="TARGET", type=click.Path(dir_okay=False, path_type=Path))
@store_options()
@filters
@click.option("--force", cls=Option, is_flag=True, help="Overwrite TARGET if it is there.")
@output_option
@progress_option
def fetch(
    snapshot_url: str,
    target: Path,
    store: StoreFlags,
    cluster: str | None,
    backup: str | None,
    force: bool,
    output: str,
    progress: bool,
) -> None:
    """Write a snapshot to the file TARGET, as `etcdutl snapshot restore` takes it.

    It is uncompressed and compared with its digests on the way; TARGET appears, readable for you
    alone, when all of it is there and right.
    """
    from etcd_steward.engine import fetch as engine  # noqa: PLC0415  # see the top

    store_url, folder = split_url(snapshot_url)
    with reporting(progress=progress) as report:

        async def bring(opened: Store) -> tuple[str, Manifest]:
            found = await resolve(opened, folder, cluster, backup)
            await engine.fetch(opened, found.manifest, target, report, force=force)
            return f"{opened.url}/{found.manifest.folder}", found.manifest

        url, manifest = run(with_store(store, store_url, bring))
    if output == "table":
        click.echo(str(target))
    else:
        emit({"url": url, "file": str(target.absolute()), "manifest": as_json(manifest)}, output)
