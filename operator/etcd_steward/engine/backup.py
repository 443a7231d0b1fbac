"""Taking a snapshot: from choosing a member to the manifest.

    status of all members → choose one → look for a manifest in the run's folder → announce →
    revision R0 through the member → drain the stream into the spool → digest → structure proof
    beside compression and upload → checksum of the store → read back → manifest

Nothing is called complete before the last step, and whatever fails before it leaves nothing.
"""

import asyncio
import os
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime

from etcd_steward import __version__
from etcd_steward.deadline import Deadline
from etcd_steward.engine.announce import announced
from etcd_steward.engine.compress import Compressed, bound
from etcd_steward.engine.drain import Drained, drain
from etcd_steward.engine.manifests import find_manifest, write_manifest
from etcd_steward.engine.members import Choice, choose
from etcd_steward.engine.prove import Proven, prove
from etcd_steward.engine.readback import read_back
from etcd_steward.engine.report import Tracker
from etcd_steward.engine.settle import adopt, clean
from etcd_steward.engine.spool import Spool
from etcd_steward.engine.spoolfile import SpoolFile
from etcd_steward.engine.tasks import together
from etcd_steward.errors import (
    AlreadyExists,
    IntegrityError,
    NoSuchStore,
    PermanentError,
    StewardError,
    on_side,
)
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.member import Member
from etcd_steward.models.layout import SNAPSHOT, Folder, cluster_folder
from etcd_steward.models.manifest import Level, Manifest, Proof, StoredFile
from etcd_steward.models.ports import OpenUpload, Store, Written
from etcd_steward.models.run import Journal, SnapshotRequest
from etcd_steward.registry.envelope import uid_of

_ENOUGH_CORES = 3
"""From so many on, compression does not take from the stream what etcd and gRPC need."""
_REGISTRY = "/registry"
"""Where the proof looks for the kube-system Namespace."""
_CLEAN_UP = 60.0
"""Seconds that cleaning up after a failure may take; what is left is found at the next start."""


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a snapshot comes from, and where it goes."""

    choice: Choice
    member: Member
    kube_system_uid: str | None
    folder: Folder


@dataclass(frozen=True, slots=True)
class _Stored:
    """A snapshot in the store, not yet a backup."""

    written: Written
    sha256: str
    read_back: str


@dataclass(slots=True)
class _Run:
    """One attempt, and what it has begun."""

    client: EtcdClient
    store: Store
    spool: Spool
    request: SnapshotRequest
    tracker: Tracker
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    journal: Journal | None = None
    recording: Folder | None = None
    """Where the manifest is being written: from then on only a look tells what is there."""


async def back_up(
    client: EtcdClient, store: Store, spool: Spool, request: SnapshotRequest, tracker: Tracker
) -> Manifest:
    """Take one snapshot and record it; the manifest, once it is written and was read back.

    A manifest of this very run that is there already is adopted. Raises what stood in the way, and
    `AlreadyExists` if another run's manifest lies in the folder. Nothing of the attempt is in the
    store then, except where the store itself can't be reached any more, or the manifest's fate is
    unknown: a later `settle` of the journal finds out.
    """
    run = _Run(client, store, spool, request, tracker)
    try:
        with on_side("etcd"):
            source = await _find_source(run)
        with on_side("store"):
            there = await _recorded(run, source.folder)
        manifest = there or await _make(run, source)
    except StewardError as error:
        found = await _find_out(run, error)
        if found is None:
            raise
        manifest = found
    except BaseException:
        if run.recording is None:
            await _clean_up(run)
        raise
    spool.settled()
    return manifest


async def _make(run: _Run, source: _Source) -> Manifest:
    drained, stored, proven = await _transfer(run, source)
    manifest = _manifest(run, source, drained, stored, proven)
    run.tracker.step, run.recording = "Recording", source.folder
    with on_side("store"):
        await write_manifest(run.store, manifest)
    return manifest


async def _recorded(run: _Run, folder: Folder) -> Manifest | None:
    """The manifest of this run, if an attempt that nobody remembers has written it."""
    try:
        manifest = await find_manifest(run.store, folder)
    except NoSuchStore:
        return None  # writing makes a directory, or says that the bucket is missing
    if manifest is None:
        return None
    if manifest.run.uid != run.request.requester.uid:
        raise AlreadyExists(
            f"{run.store.url}/{folder} holds the backup of another run",
            hint="nothing was written; take the snapshot anew, under another run's name",
        )
    return await adopt(run.store, manifest, run.request.run[:8])


async def _find_out(run: _Run, error: StewardError) -> Manifest | None:
    """The manifest, where its writing failed only as far as we were told; else clean up.

    Unless it is certain that no manifest came and none will, everything stays as it is.
    """
    if run.recording is None:
        await _clean_up(run)
        return None
    try:
        async with asyncio.timeout(_CLEAN_UP):
            manifest = await _recorded(run, run.recording)
    except (StewardError, TimeoutError) as failed:
        run.tracker.report.warning(f"whether the backup was recorded is not known: {failed}")
        return None
    if manifest is None and isinstance(error, PermanentError):
        await _clean_up(run)
    return manifest


async def _find_source(run: _Run) -> _Source:
    request = run.request
    choice = choose(await run.client.members(), emergency=request.emergency)
    for warning in choice.warnings:
        run.tracker.report.warning(warning)
    member = run.client.member(choice.status)
    uid = await _kube_system_uid(member, request.registry_prefix)
    folder = Folder(
        cluster=cluster_folder(uid, f"{choice.status.cluster_id:x}"),
        namespace=request.backup.namespace,
        name=request.backup.name,
        tick=request.tick,
        run=request.run,
    )
    return _Source(choice, member, uid, folder)


async def _kube_system_uid(member: Member, prefix: str) -> str | None:
    """The uid that follows the data; read without consensus, since it never changes."""
    key = f"{prefix}/namespaces/kube-system".encode()
    found = await member.range(key, serializable=True)
    return uid_of(found.kvs[0].value) if found.kvs else None


async def _transfer(run: _Run, source: _Source) -> tuple[Drained, _Stored, Proven]:
    run.spool.reserve(source.choice.status.db_size)
    file = run.spool.create("snapshot.db")
    behind = len(os.sched_getaffinity(0)) >= _ENOUGH_CORES
    try:
        async with together() as group:
            storing = group.create_task(_keep(run, source, file, behind=behind))
            with on_side("etcd"):
                drained, read_revision = await _drain(run, source, file)
            await file.publish(ended=True)
            run.tracker.step = "Uploading"
            proving = group.create_task(asyncio.to_thread(prove, file, read_revision))
        _check_uid(run, source, proving.result())
        return drained, storing.result(), proving.result()
    finally:
        file.close()


async def _drain(run: _Run, source: _Source, file: SpoolFile) -> tuple[Drained, int]:
    """Read the member, announced; what came, and the revision read through it just before."""
    run.tracker.step = "Streaming"
    if source.choice.suspect is not None:  # without a leader nothing can be written or agreed on
        return await _read(run, source, file), source.choice.status.revision
    async with announced(
        run.client,
        source.member.member_id,
        run.request.run,
        seconds=run.request.timeout,
        report=run.tracker.report,
    ):
        revision = await source.member.revision()
        return await _read(run, source, file), revision


async def _read(run: _Run, source: _Source, file: SpoolFile) -> Drained:
    deadline = Deadline.after(run.request.timeout)
    async with source.member.snapshot(deadline=deadline) as stream:
        return await drain(stream, source.member.endpoint, run.spool, file, run.tracker)


def _check_uid(run: _Run, source: _Source, proven: Proven) -> None:
    """The folder is named after the data's own cluster: what was read must be of that cluster."""
    named, read = source.kube_system_uid, proven.report.kube_system_uid
    if run.request.registry_prefix != _REGISTRY or not named or not read or named == read:
        return
    raise IntegrityError(
        f"the snapshot is of the cluster whose kube-system has uid {read}, but its member had "
        f"answered with uid {named} before it was taken",
        hint="the endpoint may lead to several clusters: name the members themselves",
    )


