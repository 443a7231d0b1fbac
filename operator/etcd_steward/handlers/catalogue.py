"""Looking through the stores: records follow what lies there, and retention is applied.

The bucket is the truth. After each verified run, and from time to time, a child process looks
through the backups of one EtcdBackup, deletes what retention does not keep, and tells what is left;
then EtcdSnapshots come, change and go accordingly. One look at a time: nothing here is urgent, and
fifty backups that end together must not list their buckets together.
"""

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from etcd_steward.errors import AlreadyExists, NotFound, StewardError
from etcd_steward.handlers import status as transition
from etcd_steward.handlers import words
from etcd_steward.handlers.child import Listener, Lost, Outcome, run_child
from etcd_steward.handlers.context import Context
from etcd_steward.handlers.entry import Entry
from etcd_steward.handlers.records import Changes, changes, snapshot_of
from etcd_steward.handlers.reference import Kind, announce, reference
from etcd_steward.handlers.resolve import resolve_etcd, resolve_store
from etcd_steward.handlers.standing import Looked, Order, Run
from etcd_steward.kube import SNAPSHOTS, Key, version_of
from etcd_steward.models.kinds import (
    FOUND_IN,
    EtcdSnapshotStatus,
    RunVerification,
)
from etcd_steward.models.manifest import BackupRef
from etcd_steward.models.run import (
    Catalogued,
    CatalogueEntry,
    CatalogueRequest,
    Failure,
)

log = logging.getLogger(__name__)

SLACK = 60.0
"""Seconds that a child gets beyond its own deadline before it is killed."""


class _Found(Listener):
    """Collects what a child finds."""

    def __init__(self, namespace: str) -> None:
        self.entries: list[Entry] = []
        self.weighed: CatalogueEntry | None = None
        """The backup that tells what resources take."""
        self._namespace = namespace

    def warning(self, message: str) -> None:
        log.warning("%s", message)

    def entry(self, entry: CatalogueEntry) -> None:
        self.entries.append(entry_of(entry, self._namespace))
        if entry.resource_bytes is not None:
            self.weighed = entry


def entry_of(found: CatalogueEntry, namespace: str) -> Entry:
    """What a record needs of a manifest."""
    manifest = found.manifest
    local = manifest.backup.namespace == namespace
    verification = None
    if found.level is not None and found.verified_at is not None:
        verification = RunVerification.model_validate(
            {"level": found.level, "time": words.timestamp(found.verified_at)}
        )
    return Entry(
        folder=manifest.folder,
        type=manifest.type,
        tick=manifest.tick,
        run_name=manifest.run.name if local else None,
        run_uid=manifest.run.uid,
        backup_uid=manifest.backup.uid,
        started=manifest.started_at,
        finished=manifest.finished_at,
        artifact=transition.artifact(manifest, found.url),
        verification=verification,
        suspect=manifest.suspect,
        warnings=manifest.warnings,
        kept=found.kept,
        indexed=found.indexed,
    )


def owed(order: Order) -> bool:
    """Whether a verified success was not followed by a look: it failed, or its operator died."""
    looked, verified = order.status.looked_time, order.status.last_verified_time
    return looked is not None and verified is not None and looked <= verified


