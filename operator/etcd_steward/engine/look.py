"""Opening what somebody wants to look into, by the cheapest way that shows what is asked for."""

import asyncio
import secrets
from contextlib import AsyncExitStack
from pathlib import Path

from etcd_steward.engine.file_source import FileSource, open_file, open_snapshot
from etcd_steward.engine.given import open_local
from etcd_steward.engine.parquet_source import ParquetSource
from etcd_steward.engine.report import Report, Tracker
from etcd_steward.engine.sidecar import open_registry
from etcd_steward.engine.snapshot_source import StoredSnapshot
from etcd_steward.engine.spool import Spool
from etcd_steward.errors import NoSuchStore, NotFound
from etcd_steward.models.manifest import Manifest
from etcd_steward.models.ports import Store
from etcd_steward.models.run import SpoolSettings
from etcd_steward.store.local_files import LocalReadAt

_PARQUET = b"PAR1"


async def look_into_file(
    path: Path, stack: AsyncExitStack, settings: SpoolSettings, report: Report
) -> FileSource | ParquetSource:
    """A file on this host: a snapshot, wrapped or not, or a registry.parquet; its content tells.

    What must be closed goes into `stack`. Raises what `open_file` and `ParquetSource.open` raise.
    """
    if await asyncio.to_thread(_head, path) == _PARQUET:
        return await ParquetSource.open(LocalReadAt(path), str(path))
    tracker = Tracker(report)
    spool = await _spool(stack, settings, report)
    async with tracker.reporting():
        return await open_file(path, stack, spool, tracker)


async def look_into_backup(
    store: Store,
    manifest: Manifest,
    stack: AsyncExitStack,
    settings: SpoolSettings,
    report: Report,
    *,
    history: bool,
) -> FileSource | ParquetSource:
    """A stored backup: its registry.parquet, read in place, unless its `history` is asked for.

    That needs the whole snapshot, which is downloaded into the spool then, as it is where it was
    never indexed. An export has no history, whatever is asked.
    """
    url = f"{store.url}/{manifest.folder}"
    if manifest.type == "RegistryExport" or not history:
        try:
            return ParquetSource(await open_registry(store, manifest), url)
        except NoSuchStore:
            raise
        except NotFound as error:
            report.warning(f"{error.message}: all of the snapshot is read instead. {error.hint}")
    tracker = Tracker(report)
    spool = await _spool(stack, settings, report)
    async with tracker.reporting():
        snapshot = StoredSnapshot(store, manifest)
        spool.reserve(snapshot.size)
        return await open_snapshot(snapshot, stack, spool, tracker)


async def _spool(stack: AsyncExitStack, settings: SpoolSettings, report: Report) -> Spool:
    name = f"look-{secrets.token_hex(4)}"
    return await stack.enter_async_context(Spool.open(settings, name, report.warning))


def _head(path: Path) -> bytes:
    """The first bytes of a file that can be read."""
    with open_local(str(path)) as given:
        return next(given.chunks(), b"")[: len(_PARQUET)] if given.size else b""
