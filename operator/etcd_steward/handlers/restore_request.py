"""What a restore's child process is asked to do, from an EtcdRestore's spec."""

from datetime import datetime

from etcd_steward.engine.retention import before
from etcd_steward.errors import InvalidInput, NotFound, Refused, on_side
from etcd_steward.handlers import words
from etcd_steward.handlers.asked import Asked
from etcd_steward.handlers.context import Context
from etcd_steward.handlers.quantities import span
from etcd_steward.handlers.read import read_spec, read_status
from etcd_steward.handlers.resolve import allow, resolve_etcd, resolve_place
from etcd_steward.kube import BACKUPS, RESTORES, SNAPSHOTS, Key
from etcd_steward.kube_client import Object
from etcd_steward.models.connection import StoreSettings
from etcd_steward.models.kinds import EtcdBackupSpec, EtcdBackupStatus, EtcdSnapshotStatus
from etcd_steward.models.places import StoreSpec
from etcd_steward.models.registry import Filter
from etcd_steward.models.restore import RestoreOptions
from etcd_steward.models.restore_kinds import EtcdRestoreSpec, EtcdRestoreStatus, LiveSpec
from etcd_steward.models.restore_run import (
    From,
    FromBackup,
    FromHistory,
    FromUndo,
    RestoreRequest,
)


async def restore_request(context: Context, asked: Asked, *, applying: bool) -> RestoreRequest:
    """What the next process is to do, with the credentials for it.

    Raises `Refused` for what the namespace may not use, `NotFound` for names that mean nothing, and
    what the resolving of Secrets raises.
    """
    spec = _readable(asked)
    namespace, config = asked.key.namespace, context.config
    if applying and context.clock() - asked.created > span(spec.keep_for):
        raise Refused(
            f"EtcdRestore {asked.key} is older than {spec.keep_for}, and what tells whether it was "
            "applied is not kept for longer",
            hint="it may have come back with a restored cluster; create another one if it is meant",
        )
    if spec.via == "API" or spec.source.undo_of is not None:
        allow(namespace, config, "the operator's rights in the API server", "create it elsewhere")
    with on_side("etcd"):
        etcd = await resolve_etcd(spec, namespace, config, context.kube)
    with on_side("store"):
        source = await _Sources(context, namespace).find(spec, asked.created)
        store = await _own_store(context, namespace, spec, source)
    return RestoreRequest(
        name=f"{namespace}.{asked.key.name}",
        uid=asked.version.uid,
        etcd=etcd,
        source=source,
        store=store,
        api=namespace in config.etcd_namespaces,
        kubeconfig=config.kubeconfig,
        spool=config.spool,
        options=_options(spec),
        registry_prefix=config.registry_prefix,
        apply=applying,
        approved=spec.approved_plan_digest if applying else None,
        time_to_live=span(spec.plan_time_to_live),
        keep_for=span(spec.keep_for),
        unthrottled=spec.unthrottled,
        second_look=context.timing.second_look,
        timeout=float(spec.active_deadline_seconds),
    )


def _readable(asked: Asked) -> EtcdRestoreSpec:
    if asked.spec is None:
        raise InvalidInput(
            f"EtcdRestore {asked.key}: {asked.fault}", hint="Is its CRD of another version?"
        )
    return asked.spec


def _options(spec: EtcdRestoreSpec) -> RestoreOptions:
    return RestoreOptions(
        include=spec.include or Filter(),
        exclude=spec.exclude,
        include_cluster_scoped=spec.include_cluster_scoped,
        workloads=spec.workloads,
        via=spec.via,
        existing_objects=spec.existing_objects,
        namespace_mapping=spec.namespace_mapping,
        other_cluster=spec.other_cluster,
    )


async def _own_store(
    context: Context, namespace: str, spec: EtcdRestoreSpec, source: From
) -> StoreSettings | None:
    """Where the restore's own files go; None: on this host."""
    if spec.store is not None:
        return await resolve_place(spec.store, namespace, context.config, context.kube)
    if isinstance(source, FromBackup | FromUndo) and source.store is not None:
        return source.store
    allow(namespace, context.config, "the operator's own disk", "set spec.store")
    return None


