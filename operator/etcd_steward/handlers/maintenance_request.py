"""What a maintenance task's child process is asked to do, from an EtcdMaintenance's spec."""

import secrets

from etcd_steward.errors import StewardError, on_side
from etcd_steward.handlers.context import Context
from etcd_steward.handlers.maintained import Maintained
from etcd_steward.handlers.maintenance_agenda import Due
from etcd_steward.handlers.quantities import budget, size_in_bytes, span
from etcd_steward.handlers.resolve import resolve_etcd, resolve_store
from etcd_steward.handlers.standing import Order
from etcd_steward.kube import Key
from etcd_steward.models.connection import EtcdConnection, StoreSettings
from etcd_steward.models.kinds import Etcd
from etcd_steward.models.maintenance import (
    AlarmOptions,
    CompactionOptions,
    DefragmentationRule,
    MaintenanceOptions,
)
from etcd_steward.models.maintenance_kinds import EtcdMaintenanceSpec
from etcd_steward.models.maintenance_run import MaintenanceRequest, RescueBackup
from etcd_steward.models.manifest import BackupRef, RunRef
from etcd_steward.models.observation import WatchedCluster


def options_of(spec: EtcdMaintenanceSpec) -> MaintenanceOptions:
    """What the spec lets the engine do. Raises `InvalidInput`."""
    rule, compaction, alarms = spec.defragmentation, spec.compaction, spec.alarms
    return MaintenanceOptions(
        defragmentation=None
        if rule is None
        else DefragmentationRule(
            min_reclaim=size_in_bytes(rule.min_reclaim),
            min_fragmentation_percent=rule.min_fragmentation_percent,
            quota_usage_percent_above=rule.quota_usage_percent_above,
            always=rule.always,
        ),
        compaction=None
        if compaction is None
        else CompactionOptions.model_validate(
            {
                "mode": compaction.mode,
                "retain_revisions": compaction.retain_revisions,
                "retain_seconds": _seconds(compaction.retain_duration),
            }
            | (
                {"stalled_after": _seconds(compaction.stalled_after)}
                if compaction.stalled_after is not None
                else {}
            )
        ),
        alarms=None if alarms is None else AlarmOptions(no_space=alarms.no_space),
        allow_single_member=rule is not None and rule.allow_single_member,
        quota_bytes=None if spec.quota is None else size_in_bytes(spec.quota) or None,
        disk_room_bytes=None if spec.disk_room is None else size_in_bytes(spec.disk_room),
        etcd_liveness_seconds=budget(spec.liveness.etcd),
        api_server_liveness_seconds=budget(spec.liveness.api_server),
        metrics_endpoints=() if spec.etcd is None else spec.etcd.metrics_endpoints,
        **({} if rule is None else {"settle_seconds": span(rule.settle).total_seconds()}),
    )


def _seconds(text: str | None) -> float | None:
    return None if text is None else span(text).total_seconds()


async def watched_cluster(context: Context, order: Maintained) -> WatchedCluster:
    """What the observer is asked to look at, with the credentials for it.

    Raises what `resolve_etcd` raises.
    """
    spec = order.spec
    assert spec is not None  # noqa: S101  # callers have looked
    with on_side("etcd"):
        etcd = await resolve_etcd(spec, order.key.namespace, context.config, context.kube)
    options = options_of(spec)
    return WatchedCluster(
        name=str(order.key),
        etcd=etcd,
        metrics_endpoints=options.metrics_endpoints,
        quota_bytes=options.quota_bytes,
        registry_prefix=context.config.registry_prefix,
    )


def holder_of(order: Maintained) -> str:
    """Who holds the lock while a task of this EtcdMaintenance is under way, for people."""
    return f"EtcdMaintenance {order.key}"


async def maintenance_request(
    context: Context, order: Maintained, due: Due, etcd: EtcdConnection
) -> tuple[MaintenanceRequest, str]:
    """What the next process is to do, and what a person should know about that."""
    spec = order.spec
    assert spec is not None  # noqa: S101  # nothing is due without
    backup, note = None, ""
    if due.task == "rescue":
        backup, note = await _rescue_backup(context, order, spec, due.snapshot)
    speed = order.status.speed
    return MaintenanceRequest(
        task=due.task,
        etcd=etcd,
        options=options_of(spec),
        mode=due.mode,
        holder=holder_of(order),
        run=secrets.token_hex(4),
        ends_at=due.ends_at,
        speed=None if speed is None else float(speed),
        sightings=() if due.task == "round" else context.observer.sightings(str(order.key)),
        backup=backup,
    ), note


async def _rescue_backup(
    context: Context, order: Maintained, spec: EtcdMaintenanceSpec, taken: str
) -> tuple[RescueBackup, str]:
    """Where the snapshot of a rescue goes. A store that can't be used must not hinder it."""
    key, note = order.key, ""
    found = _backup_for(context, order, spec)
    store: StoreSettings | None = None
    if found is not None and found.spec is not None:
        try:
            store = await resolve_store(found.spec, key.namespace, context.config, context.kube)
        except StewardError as error:
            note = f"the store of EtcdBackup {found.key} can't be used: {error}"
    elif spec.alarms is not None and spec.alarms.backup_name is not None:
        note = f"there is no EtcdBackup {Key(key.namespace, spec.alarms.backup_name)}"
    else:
        note = "no EtcdBackup is known for this etcd"
    name = found.key.name if store is not None and found is not None else key.name
    uid = found.version.uid if store is not None and found is not None else None
    return RescueBackup(
        store=store,
        spool=context.config.spool,
        backup=BackupRef(namespace=key.namespace, name=name, uid=uid),
        requester=RunRef(requested_by=f"EtcdMaintenance {key}"),
        registry_prefix=context.config.registry_prefix,
        taken=taken,
    ), note


def _backup_for(context: Context, order: Maintained, spec: EtcdMaintenanceSpec) -> Order | None:
    """The EtcdBackup that is named, else the one for this etcd that was verified last."""
    namespace = order.key.namespace
    if spec.alarms is not None and spec.alarms.backup_name is not None:
        return context.order(Key(namespace, spec.alarms.backup_name))
    return max(
        backups_for(context, order),
        key=lambda one: (one.status.last_verified_time or "", one.key),
        default=None,
    )


def backups_for(context: Context, order: Maintained) -> list[Order]:
    """Snapshot backups of the same etcd, in the same namespace."""
    if order.spec is None:
        return []
    mine = order.spec.etcd
    return [
        one
        for one in context.orders()
        if one.key.namespace == order.key.namespace
        and one.spec is not None
        and not one.deleting
        and one.spec.type == "Snapshot"
        and same_etcd(one.spec.etcd, mine)
    ]


def same_etcd(one: Etcd | None, other: Etcd | None) -> bool:
    """Whether two specs name the same etcd, as far as their words tell."""
    first = set(one.endpoints) if one is not None else set()
    second = set(other.endpoints) if other is not None else set()
    return (not first and not second) or not first.isdisjoint(second)
