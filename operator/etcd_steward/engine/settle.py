"""What becomes of a run whose process died: adopted if it is complete, else cleaned up.

The manifest decides, and nothing else: after a whole-cluster restore every EtcdSnapshot comes back
as it was in mid-run, and its backup may long be complete. A manifest is never deleted while the
file that it names is there.
"""

from collections.abc import Callable, Iterable, Sequence

from etcd_steward.engine.manifests import find_manifest, write_proof
from etcd_steward.errors import AlreadyExists, InvalidInput, Unauthorized
from etcd_steward.models.layout import Folder
from etcd_steward.models.manifest import Manifest
from etcd_steward.models.ports import OpenUpload, Store
from etcd_steward.models.run import Journal

Warn = Callable[[str], None]
"""Told what could not be looked at."""


async def settle(store: Store, run: str, earlier: Sequence[Journal], warn: Warn) -> Manifest | int:
    """The manifest of an attempt that is complete, or how many attempts were cleaned up after.

    `run` is the first 8 digits, whatever the attempt. Attempts are known by their journals and,
    where a journal never reached anybody, by the digits in the names of their folders. Raises
    `AlreadyExists` if the folder of a journal holds the manifest of another run.
    """
    known = [Folder.parse(journal.folder) for journal in earlier]
    for folder in known:
        manifest = await find_manifest(store, folder)
        if manifest is not None:
            await _end_uploads(store, folder, warn)  # it died over the sidecar
            return await adopt(store, manifest, run)
    found = await _look_around(store, run, known, warn)
    unknown = [folder for folder in found if folder not in known]
    for folder in unknown:
        manifest = await find_manifest(store, folder)
        if manifest is not None and ours(manifest, run):
            await _end_uploads(store, folder, warn)
            return await adopt(store, manifest, run)
        if manifest is not None:
            found.remove(folder)  # another run that has the same digits
    for folder in {*known, *found}:
        journals = [one for one in earlier if one.folder == str(folder)]
        manifest = await clean(store, folder, journals, warn)
        if manifest is not None:
            return await adopt(store, manifest, run)
    return len({*known, *found})


def ours(manifest: Manifest, run: str) -> bool:
    """Whether the run with these first 8 digits made this backup."""
    uid = manifest.run.uid
    return Folder.parse(manifest.folder).run[:8] == run and (uid is None or uid.startswith(run))


async def adopt(store: Store, manifest: Manifest, run: str) -> Manifest:
    """Take a manifest as the result of `run`, and see to its proof.

    Raises `AlreadyExists` if another run made it.
    """
    if not ours(manifest, run):
        raise AlreadyExists(
            f"{store.url}/{manifest.folder} holds the backup of another run",
            hint="nothing was deleted; look at both EtcdSnapshots",
        )
    if manifest.proof is not None:
        await write_proof(store, manifest, manifest.proof)
    return manifest


async def clean(
    store: Store, folder: Folder, journals: Iterable[Journal], warn: Warn
) -> Manifest | None:
    """Remove what an attempt without a manifest left: its upload, or a file completed in vain.

    The manifest, if there is one after all: nothing is deleted then.
    """
    for journal in journals:
        await store.abort(OpenUpload(journal.key, journal.upload_id))
    await _end_uploads(store, folder, warn)  # begun, but its answer was lost
    left = await _keys(store, folder)
    if folder.manifest in left:
        return await find_manifest(store, folder)
    for key in left:
        await store.delete(key)
    return await _latecomer(store, folder)


async def _end_uploads(store: Store, folder: Folder, warn: Warn) -> None:
    try:
        for upload in [upload async for upload in store.uploads(f"{folder}/")]:
            await store.abort(upload)
    except Unauthorized as error:
        warn(f"could not look for unfinished uploads in {folder}: {error}")


async def _latecomer(store: Store, folder: Folder) -> Manifest | None:
    """Look once more: a manifest that was on its way may have come while its file went."""
    if folder.manifest not in await _keys(store, folder):
        return None
    manifest = await find_manifest(store, folder)
    if manifest is None or await store.find(f"{folder}/{manifest.snapshot.name}") is not None:
        return manifest
    for key in await _keys(store, folder):
        if key != folder.manifest:
            await store.delete(key)
    await store.delete(folder.manifest)
    return None


async def _keys(store: Store, folder: Folder) -> list[str]:
    return [info.key async for info in store.list(f"{folder}/")]


async def _look_around(store: Store, run: str, known: Sequence[Folder], warn: Warn) -> list[Folder]:
    """Folders with the digits of `run`: by their uploads, and by what lies beside the known ones.

    Without any known folder the whole store is listed, which only happens to runs that died young.
    """
    found: set[Folder] = set()
    try:
        keys = [upload.key async for upload in store.uploads("")]
        found.update(_belonging(keys, run))
    except Unauthorized as error:
        warn(f"could not look for unfinished uploads of run {run}: {error}")
    parents = {f"{str(folder).rpartition('/')[0]}/" for folder in {*known, *found}}
    try:
        for prefix in sorted(parents) or [""]:
            async for info in store.list(prefix):
                found.update(_belonging([info.key], run))
    except Unauthorized as error:
        warn(f"could not look for what run {run} has completed: {error}")
    return sorted(found, key=str)


def _belonging(keys: Iterable[str], run: str) -> Iterable[Folder]:
    for key in keys:
        try:
            folder = Folder.parse(key.rpartition("/")[0])
        except InvalidInput:
            continue
        if folder.run.partition(".")[0] == run:
            yield folder
