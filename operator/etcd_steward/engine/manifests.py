"""Manifests and proofs: writing them last, and finding them again."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice

from pydantic import ValidationError

from etcd_steward.engine.manifest_cache import ManifestCache
from etcd_steward.engine.tasks import together
from etcd_steward.errors import (
    AlreadyExists,
    IntegrityError,
    InvalidInput,
    NoSuchStore,
    NotFound,
    Refused,
    StewardError,
    Unsupported,
)
from etcd_steward.models.layout import (
    INDEX,
    MANIFEST,
    REGISTRY,
    SNAPSHOT,
    SUSPECT,
    Folder,
    may_hold_runs,
)
from etcd_steward.models.manifest import MANIFEST_LIMIT, Level, Manifest, Proof, Suspicion
from etcd_steward.models.ports import ObjectInfo, Outcome, Store

_AT_ONCE = 16
"""Lots of backups read in parallel, enough to hide the latency of a store."""
_LOT = 16
"""Backups in a lot: one or two small requests each, one after the other."""
_LISTINGS = 8
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

    def suspected(self, why: str) -> "Backup":
        """The same backup, not to be trusted any more."""
        return replace(self, manifest=self.manifest.model_copy(update={"suspect": why}))


def _json(model: Manifest | Proof | Suspicion) -> bytes:
    return model.model_dump_json(by_alias=True, indent=2).encode() + b"\n"


async def write_proof(store: Store, manifest: Manifest, proof: Proof) -> None:
    """Add a proof to a backup; the same proof twice is one."""
    await store.put_new(Folder.parse(manifest.folder).proof(proof.at), _json(proof))


async def write_suspicion(store: Store, manifest: Manifest, suspicion: Suspicion) -> None:
    """Say of a backup that it must not be trusted; what was said of it first stays."""
    with suppress(AlreadyExists):
        await store.put_new(Folder.parse(manifest.folder).suspect, _json(suspicion))


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
    return _parse(text, store, folder)


def _parse(text: bytes, store: Store, folder: Folder) -> Manifest:
    try:
        # Fields that only a later version knows are passed over; it raises formatVersion where
        # they change what the others mean.
        manifest = Manifest.model_validate_json(text, extra="ignore")
    except ValidationError as error:
        raise _not_read(error, f"{store.url}/{folder.manifest}") from error
    claimed = manifest.cluster, manifest.backup.namespace, manifest.backup.name
    if claimed != (folder.cluster, folder.namespace, folder.name):
        raise Refused(
            f"{store.url}/{folder.manifest} says that it is of backup {claimed[1]}.{claimed[2]} of "
            f"cluster {claimed[0]}, but its folder belongs to another",
            hint="somebody copied or changed it; nothing of this backup is deleted or used until "
            "that manifest is moved away",
        )
    if manifest.folder != str(folder):
        raise IntegrityError(
            f"{store.url}/{folder.manifest} is the manifest of another folder, {manifest.folder}",
            hint="folders can't be renamed or copied within a store",
        )
    return manifest


def _not_read(error: ValidationError, url: str) -> Unsupported | IntegrityError:
    if any(detail["loc"] == ("formatVersion",) for detail in error.errors()):
        return Unsupported(
            f"{url} was written by a later version of etcd-steward",
            hint="use that version, or a later one, to read it",
        )
    return IntegrityError(
        f"{url} is not a manifest of etcd-steward ({error.error_count()} fields are wrong)",
        hint="somebody else wrote or changed it; the backup is not trusted as it is",
    )


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
    reader = _Reader(store)
    (proofs,) = await _proofs(reader, [(found, manifest)])
    (suspicion,) = await _suspicions(reader, [found])
    return _backup(manifest, proofs, found, suspicion)


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
    suspicion: ObjectInfo | None = None
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
        elif name == SUSPECT:
            self.suspicion = info
        elif name.startswith("proofs/"):
            self.proofs.append(info)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Small objects of a store, fetched unless they are remembered."""

    store: Store
    cache: ManifestCache | None = None

    async def read(self, infos: Sequence[ObjectInfo]) -> list[Outcome]:
        """All of them, or why one can't be had."""
        found: dict[str, Outcome] = {}
        if self.cache is not None:
            remembered = ((info.key, self.cache.get(info)) for info in infos)
            found = {key: text for key, text in remembered if text is not None}
        missing = [info for info in infos if info.key not in found]
        if missing:
            keys = [info.key for info in missing]
            fetched = await self.store.read_many(keys, limit=MANIFEST_LIMIT)
            for info, text in zip(missing, fetched, strict=True):
                found[info.key] = text
                if self.cache is not None and isinstance(text, bytes):
                    self.cache.put(info, text)
        return [found[info.key] for info in infos]


async def _proofs(
    reader: _Reader, lot: Sequence[tuple[Contents, Manifest]]
) -> list[tuple[Proof, ...]]:
    """The proofs of each backup; the first one is in its manifest, and need not be fetched."""
    firsts = [manifest.proof for _, manifest in lot]
    known = {
        one.folder.proof(first.at): first
        for (one, _), first in zip(lot, firsts, strict=True)
        if first is not None
    }
    wanted = [info for one, _ in lot for info in one.proofs if info.key not in known]
    texts = await reader.read(wanted)
    found = known | {info.key: _proof(text) for info, text in zip(wanted, texts, strict=True)}
    return [
        tuple(proof for info in one.proofs if (proof := found[info.key]) is not None)
        for one, _ in lot
    ]


