"""Manifests and proofs: writing them last, and finding them again."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from pydantic import ValidationError

from etcd_steward.errors import (
    IntegrityError,
    InvalidInput,
    NoSuchStore,
    NotFound,
    StewardError,
    Unsupported,
)
from etcd_steward.models.layout import MANIFEST, Folder
from etcd_steward.models.manifest import MANIFEST_LIMIT, Level, Manifest, Proof
from etcd_steward.models.ports import Store

_AT_ONCE = 16
"""Manifests read in parallel: each is one request."""


@dataclass(frozen=True, slots=True)
class Backup:
    """One complete backup and the proofs that lie beside its manifest."""

    manifest: Manifest
    proofs: tuple[Proof, ...]

    @property
    def strongest(self) -> Proof | None:
        """The newest of the strongest proofs."""
        return max(self.proofs, key=lambda proof: (proof.level.strength, proof.at), default=None)

    @property
    def verified(self) -> bool:
        """True if its structure was proven and nothing makes it suspect."""
        proof = self.strongest
        return (
            self.manifest.suspect is None and proof is not None and proof.level == Level.STRUCTURE
        )


def _json(model: Manifest | Proof) -> bytes:
    return model.model_dump_json(by_alias=True, indent=2).encode() + b"\n"


async def write_proof(store: Store, manifest: Manifest, proof: Proof) -> None:
    """Add a proof to a backup; the same proof twice is one."""
    await store.put_new(Folder.parse(manifest.folder).proof(proof.at), _json(proof))


async def write_manifest(store: Store, manifest: Manifest) -> None:
    """Make a folder a backup, and add the proof that came before.

    Raises `AlreadyExists` if another run's manifest lies there.
    """
    await store.put_new(Folder.parse(manifest.folder).manifest, _json(manifest))
    if manifest.proof is not None:
        await write_proof(store, manifest, manifest.proof)


async def find_manifest(store: Store, folder: Folder) -> Manifest | None:
    """The manifest of `folder`; None if, and only if, there is none.

    Raises `IntegrityError` for one that can't be read, `Unsupported` for one of a later version,
    `NoSuchStore` if the store itself is missing.
    """
    try:
        text = await store.read(folder.manifest, limit=MANIFEST_LIMIT)
    except NoSuchStore:
        raise
    except NotFound:
        return None
    return _parse(text, f"{store.url}/{folder.manifest}", str(folder))


def _parse(text: bytes, url: str, folder: str) -> Manifest:
    try:
        # Fields that only a later version knows are passed over; it raises formatVersion where
        # they change what the others mean.
        manifest = Manifest.model_validate_json(text, extra="ignore")
    except ValidationError as error:
        if any(detail["loc"] == ("formatVersion",) for detail in error.errors()):
            raise Unsupported(
                f"{url} was written by a later version of etcd-steward",
                hint="use that version, or a later one, to read it",
            ) from error
        raise IntegrityError(
            f"{url} is not a manifest of etcd-steward ({error.error_count()} fields are wrong)",
            hint="somebody else wrote or changed it; the backup is not trusted as it is",
        ) from error
    if manifest.folder != folder:
        raise IntegrityError(
            f"{url} is the manifest of another folder, {manifest.folder}",
            hint="folders can't be renamed or copied within a store",
        )
    return manifest


async def get_backup(store: Store, folder: Folder) -> Backup:
    """The backup in `folder` with its proofs. Raises `NotFound`."""
    manifest = await find_manifest(store, folder)
    if manifest is None:
        raise NotFound(
            f"there is no backup in {store.url}/{folder}",
            hint="`etcd-steward snapshot list` shows those that are complete",
        )
    return Backup(manifest, await _proofs(store, folder))


async def _proofs(store: Store, folder: Folder) -> tuple[Proof, ...]:
    keys = [info.key async for info in store.list(f"{folder}/proofs/")]
    found = [await _proof(store, key) for key in keys]
    return tuple(proof for proof in found if proof is not None)


async def _proof(store: Store, key: str) -> Proof | None:
    """One proof; None if it has just been deleted, or is of a kind that this version can't read.

    A proof that proves nothing to us takes nothing from the backup.
    """
    try:
        text = await store.read(key, limit=MANIFEST_LIMIT)
        return Proof.model_validate_json(text, extra="ignore")
    except NoSuchStore:
        raise
    except (NotFound, IntegrityError, ValidationError):
        return None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A manifest that is there and can't be used."""

    key: str
    error: StewardError


async def backups(store: Store) -> AsyncIterator[Backup | Unreadable]:
    """All backups of a store, oldest tick first."""
    folders: list[Folder] = []
    async for info in store.list(""):
        if info.key.endswith(f"/{MANIFEST}"):
            try:
                folders.append(Folder.parse(info.key.removesuffix(f"/{MANIFEST}")))
            except InvalidInput as error:
                yield Unreadable(info.key, error)
    folders.sort(key=lambda folder: (folder.tick, str(folder)))
    for start in range(0, len(folders), _AT_ONCE):
        batch = folders[start : start + _AT_ONCE]
        for found in await asyncio.gather(*(_look(store, folder) for folder in batch)):
            if found is not None:
                yield found


async def _look(store: Store, folder: Folder) -> Backup | Unreadable | None:
    try:
        return await get_backup(store, folder)
    except NoSuchStore:
        raise
    except NotFound:  # deleted since it was listed
        return None
    except (IntegrityError, Unsupported) as error:
        return Unreadable(folder.manifest, error)
