"""The manifest of a backup, and the proofs beside it: what makes a folder in the store a backup.

A backup exists if, and only if, its `manifest.json` does; it is written last. Proofs are added over
the years and never changed. The JSON Schema in `docs/manifest.schema.json` is made from here.
"""

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field

from etcd_steward.models.base import Hex64, Model

FORMAT_VERSION = 1
MANIFEST_LIMIT = 1 << 20
"""Bytes; a manifest holds figures and names only."""


class Level(StrEnum):
    """How hard a backup was proven, weakest first."""

    DIGEST = "Digest"
    """What the store holds has the digest that the manifest says."""
    STRUCTURE = "Structure"
    """The database inside is whole: every page, key and revision was read."""

    @property
    def strength(self) -> int:
        """Position in the order; a higher one includes the lower ones."""
        return list(Level).index(self)


class BackupRef(Model):
    """Which standing order a backup belongs to."""

    namespace: str = Field(description="Namespace of the EtcdBackup; `_cli` for the command line.")
    name: str = Field(description="Name of the EtcdBackup, or what `--name` said.")
    uid: str | None = Field(default=None, description="uid of the EtcdBackup, where there is one.")


class RunRef(Model):
    """Which run made a backup."""

    name: str | None = Field(default=None, description="Name of the EtcdSnapshot.")
    uid: str | None = Field(default=None, description="uid of the EtcdSnapshot.")
    requested_by: str = Field(default="cli", description="Who or what asked for the run.")


class StoredFile(Model):
    """One file of a backup, as it lies in the store."""

    name: str
    role: Literal["snapshot"]
    size: int = Field(description="Bytes in the store.")
    sha256: str = Field(description="SHA-256 of the bytes in the store.")
    crc32c: str = Field(
        alias="crc32c", description="CRC-32C of the bytes in the store, eight hex digits."
    )
    encryption: str | None = Field(
        default=None, description="Client-side encryption of this file; none so far."
    )


class Structure(Model):
    """What a structural proof read in the database itself."""

    page_size: int
    pages: int
    reachable_pages: int
    records: int = Field(description="Revisions kept in the file, deletions included.")
    tombstones: int
    alarms: tuple[str, ...] = Field(
        default=(), description="Alarms that lie in the file; they survive a restore."
    )


class Proof(Model):
    """One proof of one backup: when, how hard, and what was found."""

    level: Level
    at: datetime
    by: str = Field(description="Program and version that proved it.")
    stored_sha256: str
    raw_sha256: str
    structure: Structure | None = None
    read_back: Literal["sampled", "whole"] = Field(
        description="How much was read back from the store: samples suffice where the store itself "
        "confirmed the whole object's checksum."
    )


class Manifest(Model):
    """A complete backup."""

    format_version: Literal[1] = 1
    type: Literal["Snapshot"] = "Snapshot"
    cluster: str = Field(
        description="The cluster's folder: 8 digits of the kube-system uid, or the cluster ID."
    )
    cluster_id: Hex64 = Field(alias="clusterID")
    member_id: Hex64 = Field(alias="memberID")
    kube_system_uid: str | None = Field(default=None, alias="kubeSystemUID")
    backup: BackupRef
    run: RunRef
    folder: str = Field(description="This backup's folder, relative to the store's prefix.")
    tick: datetime = Field(description="The moment this backup was due or asked for, in UTC.")
    started_at: datetime
    finished_at: datetime
    etcd_version: str
    storage_version: str = Field(
        default="", description="As the server said; empty before etcd 3.6."
    )
    steward_version: str
    read_revision: int = Field(
        description="Revision read through the member before the stream began."
    )
    revision: int = Field(
        description="Revision read from the file itself; never below readRevision."
    )
    compact_revision: int
    live_keys: int
    records: int
    raw_size: int = Field(description="Bytes of the snapshot with its digest, uncompressed.")
    raw_sha256: str = Field(description="SHA-256 of the uncompressed file, digest included.")
    files: tuple[StoredFile, ...]
    suspect: str | None = Field(
        default=None, description="Why this backup must not be trusted; such a one is never pruned."
    )
    warnings: tuple[str, ...] = ()
    proof: Proof | None = Field(
        default=None, description="The proof before this manifest was written."
    )

    @property
    def stored_size(self) -> int:
        """Bytes of all files in the store."""
        return sum(file.size for file in self.files)

    @property
    def snapshot(self) -> StoredFile:
        """The file that holds the snapshot."""
        return self.files[0]