def _proof(text: Outcome) -> Proof | None:
    """One proof; None if it has just been deleted, or is of a kind that this version can't read.

    A proof that proves nothing to us takes nothing from the backup.
    """
    if not isinstance(text, bytes):
        return None
    try:
        return Proof.model_validate_json(text, extra="ignore")
    except ValidationError:
        return None


async def _suspicions(reader: _Reader, lot: Sequence[Contents]) -> list[str | None]:
    """What was found out later against each backup; one that can't be read is a reason too."""
    infos = [one.suspicion for one in lot if one.suspicion is not None]
    texts = iter(await reader.read(infos) if infos else ())
    return [None if one.suspicion is None else _suspicion(next(texts)) for one in lot]


def _suspicion(text: Outcome) -> str | None:
    if isinstance(text, NotFound):  # just taken away
        return None
    try:
        return Suspicion.model_validate_json(
            text if isinstance(text, bytes) else b"", extra="ignore"
        ).reason
    except ValidationError:
        return f"its {SUSPECT} can't be read"


def _backup(
    manifest: Manifest, proofs: tuple[Proof, ...], found: Contents, suspicion: str | None
) -> Backup:
    backup = Backup(manifest, proofs, found.indexed)
    return backup if suspicion is None or manifest.suspect else backup.suspected(suspicion)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A manifest that is there and can't be used."""

    folder: Folder
    error: StewardError

    @property
    def key(self) -> str:
        """Where it lies."""
        return self.folder.manifest


def folder_of(text: str) -> Folder | None:
    """The run's folder that `text` names; None for what is not ours."""
    try:
        folder = Folder.parse(text)
    except InvalidInput:
        return None
    return folder if str(folder) == text else None


def _any(_: Folder) -> bool:
    return True


async def contents(
    store: Store, prefix: str = "", wanted: Callable[[Folder], bool] = _any
) -> list[Contents]:
    """All folders of runs under `prefix`, oldest tick first. What others put there is passed by.

    Several backups' folders are listed at a time: a server lists one by one, and slowly.
    """
    found: dict[str, Contents] = {}
    left = iter(await _folders_of_backups(store, prefix))

    async def work() -> None:
        for backup in left:
            found.update(await _listed(store, backup, wanted))

    async with together() as group:
        for _ in range(_LISTINGS):
            group.create_task(work())
    runs = sorted((one.folder.tick, text) for text, one in found.items())
    return [found[text] for _, text in runs]


async def _listed(
    store: Store, prefix: str, wanted: Callable[[Folder], bool]
) -> dict[str, Contents]:
    """The folders of runs under `prefix`, by what `str` makes of them."""
    found: dict[str, Contents | None] = {}
    async for info in store.list(prefix):
        text = info.key.rpartition("/")[0].removesuffix("/proofs")
        if text not in found:
            folder = folder_of(text)
            ours = folder is not None and wanted(folder)
            found[text] = Contents(folder) if folder is not None and ours else None
        one = found[text]
        if one is not None:
            one.add(info.key[len(text) + 1 :], info)
    return {text: one for text, one in found.items() if one is not None}


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
    numbered = enumerate([one for one in runs if one.manifest is not None])

    async def work() -> None:
        while lot := dict(islice(numbered, _LOT)):
            for number, backup in zip(lot, await _read(reader, list(lot.values())), strict=True):
                if backup is not None:
                    found[number] = backup

    async with together() as group:
        for _ in range(_AT_ONCE):
            group.create_task(work())
    return [found[number] for number in sorted(found)]


async def _read(reader: _Reader, lot: Sequence[Contents]) -> list[Backup | Unreadable | None]:
    """Each one's backup; None where the manifest was deleted since it was listed."""
    texts = await reader.read([one.manifest for one in lot if one.manifest is not None])
    read = [_judged(reader, one, text) for one, text in zip(lot, texts, strict=True)]
    sound = [
        (one, manifest)
        for one, manifest in zip(lot, read, strict=True)
        if isinstance(manifest, Manifest)
    ]
    proofs = iter(await _proofs(reader, sound))
    suspicions = await _suspicions(reader, lot)
    return [
        _backup(manifest, next(proofs), one, suspicion)
        if isinstance(manifest, Manifest)
        else manifest
        for one, manifest, suspicion in zip(lot, read, suspicions, strict=True)
    ]


def _judged(reader: _Reader, one: Contents, text: Outcome) -> Manifest | Unreadable | None:
    try:
        if not isinstance(text, bytes):
            raise text
        return _parse(text, reader.store, one.folder)
    except NotFound:
        return None
    except (IntegrityError, Unsupported, Refused) as error:
        return Unreadable(one.folder, error)


async def backups(
    store: Store, cache: ManifestCache | None = None
) -> AsyncIterator[Backup | Unreadable]:
    """All backups of a store, oldest tick first.

    What is listed already is read while the rest is still being listed.
    """
    left = iter(await _folders_of_backups(store, ""))
    found: dict[tuple[datetime, str], Backup | Unreadable] = {}
    async with together() as group:
        loaded = None if cache is None else group.create_task(cache.load(""))

        async def work() -> None:
            for backup in left:
                listed = await _listed(store, backup, _any)
                if loaded is not None:
                    await asyncio.wait([loaded])
                for one in await read_backups(store, listed.values(), cache):
                    text = one.manifest.folder if isinstance(one, Backup) else str(one.folder)
                    found[listed[text].folder.tick, text] = one

        for _ in range(_LISTINGS):
            group.create_task(work())
    for key in sorted(found):
        yield found[key]
    if cache is not None:
        await cache.save()
