"""What a run is asked to do, and what it says while doing it.

A run is a child process: its request comes on standard input as one line of JSON, its events leave
on standard output, one a line. `Journal` events wait for a line back before the run goes on.
"""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from etcd_steward.errors import StewardError, TransientError
from etcd_steward.models.base import Model
from etcd_steward.models.connection import EtcdConnection, StoreSettings
from etcd_steward.models.manifest import BackupRef, Manifest, RunRef


class SpoolSettings(Model):
    """Where snapshots lie between etcd and the store."""

    directory: Path
    limit: int | None = None
    """Bytes that all runs together may hold; None: what the disk has, less 5 %."""


class SnapshotRequest(Model):
    """Take one snapshot."""

    job: Literal["snapshot"] = "snapshot"
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
    emergency: bool = False
    """Take what the last member standing has, and mark it suspect."""
    timeout: float = 3600.0
    """Seconds for the whole run."""
    earlier: tuple["Journal", ...] = ()
    """What earlier attempts of this run had begun: settled first, and adopted if complete."""


class SettleRequest(Model):
    """Find out what a dead run left: adopt it if it is complete, else clean up after it."""

    job: Literal["settle"] = "settle"
    store: StoreSettings
    spool: SpoolSettings
    run: str
    """The run's first 8 digits, whatever the attempt."""
    earlier: tuple["Journal", ...] = ()
    timeout: float = 300.0


class Progress(Model):
    """How far a run is; sent on change, at most twice a second, at least every 15 s."""

    event: Literal["progress"] = "progress"
    step: str
    """Connecting | Streaming | Uploading | ReadingBack | Recording."""
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


class Settled(Model):
    """Nothing was complete, and nothing of it is left in the store.

    The outcome of a settlement, and the last word of a snapshot that was stopped in good order.
    """

    event: Literal["settled"] = "settled"
    aborted: int
    """Attempts that were cleaned up after."""


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


Event = Annotated[
    Progress | Journal | Warned | Result | Settled | Failure, Field(discriminator="event")
]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
REQUEST: TypeAdapter[SnapshotRequest | SettleRequest] = TypeAdapter(
    Annotated[SnapshotRequest | SettleRequest, Field(discriminator="job")]
)
