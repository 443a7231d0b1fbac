"""Manifests and proofs: writing them last, and finding them again."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import ValidationError

from etcd_steward.engine.manifest_cache import ManifestCache
from etcd_steward.engine.tasks import together
from etcd_steward.errors import (
    IntegrityError,
    InvalidInput,
    NoSuchStore,
    NotFound,
    Refused,
    StewardError,
    Unsupported,
)
from etcd_steward.models.layout import INDEX, MANIFEST, REGISTRY, SNAPSHOT, Folder, may_hold_runs
from etcd_steward.models.manifest import MANIFEST_LIMIT, Level, Manifest, Proof
from etcd_steward.models.ports import ObjectInfo, Store

_AT_ONCE = 16
"""Backups read in parallel: one or two small requests each."""
_LISTINGS = 4
"""Listings at a time."""


@dataclass(frozen=True, slots=True)
class Backup:
    """One complete backup and the proofs that lie beside its manifest."""

    manifest: Manifest
    proofs: tuple[Proof, ...]
    indexed: bool = False
    """Whether `index.json` vouches for a sidecar of this snapshot."""

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
    `Refused` for one that claims another cluster or backup than its folder, and `NoSuchStore` if
    the store itself is missing.
    """
    try:
        text = await store.read(folder.manifest, limit=MANIFEST_LIMIT)
    except NoSuchStore:
        raise
    except NotFound:
        return None
    return _parse(text, f"{store.url}/{folder.manifest}", folder)


def _parse(text: bytes, url: str, folder: Folder) -> Manifest:
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
    claimed = manifest.cluster, manifest.backup.namespace, manifest.backup.name
    if claimed != (folder.cluster, folder.namespace, folder.name):
        raise Refused(
            f"{url} says that it is of backup {claimed[1]}.{claimed[2]} of cluster {claimed[0]}, "
            "but its folder belongs to another",
            hint="somebody copied or changed it; nothing of this backup is deleted or used until "
            "that manifest is moved away",
        )
    if manifest.folder != str(folder):
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
    found = Contents(folder)
    async for info in store.list(f"{folder}/"):
        found.add(info.key.removeprefix(f"{folder}/"), info)
    proofs = await _proofs(_Reader(store), folder, manifest, found.proofs)
    return Backup(manifest, proofs, found.indexed)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Small objects of a store, fetched unless they are remembered."""

    store: Store
    cache: ManifestCache | None = None

    async def read(self, info: ObjectInfo) -> bytes:
        known = self.cache.get(info) if self.cache is not None else None
        if known is not None:
            return known
        text = await self.store.read(info.key, limit=MANIFEST_LIMIT)
        if self.cache is not None:
            self.cache.put(info, text)
        return text


async def _proofs(
    reader: _Reader, folder: Folder, manifest: Manifest, infos: Sequence[ObjectInfo]
) -> tuple[Proof, ...]:
    """The proofs of a backup; the first one is in its manifest, and need not be fetched."""
    first = manifest.proof
    known = folder.proof(first.at) if first is not None else None
    found = [first if info.key == known else await _proof(reader, info) for info in infos]
    return tuple(proof for proof in found if proof is not None)


async def _proof(reader: _Reader, info: ObjectInfo) -> Proof | None:
    """One proof; None if it has just been deleted, or is of a kind that this version can't read.

    A proof that proves nothing to us takes nothing from the backup.
    """
    try:
        return Proof.model_validate_json(await reader.read(info), extra="ignore")
    except NoSuchStore:
        raise
    except (NotFound, IntegrityError, ValidationError):
        return None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A manifest that is there and can't be used."""

    folder: Folder
    error: StewardError

    @property
    def key(self) -> str:
        """Where it lies."""
        return self.folder.manifest


