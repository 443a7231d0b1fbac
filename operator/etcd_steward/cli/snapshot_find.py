"""Which snapshots a verb means: the flags that say so, and the search in the store."""

import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from etcd_steward.cli.framework import Option
from etcd_steward.cli.output import warn
from etcd_steward.cli.store_flags import StoreFlags
from etcd_steward.errors import InvalidInput, NotFound, Unsupported
from etcd_steward.models.layout import Folder
from etcd_steward.models.manifest import BackupType
from etcd_steward.models.ports import Store

if TYPE_CHECKING:  # imported within the functions, see cli/snapshot.py
    from etcd_steward.engine.manifests import Backup, Unreadable

Answer = TypeVar("Answer")

SOMETHING_TO_LOOK_AT = 4
"""Exit code: done, but not all that lies in the store could be read."""


def snapshot_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb `[SNAPSHOT]`; it receives `snapshot_url`."""
    return click.argument("snapshot_url", metavar="[SNAPSHOT]", required=False)(function)


def filters(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb `--cluster` and `--backup`; it receives `cluster` and `backup`."""
    cluster = click.option(
        "--cluster", cls=Option, section="Which", metavar="ID", help="Only this cluster's."
    )
    backup = click.option(
        "--backup",
        cls=Option,
        section="Which",
        metavar="NAME",
        help="Only this backup's: its name, or namespace.name.",
    )
    return cluster(backup(function))


def split_url(url: str | None) -> tuple[str | None, Folder | None]:
    """A store's URL, and the folder in it where `url` names one."""
    if url is None:
        return None, None
    store, *last = url.rstrip("/").rsplit("/", 3)
    if "://" not in url:
        raise InvalidInput(
            f"SNAPSHOT {url!r} is no URL",
            hint="`etcd-steward snapshot list` prints the URLs of snapshots",
        )
    try:
        return store, Folder.parse("/".join(last))
    except InvalidInput:
        return url, None


async def with_store(
    flags: StoreFlags, url: str | None, work: Callable[[Store], Awaitable[Answer]]
) -> Answer:
    """Do `work` with a store that is opened for it."""
    # Not by way of `app`, which brings along what speaks to etcd and reads databases.
    from etcd_steward.store import open_store  # noqa: PLC0415  # see cli/snapshot.py

    async with open_store(flags.settings(url)) as store:
        return await work(store)


async def find_backups(
    store: Store, cluster: str | None, backup: str | None
) -> "tuple[list[Backup], list[Unreadable]]":
    """The backups that are asked for, oldest first, and those of them that can't be read.

    The latter are named on standard error.
    """
    from etcd_steward.engine.manifest_cache import ManifestCache  # noqa: PLC0415  # see above
    from etcd_steward.engine.manifests import Backup, backups  # noqa: PLC0415

    found: list[Backup] = []
    unreadable: list[Unreadable] = []
    async for one in backups(store, ManifestCache(cache_directory(), store)):
        if isinstance(one, Backup):
            if cluster is backup is None or in_folder(
                Folder.parse(one.manifest.folder), cluster, backup, one.manifest.cluster_id
            ):
                found.append(one)
        elif in_folder(one.folder, cluster, backup):
            warn(f"{store.url}/{one.key} is left out: {one.error}")
            unreadable.append(one)
    return found, unreadable


def in_folder(
    folder: Folder, cluster: str | None, backup: str | None, cluster_id: str | None = None
) -> bool:
    """Whether `--cluster` and `--backup` let through what lies in `folder`."""
    if cluster is not None and cluster.lower() not in {folder.cluster, cluster_id}:
        return False
    return backup in {None, folder.name, f"{folder.namespace}.{folder.name}"}


def cache_directory() -> Path:
    """Where manifests are remembered: a folder of ours in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    home = os.environ.get("HOME") or "/nonexistent"  # not to be written to: nothing is remembered
    return (Path(base) if base.startswith("/") else Path(home, ".cache")) / "etcd-steward"


async def resolve(
    store: Store,
    folder: Folder | None,
    cluster: str | None,
    backup: str | None,
    *,
    kind: BackupType | None = None,
) -> "Backup":
    """The backup in `folder`, else the newest verified one, which is named on standard error.

    With `kind`, the newest verified one of that type.
    """
    from etcd_steward.engine.manifests import get_backup  # noqa: PLC0415

    if folder is not None:
        return await get_backup(store, folder)
    found, _ = await find_backups(store, cluster, backup)
    found = [one for one in found if kind in {None, one.manifest.type}]
    verified = [one for one in found if one.verified]
    if not verified:
        which = "no snapshot" if not found else f"none of {len(found)} snapshots that is verified"
        raise NotFound(
            f"there is {which} in {store.url}",
            hint="`etcd-steward snapshot list` shows what there is",
        )
    one_cluster(store, verified)
    newest = verified[-1]
    click.echo(f"Newest verified: {store.url}/{newest.manifest.folder}", err=True)
    return newest


def one_cluster(store: Store, found: "Sequence[Backup]") -> None:
    """Raise `Unsupported` where backups are of several clusters."""
    clusters = sorted({one.manifest.cluster for one in found})
    if len(clusters) > 1:
        raise Unsupported(
            f"{store.url} holds snapshots of {len(clusters)} clusters: {', '.join(clusters)}",
            hint="say which by --cluster, or name the snapshot's own URL",
        )
