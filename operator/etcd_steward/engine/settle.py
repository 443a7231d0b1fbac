"""What becomes of a run whose process died: adopted if it is complete, else cleaned up.

The manifest decides, and nothing else: after a whole-cluster restore every EtcdSnapshot comes back
as it was in mid-run, and its backup may long be complete.
"""

from collections.abc import Sequence

from etcd_steward.engine.manifests import find_manifest, write_proof
from etcd_steward.errors import IntegrityError, InvalidInput
from etcd_steward.models.layout import Folder
from etcd_steward.models.manifest import Manifest
from etcd_steward.models.ports import OpenUpload, Store
from etcd_steward.models.run import Journal


async def settle(store: Store, run: str, earlier: Sequence[Journal]) -> Manifest | int:
    """The manifest of an attempt that is complete, or how many uploads were aborted.

    Attempts that are known by their journal are looked at by name. One that died before its
    journal reached anybody is found by its upload, whose folder carries the run's digits.
    """
    for journal in earlier:
        manifest = await find_manifest(store, Folder.parse(journal.folder))
        if manifest is not None:
            if manifest.run.uid is not None and not manifest.run.uid.startswith(run):
                raise IntegrityError(
                    f"{store.url}/{journal.folder} holds the manifest of another run",
                    hint="nothing was deleted; look at both EtcdSnapshots",
                )
            if manifest.proof is not None:
                await write_proof(store, manifest, manifest.proof)
            return manifest
    for journal in earlier:
        await clean(store, journal)
    if earlier:
        return len(earlier)
    lost = [upload async for upload in store.uploads("") if _belongs(upload, run)]
    for upload in lost:
        await store.abort(upload)
    return len(lost)


def _belongs(upload: OpenUpload, run: str) -> bool:
    try:
        folder = Folder.parse(upload.key.rpartition("/")[0])
    except InvalidInput:
        return False
    return folder.run.partition(".")[0] == run


async def clean(store: Store, journal: Journal) -> None:
    """Remove what an attempt without a manifest left: its upload, or a file completed in vain."""
    await store.abort(OpenUpload(journal.key, journal.upload_id))
    for upload in [upload async for upload in store.uploads(f"{journal.folder}/")]:
        await store.abort(upload)  # begun, but its answer was lost
    leftovers = [info.key async for info in store.list(f"{journal.folder}/")]
    for key in leftovers:
        await store.delete(key)
