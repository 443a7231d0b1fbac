"""The status of an EtcdBackup, derived from its runs alone: pure, and the same after a restart."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from etcd_steward.handlers import words
from etcd_steward.handlers.status import Holds, find_condition, is_terminal, set_condition
from etcd_steward.kube import Key, Version
from etcd_steward.metrics import BackupFigures
from etcd_steward.models.kinds import Condition, EtcdBackupStatus, EtcdSnapshotStatus


@dataclass(frozen=True, slots=True)
class Order:
    """An EtcdBackup as the watch showed it last."""

    key: Key
    version: Version
    generation: int
    created: datetime
    deleting: bool
    status: EtcdBackupStatus


@dataclass(frozen=True, slots=True)
class Run:
    """An EtcdSnapshot as the watch showed it last."""

    key: Key
    version: Version
    backup_name: str
    created: datetime
    status: EtcdSnapshotStatus

    @property
    def terminal(self) -> bool:
        """Whether it has ended."""
        return is_terminal(self.status)

    @property
    def ended(self) -> str:
        """When it ended; timestamps of one format compare as text."""
        return self.status.completion_time or ""

    @property
    def complete(self) -> bool:
        """Whether it left a backup."""
        return self.status.phase == "Complete" and self.status.artifact is not None


def of_order(order: Order, runs: Sequence[Run]) -> list[Run]:
    """The runs of this very EtcdBackup, not of one that had its name before.

    A run that failed before it was claimed knows no uid; its age tells.
    """
    return [
        run
        for run in runs
        if run.status.backup_uid == order.version.uid
        or (run.status.backup_uid is None and (not run.terminal or run.created >= order.created))
    ]


def backup_status(order: Order, runs: Sequence[Run], now: datetime) -> EtcdBackupStatus:
    """What an EtcdBackup's status says after these runs."""
    runs = of_order(order, runs)
    old = order.status
    active = min((run for run in runs if not run.terminal), key=lambda run: run.key, default=None)
    last = max(
        (run for run in runs if run.terminal), key=lambda run: (run.ended, run.key), default=None
    )
    best = max(
        (run for run in runs if run.complete), key=lambda run: (run.ended, run.key), default=None
    )
    changes: dict[str, object] = {
        "observed_generation": order.generation,
        "active_snapshot_name": active.key.name if active else None,
        "conditions": _conditions(order, active, last, now),
    }
    names = {run.key.name for run in runs}
    if last is not None:
        changes["last_snapshot_name"] = last.key.name
    elif old.active_snapshot_name and old.active_snapshot_name not in names:
        changes["last_snapshot_name"] = old.active_snapshot_name  # deleted in mid-run: it did run
    if best is not None and best.status.artifact is not None:
        changes |= {
            "last_successful_time": best.status.completion_time,
            "last_url": best.status.artifact.url,
            "last_size": best.status.artifact.size,
        }
    verified = [run.status.verification.time for run in runs if run.status.verification]
    if verified:
        changes["last_verified_time"] = max(verified)
    return old.model_copy(update=changes)


def _conditions(
    order: Order, active: Run | None, last: Run | None, now: datetime
) -> tuple[Condition, ...]:
    conditions = order.status.conditions
    for type_, (holds, reason, message) in {
        "Ready": _ready(active, last),
        "EtcdReachable": _side("etcd", order, active, last),
        "StoreAvailable": _side("store", order, active, last),
    }.items():
        conditions = set_condition(
            conditions, type_, holds, reason, message, now=now, generation=order.generation
        )
    return conditions


def _ready(active: Run | None, last: Run | None) -> tuple[Holds, str, str]:
    if last is None:
        if active is None:
            return "Unknown", "NoRun", "No run yet"
        return "Unknown", "FirstRun", f"The first run, {active.key.name}, is under way"
    outcome = find_condition(last.status.conditions, "Complete")
    message = f"{last.key.name}: {outcome.message if outcome else ''}"
    if last.complete:
        return "True", "LastRunComplete", message
    return "False", outcome.reason if outcome else "Failed", message


_TYPES = {"etcd": "EtcdReachable", "store": "StoreAvailable"}


def _side(side: str, order: Order, active: Run | None, last: Run | None) -> tuple[Holds, str, str]:
    """What the newest outcome says about one of the two ends of a backup."""
    for run in (active, last):
        if run is not None and run.status.failed_side == side:
            outcome = find_condition(run.status.conditions, "Complete")
            if outcome is not None:
                return "False", outcome.reason, f"{run.key.name}: {outcome.message}"
    if last is not None and last.complete:
        return "True", "LastRunComplete", f"{last.key.name} reached it"
    before = find_condition(order.status.conditions, _TYPES[side])
    if before is not None:
        return before.status, before.reason, before.message
    return "Unknown", "NoRun", "No run has told yet"


def figures(order: Order, runs: Sequence[Run]) -> BackupFigures:
    """What the metrics of an EtcdBackup say."""
    runs = of_order(order, runs)
    best = max(
        (run for run in runs if run.complete), key=lambda run: (run.ended, run.key), default=None
    )
    status = order.status
    duration = raw = stored = None
    if best is not None and best.status.artifact is not None:
        raw, stored = best.status.artifact.raw_bytes, best.status.artifact.stored_bytes
        if best.status.start_time and best.status.completion_time:
            duration = _seconds(best.status.completion_time) - _seconds(best.status.start_time)
    return BackupFigures(
        created=order.created.timestamp(),
        last_success=_seconds(status.last_successful_time) if status.last_successful_time else None,
        last_verified=_seconds(status.last_verified_time) if status.last_verified_time else None,
        duration=duration,
        raw_bytes=raw,
        stored_bytes=stored,
        in_progress=sum(run.status.phase == "Running" for run in runs),
    )


def _seconds(time: str) -> float:
    return words.moment(time).timestamp()
