"""Exporting a registry: every live key with its value, as of one revision, into one Parquet file.

    status of all members → choose one → look for a manifest in the run's folder → announce →
    revision R through the member → pages at R into the spool → Parquet and upload → checksum of
    the store → all of it read back and compared with what was read from etcd → manifest

etcd goes on compacting meanwhile: where it forgets R before all was read, the reading begins anew.
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from etcd_steward import __version__
from etcd_steward.deadline import Deadline
from etcd_steward.engine.announce import announced, needing
from etcd_steward.engine.attempt import Attempt, Source, find_source
from etcd_steward.engine.deposit import Deposit
from etcd_steward.engine.paged import Paged, ranges_of, read_pages
from etcd_steward.engine.prove_registry import compare_registry
from etcd_steward.engine.registry_file import (
    resource_bytes,
    size_at_most,
    stored_registry,
    written_registry,
)
from etcd_steward.engine.report import Tracker
from etcd_steward.engine.spool import Spool
from etcd_steward.engine.spoolfile import SpoolFile
from etcd_steward.errors import (
    Compacted,
    InvalidInput,
    NotFound,
    TransientError,
    on_side,
)
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.keys import KeyRange
from etcd_steward.etcd.paging import Answer
from etcd_steward.memory import trim
from etcd_steward.models.manifest import (
    Level,
    Manifest,
    Proof,
    RegistryStructure,
    StoredFile,
)
from etcd_steward.models.ports import Store
from etcd_steward.models.registry import Selection
from etcd_steward.models.run import ExportRequest
from etcd_steward.registry.paths import root_of
from etcd_steward.registry.selection import Chosen
from etcd_steward.registry.table import Rows
from etcd_steward.store.threads import settled

_READINGS: Final = 3
"""How often reading is begun: etcd may compact a revision before all of it was read."""
_NAMED: Final = 20
"""So many namespaces are named to somebody who asked for one that is not there."""
_EVERYTHING: Final = Selection()


async def export(
    client: EtcdClient, store: Store, spool: Spool, request: ExportRequest, tracker: Tracker
) -> Manifest:
    """Export a registry; the manifest, once it is written and was read back.

    A manifest of this very run that is there already is adopted. Raises what stood in the way:
    `NotFound` if nothing fits the selection or a namespace that it names is not there, `Compacted`
    if etcd has forgotten the revision; for the store's state then see `back_up`.
    """
    deposit = Deposit(store, spool, tracker, request.run, request.requester.uid)
    return await deposit.made(_make(Attempt(client, spool, request, tracker, deposit)))


async def _make(run: Attempt[ExportRequest]) -> Manifest:
    with on_side("etcd"):
        source = await find_source(run)
    with on_side("store"):
        there = await run.deposit.recorded(source.folder)
    if there is not None:
        return there
    with on_side("etcd"):
        await run.spool.wait_for_room(source.choice.status.db_size, run.wait)
        read = await _Reading(run, source).read()
    try:
        manifest = await _store(run, source, read)
    finally:
        read.paged.file.close()
    await run.deposit.record(manifest)
    return manifest


@dataclass(frozen=True, slots=True)
class _Read:
    """All that was asked for, in the spool."""

    paged: Paged
    warnings: tuple[str, ...]


@dataclass(slots=True)
class _Reading:
    """Reads one etcd at one revision."""

    run: Attempt[ExportRequest]
    source: Source

    async def read(self) -> _Read:
        """Read all that is chosen, begun anew where etcd forgets the revision meanwhile."""
        run, request = self.run, self.run.request
        selection = request.selection
        chosen = Chosen(selection, request.registry_prefix) if selection != _EVERYTHING else None
        warnings: list[str] = []
        run.tracker.step = "Exporting"
        async with announced(
            run.client,
            self.source.member.member_id,
            request.run,
            seconds=request.timeout,
            report=run.tracker.report,
            waiting=run.stand_back,
        ):
            run.tracker.step = "Exporting"
            for number in range(1, _READINGS + 1):
                revision = await self._revision()
                try:
                    async with needing(
                        run.client,
                        revision,
                        request.run,
                        seconds=request.timeout,
                        report=run.tracker.report,
                    ):
                        paged = await self._read_at(revision, chosen, number)
                except Compacted as error:
                    if request.revision or number == _READINGS:
                        raise _outrun(error, revision, request) from error
                    warnings.append(
                        f"etcd compacted revision {revision} before all of it was read: begun "
                        f"again at a newer one ({number + 1} of {_READINGS})"
                    )
                    run.tracker.report.warning(warnings[-1])
                else:
                    warnings += await self._look_at(paged)
                    return _Read(paged, tuple(warnings))
        raise AssertionError("the last reading ends one way or the other")

    async def _revision(self) -> int:
        now, asked = await self.source.member.revision(), self.run.request.revision
        if asked > now:
            raise InvalidInput(
                f"revision {asked} is in the future: etcd is at {now}",
                hint="ask for an older one, or leave it out: then it is the present one",
            )
        return asked or now

    async def _read_at(self, revision: int, chosen: Chosen | None, number: int) -> Paged:
        prefix = self.run.request.registry_prefix
        file = self.run.spool.create(f"registry.values.{number}")
        paged = Paged(file, revision, chosen, prefix)
        try:
            await read_pages(self._range, paged, ranges_of(chosen, prefix), self.run.tracker)
        except BaseException:
            file.close()
            file.path.unlink()
            raise
        return paged

    async def _range(
        self,
        key: bytes,
        end: bytes = b"",
        *,
        limit: int = 0,
        revision: int = 0,
        deadline: Deadline | None = None,
    ) -> Answer:
        """Read from the member that was chosen; what it can't answer now, others may.

        At one revision all have the same.
        """
        try:
            return await self.source.member.raw_range(
                key, end, limit=limit, revision=revision, deadline=deadline
            )
        except TransientError:
            return await self.run.client.range(
                key, end, limit=limit, revision=revision, deadline=deadline
            )

    async def _look_at(self, paged: Paged) -> Sequence[str]:
        """What a person should know of what was found. Raises `NotFound` if that is not enough."""
        prefix = self.run.request.registry_prefix
        include = self.run.request.selection.include
        named = include.namespaces if include is not None else ()
        missing = [one for one in named if "*" not in one and one not in paged.namespaces]
        known: list[str] = []
        if missing or not len(paged):
            known = await self._namespaces(paged.revision)
            missing = [one for one in missing if one not in known]
        if missing:
            raise NotFound(
                f"there is no namespace {', '.join(missing)} at revision {paged.revision}",
                hint=_there_are(known, prefix),
            )
        if not len(paged):
            raise NotFound(
                f"nothing that was asked for is in etcd at revision {paged.revision}",
                hint=_there_are(known, prefix),
            )
        root = root_of(prefix)
        if paged.chosen is None and not paged.registry:
            said = (
                f"no key lies below {root.decode()}: what was exported are no Kubernetes objects, "
                "or the API server has another --etcd-prefix"
            )
            self.run.tracker.report.warning(said)
            return (said,)
        return ()

    async def _namespaces(self, revision: int) -> list[str]:
        root = root_of(self.run.request.registry_prefix) + b"namespaces/"
        wanted = KeyRange.prefix(root)
        found = await self._range(wanted.start, wanted.end, revision=revision)
        return [kv.key[len(root) :].decode(errors="replace") for kv in found.kvs]


def _there_are(namespaces: Sequence[str], prefix: str) -> str:
    if not namespaces:
        return (
            f"no namespace lies below {prefix}: name the API server's --etcd-prefix by "
            "--registry-prefix, if it has one"
        )
    more = len(namespaces) - _NAMED
    told = ", ".join(namespaces[:_NAMED])
    return f"there are {told}" + (f" and {more} more" if more > 0 else "")


def _outrun(error: Compacted, revision: int, request: ExportRequest) -> Compacted:
    if request.revision:
        return Compacted(
            f"etcd has compacted revision {revision}",
            hint="ask for a newer one, or look into a backup",
        )
    return Compacted(
        f"etcd compacted each of {_READINGS} revisions before all of it was read: {error.message}",
        hint="include less, or let the API servers compact less often "
        "(--etcd-compaction-interval, 5 min by default)",
    )


async def _store(run: Attempt[ExportRequest], source: Source, read: _Read) -> Manifest:
    paged, folder = read.paged, source.folder
    run.tracker.step = "Uploading"
    rows = paged.rows()
    trim()  # pages came in buffers of megabytes
    prefix = run.request.registry_prefix
    piped = written_registry(rows, paged.file, revision=paged.revision, prefix=prefix)
    async with aclosing(piped.pieces()) as pieces:
        written = await run.deposit.upload(folder, folder.registry, pieces, size=size_at_most(rows))
    stored = stored_registry(written, piped.result, resource_bytes(rows, prefix))
    trim()  # the upload's buffers too, before reading back takes as much
    with on_side("store"):
        run.tracker.step = "ReadingBack"
        proven = await _read_back(run.deposit.store, folder.registry, stored, rows, paged.file)
    return _manifest(run, source, read, stored, proven)


async def _read_back(
    store: Store, key: str, stored: StoredFile, rows: Rows, values: SpoolFile
) -> RegistryStructure:
    """Read all of it from the store, and compare it with what was read from etcd."""
    file, url = await store.open(key), f"{store.url}/{key}"

    def prove() -> RegistryStructure:
        from etcd_steward.registry.parquet import RegistryFile  # noqa: PLC0415  # pyarrow: 70 MB

        return compare_registry(RegistryFile(file, name=url, stored=stored), url, rows, values)

    return await settled(asyncio.to_thread(prove))


def _manifest(
    run: Attempt[ExportRequest],
    source: Source,
    read: _Read,
    stored: StoredFile,
    proven: RegistryStructure,
) -> Manifest:
    status, now, request = source.choice.status, datetime.now(UTC), run.request
    selection = request.selection
    return Manifest(
        type="RegistryExport",
        cluster=source.folder.cluster,
        cluster_id=f"{status.cluster_id:x}",
        member_id=f"{status.member_id:x}",
        kube_system_uid=source.kube_system_uid,
        backup=request.backup,
        run=request.requester,
        folder=str(source.folder),
        tick=request.tick,
        started_at=run.started_at,
        finished_at=now,
        etcd_version=status.version,
        storage_version=status.storage_version,
        steward_version=__version__,
        read_revision=read.paged.revision,
        revision=read.paged.revision,
        compact_revision=read.paged.revision,
        live_keys=proven.rows,
        records=proven.rows,
        raw_size=stored.size,
        raw_sha256=stored.sha256,
        registry_prefix=request.registry_prefix,
        selection=None if selection == _EVERYTHING else selection,
        files=(stored,),
        warnings=(*source.choice.warnings, *read.warnings),
        proof=Proof(
            level=Level.STRUCTURE,
            at=now,
            by=f"etcd-steward {__version__}",
            stored_sha256=stored.sha256,
            raw_sha256=stored.sha256,
            registry=proven,
            read_back="whole",
        ),
    )
