"""Taking a snapshot: from choosing a member to the manifest.

    status of all members → choose one → look for a manifest in the run's folder → announce →
    revision R0 through the member → drain the stream into the spool → digest → structure proof
    beside compression and upload → checksum of the store → read back → manifest

Nothing is called complete before the last step, and whatever fails before it leaves nothing.
"""

import asyncio
import os
from datetime import UTC, datetime

from etcd_steward import __version__
from etcd_steward.deadline import Deadline
from etcd_steward.engine.announce import announced
from etcd_steward.engine.attempt import Attempt, Source, find_source
from etcd_steward.engine.deposit import Deposit, Stored
from etcd_steward.engine.drain import Drained, drain
from etcd_steward.engine.prove import Proven, prove
from etcd_steward.engine.report import Tracker
from etcd_steward.engine.spool import SPOOLED, Spool
from etcd_steward.engine.spoolfile import SpoolFile
from etcd_steward.engine.tasks import together
from etcd_steward.errors import IntegrityError, on_side
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.models.manifest import Manifest
from etcd_steward.models.ports import Store
from etcd_steward.models.run import SnapshotRequest

_Run = Attempt[SnapshotRequest]
_ENOUGH_CORES = 3
"""From so many on, compression does not take from the stream what etcd and gRPC need."""
_REGISTRY = "/registry"
"""Where the proof looks for the kube-system Namespace."""


async def back_up(
    client: EtcdClient, store: Store, spool: Spool, request: SnapshotRequest, tracker: Tracker
) -> Manifest:
    """Take one snapshot and record it; the manifest, once it is written and was read back.

    A manifest of this very run that is there already is adopted. Raises what stood in the way, and
    `AlreadyExists` if another run's manifest lies in the folder. Nothing of the attempt is in the
    store then, except where the store itself can't be reached any more, or the manifest's fate is
    unknown: a later `settle` of the journal finds out.
    """
    deposit = Deposit(store, spool, tracker, request.run, request.requester.uid)
    return await deposit.made(_make(_Run(client, spool, request, tracker, deposit)))


async def _make(run: _Run) -> Manifest:
    with on_side("etcd"):
        source = await find_source(run, emergency=run.request.emergency)
    with on_side("store"):
        there = await run.deposit.recorded(source.folder)
    if there is not None:
        return there
    drained, stored, proven = await _transfer(run, source)
    manifest = _manifest(run, source, drained, stored, proven)
    await run.deposit.record(manifest)
    return manifest


async def _transfer(run: _Run, source: Source) -> tuple[Drained, Stored, Proven]:
    await run.spool.wait_for_room(source.choice.status.db_size, run.wait)
    file = run.spool.create(SPOOLED)
    behind = len(os.sched_getaffinity(0)) >= _ENOUGH_CORES
    try:
        async with together() as group:
            size = source.choice.status.db_size
            storing = group.create_task(
                run.deposit.keep(source.folder, file, size=size, behind=behind)
            )
            with on_side("etcd"):
                drained, read_revision = await _drain(run, source, file)
            await file.publish(ended=True)
            run.tracker.step = "Uploading"
            proving = group.create_task(asyncio.to_thread(prove, file, read_revision))
        _check_uid(run, source, proving.result())
        return drained, storing.result(), proving.result()
    finally:
        file.close()


async def _drain(run: _Run, source: Source, file: SpoolFile) -> tuple[Drained, int]:
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
        waiting=run.stand_back,
    ):
        run.tracker.step = "Streaming"
        revision = await source.member.revision()
        return await _read(run, source, file), revision


async def _read(run: _Run, source: Source, file: SpoolFile) -> Drained:
    deadline = Deadline.after(run.request.timeout)
    async with source.member.snapshot(deadline=deadline) as stream:
        return await drain(stream, source.member.endpoint, run.spool, file, run.tracker)


def _check_uid(run: _Run, source: Source, proven: Proven) -> None:
    """The folder is named after the data's own cluster: what was read must be of that cluster."""
    named, read = source.kube_system_uid, proven.report.kube_system_uid
    if run.request.registry_prefix != _REGISTRY or not named or not read or named == read:
        return
    raise IntegrityError(
        f"the snapshot is of the cluster whose kube-system has uid {read}, but its member had "
        f"answered with uid {named} before it was taken",
        hint="the endpoint may lead to several clusters: name the members themselves",
    )


def _manifest(
    run: _Run, source: Source, drained: Drained, stored: Stored, proven: Proven
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
        files=(stored.file(),),
        suspect=suspect,
        warnings=source.choice.warnings,
        proof=None if suspect is not None else stored.proof(now, drained.sha256, proven.structure),
    )
