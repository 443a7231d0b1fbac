"""Deleting backups: the manifest first, so that nothing that is half gone looks like a backup.

Only what this program wrote is deleted. A file that somebody else put into a run's folder stays.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from etcd_steward.engine.manifests import Contents, contents, find_manifest, folder_of
from etcd_steward.engine.tasks import together
from etcd_steward.errors import Refused, Unavailable
from etcd_steward.models.layout import INDEX, MANIFEST, REGISTRY, SNAPSHOT, SUSPECT, Folder
from etcd_steward.models.manifest import BackupRef, Manifest
from etcd_steward.models.ports import ObjectInfo, OpenUpload, Store

_AT_ONCE: Final = 8
"""Folders deleted in parallel."""
_PROOF: Final = re.compile(r"proofs/\d{8}T\d{12}Z\.json")

Check = Callable[[Manifest], None]
"""Raises `Refused` for a manifest that is not to be deleted."""


def same_id(one: str, other: str) -> bool:
    """Whether two ways of writing a cluster's ID mean the same."""
    return one.strip().lower().lstrip("0") == other.strip().lower().lstrip("0")


def only(backup: BackupRef, cluster_ids: Iterable[str]) -> Check:
    """Lets through what is of this backup and of one of these clusters."""
    known = tuple(cluster_ids)

    def check(manifest: Manifest) -> None:
        found = manifest.backup
        if (found.namespace, found.name) != (backup.namespace, backup.name):
            raise Refused(
                f"{manifest.folder} is of backup {found.namespace}.{found.name}, not of "
                f"{backup.namespace}.{backup.name}: it is not deleted"
            )
        if not any(same_id(manifest.cluster_id, one) for one in known):
            raise Refused(
                f"{manifest.folder} is of the cluster with ID {manifest.cluster_id}, not of ours "
                f"({', '.join(known) or 'unknown'}): it is not deleted",
                hint="if it is ours from before a restore, adopt it: annotation "
                "etcdsteward.io/adopt-cluster on the EtcdBackup",
            )

    return check


def nothing_whole(manifest: Manifest) -> None:
    """Lets nothing through that has a manifest: for what a deletion has left that was killed."""
    raise Refused(f"{manifest.folder} has its manifest after all: it is not deleted")


async def delete_backup(store: Store, folder: Folder, check: Check) -> bool:
    """Delete one backup if `check` lets its manifest, read anew, through; False: it was gone.

    The rest of a deletion that was interrupted goes as well: proofs are deleted last, so a folder
    that has one but no manifest was a backup once. Raises `Refused`, what `find_manifest` raises
    for a manifest that can't be read, and `Unavailable` if something is still there afterwards.
    """
    manifest = await find_manifest(store, folder)
    if manifest is not None:
        check(manifest)
        await store.delete(folder.manifest)
        if await store.find(folder.manifest) is not None:
            raise _still_there(store, folder.manifest)
    left = await _own_files(store, folder, manifest)
    if manifest is None and not any(_is_proof(folder, info.key) for info in left):
        return False
    for info in sorted(left, key=lambda info: _last(folder, info.key)):
        await store.delete(info.key)
    for info in await _own_files(store, folder, manifest):
        raise _still_there(store, info.key)
    return manifest is not None


async def delete_backups(store: Store, folders: Iterable[Folder], check: Check) -> None:
    """Delete many; those whose manifest has meanwhile become another's raise `Refused`."""
    left = iter(list(folders))

    async def work() -> None:
        for folder in left:
            await delete_backup(store, folder, check)

    async with together() as group:
        for _ in range(_AT_ONCE):
            group.create_task(work())


def _still_there(store: Store, key: str) -> Unavailable:
    return Unavailable(
        f"{store.url}/{key} is still there after it was deleted",
        hint="somebody writes it again, or the store keeps what it says it has deleted",
    )


def _last(folder: Folder, key: str) -> int:
    """In which order files go: first what vouches for another."""
    return 2 if _is_proof(folder, key) else key != folder.index


def _is_proof(folder: Folder, key: str) -> bool:
    return _PROOF.fullmatch(key.removeprefix(f"{folder}/")) is not None


async def _own_files(store: Store, folder: Folder, manifest: Manifest | None) -> list[ObjectInfo]:
    own = {SNAPSHOT, MANIFEST, REGISTRY, INDEX, SUSPECT} | {
        file.name for file in (manifest.files if manifest else ())
    }
    return [
        info
        async for info in store.list(f"{folder}/")
        if info.key.removeprefix(f"{folder}/") in own or _is_proof(folder, info.key)
    ]


@dataclass(frozen=True, slots=True)
class Orphans:
    """What runs left that died with their host."""

    uploads: tuple[OpenUpload, ...]
    runs: tuple[Contents, ...]
    """Folders with files but no manifest."""
    unknown: tuple[OpenUpload, ...]
    """Uploads of ours whose age the store does not tell: not touched."""


async def find_orphans(store: Store, before: datetime, wanted: Callable[[Folder], bool]) -> Orphans:
    """Uploads and folders that are ours by name and were last written to before `before`."""
    old: list[OpenUpload] = []
    unknown: list[OpenUpload] = []
    busy: set[str] = set()
    async for upload in store.uploads(""):
        folder = folder_of(upload.key.rpartition("/")[0])
        if folder is None or not wanted(folder):
            continue
        if upload.key not in {folder.snapshot, folder.registry}:
            continue
        if upload.begun is not None and upload.begun < before:
            old.append(upload)
        else:
            busy.add(str(folder))
            if upload.begun is None:
                unknown.append(upload)
    runs = tuple(
        one
        for one in await contents(store, wanted=wanted)
        if one.manifest is None
        and (one.size is not None or one.proofs)
        and str(one.folder) not in busy
        and one.touched is not None
        and one.touched < before
    )
    return Orphans(tuple(old), runs, tuple(unknown))


async def delete_orphans(store: Store, orphans: Orphans) -> None:
    """Abort the uploads and delete the files, unless a manifest has come meanwhile."""
    for upload in orphans.uploads:
        await store.abort(upload)
    for one in orphans.runs:
        if await find_manifest(store, one.folder) is None:
            for info in await _own_files(store, one.folder, None):
                await store.delete(info.key)
