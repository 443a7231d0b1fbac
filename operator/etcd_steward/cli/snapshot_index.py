"""`etcd-steward snapshot index`: make the file that other verbs read a snapshot's keys from."""

from typing import TYPE_CHECKING

import click

from etcd_steward.cli.framework import Option, Verb
from etcd_steward.cli.output import emit, output_option
from etcd_steward.cli.progress import progress_option, reporting
from etcd_steward.cli.registry_prefix import registry_prefix_option
from etcd_steward.cli.running import run, timeout_option
from etcd_steward.cli.snapshot_find import (
    filters,
    resolve,
    snapshot_argument,
    split_url,
    with_store,
)
from etcd_steward.cli.store_flags import StoreFlags, spool_options, store_options
from etcd_steward.models.ports import Store
from etcd_steward.models.run import SpoolSettings
from etcd_steward.units import size

if TYPE_CHECKING:  # imported within the verb, see cli/snapshot.py
    from etcd_steward.models.manifest import Index


@click.command(
    "index",
    cls=Verb,
    short_help="Make the registry.parquet beside a snapshot.",
    examples="""
etcd-steward snapshot index s3://etcd-backups/prod
etcd-steward snapshot index s3://etcd-backups/prod/1f0c9a3e/_cli.manual/20261122T021700Z-7c1e04b2
etcd-steward snapshot index --store file:///var/backups/etcd --force
""",
)
@snapshot_argument
@store_options(writes=True)
@filters
@spool_options
@click.option("--force", cls=Option, is_flag=True, help="Make it anew, though there is a good one.")
@registry_prefix_option(found=True)
@timeout_option
@output_option
@progress_option
def index(  # noqa: PLR0917  # one for each flag, all passed by name
    snapshot_url: str | None,
    store: StoreFlags,
    cluster: str | None,
    backup: str | None,
    spool: SpoolSettings,
    force: bool,
    registry_prefix: str | None,
    timeout: float,
    output: str,
    progress: bool,
) -> None:
    """Make the registry.parquet beside a snapshot, from which `registry ...` reads its keys.

    A snapshot gets one when it is taken or imported: this is for older ones, and for those where it
    failed or was damaged. The snapshot is read back whole, and its digests are compared.
    """
    from etcd_steward.engine import sidecar  # noqa: PLC0415  # see cli/snapshot.py

    store_url, folder = split_url(snapshot_url)
    prefixes = (registry_prefix,) if registry_prefix else sidecar.PREFIXES
    with reporting(progress=progress) as report:

        async def make(opened: Store) -> tuple[str, "Index", bool]:
            manifest = (await resolve(opened, folder, cluster, backup)).manifest
            made, new = await sidecar.index_backup(
                opened, manifest, spool, report, prefixes=prefixes, force=force, timeout=timeout
            )
            return f"{opened.url}/{manifest.folder}", made, new

        url, made, new = run(with_store(store, store_url, make))
    if output != "table":
        emit({"url": url, "new": new, "index": made.model_dump(mode="json", by_alias=True)}, output)
        return
    if not new:
        click.echo("Indexed before: nothing was written (--force makes it anew)", err=True)
    click.echo(f"{url}/{made.file.name} ({made.rows:,} keys, {size(made.file.size)})")