@dataclass(slots=True)
class Contents:
    """What a listing shows of one folder."""

    folder: Folder
    manifest: ObjectInfo | None = None
    proofs: list[ObjectInfo] = field(default_factory=list)
    size: int | None = None
    """Bytes of snapshot and registry file; None if there is neither."""
    indexed: bool = False
    """Whether a snapshot has a sidecar."""
    touched: datetime | None = None
    """When something in it was last written."""

    def add(self, name: str, info: ObjectInfo) -> None:
        """Take in the object `name` of this folder."""
        self.touched = max(self.touched or info.modified, info.modified)
        if name == MANIFEST:
            self.manifest = info
        elif name in {SNAPSHOT, REGISTRY}:
            self.size = (self.size or 0) + info.size
        elif name == INDEX:
            self.indexed = True
        elif name.startswith("proofs/"):
            self.proofs.append(info)


def folder_of(text: str) -> Folder | None:
    """The run's folder that `text` names; None for what is not ours."""
    try:
        folder = Folder.parse(text)
    except InvalidInput:
        return None
    return folder if str(folder) == text else None


async def contents(
    store: Store, prefix: str = "", wanted: Callable[[Folder], bool] = lambda _: True
) -> list[Contents]:
    """All folders of runs under `prefix`, oldest tick first. What others put there is passed by.

    Several backups' folders are listed at a time: a server lists one by one, and slowly.
    """
    found: dict[str, Contents | None] = {}
    left = iter(await _folders_of_backups(store, prefix))

    async def work() -> None:
        for backup in left:
            async for info in store.list(backup):
                text = info.key.rpartition("/")[0].removesuffix("/proofs")
                if text not in found:
                    folder = folder_of(text)
                    ours = folder is not None and wanted(folder)
                    found[text] = Contents(folder) if folder is not None and ours else None
                one = found[text]
                if one is not None:
                    one.add(info.key[len(text) + 1 :], info)

    async with together() as group:
        for _ in range(_LISTINGS):
            group.create_task(work())
    runs = (one for one in found.values() if one is not None)
    return sorted(runs, key=lambda one: (one.folder.tick, str(one.folder)))


async def _folders_of_backups(store: Store, prefix: str) -> list[str]:
    """`<cluster>/<backup>/` under `prefix`, or `prefix` itself where it is one or lies in one."""
    if prefix.count("/") > 1:
        return [prefix]
    below = [one for one in await store.folders(prefix) if may_hold_runs(one)]
    if prefix:
        return below
    return [one for cluster in below for one in await _folders_of_backups(store, cluster)]


async def read_backups(
    store: Store, runs: Iterable[Contents], cache: ManifestCache | None = None
) -> list[Backup | Unreadable]:
    """The backups among these folders, in their order, many of them read at a time."""
    reader, found = _Reader(store, cache), dict[int, Backup | Unreadable]()
    left = iter([one for one in runs if one.manifest is not None])
    numbered = enumerate(left)

    async def work() -> None:
        for number, one in numbered:
            backup = await _read(reader, one)
            if backup is not None:
                found[number] = backup

    async with together() as group:
        for _ in range(_AT_ONCE):
            group.create_task(work())
    return [found[number] for number in sorted(found)]


async def _read(reader: _Reader, one: Contents) -> Backup | Unreadable | None:
    if one.manifest is None:
        return None
    try:
        text = await reader.read(one.manifest)
        manifest = _parse(text, f"{reader.store.url}/{one.manifest.key}", one.folder)
    except NoSuchStore:
        raise
    except NotFound:  # deleted since it was listed
        return None
    except (IntegrityError, Unsupported, Refused) as error:
        return Unreadable(one.folder, error)
    proofs = await _proofs(reader, one.folder, manifest, one.proofs)
    return Backup(manifest, proofs, one.indexed)


async def backups(
    store: Store, cache: ManifestCache | None = None
) -> AsyncIterator[Backup | Unreadable]:
    """All backups of a store, oldest tick first."""
    if cache is not None:
        await cache.load("")
    for one in await read_backups(store, await contents(store), cache):
        yield one
    if cache is not None:
        await cache.save()
