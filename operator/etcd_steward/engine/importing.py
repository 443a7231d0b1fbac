"""Adopting snapshots that others took: unpacked, proven, given a manifest, stored as our own are.

    the given file → its wrappings off → the spool → digest → structure proof → whose cluster →
    imported before? → compression and upload → read back → manifest

A file that fails any step leaves nothing in the store.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, TypeVar

from etcd_steward import __version__
from etcd_steward.engine.age import Identity
from etcd_steward.engine.deposit import Deposit, Stored
from etcd_steward.engine.given import Given
from etcd_steward.engine.manifests import find_manifest
from etcd_steward.engine.prove import Proven, prove
from etcd_steward.engine.provenance import Named, merged, read_name, taken_at
from etcd_steward.engine.report import Tracker
from etcd_steward.engine.sidecar import PREFIXES
from etcd_steward.engine.spool import SPOOLED, Spool
from etcd_steward.engine.spoolfile import SpoolFile
from etcd_steward.engine.unpack import Unpacked, unpack
from etcd_steward.errors import (
    IntegrityError,
    InvalidInput,
    NoSuchStore,
    Unsupported,
    on_side,
)
from etcd_steward.models.layout import MANIFEST, Folder, cluster_folder
from etcd_steward.models.manifest import BackupRef, Manifest, Origin, RunRef
from etcd_steward.models.ports import Store

Answer = TypeVar("Answer")

_UNKNOWN: Final = "0"
"""No cluster and no member has this ID: etcd's raft calls it None."""
_UID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{1,28}")
_LOOK: Final = 0.1
"""Seconds between two looks at the thread that reads."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a snapshot is to be imported."""

    backup: BackupRef
    run: str
    """8 hex digits."""
    cluster_id: str | None = None
    """etcd's, in hex: no snapshot holds it."""
    taken_at: datetime | None = None
    """When it was taken, where somebody knows better than the file."""
    prefixes: tuple[str, ...] = PREFIXES
    """Where to look for the kube-system Namespace, in this order."""
    identities: Sequence[Identity] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Imported:
    """A backup that holds the given snapshot."""

    manifest: Manifest
    new: bool
    """False if it was imported before: nothing was stored then."""


