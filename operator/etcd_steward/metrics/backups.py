"""The figures of all EtcdBackups.

They are read from the resources' status, so they are right again after a restart; only the counter
of runs begins at zero, as counters do.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Final

from etcd_steward.metrics import names
from etcd_steward.metrics.board import Board, Sample

_FAMILIES: Final = {
    "created": names.BACKUP_CREATED,
    "last_success": names.BACKUP_LAST_SUCCESS,
    "last_failure": names.BACKUP_LAST_FAILURE,
    "last_verified": names.BACKUP_LAST_VERIFIED,
    "interval": names.BACKUP_INTERVAL,
    "duration": names.BACKUP_DURATION,
    "raw_bytes": names.BACKUP_RAW_BYTES,
    "stored_bytes": names.BACKUP_STORED_BYTES,
    "kept": names.BACKUP_KEPT,
    "in_progress": names.BACKUP_IN_PROGRESS,
    "store_available": names.BACKUP_STORE_AVAILABLE,
    "suspended": names.BACKUP_SUSPENDED,
}


@dataclass(frozen=True, slots=True)
class BackupFigures:
    """What is known of one EtcdBackup. None: there was no such run yet, or nobody has looked."""

    created: float | None = None
    """Seconds since 1970."""
    last_success: float | None = None
    """Seconds since 1970."""
    last_failure: float | None = None
    """Seconds since 1970."""
    last_verified: float | None = None
    """Seconds since 1970."""
    interval: float | None = None
    """Seconds between two ticks at most; None without a schedule."""
    duration: float | None = None
    """Seconds that the newest complete run took."""
    raw_bytes: int | None = None
    stored_bytes: int | None = None
    kept: int | None = None
    in_progress: int = 0
    store_available: bool | None = None
    suspended: bool = False


class BackupMetrics:
    """The figures of all EtcdBackups, on a board."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self._known: dict[tuple[str, str], str] = {}

    def count(self, namespace: str, name: str, uid: str | None, result: str) -> None:
        """Count a run that has ended, `complete` or `failed`, of an EtcdBackup that is there."""
        backup = (namespace, name)
        if uid is not None and self._known.get(backup) == uid:
            self.board.count(_owner(backup), names.BACKUP_RUNS, *backup, result)

    def show(self, backup: tuple[str, str], uid: str, figures: BackupFigures) -> None:
        """Show the figures of one EtcdBackup; what is not known is absent."""
        owner = _owner(backup)
        if self._known.get(backup) != uid:  # new, or another one of that name
            self._forget(backup)
            self._known[backup] = uid
            for result in ("complete", "failed"):
                self.board.count(owner, names.BACKUP_RUNS, *backup, result, by=0)
        said = ((field.name, getattr(figures, field.name)) for field in fields(figures))
        self.board.show(
            owner,
            [Sample(_FAMILIES[name], backup, float(value)) for name, value in said
             if value is not None],
        )  # fmt: skip

    def keep_only(self, backups: Iterable[tuple[str, str]]) -> None:
        """Forget all series of EtcdBackups that are gone."""
        for gone in self._known.keys() - set(backups):
            self._forget(gone)

    def _forget(self, backup: tuple[str, str]) -> None:
        self.board.forget(_owner(backup))
        self._known.pop(backup, None)


def _owner(backup: tuple[str, str]) -> tuple[str, str, str]:
    return ("backup", *backup)