@dataclass(slots=True)
class Catalogue:
    """The loop that looks through one store after another."""

    context: Context
    idle_until: float = 0.0
    """By the monotonic clock: until then nothing is looked through without a reason."""

    async def run(self) -> None:
        """Look wherever somebody wants it, and elsewhere from time to time, for ever."""
        context = self.context
        await context.inventory.complete.wait()
        while True:
            key = self._next(datetime.now(UTC)) if context.leads() else None
            if key is None:
                context.look_wanted.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(context.timing.check_every):
                        await context.look_wanted.wait()
                continue
            prune = context.to_look_through.pop(key, False)
            order = context.order(key)
            if order is not None and order.spec is not None and not order.deleting:
                prune = prune or owed(order)
                looked = await self._look_through(order, prune=prune)
                if self._is_there(order):
                    context.looked[key] = looked
                context.touch(key)

    def _next(self, now: datetime) -> Key | None:
        """Who is first: one that somebody wants, one never looked through, one long not so.

        A look that a dead operator owed comes as soon as one that was never made.
        """
        context = self.context
        for key in context.to_look_through:
            return key
        oldest: tuple[datetime, Key] | None = None
        for order in context.orders():
            at = self._looked_at(order)
            if order.spec is None or order.deleting or context.busy(order.key):
                continue
            if at is None or (order.key not in context.looked and owed(order)):
                return order.key
            if oldest is None or (at, order.key) < oldest:
                oldest = at, order.key
        timing = context.timing
        if oldest is None or now - oldest[0] < timedelta(seconds=timing.look_every):
            return None
        if time.monotonic() < self.idle_until:
            return None
        self.idle_until = time.monotonic() + timing.look_pace
        return oldest[1]

    def _looked_at(self, order: Order) -> datetime | None:
        looked = self.context.looked.get(order.key)
        if looked is not None:
            return looked.at
        before = order.status.looked_time
        return words.moment(before) if before is not None else None

    async def _look_through(self, order: Order, *, prune: bool) -> Looked:
        began = datetime.now(UTC)
        found = _Found(order.key.namespace)
        try:
            request = await self._request(order, prune=prune)
            outcome = await self._child(request, found)
            if not isinstance(outcome, Catalogued):
                return _failed(began, outcome)
            if not self._is_there(order):
                return Looked(began, failure="the EtcdBackup was deleted meanwhile")
            self._tell(order, outcome, asked=request.etcd is not None)
            if found.weighed is not None:
                self.context.observer.weigh(found.weighed)
            runs = self.context.runs_of(order.key)
            await self._write(order, changes(order, runs, found.entries, request.store.url, began))
        except StewardError as error:
            return Looked(began, failure=str(error))
        return Looked(
            began,
            cluster=outcome.cluster,
            cluster_id=outcome.cluster_id,
            frozen=outcome.frozen,
        )

    def _is_there(self, order: Order) -> bool:
        """Whether it still is the same: one that was made anew may have another store."""
        now = self.context.order(order.key)
        return now is not None and not now.deleting and now.version.uid == order.version.uid

    async def _request(self, order: Order, *, prune: bool) -> CatalogueRequest:
        spec, context, namespace = order.spec, self.context, order.key.namespace
        assert spec is not None  # noqa: S101  # `run` has looked
        store = await resolve_store(spec, namespace, context.config, context.kube)
        try:
            etcd = await resolve_etcd(spec, namespace, context.config, context.kube)
        except StewardError:
            etcd = None  # its identity is known from before; nothing is pruned
        return CatalogueRequest(
            store=store,
            etcd=etcd,
            backup=BackupRef(namespace=namespace, name=order.key.name, uid=order.version.uid),
            cluster=order.status.cluster,
            cluster_id=order.status.cluster_id,
            adopt=order.adopted,
            retention=spec.retention,
            prune=prune and spec.retention is not None,
            registry_prefix=context.config.registry_prefix,
            cache=context.config.spool.directory / "cache",
            spool=context.config.spool,
            timeout=context.timing.look_within,
        )

    async def _child(self, request: CatalogueRequest, found: _Found) -> Outcome:
        timing = self.context.timing
        limits = replace(timing.limits, silence=timing.look_within + SLACK)
        return await run_child(self.context.command, request, found, asyncio.Event(), limits)

    def _tell(self, order: Order, outcome: Catalogued, *, asked: bool) -> None:
        """Say on the EtcdBackup what only a look can tell; `asked`: etcd, which it is."""
        before = order.status.cluster_id
        if asked and before and outcome.cluster_id and before != outcome.cluster_id:
            self._announce(
                order,
                "Warning",
                "ClusterChanged",
                f"etcd's cluster ID was {before} and is {outcome.cluster_id}: it was restored, or "
                "is another one. Retention leaves the backups of the former alone, unless you "
                f"annotate this EtcdBackup with etcdsteward.io/adopt-cluster: {before}",
            )
        earlier = self.context.looked.get(order.key)
        if outcome.frozen and (earlier is None or earlier.frozen != outcome.frozen):
            self._announce(order, "Warning", "RetentionFrozen", outcome.frozen)
        for what in outcome.unreadable:
            log.warning("EtcdBackup %s: %s", order.key, what)
        if outcome.pruned:
            count = len(outcome.pruned)
            self._announce(order, "Normal", "Pruned", f"retention deleted {count} from the store")

    def _announce(self, order: Order, kind: Kind, reason: str, message: str) -> None:
        about = reference("EtcdBackup", order.key, order.version.uid)
        announce(self.context, about, kind, reason, message)

    async def _write(self, order: Order, wanted: Changes) -> None:
        """Bring the records in line, one after another: etcd is not to feel it."""
        for name, entry in wanted.missing:
            await self._record(order, name, entry)
        for run, status in wanted.stale:
            await self._update(run, status)
        for run in wanted.gone:
            self.context.clean.add(run.version.uid)
            with contextlib.suppress(NotFound):
                await self.context.kube.delete(SNAPSHOTS, run.key, run.version)

    async def _record(self, order: Order, name: str, entry: Entry) -> None:
        """Create the record of a backup. Until its status is written, its annotation tells."""
        key = Key(order.key.namespace, name)
        body = snapshot_of(order.key, name)
        body["metadata"]["annotations"] = {FOUND_IN: entry.folder}
        with contextlib.suppress(AlreadyExists, NotFound):  # the next look sees what it is
            made = await self.context.kube.create(SNAPSHOTS, body)
            status = transition.recorded(EtcdSnapshotStatus(), entry)
            await self.context.kube.patch_status(
                SNAPSHOTS,
                key,
                version_of(made),
                transition.dumped(status),
            )

    async def _update(self, run: Run, status: EtcdSnapshotStatus) -> None:
        patch = transition.change(run.status, status)
        with contextlib.suppress(NotFound):
            await self.context.kube.patch_status(SNAPSHOTS, run.key, run.version, patch)


def _failed(began: datetime, outcome: Outcome) -> Looked:
    match outcome:
        case Failure() as failure:
            return Looked(began, failure=failure.text)
        case Lost(failure=failure):
            return Looked(began, failure=failure.text)
        case _:
            return Looked(began, failure="the look through the store was stopped")