@dataclass(frozen=True, slots=True)
class _Work:
    given: Given
    wanted: Wanted
    deposit: Deposit
    started_at: datetime

    @property
    def tracker(self) -> Tracker:
        return self.deposit.tracker


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What is known once the file was read whole."""

    unpacked: Unpacked
    proven: Proven
    kube_system_uid: str | None
    folder: Folder
    origin: Origin
    warnings: tuple[str, ...]


async def import_snapshot(
    given: Given, store: Store, spool: Spool, wanted: Wanted, tracker: Tracker
) -> Imported:
    """Prove a snapshot that somebody else took and make it a backup; once, however often given.

    Raises `InvalidInput` or `Unsupported` for what is no snapshot, `IntegrityError` for one that is
    damaged, `OutOfSpace` if the spool can't hold it, `Unauthorized` if it can't be decrypted, and
    what the store raises. Nothing is in the store then, with `back_up`'s exceptions.
    """
    deposit = Deposit(store, spool, tracker, wanted.run, None)
    work = _Work(given, wanted, deposit, datetime.now(UTC))
    with closing(spool.create(SPOOLED)) as file:
        snapshot = await _read(work, spool, file)
        with on_side("store"):
            before = await _imported_before(store, snapshot)
        if before is not None:
            return Imported(before, new=False)
        return Imported(await deposit.made(_make(work, snapshot, file)), new=True)


async def _read(work: _Work, spool: Spool, file: SpoolFile) -> _Snapshot:
    given, wanted, tracker = work.given, work.wanted, work.tracker
    tracker.step, tracker.total = "Fetching", given.size or 0
    unpacked = await _in_thread(lambda: unpack(given, spool, file, wanted.identities), work)
    await file.publish(ended=True)
    tracker.step = "Proving"
    proven = await _in_thread(lambda: _prove(file, wanted.prefixes), work)
    uid = proven.report.kube_system_uid
    if uid is not None and not _UID.fullmatch(uid):
        uid = None  # it becomes part of a path, and anybody can make a file
    return _known(work, unpacked, proven, uid)


def _prove(file: SpoolFile, prefixes: tuple[str, ...]) -> Proven:
    """Prove it, once for every place where its kube-system Namespace may be until it is found."""
    try:
        for prefix in prefixes:
            proven = prove(file, 0, namespace_key=f"{prefix}/namespaces/kube-system".encode())
            if proven.report.kube_system_uid is not None:
                break
    except IntegrityError as error:
        error.hint = (
            "it was altered or cut short, or copied while an etcd was writing it: copy it again, "
            "or use another snapshot"
        )
        raise
    return proven


async def _in_thread(call: Callable[[], Answer], work: _Work) -> Answer:
    """Run `call` in a worker thread, which has ended when this does, cancelled or not."""
    running = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        while not running.done():
            await asyncio.wait({running}, timeout=_LOOK)
            work.tracker.raw = work.given.taken
    except BaseException:
        work.given.stop.set()
        await asyncio.wait({running})
        running.exception()  # an echo of the cancellation
        raise
    return running.result()


def _known(work: _Work, unpacked: Unpacked, proven: Proven, uid: str | None) -> _Snapshot:
    given, wanted, member = work.given, work.wanted, unpacked.member
    named = read_name(given.name)
    if member is not None:
        named = merged(named, read_name(member.name))
    archived = member.modified if member is not None else None
    tick, time_from = taken_at(wanted.taken_at, named, archived, given.modified, work.started_at)
    origin = Origin(
        tool=named.tool,
        name=given.name,
        size=given.taken,
        sha256=given.sha256,
        modified=given.modified,
        wrappings=unpacked.wrappings,
        member=member.name if member is not None else None,
        had_digest=unpacked.had_digest,
        time_from=time_from,
    )
    folder = Folder(
        cluster=_cluster(uid, wanted.cluster_id),
        namespace=wanted.backup.namespace,
        name=wanted.backup.name,
        tick=tick,
        run=wanted.run,
    )
    warnings = _warnings(unpacked, proven, named, origin)
    for warning in warnings:
        work.tracker.report.warning(warning)
    return _Snapshot(unpacked, proven, uid, folder, origin, warnings)


def _cluster(uid: str | None, cluster_id: str | None) -> str:
    """Name of the cluster's folder. etcd keeps a cluster's ID in its WAL, not in its database."""
    if uid is None and cluster_id is None:
        raise InvalidInput(
            "the snapshot does not tell of which cluster it is: no kube-system Namespace that can "
            "be read is in it",
            hint="say it by --cluster: etcd's cluster ID in hex, as `etcdctl endpoint status -w "
            "fields` or `snapshot list` shows it (or --registry-prefix, if the API server has an "
            "--etcd-prefix of its own)",
        )
    return cluster_folder(uid, cluster_id or _UNKNOWN)


def _warnings(unpacked: Unpacked, proven: Proven, named: Named, origin: Origin) -> tuple[str, ...]:
    said: list[str] = []
    if not unpacked.had_digest:
        said.append(
            f"{origin.name} carries no digest of etcd's, as is so for a copy of a data directory: "
            "that its values are as they were written is not proven, and what was only in the WAL "
            "is missing. A digest was added, so that etcdutl restores it"
        )
    if named.revision > proven.report.revision:
        said.append(
            f"the name {origin.name} promises revision {named.revision}, but the database ends at "
            f"{proven.report.revision}"
        )
    if origin.time_from == "import":
        said.append(
            "when it was taken is not known: the time of this import stands for it (--taken-at "
            "says another)"
        )
    return tuple(said)


async def _imported_before(store: Store, snapshot: _Snapshot) -> Manifest | None:
    """A backup of the same name that holds the same snapshot."""
    siblings = str(snapshot.folder).rpartition("/")[0] + "/"
    try:
        keys = [info.key async for info in store.list(siblings)]
    except NoSuchStore:
        return None  # writing makes a directory, or says that the bucket is missing
    for key in keys:
        if not key.endswith(f"/{MANIFEST}"):
            continue
        try:
            manifest = await find_manifest(store, Folder.parse(key.removesuffix(f"/{MANIFEST}")))
        except (InvalidInput, IntegrityError, Unsupported):
            continue  # not one of ours; `snapshot list` tells
        if manifest is not None and manifest.raw_sha256 == snapshot.unpacked.sha256:
            return manifest
    return None


async def _make(work: _Work, snapshot: _Snapshot, file: SpoolFile) -> Manifest:
    work.tracker.step = "Uploading"
    stored = await work.deposit.keep(snapshot.folder, file, size=file.size, behind=False)
    manifest = _manifest(work, snapshot, stored)
    await work.deposit.record(manifest)
    return manifest


def _manifest(work: _Work, snapshot: _Snapshot, stored: Stored) -> Manifest:
    now, folder, unpacked = datetime.now(UTC), snapshot.folder, snapshot.unpacked
    report = snapshot.proven.report
    return Manifest(
        cluster=folder.cluster,
        cluster_id=work.wanted.cluster_id or _UNKNOWN,
        member_id=_UNKNOWN,
        kube_system_uid=snapshot.kube_system_uid,
        backup=work.wanted.backup,
        run=RunRef(),
        folder=str(folder),
        tick=folder.tick,
        started_at=work.started_at,
        finished_at=now,
        etcd_version=report.cluster_version or report.storage_version or "",
        storage_version=report.storage_version or "",
        steward_version=__version__,
        read_revision=0,
        revision=report.revision,
        compact_revision=report.compact_revision,
        live_keys=report.live_keys,
        records=report.records,
        raw_size=unpacked.size,
        raw_sha256=unpacked.sha256,
        files=(stored.file(),),
        origin=snapshot.origin,
        warnings=snapshot.warnings,
        proof=stored.proof(now, unpacked.sha256, snapshot.proven.structure),
    )
