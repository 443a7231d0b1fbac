"""What the store holds of one backup, which of it is ours, and what retention lets go.

The bucket is the truth. A clone of a cluster has the same kube-system uid, and with it the same
folder, but another cluster ID: what it finds there is told of and never pruned. Two etcds with
default flags have the same cluster ID, so that alone makes nothing ours either.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from etcd_steward.engine.maintenance.corrupt import mark_suspect, suspicious
from etcd_steward.engine.manifest_cache import ManifestCache
from etcd_steward.engine.manifests import Backup, Contents, Unreadable, contents, read_backups
from etcd_steward.engine.members import choose
from etcd_steward.engine.prune import delete_backups, nothing_whole, only, same_id
from etcd_steward.engine.retention import Candidate, keep
from etcd_steward.errors import Refused, on_side
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.member import MemberStatus
from etcd_steward.models.layout import Folder, cluster_folder
from etcd_steward.models.manifest import Manifest
from etcd_steward.models.ports import Store
from etcd_steward.models.run import NOT_OURS, Catalogued, CatalogueEntry, CatalogueRequest
from etcd_steward.registry.envelope import uid_of

_SKEW: Final = timedelta(seconds=60)
"""Clocks of two hosts are never equal; this much behind is not behind."""
_TOLD: Final = 20
"""So many unreadable manifests are named."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which cluster an etcd is."""

    cluster: str | None
    """Its folder in the store."""
    cluster_id: str | None
    trouble: str | None = None
    """Why nothing may be deleted in its name."""
    corrupt: bool = False
    """Its members hold different data, so what was read from it is suspect."""


