"""The composition root: everything that is opened here is closed here."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from etcd_steward.deadline import Deadline
from etcd_steward.engine.backup import back_up
from etcd_steward.engine.report import Report, Tracker
from etcd_steward.engine.settle import settle
from etcd_steward.engine.spool import DeadRun, Spool
from etcd_steward.errors import StewardError, on_side
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

    Raises `StewardError`. What runs that were killed on this host left in this store is cleaned up
    first.
    """
    tracker = Tracker(report)
    async with (
        Deadline.after(request.timeout).enforce("the backup"),
        tracker.reporting(),
        open_store(request.store) as store,
        Spool.open(request.spool, request.run) as spool,
    ):
        if request.earlier:
            with on_side("store"):
                settled = await settle(store, request.run[:8], request.earlier)
            if isinstance(settled, Manifest):
                return _result(store, settled)
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
    ):
        with on_side("store"):
            settled = await settle(store, request.run, request.earlier)
        if isinstance(settled, Manifest):
            return _result(store, settled)
        return Settled(aborted=settled)


def _result(store: Store, manifest: Manifest) -> Result:
    return Result(url=f"{store.url}/{manifest.folder}", manifest=manifest)


async def _bury(store: Store, dead: DeadRun, report: Report) -> None:
    if dead.store_url != store.url:
        return
    run = Folder.parse(dead.journal.folder).run
    try:
        await settle(store, run[:8], [dead.journal])
    except StewardError as error:
        report.warning(f"what a killed run left in {dead.journal.folder} is still there: {error}")
    else:
        dead.forget()
