"""What is due, and what the standing orders' status and metrics say: one loop for all of them.

Handlers only tell that something has changed. The loop then looks at everything that the watches
have shown: level-triggered, so nothing is lost when an event, or a write of ours, is.
"""

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from etcd_steward.errors import AlreadyExists, NotFound, StewardError
from etcd_steward.handlers.context import Context
from etcd_steward.handlers.standing import Order, Run, backup_status, figures
from etcd_steward.handlers.status import merge_patch
from etcd_steward.kube import BACKUPS, SNAPSHOTS, Key
from etcd_steward.models.kinds import BACKUP_LABEL

log = logging.getLogger(__name__)

COALESCE = 0.2
"""Seconds; a burst of events is one look."""
IDLE = 10.0
"""Seconds after which the loop looks even if nothing was seen to change: failed writes are done
again, and the health check sees it turn."""
TICK_MARGIN = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Due:
    """A run that should exist and does not."""

    order: Order
    tick: datetime

    @property
    def name(self) -> str:
        """The same for everybody who finds the run due, so that it is created once."""
        return f"{self.order.key.name}-{int(self.tick.timestamp())}"


def due(order: Order, runs: Sequence[Run]) -> Due | None:
    """The run that is due for an EtcdBackup now.

    Without a schedule it runs once; its tick is its creation. A run that was deleted does not come
    back: the order's status remembers it.
    """
    if order.deleting or order.status.active_snapshot_name or order.status.last_snapshot_name:
        return None
    once = Due(order, order.created)
    return None if any(run.key.name == once.name for run in runs) else once


def tick_of(name: str, backup_name: str, created: datetime, *, made_by_us: bool) -> datetime:
    """The moment that a run stands for: in its name if `Due` named it, else its creation.

    A person may name a run like one of ours, and copy its label: a tick far from the creation is
    none.
    """
    digits = name.removeprefix(f"{backup_name}-")
    if made_by_us and digits != name and digits.isdecimal() and len(digits) <= 11:
        tick = datetime.fromtimestamp(int(digits), UTC)
        if abs(tick - created) <= TICK_MARGIN:
            return tick
    return created


async def schedule(context: Context) -> None:
    """Look at everything whenever something has changed, for ever."""
    await context.changed.wait()  # the first event comes once kopf has listed both kinds
    while True:
        context.changed.clear()
        await look(context)
        context.turned_at = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IDLE):
                await context.changed.wait()
        await asyncio.sleep(COALESCE)


async def look(context: Context) -> None:
    """One look: create what is due, write statuses that have changed, set the metrics."""
    now = datetime.now(UTC)
    runs = defaultdict(list)
    for run in context.runs():
        runs[Key(run.key.namespace, run.backup_name)].append(run)
    orders = context.orders()
    for order in orders:
        try:
            await _look_at(context, order, runs[order.key], now)
        except StewardError as error:
            log.warning("EtcdBackup %s: %s; tried again soon", order.key, error)
        context.metrics.show(order.key, order.version.uid, figures(order, runs[order.key]))
    context.metrics.keep_only(order.key for order in orders)


async def _look_at(context: Context, order: Order, runs: Sequence[Run], now: datetime) -> None:
    run = due(order, runs)
    if run is not None:
        await _create(context, run)
    status = backup_status(order, runs, now)
    patch = merge_patch(
        order.status.model_dump(mode="json", by_alias=True, exclude_none=True),
        status.model_dump(mode="json", by_alias=True, exclude_none=True),
    )
    if patch:
        with contextlib.suppress(NotFound):  # deleted meanwhile
            await context.kube.patch_status(BACKUPS, order.key, order.version, patch)


async def _create(context: Context, run: Due) -> None:
    """Create a run. No owner reference: a record outlives the order that it came from."""
    key = run.order.key
    with contextlib.suppress(AlreadyExists):  # somebody was faster: done
        await context.kube.create(
            SNAPSHOTS,
            {
                "kind": "EtcdSnapshot",
                "metadata": {
                    "name": run.name,
                    "namespace": key.namespace,
                    "labels": {BACKUP_LABEL: key.name},
                },
                "spec": {"backupName": key.name},
            },
        )
        log.info("EtcdBackup %s is due: created EtcdSnapshot %s", key, run.name)