async def identify(client: EtcdClient, registry_prefix: str) -> Identity:
    """Ask an etcd which cluster it is, and whether it is corrupt. Raises if it does not answer."""
    found = await client.members()
    status = choose(found, emergency=True).status
    answer = await client.member(status).range(
        f"{registry_prefix}/namespaces/kube-system".encode(), serializable=True
    )
    uid = uid_of(answer.kvs[0].value) if answer.kvs else None
    alarms = [alarm for one in found if isinstance(one, MemberStatus) for alarm in one.alarms]
    alarms += await client.alarms()
    corrupt = any(alarm.kind == "CORRUPT" for alarm in alarms)
    return Identity(
        cluster_folder(uid, f"{status.cluster_id:x}"),
        f"{status.cluster_id:x}",
        "etcd has raised the CORRUPT alarm: older backups may be the only good ones"
        if corrupt
        else None,
        corrupt,
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """What lies in the store, read."""

    backups: list[Backup]
    unreadable: list[Unreadable]
    halves: list[Folder] = field(default_factory=list)
    """Of our cluster, without a manifest though a proof is there: deleted by halves."""


@dataclass(slots=True)
class _Look:
    """One look at one store."""

    store: Store
    request: CatalogueRequest
    identity: Identity
    cache: ManifestCache | None
    pruned: list[str] = field(default_factory=list)

    def ours(self, manifest: Manifest) -> bool:
        """Whether retention may count it, and delete it."""
        if any(same_id(manifest.cluster_id, one) for one in self.request.adopt):
            return True
        known = self.identity.cluster_id
        return (
            known is not None
            and same_id(manifest.cluster_id, known)
            and manifest.cluster == self.identity.cluster
        )

    def named(self, folder: Folder) -> bool:
        backup = self.request.backup
        return (folder.namespace, folder.name) == (backup.namespace, backup.name)

    async def read(self) -> _Found:
        """All backups of this name that concern us: see `catalogue`."""
        backup, cluster = self.request.backup, self.identity.cluster
        own: list[Contents] = []
        if cluster is not None and not self.request.adopt:
            prefix = f"{cluster}/{backup.namespace}.{backup.name}/"
            own = await contents(self.store, prefix, self.named)
            if any(one.manifest is not None for one in own):
                return await self._read(own, prefix)
        found = await self._read(await contents(self.store, "", self.named), "")
        folders = [Folder.parse(one.manifest.folder) for one in found.backups]
        folders += [one.folder for one in found.unreadable]
        if not any(folder.cluster == cluster for folder in folders):
            return found
        return _Found(
            [one for one in found.backups if self._concerns(one.manifest)],
            [one for one in found.unreadable if one.folder.cluster == cluster],
            found.halves,
        )

    def _concerns(self, manifest: Manifest) -> bool:
        return manifest.cluster == self.identity.cluster or self.ours(manifest)

    async def suspected(self, found: _Found) -> _Found:
        """The same, those of ours marked as suspect that nothing vouches for any more."""
        doubted = suspicious([one for one in found.backups if self.ours(one.manifest)])
        now = f"{datetime.now(UTC):%Y-%m-%d %H:%M}Z"
        marked = await mark_suspect(
            self.store,
            doubted,
            f"etcd had raised the CORRUPT alarm by {now}, and no comparison of its members since "
            "this was taken shows that they held the same data then",
        )
        by_folder = {one.manifest.folder: one for one in marked}
        backups = [by_folder.get(one.manifest.folder, one) for one in found.backups]
        return replace(found, backups=backups)

    async def _read(self, runs: Sequence[Contents], prefix: str) -> _Found:
        if self.cache is not None:
            await self.cache.load(prefix)
        found = await read_backups(self.store, runs, self.cache)
        if self.cache is not None:
            await self.cache.save()
        return _Found(
            [one for one in found if isinstance(one, Backup)],
            [one for one in found if isinstance(one, Unreadable)],
            [
                one.folder
                for one in runs
                if one.manifest is None
                and one.proofs
                and one.folder.cluster == self.identity.cluster
            ],
        )


async def catalogue(
    store: Store,
    request: CatalogueRequest,
    identity: Identity,
    cache: ManifestCache | None,
    tell: Callable[[CatalogueEntry], None],
) -> Catalogued:
    """Tell of every backup that remains, oldest first, after deleting what may and should go.

    These are the backups of this name in our cluster's folder and those of adopted clusters; where
    our folder holds none, as on a new cluster, those of all clusters. Raises what the store raises.
    """
    look = _Look(store, request, identity, cache)
    with on_side("store"):
        found = await look.read()
        if identity.corrupt:
            found = await look.suspected(found)
        ours = [one for one in found.backups if look.ours(one.manifest)]
        frozen = identity.trouble or trouble(found.backups, found.unreadable)
        kept = keep([candidate(one) for one in ours], request.retention)
        going = [one.manifest for one in ours if one.manifest.folder not in kept]
        if request.prune and frozen is None:
            known = [one for one in (identity.cluster_id, *request.adopt) if one]
            folders = [Folder.parse(one.folder) for one in going]
            await delete_backups(store, folders, only(request.backup, known))
            await delete_backups(store, found.halves, nothing_whole)
            look.pruned += [one.folder for one in going]
    gone = set(look.pruned)
    remaining = [one for one in found.backups if one.manifest.folder not in gone]
    for one in remaining:
        reasons = kept.get(one.manifest.folder, ()) if look.ours(one.manifest) else (NOT_OURS,)
        tell(_entry(store, one, ours=look.ours(one.manifest), kept=reasons))
    return Catalogued(
        cluster=identity.cluster,
        cluster_id=identity.cluster_id,
        kept=sum(one.verified for one in remaining if look.ours(one.manifest)),
        pruned=tuple(look.pruned),
        frozen=frozen,
        unreadable=_in_words(found.unreadable),
    )


def candidate(backup: Backup) -> Candidate:
    """What retention looks at in a backup."""
    manifest = backup.manifest
    return Candidate(
        manifest.folder, manifest.tick, backup.verified, suspect=manifest.suspect is not None
    )


def trouble(
    backups: Sequence[Backup], unreadable: Sequence[Unreadable], now: datetime | None = None
) -> str | None:
    """Why nothing of this may be deleted: manifests that disagree, or a clock that is behind."""
    for one in unreadable:
        if isinstance(one.error, Refused):
            return one.error.message
    uids: dict[str, str | None] = {}
    for manifest in (one.manifest for one in backups):
        path = manifest.folder.rpartition("/")[0]
        if uids.setdefault(path, manifest.kube_system_uid) != manifest.kube_system_uid:
            return (
                f"the manifests in {path} are of two clusters whose kube-system uids begin alike: "
                f"{uids[path]} and {manifest.kube_system_uid}"
            )
    newest = max((one.manifest for one in backups), key=lambda one: one.finished_at, default=None)
    now = now or datetime.now(UTC)
    if newest is not None and newest.finished_at > now + _SKEW:
        return (
            f"the clock of this host says {now:%Y-%m-%d %H:%M:%S}Z, but {newest.folder} was made "
            f"at {newest.finished_at:%Y-%m-%d %H:%M:%S}Z: correct the clock, or delete that backup"
        )
    return None


def _entry(store: Store, backup: Backup, *, ours: bool, kept: tuple[str, ...]) -> CatalogueEntry:
    strongest = backup.strongest
    return CatalogueEntry(
        manifest=backup.manifest,
        url=f"{store.url}/{backup.manifest.folder}",
        level=strongest.level.value if strongest is not None else None,
        verified_at=strongest.at if strongest is not None and backup.verified else None,
        ours=ours,
        kept=kept,
        indexed=backup.indexed if backup.manifest.type == "Snapshot" else None,
    )


def _in_words(unreadable: Sequence[Unreadable]) -> tuple[str, ...]:
    told = [f"{one.key}: {one.error.message}" for one in unreadable[:_TOLD]]
    if len(unreadable) > _TOLD:
        told.append(f"and {len(unreadable) - _TOLD} more")
    return tuple(told)
