"""A backup in the store, as a look through it has found it."""

from dataclasses import dataclass
from datetime import datetime

from etcd_steward.models.kinds import Artifact, RunVerification
from etcd_steward.models.manifest import BackupType


@dataclass(frozen=True, slots=True)
class Entry:
    """A backup in the store, as far as its record needs it."""

    folder: str
    type: BackupType
    tick: datetime
    run_name: str | None
    """Of the EtcdSnapshot that made it, if it was made in this namespace."""
    run_uid: str | None
    backup_uid: str | None
    started: datetime
    finished: datetime
    artifact: Artifact
    verification: RunVerification | None
    suspect: str | None
    warnings: tuple[str, ...]
    kept: tuple[str, ...]
    """Why retention keeps it."""
    indexed: bool | None = None
    """Whether a snapshot has its sidecar; None for an export."""
