"""Backups as they lie in a store, made in a moment: real manifests and proofs, little data."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from etcd_steward.engine.manifests import write_manifest
from etcd_steward.models.layout import Folder
from etcd_steward.models.manifest import BackupRef, Level, Manifest, Proof, RunRef, StoredFile
from etcd_steward.models.ports import Store

TICK = datetime(2024, 11, 20, 2, 17, tzinfo=UTC)
DATA = b"a snapshot"


def made(
    number: int = 0,
    *,
    cluster: str = "1f0c9a3e",
    backup: str = "team.nightly",
    tick: datetime | None = None,
    verified: bool = True,
    **changes: Any,  # noqa: ANN401  # fields of the manifest
) -> Manifest:
    """The manifest of the run that came `number` days after the first."""
    namespace, _, name = backup.partition(".")
    tick = tick or TICK + timedelta(days=number)
    folder = Folder(cluster, namespace, name, tick, f"{number:08x}")
    sha256 = hashlib.sha256(DATA).hexdigest()
    proof = Proof(
        level=Level.STRUCTURE,
        at=tick + timedelta(seconds=9),
        by="test",
        stored_sha256=sha256,
        raw_sha256="bb",
        read_back="whole",
    )
    fields: dict[str, Any] = {
        "cluster": cluster,
        "cluster_id": "cdf818194e3a8c32",
        "member_id": "8e9e05c52164694d",
        "backup": BackupRef(namespace=namespace, name=name),
        "run": RunRef(),
        "folder": str(folder),
        "tick": tick,
        "started_at": tick,
        "finished_at": tick + timedelta(seconds=9),
        "etcd_version": "3.6.16",
        "steward_version": "0",
        "read_revision": 9,
        "revision": 10 + number,
        "compact_revision": 1,
        "live_keys": 1203,
        "records": 2000,
        "raw_size": 4_000,
        "raw_sha256": "bb",
        "files": (
            StoredFile(
                name="snapshot.db.zst",
                role="snapshot",
                size=len(DATA),
                sha256=sha256,
                crc32c="00000000",
            ),
        ),
        "proof": proof if verified else None,
    }
    return Manifest(**(fields | changes))


async def put(store: Store, *manifests: Manifest) -> list[str]:
    """Write them whole, in this order; their folders."""
    for manifest in manifests:
        await store.put_new(Folder.parse(manifest.folder).snapshot, DATA)
        await write_manifest(store, manifest)
    return [manifest.folder for manifest in manifests]


async def keys(store: Store) -> list[str]:
    """Every key there is."""
    return sorted([info.key async for info in store.list("")])
