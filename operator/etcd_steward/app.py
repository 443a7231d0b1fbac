"""The composition root: everything that is opened here is closed here."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from etcd_steward.deadline import Deadline
from etcd_steward.engine.backup import back_up
from etcd_steward.engine.manifests import find_manifest
from etcd_steward.engine.report import Report, Tracker
from etcd_steward.engine.settle import clean, settle
from etcd_steward.engine.spool import DeadRun, Spool
from etcd_steward.errors import NoSuchStore, StewardError, on_side
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.models.connection import EtcdConnection, StoreSettings
from etcd_steward.models.layout import Folder
from etcd_steward.models.manifest import Manifest
from etcd_steward.models.ports import Store
from etcd_steward.models.run import Result, Settled, SettleRequest, SnapshotRequest
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
            return _result(store, await back_up(client, store, spool, request, tracker))


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