async def _keep(run: _Run, source: _Source, file: SpoolFile, *, behind: bool) -> _Stored:
    """Compress and upload, compare the store's checksum, and read back."""
    if not behind:
        await file.ended()

    async def started(upload: OpenUpload) -> None:
        run.journal = Journal(folder=str(source.folder), key=upload.key, upload_id=upload.upload_id)
        run.spool.write_journal(run.store.identity, run.journal)
        await run.tracker.report.journal(run.journal)

    def sent(stored: int) -> None:
        run.tracker.stored = stored

    compressed = Compressed(file, behind=behind)
    with on_side("store"):
        async with aclosing(compressed.frames()) as frames:
            written = await run.store.write(
                source.folder.snapshot,
                frames,
                size_hint=bound(source.choice.status.db_size),
                started=started,
                sent=sent,
            )
        run.tracker.step = "ReadingBack"
        checked = await read_back(run.store, written)
    return _Stored(written, compressed.sha256, checked)


def _manifest(
    run: _Run, source: _Source, drained: Drained, stored: _Stored, proven: Proven
) -> Manifest:
    status, now = source.choice.status, datetime.now(UTC)
    suspect = source.choice.suspect
    return Manifest(
        cluster=source.folder.cluster,
        cluster_id=f"{status.cluster_id:x}",
        member_id=f"{status.member_id:x}",
        kube_system_uid=source.kube_system_uid,
        backup=run.request.backup,
        run=run.request.requester,
        folder=str(source.folder),
        tick=run.request.tick,
        started_at=run.started_at,
        finished_at=now,
        etcd_version=status.version,
        storage_version=drained.storage_version,
        steward_version=__version__,
        read_revision=proven.read_revision,
        revision=proven.report.revision,
        compact_revision=proven.report.compact_revision,
        live_keys=proven.report.live_keys,
        records=proven.report.records,
        raw_size=drained.size,
        raw_sha256=drained.sha256,
        files=(
            StoredFile(
                name=SNAPSHOT,
                role="snapshot",
                size=stored.written.size,
                sha256=stored.sha256,
                crc32c=f"{stored.written.crc32c:08x}",
            ),
        ),
        suspect=suspect,
        warnings=source.choice.warnings,
        proof=None
        if suspect is not None
        else Proof(
            level=Level.STRUCTURE,
            at=now,
            by=f"etcd-steward {__version__}",
            stored_sha256=stored.sha256,
            raw_sha256=drained.sha256,
            structure=proven.structure,
            read_back=stored.read_back,
        ),
    )


async def _clean_up(run: _Run) -> None:
    """Leave nothing of a failed attempt in the store, even when it was cancelled.

    Never while the manifest may be on its way: deleting what it names would make a liar of it.
    """
    if run.journal is None:
        return
    report, folder = run.tracker.report, Folder.parse(run.journal.folder)
    try:
        async with asyncio.timeout(_CLEAN_UP):
            manifest = await clean(run.store, folder, [run.journal], report.warning)
    except (StewardError, TimeoutError) as error:
        report.warning(f"what this run left in the store goes at the next start: {error}")
    else:
        if manifest is None:
            run.spool.settled()
            report.settled()
