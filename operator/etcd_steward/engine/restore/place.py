"""Where a restore's own files lie: a folder of a store, or of a directory on this host.

    <cluster>/_restores/<name>-<uid>/
        claim.json         written with If-None-Match before anything else: an Apply runs once
        plan.json          keys, verdicts, digests; no values
        undo.parquet       what was there before, of every key that is overwritten
        values.parquet     what is written, for an apply that goes on after a crash; it stays where
                           something is overwritten, for the undo to compare with
        journal/           which keys are written, and at which revision; as long
        result.json        how it went
        second-look.json   what became of it after the controllers' repair loops
        undone.json        how it was undone
        keep-for/2592000   so many seconds after it was last touched all of it may go

A killed apply goes on from here alone: the history that it was planned from may be compacted by
then, and what it was planned over has changed by its own hand.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeVar

from pydantic import ValidationError

from etcd_steward.engine.readback import read_back
from etcd_steward.engine.registry_file import size_at_most, written_registry
from etcd_steward.engine.spool import Spool
from etcd_steward.errors import AlreadyExists, IntegrityError, NoSuchStore, NotFound, Refused
from etcd_steward.models.base import Model
from etcd_steward.models.ports import OpenUpload, ReadAt, Store
from etcd_steward.models.restore import Plan, RestoreReport
from etcd_steward.models.restore_place import Claim, JournalPage, SecondLook, UndoReport
from etcd_steward.registry.table import Rows
from etcd_steward.store.threads import settled

if TYPE_CHECKING:  # it brings pyarrow
    from etcd_steward.registry.parquet import RegistryFile

_M = TypeVar("_M", bound=Model)

RESTORES: Final = "_restores"
"""Folder beside the backups of a cluster; no backup's name begins with `_` and has no dot."""
UNDO: Final = "undo.parquet"
VALUES: Final = "values.parquet"
_CLAIM, _PLAN, _RESULT = "claim.json", "plan.json", "result.json"
_SECOND, _UNDONE, _JOURNAL = "second-look.json", "undone.json", "journal/"
_KEEP: Final = "keep-for/"
_LIMIT: Final = 256 << 20
"""Bytes of a plan or report, at most: about 300 a key."""


