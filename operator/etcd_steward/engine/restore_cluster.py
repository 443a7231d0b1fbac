"""Restoring one member of a lost cluster from a snapshot, with neither etcd nor an API server.

etcdutl writes the data directory; around it stands what it leaves to the caller: the snapshot is
proven before and the result after, revisions are bumped, and what is interrupted leaves nothing.

Why revisions are bumped and marked as compacted: a watch from a revision that etcd has not reached
yet is accepted, and waits (etcd server/storage/mvcc/watchable_store.go). A client that has seen
revision 900 of a cluster that is rewound to 500 would hear nothing of the next 400 changes, and go
on with what it has (kubernetes issues 107457 and 118501, etcd issue 16028). Bumped above whatever
was seen, with all before it compacted, each such watch ends with "compacted" and its client lists
anew.
"""

import asyncio
import math
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from etcd_steward.deadline import Deadline
from etcd_steward.engine.data_dir import MEMBER, Workplace, must_be_empty, workplace
from etcd_steward.engine.download import TIMEOUT
from etcd_steward.engine.etcdutl import Etcdutl
from etcd_steward.engine.initial_cluster import InitialCluster
from etcd_steward.engine.prove import prove
from etcd_steward.engine.report import Report, Tracker
from etcd_steward.engine.snapshot_source import Brought, Source
from etcd_steward.engine.spool import Spool
from etcd_steward.engine.spoolfile import SpoolFile
from etcd_steward.errors import IntegrityError, OutOfSpace, Refused
from etcd_steward.models.manifest import Manifest
from etcd_steward.models.run import SpoolSettings
from etcd_steward.registry.proof import StructureReport, prove_structure
from etcd_steward.store.local_files import LocalReadAt, translated

BUMP = 1_000_000_000
"""What etcd's documentation on disaster recovery takes: a week at 1,500 writes a second."""
_RATE = 1_500
"""Writes a second that it reckons with."""
_WAL = 64 << 20
"""etcd allocates the first file of its write-ahead log in full (server/storage/wal)."""
_CHOOSE = "choose another snapshot; --unproven restores this one all the same"


@dataclass(frozen=True, slots=True)
class MemberRequest:
    """Which member is restored, to where, and how."""

    cluster: InitialCluster
    data_dir: Path
    wal_dir: Path | None = None
    """Where etcd's own `--wal-dir` points, if anywhere."""
    token: str | None = None
    """None: one that is made of the snapshot, so that members of two snapshots never meet."""
    bump: int | None = BUMP
    """By how much revisions rise, those before being marked as compacted; None: not at all."""
    unproven: bool = False
    """Restore what is suspect or can't be proven as well."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A data directory that etcd can start from."""

    source: str
    manifest: Manifest | None
    sha256: str
    """Of the uncompressed snapshot."""
    token: str
    proven: bool
    """False where only `unproven` let it pass."""
    snapshot_revision: int | None
    """Revision at which the snapshot ends; None if it is not proven."""
    revision: int | None
    """Revision from which etcd starts; None if what was restored can't be read."""
    keys: int | None
    alarms: tuple[str, ...]


def refuse_early(request: MemberRequest) -> None:
    """Look at the directories before anything is fetched. Raises `Refused` or `InvalidInput`."""
    must_be_empty(request.data_dir, "--data-dir")
    if request.wal_dir is not None:
        must_be_empty(request.wal_dir, "--wal-dir")


