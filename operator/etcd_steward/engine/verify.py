"""Proving a stored backup again, as often as one likes."""

import asyncio
from contextlib import closing
from datetime import UTC, datetime

from etcd_steward import __version__
from etcd_steward.deadline import Deadline
from etcd_steward.engine.download import TIMEOUT, download
from etcd_steward.engine.manifests import write_proof
from etcd_steward.engine.prove import prove
from etcd_steward.engine.report import Report, Tracker
from etcd_steward.engine.spool import Spool
from etcd_steward.models.manifest import Level, Manifest, Proof, Structure
from etcd_steward.models.ports import Store
from etcd_steward.models.run import SpoolSettings


async def verify(
    store: Store,
    manifest: Manifest,
    level: Level,
    spool: SpoolSettings,
    report: Report,
    *,
    timeout: float = TIMEOUT,
) -> Proof:
    """Read a backup whole, compare its digests and, for `Structure`, read the database in it.

    The proof is added beside the manifest. Raises `IntegrityError` saying what is wrong, `TimedOut`
    after `timeout` seconds; nothing is written then.
    """
    tracker = Tracker(report)
    structure = None
    async with Deadline.after(timeout).enforce("verifying the backup"), tracker.reporting():
        tracker.step = "ReadingBack"
        if level is Level.DIGEST:
            await download(store, manifest, lambda _: None, tracker)
        else:
            structure = await _structure(store, manifest, spool, tracker)
        tracker.step = "Recording"
        proof = Proof(
            level=level,
            at=datetime.now(UTC),
            by=f"etcd-steward {__version__}",
            stored_sha256=manifest.snapshot.sha256,
            raw_sha256=manifest.raw_sha256,
            structure=structure,
            read_back="whole",
        )
        await write_proof(store, manifest, proof)
    return proof


async def _structure(
    store: Store, manifest: Manifest, spool: SpoolSettings, tracker: Tracker
) -> Structure:
    async with Spool.open(spool, "verify", tracker.report.warning) as room:
        room.reserve(manifest.raw_size)
        with closing(room.create("snapshot.db")) as file:
            await download(store, manifest, lambda piece: file.append([piece]), tracker)
            tracker.step = "Proving"
            proven = await asyncio.to_thread(prove, file, manifest.read_revision)
    return proven.structure
