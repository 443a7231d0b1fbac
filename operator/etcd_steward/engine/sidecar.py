"""`registry.parquet` in a store: beside a snapshot, derived from it, or as an export itself.

A sidecar is made from the spool once the snapshot's manifest is written, or later from the stored
snapshot. `index.json` is written last: without it there is no sidecar, whatever lies there, and
`snapshot index` makes one. So nothing that goes wrong here takes anything from the backup.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import aclosing, closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from etcd_steward import __version__
from etcd_steward.deadline import Deadline
from etcd_steward.engine.download import TIMEOUT, download
from etcd_steward.engine.readback import read_back
from etcd_steward.engine.registry_file import (
    resource_bytes,
    size_at_most,
    stored_registry,
    written_registry,
)
from etcd_steward.engine.report import Report, Tracker
from etcd_steward.engine.spool import SPOOLED, Spool
from etcd_steward.errors import (
    AlreadyExists,
    IntegrityError,
    NoSuchStore,
    NotFound,
    StewardError,
    Unsupported,
)
from etcd_steward.memory import trim
from etcd_steward.models.layout import REGISTRY, Folder
from etcd_steward.models.manifest import MANIFEST_LIMIT, Index, Manifest, StoredFile
from etcd_steward.models.ports import OpenUpload, ReadAt, Store
from etcd_steward.models.run import Failure, Journal, SpoolSettings
from etcd_steward.registry.history import History
from etcd_steward.registry.table import Rows
from etcd_steward.store.threads import settled

if TYPE_CHECKING:  # it brings pyarrow
    from etcd_steward.registry.parquet import RegistryFile

PREFIXES: Final = ("/registry", "/kubernetes.io")
"""The API server's `--etcd-prefix`: its default, and OpenShift's."""
_CHUNK: Final = 16 << 20
_WITHIN: Final = 30.0
"""Seconds, where a run has no time left."""
_AGAIN: Final = "`etcd-steward snapshot index --force` makes it anew from the snapshot"


async def store_registry(
    store: Store,
    spool: Spool,
    folder: Folder,
    rows: Rows,
    file: ReadAt,
    *,
    revision: int,
    prefix: str,
) -> StoredFile:
    """Write the registry file of `folder`, whose values lie in `file`, and read it back.

    `prefix` is the API server's `--etcd-prefix`. Nothing vouches for the file yet: that is for
    whoever called. A failed upload is aborted; that of a process that was killed is noted in the
    spool.
    """

    async def started(upload: OpenUpload) -> None:
        journal = Journal(folder=str(folder), key=upload.key, upload_id=upload.upload_id)
        spool.write_journal(store.identity, journal)

    piped = written_registry(rows, file, revision=revision, prefix=prefix)
    most = size_at_most(rows)
    async with aclosing(piped.pieces()) as pieces:
        written = await store.write(
            folder.registry, pieces, size_hint=most, started=started, sent=lambda _: None
        )
    spool.settled()
    await read_back(store, written)
    return stored_registry(written, piped.result, resource_bytes(rows, prefix))


async def make_sidecar(
    store: Store,
    spool: Spool,
    manifest: Manifest,
    file: ReadAt,
    prefixes: Sequence[str],
    tracker: Tracker,
) -> Index:
    """Write the sidecar of a snapshot whose database is `file`, and then what vouches for it.

    Of `prefixes`, which may be the API server's `--etcd-prefix`, the first one counts under which
    there is a kube-system Namespace; else the very first. Raises `IntegrityError` if the file does
    not hold what the manifest says, and what the store raises.
    """
    tracker.step = "Indexing"
    folder = Folder.parse(manifest.folder)
    rows = await settled(asyncio.to_thread(_live, file, manifest))
    found = (one for one in prefixes if f"{one}/namespaces/kube-system".encode() in rows)
    prefix = next(found, prefixes[0])
    stored = await store_registry(
        store, spool, folder, rows, file, revision=manifest.revision, prefix=prefix
    )
    index = Index(
        made_at=datetime.now(UTC),
        by=f"etcd-steward {__version__}",
        raw_sha256=manifest.raw_sha256,
        revision=manifest.revision,
        rows=len(rows),
        registry_prefix=prefix,
        file=stored,
    )
    await _vouch(store, folder, index)
    return index


def _live(file: ReadAt, manifest: Manifest) -> Rows:
    """The index of the live keys, compared with the manifest."""
    trim()
    history = History(file)
    rows, revision = Rows.of(history.live()), history.revision
    del history
    trim()
    if (len(rows), revision) != (manifest.live_keys, manifest.revision):
        raise IntegrityError(
            f"the snapshot has {len(rows)} keys at revision {revision}, but its manifest says "
            f"{manifest.live_keys} at {manifest.revision}",
            hint="report this: one of the two was read wrongly",
        )
    return rows


async def _vouch(store: Store, folder: Folder, index: Index) -> None:
    text = index.model_dump_json(by_alias=True, indent=2).encode() + b"\n"
    try:
        await store.put_new(folder.index, text)
    except AlreadyExists:  # of another sidecar, which ours has just replaced
        await store.delete(folder.index)
        await store.put_new(folder.index, text)


async def index_spooled(
    store: Store,
    spool: Spool,
    manifest: Manifest,
    prefixes: Sequence[str],
    tracker: Tracker,
    deadline: Deadline,
) -> Index | Failure | None:
    """Make the sidecar of a snapshot that was just recorded and still lies in the spool.

    The backup is complete, whatever becomes of this: a failure is told, not raised. It gets what is
    left of the run's time, and half a minute in any case. Where the snapshot is not in the spool,
    because an earlier attempt had recorded it, what that one came to is told.
    """
    deadline = Deadline.after(max(deadline.left(), _WITHIN))
    file = spool.reopen(SPOOLED) if manifest.type == "Snapshot" else None
    try:
        async with deadline.enforce("indexing the backup"):
            if file is None:
                return await known_index(store, manifest)
            return await make_sidecar(store, spool, manifest, file, prefixes, tracker)
    except StewardError as error:
        return Failure.of(error)


async def find_index(store: Store, manifest: Manifest) -> Index | None:
    """What vouches for a snapshot's sidecar; None if, and only if, there is none.

    Raises `IntegrityError` if it can't be read or is of another snapshot, `Unsupported` if a later
    version wrote it.
    """
    folder = Folder.parse(manifest.folder)
    url = f"{store.url}/{folder.index}"
    try:
        text = await store.read(folder.index, limit=MANIFEST_LIMIT)
    except NoSuchStore:
        raise
    except NotFound:
        return None
    try:
        index = Index.model_validate_json(text, extra="ignore")
    except ValidationError as error:
        if any(detail["loc"] == ("formatVersion",) for detail in error.errors()):
            raise Unsupported(
                f"{url} was written by a later version of etcd-steward",
                hint="use that version, or a later one, to read it",
            ) from error
        raise IntegrityError(f"{url} is not an index of etcd-steward", hint=_AGAIN) from error
    of = index.raw_sha256, index.revision, index.rows, index.file.name
    if of != (manifest.raw_sha256, manifest.revision, manifest.live_keys, REGISTRY):
        raise IntegrityError(f"{url} is of another snapshot than the manifest", hint=_AGAIN)
    return index


async def known_index(store: Store, manifest: Manifest) -> Index | None:
    """What vouches for a backup's sidecar, if it has one whose index can be read."""
    if manifest.type != "Snapshot":
        return None
    try:
        return await find_index(store, manifest)
    except (IntegrityError, Unsupported):
        return None


