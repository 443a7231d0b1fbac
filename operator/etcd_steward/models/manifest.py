"""The manifest of a backup, and the proofs beside it: what makes a folder in the store a backup.

A backup exists if, and only if, its `manifest.json` does; it is written last. Proofs are added over
the years and never changed. The JSON Schema in `docs/manifest.schema.json` is made from here.
"""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from etcd_steward.models.base import Hex64, Model, Moment
from etcd_steward.models.registry import Selection

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


class Footer(Model):
    """The last bytes of a Parquet file, which tell where everything else in it lies.

    Pages have checksums of their own; the footer has none, so its digest is kept outside the file.
    """

    size: int = Field(description="Bytes from the footer's first one to the end of the file.")
    sha256: str = Field(description="SHA-256 of these bytes.")


BackupType = Literal["Snapshot", "RegistryExport"]
"""A whole database of etcd, or its live keys in Parquet."""


class StoredFile(Model):
    """One file of a backup, as it lies in the store."""

    name: str
    role: Literal["snapshot", "registry"]
    size: int = Field(description="Bytes in the store.")
    sha256: str = Field(description="SHA-256 of the bytes in the store.")
    crc32c: str = Field(
        alias="crc32c", description="CRC-32C of the bytes in the store, eight hex digits."
    )
    encryption: str | None = Field(
        default=None, description="Client-side encryption of this file; none so far."
    )
    footer: Footer | None = Field(
        default=None, description="Of `registry.parquet`: how to read it without reading all of it."
    )
    resource_bytes: dict[str, int] | None = Field(
        default=None,
        description="Of `registry.parquet`: bytes of keys and values per resource, of the largest "
        "hundred; `other` is the sum of all others.",
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


class RegistryStructure(Model):
    """What a structural proof read in a registry export: every row of it."""

    rows: int
    namespaces: int
    key_bytes: int
    value_bytes: int


class Proof(Model):
    """One proof of one backup: when, how hard, and what was found."""

    level: Level
    at: Moment
    by: str = Field(description="Program and version that proved it.")
    stored_sha256: str
    raw_sha256: str
    structure: Structure | None = None
    registry: RegistryStructure | None = Field(
        default=None, description="Of an export, what its structural proof read."
    )
    read_back: Literal["sampled", "whole"] = Field(
        description="How much was read back from the store: samples suffice where the store itself "
        "confirmed the whole object's checksum."
    )


TimeFrom = Literal["flag", "name", "archive", "file", "import"]


class Origin(Model):
    """Where an imported snapshot came from: the file that was handed over."""

    tool: str = Field(description="What probably made it, by its name; `unknown` where none tells.")
    name: str = Field(description="Its name, without directories.")
    size: int = Field(description="Its bytes, as they were handed over.")
    sha256: str = Field(description="SHA-256 of those bytes.")
    modified: Moment | None = Field(
        default=None, description="When it was last changed; left out for pipes."
    )
    wrappings: tuple[str, ...] = Field(
        default=(), description="What it was compressed or encrypted with, outermost first."
    )
    member: str | None = Field(
        default=None, description="Which file of an archive the snapshot was."
    )
    had_digest: bool = Field(
        description="Whether it carried etcd's own digest, which was compared then; if not, one "
        "was added, so that `etcdutl snapshot restore` takes the file."
    )
    time_from: TimeFrom = Field(
        description="Where `tick` comes from: what the importer said, the file's name, the "
        "archive's or the file's time, or for want of these the time of the import."
    )


class Manifest(Model):
    """A complete backup.

    What nobody can know of an imported one is zero or empty: `memberID` (0 is no member: raft.None
    in etcd), `readRevision`, and `clusterID` and `etcdVersion` where neither file nor importer say.
    """

    format_version: Literal[1] = 1
    type: BackupType = "Snapshot"
    cluster: str = Field(
        description="The cluster's folder: 8 digits of the kube-system uid, or the cluster ID."
    )
    cluster_id: Hex64 = Field(alias="clusterID", description="etcd's; 0 if nobody knows it.")
    member_id: Hex64 = Field(
        alias="memberID", description="The member it was read from; 0 for an imported one."
    )
    kube_system_uid: str | None = Field(default=None, alias="kubeSystemUID")
    backup: BackupRef
    run: RunRef
    folder: str = Field(description="This backup's folder, relative to the store's prefix.")
    tick: Moment = Field(description="The moment this backup was due or asked for, in UTC.")
    started_at: Moment
    finished_at: Moment
    etcd_version: str = Field(
        description="The member's; of an imported one the cluster's, such as 3.6.0, or empty."
    )
    storage_version: str = Field(
        default="", description="As the server said; empty before etcd 3.6."
    )
    steward_version: str
    read_revision: int = Field(
        description="Revision read through the member before the stream began; 0 if imported. That "
        "at which an export was begun."
    )
    revision: int = Field(
        description="Revision read from the file itself; never below readRevision. The one that an "
        "export shows."
    )
    compact_revision: int = Field(
        description="What was before this is not in the file; of an export, which holds no "
        "history, its own revision."
    )
    live_keys: int
    records: int = Field(description="Revisions in the file; of an export, its live keys.")
    raw_size: int = Field(
        description="Bytes of the snapshot with its digest, uncompressed; of an export, of its "
        "file."
    )
    raw_sha256: str = Field(
        description="SHA-256 of the uncompressed snapshot, digest included; of an export, of its "
        "file."
    )
    registry_prefix: str | None = Field(
        default=None, description="Of an export: the API server's --etcd-prefix."
    )
    selection: Selection | None = Field(
        default=None, description="Of an export: which keys it holds; left out if all."
    )
    files: tuple[StoredFile, ...] = Field(min_length=1)
    origin: Origin | None = Field(
        default=None, description="The file that this backup was imported from; none if taken here."
    )
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
        """The file that is the backup: the snapshot, or the export."""
        return self.files[0]


class Suspicion(Model):
    """What `suspect.json` says of a backup, written later: it counts like the manifest's own."""

    format_version: Literal[1] = 1
    at: Moment
    by: str = Field(description="Program and version that wrote it.")
    reason: str = Field(description="Why this backup must not be trusted.")


class Index(Model):
    """What `index.json` says of the `registry.parquet` beside a snapshot; written after it.

    The file is derived from the snapshot and can be made anew at any time.
    """

    format_version: Literal[1] = 1
    made_at: Moment
    by: str = Field(description="Program and version that made it.")
    raw_sha256: str = Field(
        description="SHA-256 of the uncompressed snapshot that it was made from."
    )
    revision: int = Field(description="Revision that it shows: the snapshot's.")
    rows: int = Field(description="Live keys at that revision.")
    registry_prefix: str = Field(
        default="/registry", description="The API server's --etcd-prefix that keys were read by."
    )
    file: StoredFile
