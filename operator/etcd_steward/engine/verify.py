"""Proving a stored backup again, as often as one likes."""

import asyncio
from contextlib import closing
from datetime import UTC, datetime
from typing import TypedDict

from etcd_steward import __version__
from etcd_steward.deadline import Deadline
from etcd_steward.engine.download import TIMEOUT, download
from etcd_steward.engine.manifests import write_proof
from etcd_steward.engine.prove import prove
from etcd_steward.engine.prove_registry import prove_registry
from etcd_steward.engine.report import Report, Tracker
from etcd_steward.engine.sidecar import check_sidecar
from etcd_steward.engine.spool import SPOOLED, Spool
from etcd_steward.errors import IntegrityError
from etcd_steward.models.manifest import (
    Level,
    Manifest,
    Proof,
    RegistryStructure,
    Structure,
)
from etcd_steward.models.ports import ReadAt, Store
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
    """Read a backup whole, compare its digests and, for `Structure`, read what is in it.

    The proof is added beside the manifest. Raises `IntegrityError` saying what is wrong, `TimedOut`
    after `timeout` seconds; nothing is written then, except where only the sidecar is damaged: that
    takes nothing from the backup.
    """
    tracker = Tracker(report)
    proven: _Proven = {}
    async with Deadline.after(timeout).enforce("verifying the backup"), tracker.reporting():
        tracker.step = "ReadingBack"
        if level is Level.DIGEST:
            await download(store, manifest, lambda _: None, tracker)
        else:
            proven = await _structure(store, manifest, spool, tracker)
        tracker.step = "Recording"
        proof = Proof(
            level=level,
            at=datetime.now(UTC),
            by=f"etcd-steward {__version__}",
            stored_sha256=manifest.snapshot.sha256,
            raw_sha256=manifest.raw_sha256,
            read_back="whole",
            **proven,
        )
        await write_proof(store, manifest, proof)
        tracker.step = "ReadingBack"
        await check_sidecar(store, manifest)
    return proof


class _Proven(TypedDict, total=False):
    """What a structural proof adds to the others."""

    structure: Structure
    registry: RegistryStructure


async def _structure(
    store: Store, manifest: Manifest, spool: SpoolSettings, tracker: Tracker
) -> _Proven:
    async with Spool.open(spool, "verify", tracker.report.warning) as room:
        room.reserve(manifest.raw_size)
        with closing(room.create(SPOOLED)) as file:
            await download(store, manifest, lambda piece: file.append([piece]), tracker)
            tracker.step = "Proving"
            if manifest.type == "RegistryExport":
                url = f"{store.url}/{manifest.folder}/{manifest.snapshot.name}"
                return {"registry": await asyncio.to_thread(_prove_export, file, manifest, url)}
            proven = await asyncio.to_thread(prove, file, manifest.read_revision)
    return {"structure": proven.structure}


def _prove_export(file: ReadAt, manifest: Manifest, url: str) -> RegistryStructure:
    from etcd_steward.registry.parquet import RegistryFile  # noqa: PLC0415  # pyarrow: 70 MB

    registry = RegistryFile(file, name=url, stored=manifest.snapshot)
    found = prove_registry(registry, url)
    said, holds = (manifest.revision, manifest.live_keys), (registry.revision, found.rows)
    if said != holds:
        raise IntegrityError(
            f"{url} holds {holds[1]} keys at revision {holds[0]}, but its manifest says {said[1]} "
            f"at {said[0]}",
            hint="use another backup, and report this: it was stored that way",
        )
    return found
