"""One hash over all keys of a file, and whether several such hashes say the same.

Light on purpose: of a plain file the hash is there before most other modules would be imported.
"""

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from etcd_steward.engine.recognise import is_database_file
from etcd_steward.engine.report import Report, Tracker
from etcd_steward.errors import StewardError, Unsupported
from etcd_steward.models.manifest import Manifest
from etcd_steward.models.ports import ReadAt, Store
from etcd_steward.models.run import SpoolSettings
from etcd_steward.registry.hashkv import KeysHash, hash_kv
from etcd_steward.store.local_files import LocalReadAt
from etcd_steward.store.threads import settled

if TYPE_CHECKING:
    from etcd_steward.engine.snapshot_source import SnapshotFile, StoredSnapshot


@dataclass(frozen=True, slots=True)
class Hashed:
    """What a file or a member has said."""

    source: str
    """A path, a URL, or a member's endpoint."""
    member: str = ""
    """A member's name."""
    hash: KeysHash | None = None
    error: StewardError | None = None
    """Why there is no hash."""


class Verdict(StrEnum):
    """What several hashes say together."""

    SAME = "Same"
    DIFFERENT = "Different"
    NOT_COMPARABLE = "NotComparable"
    """They are of different revisions, or compacted to different ones: they say nothing."""
    INCOMPLETE = "Incomplete"
    """Those that there are agree, but somebody has not answered."""


def judge(found: Sequence[Hashed]) -> Verdict:
    """Compare what may be compared; one difference is worse than anything unknown."""
    hashes = [one.hash for one in found if one.hash is not None]
    revisions = {(one.hash_revision, one.compact_revision) for one in hashes}
    if len(set(hashes)) > len(revisions):
        return Verdict.DIFFERENT
    if len(revisions) > 1:
        return Verdict.NOT_COMPARABLE
    return Verdict.SAME if len(hashes) == len(found) else Verdict.INCOMPLETE


async def hash_file(path: Path, at: int, settings: SpoolSettings, report: Report) -> Hashed:
    """A database file on this host, wrapped or not, at revision `at` (0 = its newest).

    Raises `NotFound`, `Unauthorized`, `Refused` for the database of an etcd that is running,
    `InvalidInput` for what is no snapshot, `IntegrityError` for a damaged one, and `Compacted` or
    `InvalidInput` for a revision that it does not hold.
    """
    tracker = Tracker(report)
    async with AsyncExitStack() as stack, tracker.reporting():
        if await asyncio.to_thread(is_database_file, path):
            return await _hash(LocalReadAt(path), str(path), at, tracker)
        from etcd_steward.engine.snapshot_source import SnapshotFile  # noqa: PLC0415  # see the top

        return await _brought(SnapshotFile(path), at, settings, tracker, stack)


async def hash_backup(
    store: Store, manifest: Manifest, at: int, settings: SpoolSettings, report: Report
) -> Hashed:
    """A stored snapshot, which is downloaded into the spool. Raises what `hash_file` raises."""
    from etcd_steward.engine.snapshot_source import StoredSnapshot  # noqa: PLC0415  # see the top

    if manifest.type != "Snapshot":
        raise Unsupported(
            f"{store.url}/{manifest.folder} is a registry export: it holds the newest of each key, "
            "and etcd hashes its history",
            hint="name a snapshot; `etcd-steward snapshot verify` proves an export",
        )
    tracker = Tracker(report)
    async with AsyncExitStack() as stack, tracker.reporting():
        return await _brought(StoredSnapshot(store, manifest), at, settings, tracker, stack)


async def _brought(
    snapshot: "StoredSnapshot | SnapshotFile",
    at: int,
    settings: SpoolSettings,
    tracker: Tracker,
    stack: AsyncExitStack,
) -> Hashed:
    from etcd_steward.engine.spool import Spool  # noqa: PLC0415

    spooled = Spool.open(settings, f"hash-{secrets.token_hex(4)}", tracker.report.warning)
    spool = await stack.enter_async_context(spooled)
    tracker.step = "Fetching"
    spool.reserve(snapshot.size)
    file = stack.enter_context(closing(spool.create("snapshot.db")))
    await snapshot.bring(spool, file, tracker)
    return await _hash(file, snapshot.name, at, tracker)


async def _hash(file: ReadAt, name: str, at: int, tracker: Tracker) -> Hashed:
    tracker.step = "Hashing"
    return Hashed(name, hash=await settled(asyncio.to_thread(hash_kv, file, at)))
