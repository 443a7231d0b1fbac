"""What a run is asked to do, and what it says while doing it.

A run is a child process: its request comes on standard input as one line of JSON, its events leave
on standard output, one a line. `Journal` events wait for a line back before the run goes on.
"""

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from etcd_steward.errors import StewardError, TransientError
from etcd_steward.models.base import Hex64, Model
from etcd_steward.models.connection import EtcdConnection, StoreSettings
from etcd_steward.models.kinds import Retention
from etcd_steward.models.manifest import BackupRef, Index, Manifest, RunRef
from etcd_steward.models.registry import Selection


class SpoolSettings(Model):
    """Where snapshots lie between etcd and the store."""

    directory: Path
    limit: int | None = None
    """Bytes that all runs together may hold; None: what the disk has, less 5 %."""


class BackupRequest(Model):
    """Make one backup: what both types have in common."""

    etcd: EtcdConnection
    store: StoreSettings
    spool: SpoolSettings
    backup: BackupRef
    requester: RunRef
    run: str
    """8 hex digits, with `.2` for a second attempt."""
    tick: datetime
    registry_prefix: str = "/registry"
    """The API server's `--etcd-prefix`."""
    timeout: float = 3600.0
    """Seconds for the whole run."""
    earlier: tuple["Journal", ...] = ()
    """What earlier attempts of this run had begun: settled first, and adopted if complete."""


class SnapshotRequest(BackupRequest):
    """Take one snapshot."""

    job: Literal["snapshot"] = "snapshot"
    emergency: bool = False
    """Take what the last member standing has, and mark it suspect."""
    index: bool = True
    """Make the registry file beside it as well."""


class ExportRequest(BackupRequest):
    """Export a registry."""

    job: Literal["export"] = "export"
    selection: Selection = Selection()
    revision: int = 0
    """As of which revision of etcd; 0: now."""


class SettleRequest(Model):
    """Find out what a dead run left: adopt it if it is complete, else clean up after it."""

    job: Literal["settle"] = "settle"
    store: StoreSettings
    spool: SpoolSettings
    run: str
    """The run's first 8 digits, whatever the attempt."""
    earlier: tuple["Journal", ...] = ()
    timeout: float = 300.0


class CatalogueRequest(Model):
    """Say what the store holds of one backup, and delete what its retention does not keep."""

    job: Literal["catalogue"] = "catalogue"
    store: StoreSettings
    etcd: EtcdConnection | None = None
    """The etcd that is backed up; None: which cluster it is stays as last known."""
    backup: BackupRef
    cluster: str | None = None
    """The cluster's folder in the store, as last known."""
    cluster_id: Hex64 | None = Field(default=None, alias="clusterID")
    """etcd's cluster ID, as last known."""
    adopt: tuple[str, ...] = ()
    """IDs of clusters whose backups count as ours too."""
    retention: Retention | None = None
    prune: bool = False
    """Delete; else only say what is kept and why."""
    registry_prefix: str = "/registry"
    """The API server's `--etcd-prefix`."""
    cache: Path | None = None
    """A directory to remember manifests in."""
    spool: SpoolSettings | None = None
    """Where the newest backup's sidecar may be made if it has none; None: don't."""
    timeout: float = 600.0


class DeleteRequest(Model):
    """Delete one backup from the store, if it is the one that is meant."""

    job: Literal["delete"] = "delete"
    store: StoreSettings
    folder: str
    backup: BackupRef
    cluster_ids: tuple[str, ...] = Field(alias="clusterIDs")
    """Only where the manifest names one of these."""
    timeout: float = 300.0


class Progress(Model):
    """How far a run is; sent on change, at most twice a second, at least every 15 s."""

    event: Literal["progress"] = "progress"
    step: str
    """Connecting | WaitingForRoom | WaitingForMaintenance | Streaming | Exporting | Uploading |
    ReadingBack | Recording | Indexing; of maintenance: those of `MemberTurn`."""
    raw_bytes: int = 0
    """Read from etcd so far."""
    total_bytes: int = 0
    """What etcd said it would send; 0 while unknown."""
    stored_bytes: int = 0
    """In the store so far."""


class Journal(Model):
    """What to clean up if this run dies: known to somebody else before the first byte is sent."""

    event: Literal["journal"] = "journal"
    folder: str
    key: str
    upload_id: str = Field(alias="uploadID")


class Warned(Model):
    """Something a person should know though the run goes on."""

    event: Literal["warning"] = "warning"
    message: str


class Result(Model):
    """The run is done: the manifest is written and was read back."""

    event: Literal["result"] = "result"
    url: str
    manifest: Manifest
    index: Index | None = None
    """What vouches for the sidecar, if this run has made it."""
    index_failure: "Failure | None" = None
    """Why it could not; the backup is complete all the same."""


class Settled(Model):
    """Nothing was complete, and nothing of it is left in the store.

    The outcome of a settlement, and the last word of a snapshot that was stopped in good order.
    """

    event: Literal["settled"] = "settled"
    aborted: int
    """Attempts that were cleaned up after."""


NOT_OURS = "not ours"
"""Why a backup of another cluster is kept."""


class CatalogueEntry(Model):
    """One backup that the store holds."""

    event: Literal["entry"] = "entry"
    manifest: Manifest
    url: str
    level: str | None
    """Of the strongest proof."""
    verified_at: datetime | None
    """When it was last proven as hard; None: it does not count as verified."""
    ours: bool
    """Of our cluster, or of one that was adopted. Others are never pruned."""
    kept: tuple[str, ...]
    """Why retention keeps it; empty where it does not, but could not, or was not told to, delete
    it."""
    indexed: bool | None = None
    """Whether a snapshot has its sidecar; None for an export."""
    resource_bytes: dict[str, int] | None = None
    """Of the newest backup that has a registry file of everything: what its resources take."""


class Catalogued(Model):
    """Every backup was told of, and what retention does not keep is gone."""

    event: Literal["catalogued"] = "catalogued"
    cluster: str | None
    """The cluster's folder in the store, now or as last known."""
    cluster_id: str | None = Field(alias="clusterID")
    kept: int
    """How many verified ones of ours remain."""
    pruned: tuple[str, ...]
    """Folders that were deleted."""
    frozen: str | None
    """Why nothing may be deleted now."""
    unreadable: tuple[str, ...]
    """Manifests that are there and can't be used, and why; cut short where there are many."""


class Failure(Model):
    """The run has failed and left nothing behind that is called complete."""

    event: Literal["failure"] = "failure"
    reason: str
    message: str
    hint: str = ""
    transient: bool = False
    exit_code: int = 1
    side: Literal["etcd", "store"] | None = None
    """Which of the two it came from, where that is known."""

    @classmethod
    def of(cls, error: StewardError) -> "Failure":
        """The failure that `error` is, fit for a pipe."""
        return cls(
            reason=error.reason,
            message=error.message,
            hint=error.hint,
            transient=isinstance(error, TransientError),
            exit_code=error.exit_code,
            side=None if error.side == "host" else error.side,
        )

    @property
    def text(self) -> str:
        """Message and hint, for a condition."""
        return f"{self.message}. {self.hint}" if self.hint else self.message
