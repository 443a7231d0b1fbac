"""`etcd-steward snapshot import`: adopt a snapshot that another program took."""

import re
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import click

from etcd_steward.cli.backup_name import BACKUP_NAME
from etcd_steward.cli.framework import Option, Verb
from etcd_steward.cli.output import emit, output_option
from etcd_steward.cli.progress import progress_option, reporting
from etcd_steward.cli.registry_prefix import registry_prefix_option
from etcd_steward.cli.running import run, timeout_option
from etcd_steward.cli.snapshot_output import as_json
from etcd_steward.cli.store_flags import StoreFlags, spool_options, store_options
from etcd_steward.errors import InvalidInput
from etcd_steward.models.manifest import BackupRef
from etcd_steward.models.run import SpoolSettings

if TYPE_CHECKING:  # numpy, boto3 and pyrage: `--help` need not wait for them
    from etcd_steward.app import Source
    from etcd_steward.engine.importing import Imported, Wanted

_WHAT = "What it is"
_CLUSTER_ID = re.compile(r"[0-9a-f]{1,16}")


@click.command(
    "import",
    cls=Verb,
    short_help="Adopt a snapshot that another program took.",
    examples="""
etcd-steward snapshot import etcd-snapshot.db --store s3://etcd-backups/prod
etcd-steward snapshot import /var/lib/rancher/k3s/server/db/snapshots/nightly-n1-1700000000.zip \\
    --store file:///var/backups/etcd --name k3s
etcd-steward snapshot import s3://old-backups/main/v2/Full-00000000-00012345-1700000000.gz \\
    --store s3://etcd-backups/prod
etcd-steward snapshot import talos.db.age --identity key.txt --store s3://etcd-backups/prod
curl -fsSL https://example.com/etcd.db.zst | etcd-steward snapshot import - --store s3://etcd-backups
""",
)
@click.argument("source", metavar="FILE|URL")
@store_options(writes=True)
@spool_options
@click.option(
    "--name",
    cls=Option,
    section=_WHAT,
    type=BACKUP_NAME,
    default="imported",
    help="Name of the backup that it becomes part of, as _cli.NAME.  [default: imported]",
)
@click.option(
    "--cluster",
    cls=Option,
    section=_WHAT,
    metavar="ID",
    help="etcd's cluster ID in hex. Needed where no kube-system Namespace can be read in the "
    "snapshot.",
)
@click.option(
    "--taken-at",
    cls=Option,
    section=_WHAT,
    metavar="TIME",
    help="When it was taken, such as 2026-11-22T02:17:00Z.  [default: what its name says, or the "
    "archive or file]",
)
@click.option(
    "--identity",
    "identity",
    cls=Option,
    section=_WHAT,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Private key (of age-keygen, or SSH) that opens a file encrypted with age.",
)
@registry_prefix_option(_WHAT, found=True)
@timeout_option
@output_option
@progress_option
def import_snapshot(  # noqa: PLR0917  # one for each flag, all passed by name
    source: str,
    store: StoreFlags,
    spool: SpoolSettings,
    name: BackupRef,
    cluster: str | None,
    taken_at: str | None,
    identity: Path | None,
    registry_prefix: str | None,
    timeout: float,
    output: str,
    progress: bool,
) -> None:
    """Adopt a snapshot that another program took: prove it and store it; print its URL.

    FILE is a database as etcdctl, k3s, RKE2, OpenShift, Talos, etcdbrctl (full ones) or a copy of a
    data directory leave it, plain or in gzip, zlib, zstd, zip or age; `-` is standard input. A URL
    is file:///path or s3://bucket/key, which is reached by the same S3 flags and credentials as the
    store. What it is, is told by what is in it.

    A snapshot that was imported before is recognised, and not stored twice.
    """
    wanted = _wanted(name, cluster, taken_at, registry_prefix, identity)
    from etcd_steward.app import import_file  # noqa: PLC0415  # see the top

    with reporting(progress=progress) as report:
        url, imported = run(
            import_file(
                _source(source, store), store.settings(), spool, wanted, report, timeout=timeout
            )
        )
    _tell(url, imported, output)


def _tell(url: str, imported: "Imported", output: str) -> None:
    if not imported.new:
        click.echo("Imported before, with the very same bytes: nothing was stored", err=True)
    if output == "table":
        click.echo(url)
    else:
        emit(as_json(imported.manifest), output)


def _wanted(
    name: BackupRef,
    cluster: str | None,
    taken_at: str | None,
    registry_prefix: str | None,
    identity: Path | None,
) -> "Wanted":
    if cluster is not None and not _CLUSTER_ID.fullmatch(cluster := cluster.lower()):
        raise click.UsageError(
            f"--cluster {cluster!r}: etcd's cluster ID in hex, such as cdf818194e3a8c32"
        )
    at = None if taken_at is None else _time(taken_at)
    from etcd_steward.engine.age import read_identities  # noqa: PLC0415  # see the top
    from etcd_steward.engine.importing import Wanted  # noqa: PLC0415  # see the top
    from etcd_steward.engine.sidecar import PREFIXES  # noqa: PLC0415

    return Wanted(
        backup=name,
        run=secrets.token_hex(4),
        cluster_id=cluster,
        taken_at=at,
        prefixes=(registry_prefix,) if registry_prefix else PREFIXES,
        identities=() if identity is None else read_identities(identity),
    )


def _time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(f"--taken-at {text!r}: write it as 2026-11-22T02:17:00Z") from None
    if at.tzinfo is None:
        raise click.UsageError(f"--taken-at {text!r} has no time zone: add Z for UTC, or +01:00")
    if at > datetime.now(UTC):
        raise click.UsageError(f"--taken-at {text!r} is yet to come")
    return at


def _source(text: str, flags: StoreFlags) -> "Source":
    from etcd_steward.app import Source  # noqa: PLC0415  # see the top

    scheme, separator, rest = text.partition("://")
    if not separator:
        return Source(text)
    if scheme == "file":
        host, slash, path = rest.partition("/")
        if host not in ("", "localhost") or not slash:
            raise InvalidInput(
                f"{text!r} is not an absolute path", hint="write file:///path with three slashes"
            )
        return Source(f"/{unquote(path)}")
    bucket, _, key = rest.partition("/")
    if scheme != "s3":
        raise InvalidInput(
            f"{text!r} can't be read: the scheme {scheme!r} is unknown",
            hint="write file:///path or s3://bucket/key, or pipe it: "
            "`curl -fsSL URL | etcd-steward snapshot import - …`",
        )
    if not key:
        raise InvalidInput(f"{text!r} names no object", hint="write s3://bucket/key")
    return Source(key, flags.settings(f"s3://{bucket}"))
