"""What the deletion of an EtcdSnapshot does to its backup: nothing, unless it was asked to.

With `deletionPolicy: Delete` the backup goes with its record, but only if the record is deleted by
itself. When the EtcdBackup, the namespace or the CRDs go, everything in the store stays; and a
store that does not answer holds nobody up.
"""

import asyncio
import contextlib
import logging
from dataclasses import replace

from etcd_steward.errors import NotFound, StewardError
from etcd_steward.handlers.child import Listener, Outcome, run_child
from etcd_steward.handlers.context import Context
from etcd_steward.handlers.records import folder_of
from etcd_steward.handlers.reference import Kind, announce, reference
from etcd_steward.handlers.resolve import resolve_store
from etcd_steward.handlers.standing import Order, Run
from etcd_steward.kube import SNAPSHOTS
from etcd_steward.models.manifest import BackupRef
from etcd_steward.models.run import DeleteRequest, Failure, Settled

log = logging.getLogger(__name__)

TIMEOUT = 60.0
"""Seconds that a deletion waits for the store; a namespace must not hang because a bucket does."""


def takes_its_backup(context: Context, run: Run) -> bool:
    """Whether the policy of its EtcdBackup lets a record take its backup along.

    As long as it does, the record has a finalizer.
    """
    order = context.order(run.backup)
    return (
        run.complete
        and order is not None
        and order.spec is not None
        and order.spec.deletion_policy == "Delete"
    )


async def delete_backup(context: Context, run: Run) -> None:
    """Delete what a record stands for, if it is deleted by itself; say what was done."""
    order, folder = context.order(run.backup), folder_of(run)
    if run.version.uid in context.clean:  # the backup went first, and its record follows
        context.clean.discard(run.version.uid)
        return
    try:
        alone = order is not None and not order.deleting
        alone = alone and not await context.kube.is_going(run.key.namespace)
    except StewardError as error:
        _tell(context, run, "Warning", "Retained", f"{folder} stays in the store: {error}")
        return
    if order is None or folder is None or not alone:
        return
    outcome = await _child(context, order, run, folder)
    if isinstance(outcome, Settled):
        _tell(context, run, "Normal", "Deleted", f"{folder} was deleted from the store")
        return
    why = outcome.text if isinstance(outcome, Failure) else "the store did not answer in time"
    said = f"{folder} stays in the store, and its EtcdSnapshot will come back: {why}"
    _tell(context, run, "Warning", "Retained", said)


async def _child(context: Context, order: Order, run: Run, folder: str) -> Outcome:
    assert order.spec is not None  # noqa: S101  # `takes_its_backup` has looked
    try:
        store = await resolve_store(order.spec, run.key.namespace, context.config, context.kube)
    except StewardError as error:
        return Failure.of(error)
    ours = (order.status.cluster_id, *order.adopted)
    request = DeleteRequest(
        store=store,
        folder=folder,
        backup=BackupRef(namespace=run.key.namespace, name=run.backup_name),
        cluster_ids=tuple(one for one in ours if one),
        timeout=TIMEOUT / 2,
    )
    limits = replace(context.timing.limits, silence=TIMEOUT)
    return await run_child(context.command, request, Listener(), asyncio.Event(), limits)


def _tell(context: Context, run: Run, kind: Kind, reason: str, message: str) -> None:
    about = reference("EtcdSnapshot", run.key, run.version.uid)
    announce(context, about, kind, reason, message)


async def release_if_uninstalled(context: Context, finalizer: str) -> None:
    """Leave nothing hanging behind us: nobody will take our finalizers off when we are gone.

    Called when the operator stops. Where the CRDs or its own namespace go with it, all objects are
    let go; else they are kept for the next operator.
    """
    try:
        if not await context.kube.is_going(context.config.namespace):
            return
        with contextlib.suppress(NotFound):
            await context.kube.release(SNAPSHOTS, finalizer)
    except StewardError as error:
        log.warning("whether finalizers must go can't be found out: %s", error)