class Place:
    """The files of one restore. Raises what the store raises."""

    def __init__(self, store: Store, folder: str, spool: Spool) -> None:
        """`folder` is relative to the store, without a slash at its end; see `folder_of`."""
        self.store = store
        self.folder = folder
        self.spool = spool
        """Where values lie on their way into the store."""
        self._pages = 0

    @property
    def url(self) -> str:
        """Of the folder."""
        return f"{self.store.url}/{self.folder}"

    @property
    def undo_url(self) -> str:
        """Of what was there before."""
        return f"{self.url}/{UNDO}"

    def _key(self, name: str) -> str:
        return f"{self.folder}/{name}"

    # Claim and plan ---------------------------------------------------------------------------

    async def begin(self, claim: Claim) -> bool:
        """Claim the apply; whether an earlier attempt of the very same restore had.

        Raises `Refused` if it was begun with another plan, or is another restore's.
        """
        await self._abort_uploads()
        before = await self._read(_CLAIM, Claim)
        if before is not None and before != claim:
            if before.uid != claim.uid or await self.store.find(self._key(UNDO)) is not None:
                raise _taken(self.url, before, claim)
            await self.store.delete(self._key(_CLAIM))  # it died before anything was saved
            before = None
        try:
            await self.store.put_new(self._key(_CLAIM), _text(claim))
        except AlreadyExists as error:
            raise Refused(
                f"{self.url} was just claimed by another apply",
                hint="look at how that one goes; nothing was written by this one",
            ) from error
        return before is not None

    async def write_plan(self, plan: Plan) -> str:
        """Put the plan there, instead of an earlier one; its URL."""
        await self._replace(_PLAN, plan)
        return f"{self.url}/{_PLAN}"

    async def keep_for(self, span: timedelta) -> None:
        """Say how long all of it is kept after it was last touched: a file's name says so."""
        seconds = int(span.total_seconds())
        await self.store.put_new(self._key(f"{_KEEP}{seconds}"), f"{span}\n".encode())

    async def plan(self) -> Plan | None:
        """The plan that was put there last."""
        return await self._read(_PLAN, Plan)

    async def claimed(self) -> Claim | None:
        """Who has begun to apply, if anybody has."""
        return await self._read(_CLAIM, Claim)

    async def _abort_uploads(self) -> None:
        """End uploads that a killed attempt has begun."""
        try:
            for upload in [one async for one in self.store.uploads(f"{self.folder}/")]:
                await self.store.abort(upload)
        except NoSuchStore:
            return  # a directory is made by the first write

    # Values -----------------------------------------------------------------------------------

    async def stash(
        self, name: str, rows: Rows, file: ReadAt, *, revision: int, prefix: str
    ) -> None:
        """Write `undo.parquet` or `values.parquet`, whose values lie in `file`; read back."""

        async def started(_: OpenUpload) -> None:
            """The next attempt ends whatever upload it finds here."""

        piped = written_registry(rows, file, revision=revision, prefix=prefix)
        written = await self.store.write(
            self._key(name),
            piped.pieces(),
            size_hint=size_at_most(rows),
            started=started,
            sent=lambda _: None,
        )
        await read_back(self.store, written)

    async def stashed(self, name: str) -> "RegistryFile | None":
        """A file that `stash` wrote; its methods block. None if it is not there."""
        try:
            file = await self.store.open(self._key(name))
        except NotFound:
            return None

        def opened() -> "RegistryFile":
            from etcd_steward.registry.parquet import RegistryFile  # noqa: PLC0415  # pyarrow

            return RegistryFile(file, name=f"{self.url}/{name}")

        return await settled(asyncio.to_thread(opened))

    # Journal ----------------------------------------------------------------------------------

    async def note(self, written: Mapping[str, int]) -> None:
        """Remember keys that are written; `noted` must have been called before."""
        self._pages += 1
        page = JournalPage(written=dict(written))
        await self.store.put_new(self._key(f"{_JOURNAL}{self._pages:06d}.json"), _text(page))

    async def noted(self) -> dict[str, int]:
        """Every key that earlier attempts remembered, and the revision it was written at."""
        found: dict[str, int] = {}
        for name in await self._names(_JOURNAL):
            page = await self._read(name, JournalPage)
            found |= page.written if page is not None else {}
            self._pages = int(name.removeprefix(_JOURNAL).removesuffix(".json"))
        return found

    async def tidy(self, *, values: bool) -> None:
        """The apply is over: what only a crash would have needed goes.

        With `values`, those stay: an undo compares what was overwritten with what it became.
        """
        if not values:
            await self.store.delete(self._key(VALUES))
        for name in await self._names(_JOURNAL):
            await self.store.delete(self._key(name))

    async def _names(self, below: str) -> list[str]:
        skip = len(self.folder) + 1
        try:
            infos = [info async for info in self.store.list(self._key(below))]
        except NoSuchStore:
            return []
        return sorted(info.key[skip:] for info in infos)

    # Outcomes ---------------------------------------------------------------------------------

    async def write_result(self, report: RestoreReport) -> None:
        """The apply is over; written once."""
        await self.store.put_new(self._key(_RESULT), _text(report))

    async def result(self) -> RestoreReport | None:
        """How the apply went, with what the second look has shown; None if none has ended."""
        report = await self._read(_RESULT, RestoreReport)
        look = None if report is None else await self._read(_SECOND, SecondLook)
        return report if report is None or look is None else seen_again(report, look)

    async def write_second_look(self, look: SecondLook) -> None:
        """What became of it; instead of an earlier look."""
        await self._replace(_SECOND, look)

    async def write_undone(self, report: UndoReport) -> None:
        """How the undo went; instead of an earlier one."""
        await self._replace(_UNDONE, report)

    async def undone(self) -> UndoReport | None:
        """How it was undone, if it was."""
        return await self._read(_UNDONE, UndoReport)

    # Small files ------------------------------------------------------------------------------

    async def _replace(self, name: str, model: Model) -> None:
        try:
            await self.store.put_new(self._key(name), _text(model))
        except AlreadyExists:
            await self.store.delete(self._key(name))
            await self.store.put_new(self._key(name), _text(model))

    async def _read(self, name: str, kind: type[_M]) -> _M | None:
        try:
            text = await self.store.read(self._key(name), limit=_LIMIT)
        except NotFound:
            return None
        try:
            return kind.model_validate_json(text)
        except ValidationError as error:
            raise IntegrityError(
                f"{self.url}/{name} is not what this version of etcd-steward writes there",
                hint="use the version that made this restore, or begin a new restore",
            ) from error


def folder_of(cluster: str, name: str, uid: str) -> str:
    """Folder of a restore; `cluster` is `models.layout.cluster_folder`, where it goes to."""
    return f"{cluster}/{RESTORES}/{name}-{uid}"


def seen_again(report: RestoreReport, look: SecondLook) -> RestoreReport:
    """A report with what the second look has shown."""
    return report.model_copy(
        update={"second_look": look.at.isoformat(timespec="seconds"), "taken_since": look.taken}
    )


async def prune_places(store: Store, cluster: str, *, keep: timedelta) -> AsyncIterator[str]:
    """Delete what restores left that ended, or were last touched, longer ago than they say.

    `keep` is for those that say nothing. Yields each folder that is gone. The claim goes last, so
    that nobody begins in half a folder.
    """
    now = datetime.now(UTC)
    for folder in await store.folders(f"{cluster}/{RESTORES}/"):
        infos = [info async for info in store.list(folder)]
        told = [one for info in infos if (one := info.key.partition(f"/{_KEEP}")[2]).isdecimal()]
        span = timedelta(seconds=int(told[0])) if told else keep
        if infos and max(info.modified for info in infos) < now - span:
            for info in sorted(infos, key=lambda info: info.key.endswith(_CLAIM)):
                await store.delete(info.key)
            yield folder


def _text(model: Model) -> bytes:
    return model.model_dump_json(by_alias=True, indent=1).encode() + b"\n"


def _taken(url: str, before: Claim, claim: Claim) -> Refused:
    if before.uid != claim.uid:
        return Refused(f"{url} belongs to the restore {before.restore}, {before.uid}")
    return Refused(
        f"this restore was already begun with the plan {before.digest}, and an apply runs once",
        hint=f"make a new restore to apply {claim.digest}; "
        "what the first one wrote can be taken back by an undo",
    )