async def restore_member(
    source: Source, request: MemberRequest, tool: Etcdutl, report: Report
) -> Restored:
    """Restore one member; its directories appear when all in them is right.

    Raises `Refused` for what is suspect, unproven or does not fit the tool, and for a directory
    that holds something; `IntegrityError` for a stored snapshot that was altered; `OutOfSpace`;
    `PermanentError` with etcdutl's words.
    """
    refuse_early(request)
    manifest = source.manifest
    if manifest is not None:
        _refuse_export(manifest, source.name)
        _refuse_suspect(manifest, report, unproven=request.unproven)
        tool.must_suit(manifest.etcd_version, bumps=request.bump is not None)
        _doubt_bump(manifest, request.bump, report)
    deadline, tracker = Deadline.after(TIMEOUT), Tracker(report)
    with ExitStack() as stack:
        work = stack.enter_context(workplace(request.data_dir))
        log = None
        if request.wal_dir is not None:
            log = stack.enter_context(workplace(request.wal_dir))
            log.must_hold(_WAL)
        async with deadline.enforce("restoring"), tracker.reporting():
            return await _Restore(source, request, tool, tracker, deadline).into(work, log)


@dataclass(frozen=True, slots=True)
class _Restore:
    """One restore on its way."""

    source: Source
    request: MemberRequest
    tool: Etcdutl
    tracker: Tracker
    deadline: Deadline

    async def into(self, work: Workplace, log: Workplace | None) -> Restored:
        """Bring, prove, restore, prove again, move into place."""
        beside = 0 if log is not None else _WAL
        work.must_hold(2 * self.source.size + beside)
        async with Spool.open(SpoolSettings(directory=work.path / "spool"), "restore") as spool:
            with closing(spool.create("snapshot.db")) as file:
                self.tracker.step = "Fetching"
                try:
                    brought = await self.source.bring(spool, file, self.tracker)
                except OutOfSpace as error:  # in the words of a spool that somebody has named
                    raise work.too_small("the snapshot does not fit") from error
                work.must_hold(file.size + beside)
                self.tracker.step = "Proving"
                proven = await self._prove(file, brought)
            token = self.request.token or _token(brought, self.request.bump)
            made = work.path / "data"
            made_log = None if log is None else log.path / "wal"
            flags = _flags(self.request, token, made, made_log)
            self.tracker.step = "Restoring"
            left = self.deadline.left()
            await self.tool.restore(file.path, flags, lock=work.lock, timeout=left)
        self.tracker.step = "Checking"
        result = await self._check(made / MEMBER / "snap" / "db", proven)
        with translated(f"Moving what was restored into {self.request.data_dir}"):
            if log is not None and made_log is not None:
                log.place(made_log)
            work.place(made)
        return self._restored(brought, token, proven, result)

    async def _prove(self, file: SpoolFile, brought: Brought) -> StructureReport | None:
        """Read the whole database; None where it is not right and `unproven` lets it pass."""
        try:
            found = await asyncio.to_thread(_prove_file, file, brought, self.source.manifest)
        except IntegrityError as error:
            if not self.request.unproven:
                said = f"the snapshot is not proven: {error.message}"
                raise Refused(said, hint=_CHOOSE) from error
            self.tracker.report.warning(
                f"the snapshot is not proven, and restored all the same: {error.message}"
            )
            return None
        needed = found.storage_version or found.cluster_version or ""
        self.tool.must_suit(needed, bumps=self.request.bump is not None)
        return found

    async def _check(self, path: Path, proven: StructureReport | None) -> StructureReport | None:
        """Read back what etcdutl wrote; None where it is as damaged as what it was given."""
        try:
            result = await asyncio.to_thread(_read_back, path)
        except IntegrityError as error:
            if proven is not None:
                raise
            self.tracker.report.warning(f"what was restored is damaged as well: {error.message}")
            return None
        _compare(result, proven, self.request.bump)
        return result

    def _restored(
        self,
        brought: Brought,
        token: str,
        proven: StructureReport | None,
        result: StructureReport | None,
    ) -> Restored:
        manifest = self.source.manifest
        return Restored(
            source=self.source.name,
            manifest=manifest,
            sha256=brought.sha256,
            token=token,
            proven=proven is not None and (manifest is None or manifest.suspect is None),
            snapshot_revision=None if proven is None else proven.revision,
            revision=None if result is None else result.revision,
            keys=None if result is None else result.live_keys,
            alarms=tuple(sorted({alarm.kind for alarm in result.alarms})) if result else (),
        )


