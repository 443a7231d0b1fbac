"""What a restore's keys come from, opened, and told as a plan tells it."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime

from etcd_steward.engine.clock import clock_of
from etcd_steward.engine.live_source import LiveSource
from etcd_steward.engine.look import look_into_backup, look_into_file
from etcd_steward.engine.manifests import Backup, contents, folder_of, get_backup, read_backups
from etcd_steward.engine.report import Report
from etcd_steward.engine.restore.deletion import before_deletion
from etcd_steward.engine.restore.live import Live
from etcd_steward.engine.sources import Source
from etcd_steward.engine.times import OBSERVATIONS, in_words
from etcd_steward.engine.words import resource_named
from etcd_steward.errors import NotFound, Undecodable, Unsupported
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.models.layout import Folder
from etcd_steward.models.ports import Store
from etcd_steward.models.restore import RestoreOptions, SourceRef
from etcd_steward.models.restore_run import FromBackup, FromFile, FromHistory, RestoreRequest
from etcd_steward.registry import objectmeta
from etcd_steward.registry.paths import root_of
from etcd_steward.store import open_store


async def open_origin(
    request: RestoreRequest, client: EtcdClient, stack: AsyncExitStack, report: Report
) -> tuple[Source, SourceRef, RestoreOptions]:
    """Open what `request.source` names; with the options, their resources by their full names.

    What must be closed goes into `stack`. Raises `NotFound` where there is no such backup, nothing
    was deleted, or a resource's word means nothing, and what opening raises.
    """
    prefix = request.registry_prefix
    if isinstance(request.source, FromHistory):
        live = await LiveSource.open(client, prefix)
        options = await _named(request.options, live, prefix)
        source, ref = await _live(request.source, live, options, prefix, client, report)
        return source, ref, options
    source, ref = await _stored(request, stack, report)
    return source, ref, await _named(request.options, source, prefix)


async def _named(options: RestoreOptions, source: Source, prefix: str) -> RestoreOptions:
    """The same, with resources by the names that filters take, however kubectl calls them."""
    named = {}
    for name, chosen in (("include", options.include), ("exclude", options.exclude)):
        if chosen is not None and chosen.resources:
            words = [
                await resource_named(word, source, prefix=prefix, at=0) for word in chosen.resources
            ]
            named[name] = chosen.model_copy(update={"resources": tuple(words)})
    return options.model_copy(update=named)


async def _stored(
    request: RestoreRequest, stack: AsyncExitStack, report: Report
) -> tuple[Source, SourceRef]:
    match request.source:
        case FromFile(path=path):
            source = await look_into_file(path, stack, request.spool, report)
            uid = await _kube_system(source, request.registry_prefix)
            ref = SourceRef(name=source.name, revision=source.revision, kube_system_uid=uid)
            return source, ref
        case FromBackup() as wanted:
            store = await stack.enter_async_context(open_store(wanted.store))
            manifest = (await find_backup(store, wanted)).manifest
            found = await look_into_backup(
                store, manifest, stack, request.spool, report, history=False
            )
            return found, SourceRef(
                name=f"{store.url}/{manifest.folder}",
                revision=manifest.revision,
                cluster_id=manifest.cluster_id,
                kube_system_uid=manifest.kube_system_uid,
                finished_at=manifest.finished_at,
            )
        case _:
            raise AssertionError("an undo is not read from a source")


async def find_backup(store: Store, wanted: FromBackup) -> Backup:
    """The backup that is named, else the newest verified one. Raises `NotFound`."""
    if wanted.folder is not None and (folder := folder_of(wanted.folder)) is not None:
        return await get_backup(store, folder)
    runs = await contents(store, _prefix(wanted), _fits(wanted))
    found = [one for one in await read_backups(store, runs) if isinstance(one, Backup)]
    verified = [one for one in found if one.verified]
    if not verified:
        which = f"none of {len(found)} backups that is verified" if found else "no backup"
        raise NotFound(
            f"there is {which} in {store.url}{_narrowed(wanted)}",
            hint="`etcd-steward snapshot list` shows what there is",
        )
    clusters = sorted({one.manifest.cluster for one in verified})
    if len(clusters) > 1:
        raise Unsupported(
            f"{store.url} holds backups of {len(clusters)} clusters: {', '.join(clusters)}",
            hint="name the backup's own folder",
        )
    return verified[-1]


def _prefix(wanted: FromBackup) -> str:
    """Where to look: as narrowly as is known."""
    if wanted.folder is not None:
        return wanted.folder.strip("/") + "/"
    if wanted.cluster is None:
        return ""
    full = wanted.backup is not None and "." in wanted.backup
    return f"{wanted.cluster}/{wanted.backup}/" if full else f"{wanted.cluster}/"


def _fits(wanted: FromBackup) -> Callable[[Folder], bool]:
    def fits(folder: Folder) -> bool:
        names = {None, folder.name, f"{folder.namespace}.{folder.name}"}
        return wanted.cluster in {None, folder.cluster} and wanted.backup in names

    return fits


def _narrowed(wanted: FromBackup) -> str:
    named = (wanted.folder, wanted.cluster, wanted.backup)
    told = ", ".join(one for one in named if one)
    return f" ({told})" if told else ""


async def _live(
    wanted: FromHistory,
    source: LiveSource,
    options: RestoreOptions,
    prefix: str,
    client: EtcdClient,
    report: Report,
) -> tuple[Source, SourceRef]:
    """The live etcd, at the moment that is meant."""
    if wanted.before_deletion:
        return await before_deletion(source, await Live.open(client, prefix), options, prefix)
    revision = wanted.revision or source.revision
    if wanted.moment is not None:
        revision = await _revision(source, wanted.moment, prefix, report)
    return source, SourceRef(name=source.name, revision=revision, live=True)


async def _revision(source: Source, moment: datetime, prefix: str, report: Report) -> int:
    """The revision of a moment; where only rough marks tell it, that is said."""
    clock = await clock_of(source, prefix)
    found = clock.at(moment, max(moment, datetime.now(UTC)))
    if clock.by == OBSERVATIONS:
        report.warning(
            f"revision {found.revision} is of {in_words(found.moment)}, exact to "
            f"{found.within.total_seconds():.0f} s, by {clock.by}: no Lease was renewed"
        )
    return found.revision


async def _kube_system(source: Source, prefix: str) -> str | None:
    """The uid by which a file tells what cluster it is of."""
    key = root_of(prefix) + b"namespaces/kube-system"
    found = (await source.fetch([key])).get(key)
    if found is None:
        return None
    try:
        return objectmeta.read(found.value).uid
    except Undecodable:
        return None
