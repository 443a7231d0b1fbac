"""Everything that the operator reacts to, on one screen, and how a resource is read.

All but runs are followed by events alone: no timer, no finalizer. Each active EtcdSnapshot has a
daemon, which holds the finalizer for as long as it runs. (A long job inside a handler of changes
would swallow updates and deletions meanwhile; timers leave a finalizer for ever.)
"""

import asyncio
import contextvars
from collections.abc import Mapping
from typing import Any, Final

import kopf

from etcd_steward.handlers import status as transition
from etcd_steward.handlers import words
from etcd_steward.handlers.asked import asked_of
from etcd_steward.handlers.context import Context
from etcd_steward.handlers.deletion import (
    delete_backup,
    release_if_uninstalled,
    takes_its_backup,
)
from etcd_steward.handlers.errors import edge
from etcd_steward.handlers.identity import Identity
from etcd_steward.handlers.maintained import maintained_of
from etcd_steward.handlers.read import read_spec, read_status
from etcd_steward.handlers.reference import Kind, announce, reference
from etcd_steward.handlers.run import ActiveRun
from etcd_steward.handlers.standing import Order, Run
from etcd_steward.handlers.writer import StatusWriter
from etcd_steward.kube import BACKUPS, MAINTENANCES, RESTORES, SNAPSHOTS, Key, version_of
from etcd_steward.models.kinds import (
    ADOPT_CLUSTER,
    BACKUP_LABEL,
    FOUND_IN,
    GROUP,
    REQUESTED_AT,
    VERSION,
    EtcdBackupSpec,
    EtcdBackupStatus,
    EtcdSnapshotStatus,
)
from etcd_steward.models.run import Settled

CLEAN_UP_TIMEOUT = 60.0
"""Seconds that a deletion waits for the store; a namespace must not hang because a bucket does."""

Body = Mapping[str, Any]


_BACKUPS: Final = (GROUP, VERSION, BACKUPS)
_SNAPSHOTS: Final = (GROUP, VERSION, SNAPSHOTS)
_RESTORES: Final = (GROUP, VERSION, RESTORES)
_MAINTENANCES: Final = (GROUP, VERSION, MAINTENANCES)


def register(registry: kopf.OperatorRegistry, context: Context) -> None:
    """Register all handlers."""
    _register_process(registry, context)
    _register_watches(registry, context)
    _register_runs(registry, context)


def _register_process(registry: kopf.OperatorRegistry, context: Context) -> None:
    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:  # noqa: ANN401
        return await connection(context)

    @kopf.on.cleanup(registry=registry)
    async def farewell(settings: kopf.OperatorSettings, **_: Any) -> None:  # noqa: ANN401
        await release_if_uninstalled(context, settings.persistence.finalizer)


def _register_watches(registry: kopf.OperatorRegistry, context: Context) -> None:
    @kopf.on.event(*_BACKUPS, registry=registry)
    async def order_changed(type: str | None, body: Body, **_: Any) -> None:  # noqa: A002, ANN401
        context.surroundings = context.surroundings or contextvars.copy_context()
        order = order_of(body)
        context.inventory.see_order(order, gone=type == "DELETED")
        context.touch(order.key)

    @kopf.on.event(*_SNAPSHOTS, registry=registry)
    async def run_changed(type: str | None, body: Body, **_: Any) -> None:  # noqa: A002, ANN401
        context.surroundings = context.surroundings or contextvars.copy_context()
        run = run_of(body)
        context.inventory.see_run(run, gone=type == "DELETED")
        context.touch(run.backup)

    @kopf.on.event(*_RESTORES, registry=registry)
    async def restore_changed(type: str | None, body: Body, **_: Any) -> None:  # noqa: A002, ANN401
        context.surroundings = context.surroundings or contextvars.copy_context()
        context.inventory.see_restore(asked_of(body), gone=type == "DELETED")
        context.restores_changed.set()

    @kopf.on.event(*_MAINTENANCES, registry=registry)
    async def maintenance_changed(type: str | None, body: Body, **_: Any) -> None:  # noqa: A002, ANN401
        context.surroundings = context.surroundings or contextvars.copy_context()
        context.inventory.see_maintained(maintained_of(body), gone=type == "DELETED")
        context.maintained_changed.set()


def _register_runs(registry: kopf.OperatorRegistry, context: Context) -> None:
    @kopf.daemon(*_SNAPSHOTS, registry=registry, id="run", when=needs_us, cancellation_timeout=30.0)
    @edge
    async def run(body: Body, stopped: kopf.DaemonStopped, **_: Any) -> None:  # noqa: ANN401
        await follow(context, body, stopped)

    @kopf.on.delete(
        *_SNAPSHOTS, registry=registry, id="clean-up", when=may_have_left_something, optional=True
    )
    async def clean_up(body: Body, **_: Any) -> None:  # noqa: ANN401
        await clean_up_after(context, body)

    def takes_it_along(body: Body, **_: Any) -> bool:  # noqa: ANN401
        return takes_its_backup(context, run_of(body))

    @kopf.on.delete(*_SNAPSHOTS, registry=registry, id="backup", when=takes_it_along)
    async def backup_too(body: Body, **_: Any) -> None:  # noqa: ANN401
        await delete_backup(context, run_of(body))