def _token(brought: Brought, bump: int | None) -> str:
    """A token that only members have who were restored from the same snapshot, by the same bump.

    Members with another one are of another cluster, and etcd keeps them apart.
    """
    return f"restored-{brought.sha256[:12]}-{bump or 0}"


def _flags(request: MemberRequest, token: str, data: Path, log: Path | None) -> list[str]:
    flags = [
        f"--name={request.cluster.name}",
        f"--initial-cluster={request.cluster.text}",
        f"--initial-advertise-peer-urls={request.cluster.peer_urls}",
        f"--initial-cluster-token={token}",
        f"--data-dir={data}",
    ]
    if log is not None:
        flags.append(f"--wal-dir={log}")
    if request.bump is not None:
        flags += [f"--bump-revision={request.bump}", "--mark-compacted"]
    return flags


def _refuse_export(manifest: Manifest, name: str) -> None:
    if manifest.type == "RegistryExport":
        raise Refused(
            f"{name} is a registry export: single objects can be had from it, but no etcd",
            hint="choose a backup of type Snapshot; `etcd-steward snapshot list` shows the type",
        )


def _refuse_suspect(manifest: Manifest, report: Report, *, unproven: bool) -> None:
    if manifest.suspect is None:
        return
    if not unproven:
        raise Refused(f"the snapshot is suspect: {manifest.suspect}", hint=_CHOOSE)
    report.warning(f"the snapshot is suspect, and restored all the same: {manifest.suspect}")


def _doubt_bump(manifest: Manifest, bump: int | None, report: Report) -> None:
    """Warn where etcd may have got further since the snapshot than the bump reaches."""
    age = (datetime.now(UTC) - manifest.tick).total_seconds()
    if bump is not None and bump < age * _RATE:
        enough = math.ceil(age * _RATE / BUMP) * BUMP
        report.warning(
            f"the snapshot is {age / 86400:.0f} days old: an etcd with {_RATE:,} writes a second "
            f"has got further than --bump-revision {bump}. With --bump-revision {enough}, on all "
            "hosts, no client can have seen a later revision"
        )


def _prove_file(file: SpoolFile, brought: Brought, manifest: Manifest | None) -> StructureReport:
    """Read every page; blocking. Raises `IntegrityError` for whatever is not as it must be."""
    if brought.doubt:
        raise IntegrityError(brought.doubt)
    found = prove(file, 0 if manifest is None else manifest.read_revision).report
    if any(alarm.kind == "CORRUPT" for alarm in found.alarms):
        raise IntegrityError("it was taken under a CORRUPT alarm, when its members differed")
    if manifest is not None:
        said, holds = (manifest.revision, manifest.live_keys), (found.revision, found.live_keys)
        if said != holds:
            raise IntegrityError(
                f"its manifest says revision {said[0]} and {said[1]} keys, the file holds revision "
                f"{holds[0]} and {holds[1]} keys"
            )
    return found


def _read_back(path: Path) -> StructureReport:
    with translated(f"Reading {path}"):
        return prove_structure(LocalReadAt(path))


def _compare(result: StructureReport, proven: StructureReport | None, bump: int | None) -> None:
    """What etcdutl wrote holds what it was given, at the revision that it was told."""
    faults = []
    if bump is not None and result.revision < bump:
        faults.append(f"its revision {result.revision} is below the bump of {bump}")
    if bump is not None and result.compact_revision < result.revision:
        faults.append(f"it is compacted up to {result.compact_revision} only")
    if proven is not None and result.live_keys != proven.live_keys:
        faults.append(f"it holds {result.live_keys} keys instead of {proven.live_keys}")
    if proven is not None and result.revision < proven.revision:
        faults.append(f"it ends at revision {result.revision} instead of {proven.revision}")
    if faults:
        raise IntegrityError(
            f"what etcdutl restored is not what it was given: {'; '.join(faults)}",
            hint="nothing was left in the data directory. Try etcd's own etcdutl of another "
            "version, and report this",
        )