class _Sources:
    """Finds what an EtcdRestore's `source` names."""

    def __init__(self, context: Context, namespace: str) -> None:
        self._context = context
        self._namespace = namespace

    async def find(self, spec: EtcdRestoreSpec, created: datetime) -> From:
        """The source, ready to be opened."""
        source = spec.source
        if source.live is not None:
            return _history(source.live, created)
        if source.snapshot_name is not None:
            return await self._snapshot(source.snapshot_name)
        if source.backup_name is not None:
            return await self._backup(source.backup_name)
        if source.undo_of is not None:
            return await self._undo(source.undo_of)
        if source.store is None:  # the API server's rule says that there is one
            raise InvalidInput("spec.source names nothing", hint="Set one of its fields")
        return FromBackup(store=await self._place(source.store), folder=source.path)

    async def _place(self, store: StoreSpec) -> StoreSettings:
        context = self._context
        return await resolve_place(store, self._namespace, context.config, context.kube)

    async def _get(self, plural: str, kind: str, name: str) -> Object:
        try:
            return await self._context.kube.get(plural, Key(self._namespace, name))
        except NotFound as error:
            raise NotFound(
                f"there is no {kind} {self._namespace}/{name}",
                hint=f"`kubectl get {plural} --namespace {self._namespace}` shows what there is",
            ) from error

    async def _snapshot(self, name: str) -> FromBackup:
        found = await self._get(SNAPSHOTS, "EtcdSnapshot", name)
        status = read_status(EtcdSnapshotStatus, found).status
        if status.artifact is None:
            raise NotFound(
                f"EtcdSnapshot {self._namespace}/{name} has left no backup",
                hint=f"`kubectl describe esnap {name}` says why",
            )
        if status.backup_spec is not None:
            store = status.backup_spec.store
        else:
            store = await self._store_of(found["spec"]["backupName"])
        return FromBackup(store=await self._place(store), folder=_tail(status.artifact.url, 3))

    async def _backup(self, name: str) -> FromBackup:
        found = await self._get(BACKUPS, "EtcdBackup", name)
        status = read_status(EtcdBackupStatus, found).status
        return FromBackup(
            store=await self._place(_store_in(found)),
            cluster=status.cluster,
            backup=f"{self._namespace}.{name}",
        )

    async def _store_of(self, backup_name: str) -> StoreSpec:
        return _store_in(await self._get(BACKUPS, "EtcdBackup", backup_name))

    async def _undo(self, name: str) -> FromUndo:
        found = await self._get(RESTORES, "EtcdRestore", name)
        status = read_status(EtcdRestoreStatus, found).status
        told = status.result or status.plan
        if told is None:
            raise NotFound(
                f"EtcdRestore {self._namespace}/{name} has no plan, and so has written nothing",
                hint="there is nothing to undo",
            )
        spec = EtcdRestoreSpec.model_validate(found["spec"])
        source = await self.find(spec, words.moment(found["metadata"]["creationTimestamp"]))
        store = await _own_store(self._context, self._namespace, spec, source)
        return FromUndo(folder=_tail(told.url.rpartition("/")[0], 3), store=store)


def _store_in(backup: Object) -> StoreSpec:
    spec, fault = read_spec(EtcdBackupSpec, backup)
    if spec is None:
        raise InvalidInput(f"EtcdBackup {backup['metadata']['name']}: {fault}")
    return spec.store


def _history(live: LiveSpec, created: datetime) -> FromHistory:
    return FromHistory(
        before_deletion=live.before_deletion,
        moment=None if live.ago is None else before(created, live.ago),
        revision=live.revision,
    )


def _tail(url: str, parts: int) -> str:
    """The last parts of a URL: a folder in a store."""
    return "/".join(url.split("/")[-parts:])