async def connection(context: Context) -> kopf.ConnectionInfo:
    """Kopf uses the very credentials that we use."""
    credentials = await context.kube.credentials()
    return kopf.ConnectionInfo(
        server=credentials.server,
        ca_path=credentials.ca_file,
        ca_data=credentials.ca_data,
        insecure=credentials.insecure,
        certificate_path=credentials.cert_file,
        private_key_path=credentials.key_file,
        scheme="Bearer" if credentials.token else None,
        token=credentials.token.get_secret_value() if credentials.token else None,
    )


def needs_us(body: Body, **_: Any) -> bool:  # noqa: ANN401
    """Whether a run has not ended, or has failed while nobody could look at what it left.

    (kopf starts a daemon that has ended by itself only once in an operator's life: so the latter is
    looked at once by each operator.) One that can't be read is left alone.
    """
    if FOUND_IN in body["metadata"].get("annotations", {}):
        return False  # no run: a record of what was found in the store
    read = read_status(EtcdSnapshotStatus, body)
    unfinished = not transition.is_terminal(read.status)
    return read.understood and (unfinished or transition.must_be_settled(read.status))


def may_have_left_something(body: Body, **_: Any) -> bool:  # noqa: ANN401
    """Whether a run that is being deleted may have begun an upload that is not settled."""
    deleting = body["metadata"].get("deletionTimestamp") is not None
    status = snapshot_status(body)
    begun = status.journal is not None or status.phase == "Running"
    return deleting and begun and status.backup_spec is not None


async def follow(context: Context, body: Body, stopped: kopf.DaemonStopped) -> None:
    """Drive a run until it has ended, its object is deleted or the operator stops."""
    active = active_run(context, body)

    async def watch_the_stopper() -> None:
        _ = await stopped.wait()
        active.stop.set()

    watcher = asyncio.create_task(watch_the_stopper(), name=f"stop {active.identity.key}")
    try:
        await active.drive()
    finally:
        watcher.cancel()


async def clean_up_after(context: Context, body: Body) -> None:
    """Abort what a deleted run left, if its process could not do so itself; try it once only."""
    active = active_run(context, body)
    if active.identity.uid in context.clean:
        context.clean.discard(active.identity.uid)
        return
    try:
        async with asyncio.timeout(CLEAN_UP_TIMEOUT):
            outcome = await active.settle()
    except TimeoutError:
        outcome = None
    if not isinstance(outcome, Settled):
        folder = active.status.journal.folder if active.status.journal else "?"
        active.announce(
            "Warning",
            "CleanUpIncomplete",
            f"{active.identity.key.name} is deleted; look at folder {folder} in its store: "
            f"an upload may still be open there, or a backup complete",
        )


def active_run(context: Context, body: Body) -> ActiveRun:
    """The run that an object stands for."""
    meta, key = body["metadata"], key_of(body)
    identity = Identity(
        key=key,
        uid=meta["uid"],
        generation=meta["generation"],
        created=words.moment(meta["creationTimestamp"]),
        backup_name=body["spec"]["backupName"],
        made_by_us=meta.get("labels", {}).get(BACKUP_LABEL) == body["spec"]["backupName"],
    )
    # Copies: kopf replaces the body under our hands with each event.
    snapshot = reference("EtcdSnapshot", key, identity.uid)
    uid = snapshot_status(body).backup_uid

    def tell(kind: Kind, reason: str, message: str) -> None:
        announce(context, snapshot, kind, reason, message)
        backup_uid = uid or active.status.backup_uid
        if backup_uid is not None:
            order = reference("EtcdBackup", identity.backup, backup_uid)
            announce(context, order, kind, reason, message)

    active = ActiveRun(
        context,
        identity,
        StatusWriter(context.kube, key, version_of(body), snapshot_status(body)),
        tell,
    )
    return active


def key_of(body: Body) -> Key:
    """Namespace and name."""
    return Key(body["metadata"]["namespace"], body["metadata"]["name"])


def snapshot_status(body: Body) -> EtcdSnapshotStatus:
    """An EtcdSnapshot's status, as far as it can be read."""
    return read_status(EtcdSnapshotStatus, body).status


def order_of(body: Body) -> Order:
    """An EtcdBackup, as far as the scheduler needs it."""
    spec, fault = read_spec(EtcdBackupSpec, body)
    annotations = body["metadata"].get("annotations", {})
    adopted = annotations.get(ADOPT_CLUSTER, "").split(",")
    return Order(
        key=key_of(body),
        version=version_of(body),
        generation=body["metadata"]["generation"],
        created=words.moment(body["metadata"]["creationTimestamp"]),
        deleting="deletionTimestamp" in body["metadata"],
        status=read_status(EtcdBackupStatus, body).status,
        spec=spec,
        fault=fault,
        requested_at=annotations.get(REQUESTED_AT),
        adopted=tuple(one.strip() for one in adopted if one.strip()),
    )


_NOT_KEPT: Final = dict.fromkeys(
    ("backup_spec", "progress", "heartbeat_time", "message", "duration")
)


def run_of(body: Body) -> Run:
    """An EtcdSnapshot, as far as the scheduler needs it: there may be thousands."""
    return Run(
        key=key_of(body),
        version=version_of(body),
        backup_name=body["spec"]["backupName"],
        created=words.moment(body["metadata"]["creationTimestamp"]),
        status=snapshot_status(body).model_copy(update=_NOT_KEPT),
        found_in=body["metadata"].get("annotations", {}).get(FOUND_IN),
    )
