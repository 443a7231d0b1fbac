"""The composition root: everything that is opened here is closed here."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from etcd_steward.deadline import Deadline
from etcd_steward.engine.backup import back_up
from etcd_steward.engine.catalogue import Identity, catalogue, identify
from etcd_steward.engine.export import export
from etcd_steward.engine.given import Given, find_object, open_local
from etcd_steward.engine.importing import Imported, Wanted, import_snapshot
from etcd_steward.engine.maintenance.compaction import compact
from etcd_steward.engine.maintenance.keep import keep_snapshot
from etcd_steward.engine.maintenance.rescue import Rescue
from etcd_steward.engine.maintenance.round import hold_round
from etcd_steward.engine.maintenance.stopping import between_members
from etcd_steward.engine.manifest_cache import ManifestCache
from etcd_steward.engine.manifests import find_manifest
from etcd_steward.engine.prune import delete_backup, only
from etcd_steward.engine.report import Report, Tracker
from etcd_steward.engine.settle import clean, settle
from etcd_steward.engine.sidecar import index_backup, index_spooled, known_index
from etcd_steward.engine.spool import DeadRun, Spool
from etcd_steward.errors import InvalidInput, NoSuchStore, StewardError, on_side
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.models.connection import EtcdConnection, StoreSettings
from etcd_steward.models.layout import MANIFEST, Folder
from etcd_steward.models.maintenance import RescueReport
from etcd_steward.models.maintenance_run import (
    CompactionEnded,
    MaintenanceEnded,
    MaintenanceRequest,
    MemberDone,
    MemberTurn,
    RescueBackup,
    RescueEnded,
    RoundEnded,
)
from etcd_steward.models.manifest import Index, Manifest
from etcd_steward.models.ports import OpenUpload, Store
from etcd_steward.models.restore_run import FromUndo, PlanMade, RestoreEnded, RestoreRequest
from etcd_steward.models.run import (
    BackupRequest,
    Catalogued,
    CatalogueEntry,
    CatalogueRequest,
    DeleteRequest,
    ExportRequest,
    Failure,
    Result,
    Settled,
    SettleRequest,
    SnapshotRequest,
    SpoolSettings,
)
from etcd_steward.store import open_store as _open_store

if TYPE_CHECKING:
    from etcd_steward.engine.restore.session import Session

_INDEX_AFTER = timedelta(minutes=10)
"""A run that has not indexed its snapshot by then never will."""


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


async def take_snapshot(request: SnapshotRequest | ExportRequest, report: Report) -> Result:
    """Make one backup, or adopt what an earlier attempt of the same run has completed.

    Raises `StewardError`. What earlier attempts left is settled first, and so is what runs that
    were killed on this host left in this store. Once the backup is complete its sidecar is made;
    if that fails, the result says why.
    """
    tracker, deadline = Tracker(report), Deadline.after(request.timeout)
    async with (
        tracker.reporting(),
        open_store(request.store) as store,
        Spool.open(request.spool, request.run, report.warning) as spool,
    ):
        async with deadline.enforce("the backup"):
            manifest = await _snapshot(request, store, spool, tracker)
        index = None
        if not isinstance(request, SnapshotRequest) or request.index:
            prefixes = (request.registry_prefix,)
            index = await index_spooled(store, spool, manifest, prefixes, tracker, deadline)
        for note in store.notes:
            report.warning(note)
        return _result(store, manifest, index)


async def _snapshot(
    request: SnapshotRequest | ExportRequest, store: Store, spool: Spool, tracker: Tracker
) -> Manifest:
    run, report = request.run[:8], tracker.report
    if request.earlier or request.run != run:
        with on_side("store"):
            settled = await _settle_earlier(store, run, request, report)
        if settled is not None:
            return settled
        report.settled()
    for dead in spool.dead:
        await _bury(store, dead, report)
    async with open_etcd(request.etcd) as client:
        match request:
            case SnapshotRequest():
                return await back_up(client, store, spool, request, tracker)
            case ExportRequest():
                return await export(client, store, spool, request, tracker)


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
            return _result(store, settled, await known_index(store, settled))
        return Settled(aborted=settled)


async def look_through(
    request: CatalogueRequest, report: Report, tell: Callable[[CatalogueEntry], None]
) -> Catalogued:
    """Tell of every backup of one name that the store holds, after pruning them.

    The newest verified one gets its sidecar where it has none. An etcd that does not answer only
    forbids to delete. Raises `StewardError` of the store.
    """
    async with (
        Deadline.after(request.timeout).enforce("looking through the store"),
        Tracker(report).reporting(),
        open_store(request.store) as store,
    ):
        identity = await _identity(request)
        cache = ManifestCache(request.cache, store) if request.cache is not None else None
        found: list[CatalogueEntry] = []
        outcome = await catalogue(store, request, identity, cache, found.append)
        indexed = await _index_newest(store, request, found, report)
        for entry in await _weigh_newest(store, indexed, report):
            tell(entry)
        return outcome


async def _index_newest(
    store: Store, request: CatalogueRequest, found: list[CatalogueEntry], report: Report
) -> list[CatalogueEntry]:
    """Make the sidecar of our newest verified snapshot, where its run has not come to that.

    Older ones wait for `snapshot index`: each takes a download of the whole. A run that has just
    recorded its snapshot may be about to make the sidecar itself.
    """
    mine = (entry for entry in reversed(found) if entry.ours and entry.verified_at is not None)
    newest = next((entry for entry in mine if entry.indexed is not None), None)
    if newest is None or newest.indexed or request.spool is None:
        return found
    if datetime.now(UTC) - newest.manifest.finished_at < _INDEX_AFTER:
        return found
    try:
        await index_backup(
            store,
            newest.manifest,
            request.spool,
            report,
            prefixes=(request.registry_prefix,),
            timeout=request.timeout / 2,
        )
    except StewardError as error:
        report.warning(f"{newest.url} could not be indexed: {error}")
        return found
    indexed = newest.model_copy(update={"indexed": True})
    return [indexed if entry is newest else entry for entry in found]


async def _weigh_newest(
    store: Store, found: list[CatalogueEntry], report: Report
) -> list[CatalogueEntry]:
    """Tell of the newest registry file of everything what its resources take: it says so itself."""
    whole = (
        entry
        for entry in reversed(found)
        if entry.ours and (entry.indexed or _is_whole_export(entry.manifest))
    )
    newest = next(whole, None)
    if newest is None:
        return found
    file = newest.manifest.files[0]
    try:
        if newest.indexed and (index := await known_index(store, newest.manifest)) is not None:
            file = index.file
    except StewardError as error:
        report.warning(f"{newest.url} does not tell what its resources take: {error}")
        return found
    weighed = newest.model_copy(update={"resource_bytes": file.resource_bytes})
    return [weighed if entry is newest else entry for entry in found]


def _is_whole_export(manifest: Manifest) -> bool:
    return manifest.type == "RegistryExport" and manifest.selection is None


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


async def restore(
    request: RestoreRequest, report: Report, tell: Callable[[PlanMade], None]
) -> PlanMade | RestoreEnded:
    """Plan a restore and, where the request says so, apply that plan; or undo another one.

    One that was applied before, whatever has brought its request back since, does nothing and is
    told of as it went. `tell` hears of the plan before it is applied. Raises `StewardError`.
    """
    from etcd_steward.engine.restore.telling import ended, plan_made  # noqa: PLC0415  # see below

    async with open_restore(request, report) as session:
        deadline = Deadline.after(request.timeout)
        done = await session.done_before()
        if done is not None:
            return ended(done, session.place, before=True)
        if isinstance(request.source, FromUndo):
            return ended(await session.undo(), session.place, before=False)
        async with deadline.enforce("the plan"):
            planned = await session.plan()
        made = plan_made(planned.plan, session.place, applying=request.apply)
        if not request.apply:
            return made
        tell(made)
        deadline = Deadline.after(request.timeout + (request.second_look or 0.0))
        async with deadline.enforce("the apply"):
            done = await session.apply(planned)
        await session.prune()
        return ended(done, session.place, before=False)


async def maintain(
    request: MaintenanceRequest,
    report: Report,
    tell: Callable[[MemberTurn | MemberDone | MaintenanceEnded], None],
) -> MaintenanceEnded:
    """Do one task of maintenance; what a gate forbids is in the report. Raises `StewardError`.

    A round that is cancelled ends between two members: `tell` hears how, then it is cancelled.
    """
    tracker = Tracker(report)
    async with tracker.reporting(), open_etcd(request.etcd) as client:
        match request.task:
            case "round":
                ended = await between_members(
                    lambda stop: hold_round(client, request, tracker, tell, stop),
                    lambda done: tell(RoundEnded(report=done)),
                )
                return RoundEnded(report=ended)
            case "compaction":
                tracker.step = "Compacting"
                return CompactionEnded(report=await compact(client, request))
            case "rescue":
                report_of_rescue = await between_members(
                    lambda stop: _rescue(client, request, tracker, tell, stop),
                    lambda done: tell(RescueEnded(report=done)),
                )
                return RescueEnded(report=report_of_rescue)


async def _rescue(
    client: EtcdClient,
    request: MaintenanceRequest,
    tracker: Tracker,
    tell: Callable[[MemberTurn | MemberDone], None],
    stop: asyncio.Event,
) -> RescueReport:
    if request.backup is None:
        raise InvalidInput("the request of a rescue does not say where its snapshot goes")
    backup = request.backup

    async def save() -> str:
        if await _is_there(backup):
            return backup.taken
        tracker.step = "TakingSnapshot"
        if backup.store is not None:
            try:
                wanted = _before_rescue(request, backup, backup.store)
                return (await take_snapshot(wanted, tracker.report)).url
            except StewardError as error:
                if error.side != "store":
                    raise
                tracker.report.warning(f"the snapshot stays on this host: {error}")
        kept = await keep_snapshot(
            client, backup.spool, request.run, tracker, timeout=backup.timeout
        )
        return str(kept)

    return await Rescue(client, request, tracker, tell, stop, save).rescue()


async def _is_there(backup: RescueBackup) -> bool:
    """Whether the snapshot of an earlier rescue still lies where it was put."""
    if backup.taken.startswith("/"):
        return await asyncio.to_thread(Path(backup.taken).exists)
    if not backup.taken or backup.store is None:
        return False
    try:
        async with open_store(backup.store) as store:
            folder = backup.taken.removeprefix(f"{store.url}/")
            return await store.find(f"{folder}/{MANIFEST}") is not None
    except StewardError:
        return False  # `save` says what is wrong with the store


def _before_rescue(
    request: MaintenanceRequest, backup: RescueBackup, store: StoreSettings
) -> SnapshotRequest:
    """The backup that a rescue takes first: quickly, so without a sidecar."""
    return SnapshotRequest(
        etcd=request.etcd,
        store=store,
        spool=backup.spool,
        backup=backup.backup,
        requester=backup.requester,
        run=request.run,
        tick=datetime.now(UTC),
        registry_prefix=backup.registry_prefix,
        timeout=backup.timeout,
        index=False,
    )


@asynccontextmanager
async def open_restore(request: RestoreRequest, report: Report) -> "AsyncIterator[Session]":
    """What one restore needs, opened."""
    # What speaks to an API server takes half a second to import, and only restores need it.
    from etcd_steward.engine.restore.session import opened  # noqa: PLC0415

    async with (
        open_etcd(request.etcd) as client,
        opened(request, client, report) as session,
    ):
        yield session


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

    Raises `StewardError`. What killed runs left in this store is cleaned up first. A new backup
    gets its sidecar; if that fails, the report is warned.
    """
    tracker, deadline = Tracker(report), Deadline.after(timeout)
    tracker.step = "Fetching"
    async with (
        tracker.reporting(),
        _given(source) as given,
        open_store(target) as store,
        Spool.open(spool, wanted.run, report.warning) as room,
    ):
        async with deadline.enforce("the import"):
            for dead in room.dead:
                await _bury(store, dead, report)
            imported = await import_snapshot(given, store, room, wanted, tracker)
        manifest = imported.manifest
        if imported.new:
            index = await index_spooled(store, room, manifest, wanted.prefixes, tracker, deadline)
            if isinstance(index, Failure):
                report.warning(f"the backup is complete, but not indexed: {index.text}")
        return f"{store.url}/{manifest.folder}", imported


@asynccontextmanager
async def _given(source: Source) -> AsyncIterator[Given]:
    if source.store is None:
        with open_local(source.path) as given:
            yield given
    else:
        async with open_store(source.store) as store:
            yield await find_object(store, source.path)


def _result(store: Store, manifest: Manifest, index: Index | Failure | None = None) -> Result:
    return Result(
        url=f"{store.url}/{manifest.folder}",
        manifest=manifest,
        index=index if isinstance(index, Index) else None,
        index_failure=index if isinstance(index, Failure) else None,
    )


async def _settle_earlier(
    store: Store, run: str, request: BackupRequest, report: Report
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
        else:  # it died over the sidecar
            await store.abort(OpenUpload(dead.journal.key, dead.journal.upload_id))
    except StewardError as error:
        report.warning(f"what a killed run left in {dead.journal.folder} is still there: {error}")
    else:
        dead.forget()
