"""Putting a proven snapshot into a store: uploaded, read back, recorded last, or not there at all.

What every backup has in common, whether it was taken here or imported.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from etcd_steward import __version__
from etcd_steward.engine.compress import Compressed, bound
from etcd_steward.engine.manifests import find_manifest, write_manifest
from etcd_steward.engine.readback import read_back
from etcd_steward.engine.report import Tracker
from etcd_steward.engine.settle import adopt, clean
from etcd_steward.engine.spool import Spool
from etcd_steward.engine.spoolfile import SpoolFile
from etcd_steward.errors import AlreadyExists, NoSuchStore, PermanentError, StewardError, on_side
from etcd_steward.models.layout import SNAPSHOT, Folder
from etcd_steward.models.manifest import Level, Manifest, Proof, StoredFile, Structure
from etcd_steward.models.ports import OpenUpload, Store, Written
from etcd_steward.models.run import Journal

_CLEAN_UP = 60.0
"""Seconds that cleaning up after a failure may take; what is left is found at the next start."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A snapshot in the store, not yet a backup."""

    written: Written
    sha256: str
    read_back: Literal["sampled", "whole"]

    def file(self) -> StoredFile:
        """The manifest's words for it."""
        return StoredFile(
            name=SNAPSHOT,
            role="snapshot",
            size=self.written.size,
            sha256=self.sha256,
            crc32c=f"{self.written.crc32c:08x}",
        )

    def proof(self, at: datetime, raw_sha256: str, structure: Structure) -> Proof:
        """What was proven of it before its manifest is written."""
        return Proof(
            level=Level.STRUCTURE,
            at=at,
            by=f"etcd-steward {__version__}",
            stored_sha256=self.sha256,
            raw_sha256=raw_sha256,
            structure=structure,
            read_back=self.read_back,
        )


@dataclass(slots=True)
class Deposit:
    """One attempt to put a snapshot into a store, and what it has begun there."""

    store: Store
    spool: Spool
    tracker: Tracker
    run: str
    """8 hex digits, with `.2` for a second attempt."""
    uid: str | None
    """Of the EtcdSnapshot, where there is one."""
    journal: Journal | None = None
    recording: Folder | None = None
    """Where the manifest is being written: from then on only a look tells what is there."""

    async def made(self, work: Awaitable[Manifest]) -> Manifest:
        """What `work` makes, which calls `keep` and `record`.

        If it fails, nothing of the attempt is in the store, except where the store itself can't be
        reached any more, or the manifest's fate is unknown: a later `settle` of the journal finds
        out.
        """
        try:
            manifest = await work
        except StewardError as error:
            found = await self._find_out(error)
            if found is None:
                raise
            manifest = found
        except BaseException:
            if self.recording is None:
                await self._clean_up()
            raise
        self.spool.settled()
        return manifest

    async def keep(self, folder: Folder, file: SpoolFile, *, size: int, behind: bool) -> Stored:
        """Compress and upload, compare the store's checksum, and read back.

        `size` is what the file will have at most; `behind`: follow its writer.
        """
        if not behind:
            await file.ended()
        compressed = Compressed(file, behind=behind)
        async with aclosing(compressed.frames()) as frames:
            written = await self.upload(folder, folder.snapshot, frames, size=bound(size))
        with on_side("store"):
            self.tracker.step = "ReadingBack"
            checked = await read_back(self.store, written)
        return Stored(written, compressed.sha256, checked)

    async def upload(
        self, folder: Folder, key: str, pieces: AsyncIterator[bytes], *, size: int
    ) -> Written:
        """Upload a file of `folder` and compare the store's checksum; `size`: bytes at most.

        Written down before the first byte, so that whoever finds this process dead cleans up.
        """

        async def started(upload: OpenUpload) -> None:
            self.journal = Journal(folder=str(folder), key=upload.key, upload_id=upload.upload_id)
            self.spool.write_journal(self.store.identity, self.journal)
            await self.tracker.report.journal(self.journal)

        def sent(stored: int) -> None:
            self.tracker.stored = stored

        with on_side("store"):
            return await self.store.write(key, pieces, size_hint=size, started=started, sent=sent)

    async def record(self, manifest: Manifest) -> None:
        """Make it a backup."""
        self.tracker.step, self.recording = "Recording", Folder.parse(manifest.folder)
        with on_side("store"):
            await write_manifest(self.store, manifest)

    async def recorded(self, folder: Folder) -> Manifest | None:
        """The manifest of this run, if an attempt that nobody remembers has written it.

        Raises `AlreadyExists` if another run's lies there.
        """
        try:
            manifest = await find_manifest(self.store, folder)
        except NoSuchStore:
            return None  # writing makes a directory, or says that the bucket is missing
        if manifest is None:
            return None
        if manifest.run.uid != self.uid:
            raise AlreadyExists(
                f"{self.store.url}/{folder} holds the backup of another run",
                hint="nothing was written; take the snapshot anew, under another run's name",
            )
        return await adopt(self.store, manifest, self.run[:8])

    async def _find_out(self, error: StewardError) -> Manifest | None:
        """The manifest, where its writing failed only as far as we were told; else clean up.

        Unless it is certain that no manifest came and none will, everything stays as it is.
        """
        if self.recording is None:
            await self._clean_up()
            return None
        try:
            async with asyncio.timeout(_CLEAN_UP):
                manifest = await self.recorded(self.recording)
        except (StewardError, TimeoutError) as failed:
            report = self.tracker.report
            report.warning(f"whether the backup was recorded is not known: {failed}")
            return None
        if manifest is None and isinstance(error, PermanentError):
            await self._clean_up()
        return manifest

    async def _clean_up(self) -> None:
        """Leave nothing of a failed attempt in the store, even when it was cancelled.

        Never while the manifest may be on its way: deleting what it names would make a liar of it.
        """
        if self.journal is None:
            return
        report, folder = self.tracker.report, Folder.parse(self.journal.folder)
        try:
            async with asyncio.timeout(_CLEAN_UP):
                manifest = await clean(self.store, folder, [self.journal], report.warning)
        except (StewardError, TimeoutError) as error:
            report.warning(f"what this run left in the store goes at the next start: {error}")
        else:
            if manifest is None:
                self.spool.settled()
                report.settled()
