"""The composition root: everything that is opened here is closed here."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from etcd_steward.deadline import Deadline
from etcd_steward.engine.backup import back_up
from etcd_steward.engine.catalogue import Identity, catalogue, identify
from etcd_steward.engine.given import Given, find_object, open_local
from etcd_steward.engine.importing import Imported, Wanted, import_snapshot
from etcd_steward.engine.manifest_cache import ManifestCache
from etcd_steward.engine.manifests import find_manifest
from etcd_steward.engine.prune import delete_backup, only
from etcd_steward.engine.report import Report, Tracker
from etcd_steward.engine.settle import clean, settle
from etcd_steward.engine.spool import DeadRun, Spool
from etcd_steward.errors import NoSuchStore, StewardError, on_side
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.models.connection import EtcdConnection, StoreSettings
from etcd_steward.models.layout import Folder
from etcd_steward.models.manifest import Manifest
from etcd_steward.models.ports import Store
from etcd_steward.models.run import (
    Catalogued,
    CatalogueEntry,
    CatalogueRequest,
    DeleteRequest,
    Result,
    Settled,
    SettleRequest,
    SnapshotRequest,
    SpoolSettings,
)
from etcd_steward.store import open_store as _open_store


@asynccontextmanager
async def open_etcd(connection: EtcdConnection) -> AsyncIterator[EtcdClient]:
    """A client of one etcd cluster; nothing is dialled before the first call."""
    async with EtcdClient.connect(connection) as client:
        yield client


@asynccontextmanager
async def open_store(settings: StoreSettings) -> AsyncIterator[Store]:
    """A store; nothing is read or written before the first call."""
    async with _open_store(settings) as store:
        yield store


async def take_snapshot(request: SnapshotRequest, report: Report) -> Result:
    """Take one snapshot, or adopt what an earlier attempt of the same run has completed.

    Raises `StewardError`. What earlier attempts left is settled first, and so is what runs that
    were killed on this host left in this store.
    """
    tracker, run = Tracker(report), request.run[:8]
    async with (
        Deadline.after(request.timeout).enforce("the backup"),
        tracker.reporting(),
        open_store(request.store) as store,
        Spool.open(request.spool, request.run, report.warning) as spool,
    ):
        if request.earlier or request.run != run:
            with on_side("store"):
                settled = await _settle_earlier(store, run, request, report)
            if settled is not None:
                return _result(store, settled)
            report.settled()
        for dead in spool.dead:
            await _bury(store, dead, report)
        async with open_etcd(request.etcd) as client:
            manifest = await back_up(client, store, spool, request, tracker)
        for note in store.notes:
            report.warning(note)
        return _result(store, manifest)


async def settle_run(request: SettleRequest, report: Report) -> Result | Settled:
    """Adopt or clean up what a dead run left. Raises `StewardError` if the store can't tell."""
    async with (
        Deadline.after(request.timeout).enforce("looking for what a dead run left"),
        Tracker(report).reporting(),
        open_store(request.store) as store,
        Spool.open(request.spool, f"{request.run}-settle", report.warning) as spool,
    ):
        with on_side("store"):
            settled = await settle(store, request.run, request.earlier, report.warning)
        for dead in spool.dead:
            await _bury(store, dead, report)
        if isinstance(settled, Manifest):
            return _result(store, settled)
        return Settled(aborted=settled)


async def look_through(
    request: CatalogueRequest, report: Report, tell: Callable[[CatalogueEntry], None]
) -> Catalogued:
    """Tell of every backup of one name that the store holds, after pruning them.

    An etcd that does not answer only forbids to delete. Raises `StewardError` of the store.
    """
    async with (
        Deadline.after(request.timeout).enforce("looking through the store"),
        Tracker(report).reporting(),
        open_store(request.store) as store,
    ):
        identity = await _identity(request)
        cache = ManifestCache(request.cache, store) if request.cache is not None else None
        return await catalogue(store, request, identity, cache, tell)


async def _identity(request: CatalogueRequest) -> Identity:
    unknown = "which cluster the etcd is can't be asked now"
    if request.etcd is not None:
        try:
            async with open_etcd(request.etcd) as client:
                return await identify(client, request.registry_prefix)
        except StewardError as error:
            unknown = f"{unknown}: {error.message}"
    return Identity(request.cluster, request.cluster_id, unknown)


async def delete(request: DeleteRequest, report: Report) -> Settled:
    """Delete one backup if it is ours; one that is gone already is a success.

    Raises `Refused` if it is another's, and what the store raises.
    """
    async with (
        Deadline.after(request.timeout).enforce("deleting the backup"),
        Tracker(report).reporting(),
        open_store(request.store) as store,
    ):
        with on_side("store"):
            ours = only(request.backup, request.cluster_ids)
            await delete_backup(store, Folder.parse(request.folder), ours)
    return Settled(aborted=0)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a file lies that is to be imported."""

    path: str
    """On this host (`-`: standard input), or an object's key in `store`."""
    store: StoreSettings | None = None


async def import_file(
    source: Source,
    target: StoreSettings,
    spool: SpoolSettings,
    wanted: Wanted,
    report: Report,
    *,
    timeout: float,
) -> tuple[str, Imported]:
    """Import a snapshot that somebody else took; its URL in the store, and what is known of it.

    Raises `StewardError`. What killed runs left in this store is cleaned up first.
    """
    tracker = Tracker(report)
    tracker.step = "Fetching"
    async with (
        Deadline.after(timeout).enforce("the import"),
        tracker.reporting(),
        _given(source) as given,
        open_store(target) as store,
        Spool.open(spool, wanted.run, report.warning) as room,
    ):
        for dead in room.dead:
            await _bury(store, dead, report)
        imported = await import_snapshot(given, store, room, wanted, tracker)
        return f"{store.url}/{imported.manifest.folder}", imported


@asynccontextmanager
async def _given(source: Source) -> AsyncIterator[Given]:
    if source.store is None:
        with open_local(source.path) as given:
            yield given
    else:
        async with open_store(source.store) as store:
            yield await find_object(store, source.path)


def _result(store: Store, manifest: Manifest) -> Result:
    return Result(url=f"{store.url}/{manifest.folder}", manifest=manifest)


async def _settle_earlier(
    store: Store, run: str, request: SnapshotRequest, report: Report
) -> Manifest | None:
    try:
        settled = await settle(store, run, request.earlier, report.warning)
    except NoSuchStore:
        if request.earlier:
            raise
        return None  # no attempt has come as far as to make the directory
    return settled if isinstance(settled, Manifest) else None


async def _bury(store: Store, dead: DeadRun, report: Report) -> None:
    """Clean up after a run that was killed on this host, unless it had completed.

    By its journal only: another attempt of that run may be under way elsewhere.
    """
    if dead.store != store.identity:
        return
    try:
        folder = Folder.parse(dead.journal.folder)
        if await find_manifest(store, folder) is None:
            await clean(store, folder, [dead.journal], report.warning)
    except StewardError as error:
        report.warning(f"what a killed run left in {dead.journal.folder} is still there: {error}")
    else:
        dead.forget()
