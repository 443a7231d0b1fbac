"""What a run's child process is asked to do, from the run's own copy of the spec."""

from typing import Any

from etcd_steward.errors import on_side
from etcd_steward.handlers.agenda import tick_of
from etcd_steward.handlers.context import Context
from etcd_steward.handlers.identity import Identity
from etcd_steward.handlers.resolve import resolve_etcd, resolve_store
from etcd_steward.models.kinds import EtcdBackupSpec, EtcdSnapshotStatus
from etcd_steward.models.manifest import BackupRef, RunRef
from etcd_steward.models.registry import Selection
from etcd_steward.models.run import ExportRequest, Journal, SnapshotRequest


async def request_of(
    context: Context,
    identity: Identity,
    status: EtcdSnapshotStatus,
    spec: EtcdBackupSpec,
    starts: int,
    earlier: tuple[Journal, ...],
) -> SnapshotRequest | ExportRequest:
    """What process number `starts` of a run is to do, with the credentials for it.

    Raises what `resolve_etcd` and `resolve_store` raise.
    """
    namespace = identity.key.namespace
    with on_side("etcd"):
        etcd = await resolve_etcd(spec, namespace, context.config, context.kube)
    with on_side("store"):
        store = await resolve_store(spec, namespace, context.config, context.kube)
    by = f"EtcdBackup {identity.backup}" if identity.made_by_us else "a person"
    common: dict[str, Any] = {
        "etcd": etcd,
        "store": store,
        "spool": context.config.spool,
        "backup": BackupRef(namespace=namespace, name=identity.backup_name, uid=status.backup_uid),
        "requester": RunRef(name=identity.key.name, uid=identity.uid, requested_by=by),
        "run": identity.digits if starts == 1 else f"{identity.digits}.{starts}",
        "tick": tick_of(
            identity.key.name,
            identity.backup_name,
            identity.created,
            made_by_us=identity.made_by_us,
        ),
        "registry_prefix": context.config.registry_prefix,
        "timeout": float(spec.active_deadline_seconds),
        "earlier": earlier,
    }
    if spec.type == "RegistryExport":
        selection = Selection(include=spec.include, exclude=spec.exclude)
        return ExportRequest(**common, selection=selection)
    return SnapshotRequest(**common)
