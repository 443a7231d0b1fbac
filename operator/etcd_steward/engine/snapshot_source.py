"""Where a snapshot that is to be restored comes from: a store, or a file on this host."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from etcd_steward.engine.download import download
from etcd_steward.engine.given import open_local
from etcd_steward.engine.report import Tracker
from etcd_steward.engine.spool import Spool
from etcd_steward.engine.spoolfile import SpoolFile
from etcd_steward.engine.unpack import unpack
from etcd_steward.models.manifest import Manifest
from etcd_steward.models.ports import Store
from etcd_steward.store.threads import settled


@dataclass(frozen=True, slots=True)
class Brought:
    """What is known of a snapshot once all of it is in the spool, with etcd's digest at its end."""

    sha256: str
    """Of the whole file, digest included."""
    doubt: str | None = None
    """Why the digest vouches for nothing, if so."""


class Source(Protocol):
    """A snapshot that somebody has chosen."""

    @property
    def name(self) -> str:
        """What to call it on every host."""
        ...

    @property
    def manifest(self) -> Manifest | None:
        """What is known of it; None for a file."""
        ...

    @property
    def size(self) -> int:
        """Bytes of the uncompressed snapshot; for a compressed file, at least so many."""
        ...

    async def bring(self, spool: Spool, file: SpoolFile, tracker: Tracker) -> Brought:
        """Write it to `file`, uncompressed, all its digests compared.

        Raises `IntegrityError` if it is not what it was when it was stored.
        """
        ...


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A backup in a store."""

    store: Store
    stored: Manifest

    @property
    def name(self) -> str:
        """Its own URL."""
        return f"{self.store.url}/{self.stored.folder}"

    @property
    def manifest(self) -> Manifest | None:
        """Its manifest."""
        return self.stored

    @property
    def size(self) -> int:
        """As the manifest says."""
        return self.stored.raw_size

    async def bring(self, spool: Spool, file: SpoolFile, tracker: Tracker) -> Brought:  # noqa: ARG002
        """Download it."""
        await download(self.store, self.stored, lambda piece: file.append([piece]), tracker)
        return Brought(self.stored.raw_sha256)


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """A file, plain or wrapped as other tools do it; its content tells, not its name."""

    path: Path

    @property
    def name(self) -> str:
        """Where it lies."""
        return str(self.path)

    @property
    def manifest(self) -> Manifest | None:
        """None: a file comes without."""
        return None

    @property
    def size(self) -> int:
        """Of the file as it is; 0 if it is none, which `bring` says in words."""
        return self.path.stat().st_size if self.path.is_file() else 0

    async def bring(self, spool: Spool, file: SpoolFile, tracker: Tracker) -> Brought:
        """Copy it, its wrappings off."""
        with open_local(str(self.path)) as given:
            tracker.total = given.size or 0
            unpacking = asyncio.to_thread(unpack, given, spool, file, ())
            found = await settled(unpacking, given.stop.set)
        if found.had_digest:
            return Brought(found.sha256)
        return Brought(
            found.sha256, "it carries no digest: it was copied from a data directory, not streamed"
        )
