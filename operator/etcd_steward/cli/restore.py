"""`etcd-steward restore …`: bringing back what was lost."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from etcd_steward.cli.framework import LazyVerbs, Option, Verb
from etcd_steward.cli.output import output_option, warn
from etcd_steward.cli.progress import progress_option, reporting
from etcd_steward.cli.restore_output import tell
from etcd_steward.cli.running import run
from etcd_steward.cli.snapshot_find import filters, resolve, snapshot_argument, split_url
from etcd_steward.cli.store_flags import StoreFlags, store_options

if TYPE_CHECKING:  # imported within the verb, see cli/snapshot.py
    from etcd_steward.engine.report import Report
    from etcd_steward.engine.restore_cluster import MemberRequest, Restored

_MEMBER = "Member"
_REVISIONS = "Revisions"
_HIGHEST_BUMP = 1 << 60
"""etcd counts in 63 bits, and needs some of them afterwards."""
_OF_THIS_CALL = frozenset(
    {
        *("store", "cluster", "backup", "name", "initial_advertise_peer_urls", "data_dir"),
        *("initial_cluster", "initial_cluster_token", "bump_revision", "wal_dir"),
        *("no_mark_compacted", "output", "progress"),
    }
)
"""Parameters that differ between hosts, or that each command names as they turned out."""


_VERBS = {
    "namespace": ("etcd_steward.cli.restore_keys:namespace", "Bring back what a namespace held."),
    "object": ("etcd_steward.cli.restore_keys:objects", "Bring back single objects."),
    "undo": ("etcd_steward.cli.restore_undo:undo", "Take back what a restore has written."),
}


@click.group(
    "restore",
    cls=LazyVerbs,
    lazy=_VERBS,
    examples="""
etcd-steward restore namespace shop
etcd-steward restore object secret/shop/db --from s3://etcd-backups/prod
etcd-steward restore cluster s3://etcd-backups/prod --name etcd0 --data-dir /var/lib/etcd \\
    --initial-cluster etcd0=https://10.0.0.1:2380,etcd1=https://10.0.0.2:2380
""",
)
def restore() -> None:
    """Bring back what was lost."""


@restore.command(
    "cluster",
    cls=Verb,
    short_help="Restore a lost etcd from a snapshot, one command per member.",
    examples="""
etcd-steward restore cluster s3://etcd-backups/prod --name etcd0 --data-dir /var/lib/etcd \\
    --initial-cluster etcd0=https://10.0.0.1:2380,etcd1=https://10.0.0.2:2380
etcd-steward restore cluster etcd.db --name default --data-dir /var/lib/etcd \\
    --initial-cluster default=http://localhost:2380