async def open_registry(store: Store, manifest: Manifest) -> "RegistryFile":
    """The registry file of a backup: an export itself, or the sidecar of a snapshot.

    Its methods block. Raises `NotFound` if a snapshot has no sidecar, `IntegrityError` if the file
    is not the one that manifest or index vouch for.
    """
    stored = next((one for one in manifest.files if one.role == "registry"), None)
    url = f"{store.url}/{manifest.folder}"
    if stored is None:
        index = await find_index(store, manifest)
        if index is None:
            raise NotFound(
                f"{url} has no {REGISTRY} beside it",
                hint=f"make it: `etcd-steward snapshot index {url}`",
            )
        stored = index.file
    file = await store.open(Folder.parse(manifest.folder).registry)
    return await asyncio.to_thread(_open, file, f"{url}/{REGISTRY}", stored, manifest)


def _open(file: ReadAt, url: str, stored: StoredFile, manifest: Manifest) -> "RegistryFile":
    from etcd_steward.registry.parquet import RegistryFile  # noqa: PLC0415  # pyarrow

    registry = RegistryFile(file, name=url, stored=stored)
    if (registry.rows, registry.revision) != (manifest.live_keys, manifest.revision):
        raise IntegrityError(
            f"{url} has {registry.rows} keys at revision {registry.revision}, but the manifest "
            f"says {manifest.live_keys} at {manifest.revision}",
            hint=_AGAIN,
        )
    return registry