""",
)
@snapshot_argument
@store_options()
@filters
@click.option(
    "--name",
    cls=Option,
    section=_MEMBER,
    required=True,
    help="The member of this host; each keeps the name that it had.",
)
@click.option(
    "--initial-cluster",
    cls=Option,
    section=_MEMBER,
    metavar="NAME=PEERURL,...",
    required=True,
    help="All members and their peer URLs, the same on every host.",
)
@click.option(
    "--initial-advertise-peer-urls",
    cls=Option,
    section=_MEMBER,
    metavar="PEERURL,...",
    help="This member's own.  [default: what --initial-cluster says]",
)
@click.option(
    "--initial-cluster-token",
    cls=Option,
    section=_MEMBER,
    metavar="TOKEN",
    help="The same on every host.  [default: made of the snapshot and the bump, so that members "
    "of different ones never form a cluster]",
)
@click.option(
    "--data-dir",
    cls=Option,
    section=_MEMBER,
    type=click.Path(path_type=Path),
    metavar="DIR",
    required=True,
    help="Where etcd will look for its data: empty, or not there yet.",
)
@click.option(
    "--wal-dir",
    cls=Option,
    section=_MEMBER,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where etcd's own --wal-dir points, if it is set.",
)
@click.option(
    "--bump-revision",
    cls=Option,
    section=_REVISIONS,
    type=int,
    metavar="N",
    help="How much later revisions begin than where the snapshot ends, so that no client has seen "
    "a later one; the same on every host.  [default: 1000000000]",
)
@click.option(
    "--no-mark-compacted",
    cls=Option,
    section=_REVISIONS,
    is_flag=True,
    help="Neither bump revisions nor mark older ones as compacted: never for Kubernetes, whose "
    "clients would go on with stale data.",
)
@click.option(
    "--etcdutl",
    cls=Option,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="etcd's own tool, at least as new as the snapshot's etcd, and 3.5.10.  [default: on PATH]",
)
@click.option(
    "--unproven", cls=Option, is_flag=True, help="Restore a suspect or damaged snapshot as well."
)
@output_option
@progress_option
def cluster(store: StoreFlags, snapshot_url: str | None, **flags: Any) -> None:  # noqa: ANN401
    """Restore one member of a lost etcd from a snapshot; run it on each member's host.

    SNAPSHOT is a snapshot's own URL, a store's URL, which means its newest verified one, or a file
    (.db, .db.zst, .db.gz). Neither etcd nor an API server is needed. The snapshot is proven,
    etcdutl restores it, and what it made is proven again; DIR holds no data until all is right, and
    nothing is ever deleted. The commands for the other hosts are printed, and what else is to do:
    stop the API servers before, and read docs/restore-whole-cluster.md.
    """
    from etcd_steward.engine.initial_cluster import InitialCluster  # noqa: PLC0415
    from etcd_steward.engine.restore_cluster import BUMP, MemberRequest  # noqa: PLC0415

    bump = _bump(flags["bump_revision"], BUMP, none=flags["no_mark_compacted"])
    wal_dir = flags["wal_dir"]
    request = MemberRequest(
        cluster=InitialCluster.parse(
            flags["initial_cluster"], flags["name"], flags["initial_advertise_peer_urls"]
        ),
        data_dir=flags["data_dir"].absolute(),
        wal_dir=None if wal_dir is None else wal_dir.absolute(),
        token=flags["initial_cluster_token"],
        bump=bump,
        unproven=flags["unproven"],
    )
    chosen = _Chosen(store, snapshot_url, flags["cluster"], flags["backup"], flags["etcdutl"])
    with reporting(progress=flags["progress"]) as report:
        work = chosen.restore(request, report)
        done = run(work, stopping="Stopping: what was begun is removed.")
    tell(request, done, _given(click.get_current_context()), flags["output"])


def _bump(given: int | None, usual: int, *, none: bool) -> int | None:
    if none and given is not None:
        raise click.UsageError("--no-mark-compacted leaves no room for --bump-revision")
    if none:
        warn("revisions are not bumped: whoever watches this etcd, as Kubernetes does, is fooled")
        return None
    bump = usual if given is None else given
    if not 1 <= bump <= _HIGHEST_BUMP:
        raise click.UsageError(
            f"--bump-revision {bump}: write a number from 1 to {_HIGHEST_BUMP}, or "
            "--no-mark-compacted to do without"
        )
    return bump


class _Chosen:
    """The snapshot and the tool that were asked for."""

    def __init__(
        self,
        store: StoreFlags,
        url: str | None,
        cluster: str | None,
        backup: str | None,
        etcdutl: Path | None,
    ) -> None:
        self._store = store
        self._url = url
        self._file = None if url is None or "://" in url else Path(url).absolute()
        self._narrowed = (cluster, backup)
        self._etcdutl = None if etcdutl is None else etcdutl.absolute()

    async def restore(self, request: "MemberRequest", report: "Report") -> "Restored":
        """Find both, and restore the member."""
        from etcd_steward.app import open_store  # noqa: PLC0415
        from etcd_steward.engine.etcdutl import Etcdutl  # noqa: PLC0415
        from etcd_steward.engine.restore_cluster import (  # noqa: PLC0415
            refuse_early,
            restore_member,
        )
        from etcd_steward.engine.snapshot_source import (  # noqa: PLC0415
            SnapshotFile,
            StoredSnapshot,
        )

        refuse_early(request)
        tool = await Etcdutl.find(self._etcdutl)
        if self._file is not None:
            return await restore_member(SnapshotFile(self._file), request, tool, report)
        store_url, folder = split_url(self._url)
        async with open_store(self._store.settings(store_url)) as opened:
            found = await resolve(opened, folder, *self._narrowed, kind="Snapshot")
            source = StoredSnapshot(opened, found.manifest)
            return await restore_member(source, request, tool, report)


def _given(ctx: click.Context) -> list[str]:
    """The flags of this call that mean the same on every host, as they were given.

    What variables say is left out: those are to be set there as well.
    """
    words = []
    for param in ctx.command.params:
        if not isinstance(param, click.Option) or param.name in (None, *_OF_THIS_CALL):
            continue
        if ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE:
            flag, value = param.opts[-1], ctx.params[param.name]
            words.append(flag if param.is_flag else f"{flag}={value}")
    return words