async def check_sidecar(store: Store, manifest: Manifest) -> None:
    """Read a snapshot's sidecar whole and compare its digests, if there is one.

    Raises `IntegrityError` if it is not what was written, or is missing.
    """
    index = await find_index(store, manifest)
    if index is not None:
        await check_stored(store, Folder.parse(manifest.folder).registry, index.file, hint=_AGAIN)


async def check_stored(store: Store, key: str, stored: StoredFile, *, hint: str) -> None:
    """Read an object whole and compare it with what vouches for it. Raises `IntegrityError`."""
    url = f"{store.url}/{key}"
    try:
        file = await store.open(key)
    except NoSuchStore:
        raise
    except NotFound as error:
        raise IntegrityError(f"{url} is missing", hint=hint) from error
    if file.size != stored.size or await asyncio.to_thread(_sha256, file) != stored.sha256:
        raise IntegrityError(f"{url} is not what was written", hint=hint)


def _sha256(file: ReadAt) -> str:
    digest = hashlib.sha256()
    for at in range(0, file.size, _CHUNK):
        digest.update(file.read_at(at, _CHUNK))
    return digest.hexdigest()


async def index_backup(
    store: Store,
    manifest: Manifest,
    spool: SpoolSettings,
    report: Report,
    *,
    prefixes: Sequence[str] = PREFIXES,
    force: bool = False,
    timeout: float = TIMEOUT,
) -> tuple[Index, bool]:
    """Make the sidecar of a stored snapshot; False: a good one was there already.

    One that is there and can't be used is made anew, with `force` any. The snapshot is downloaded
    into the spool, and its digests are compared. Raises `Unsupported` for an export, `TimedOut`
    after `timeout` seconds.
    """
    if manifest.type != "Snapshot":
        raise Unsupported(
            f"{store.url}/{manifest.folder} is an export: it is a {REGISTRY} itself",
            hint="only snapshots are indexed",
        )
    tracker = Tracker(report)
    async with Deadline.after(timeout).enforce("indexing the backup"), tracker.reporting():
        there = None if force else await _usable(store, manifest, report)
        if there is not None:
            return there, False
        await store.delete(Folder.parse(manifest.folder).index)
        async with Spool.open(spool, "index", report.warning) as room:
            room.reserve(manifest.raw_size)
            with closing(room.create(SPOOLED)) as file:
                tracker.step = "Fetching"
                await download(store, manifest, lambda piece: file.append([piece]), tracker)
                index = await make_sidecar(store, room, manifest, file, prefixes, tracker)
    return index, True


async def _usable(store: Store, manifest: Manifest, report: Report) -> Index | None:
    """The index of a sidecar that can be read."""
    try:
        index = await find_index(store, manifest)
        if index is not None:
            await open_registry(store, manifest)
    except (IntegrityError, NotFound) as error:
        report.warning(f"the sidecar is made anew: {error.message}")
        return None
    return index
