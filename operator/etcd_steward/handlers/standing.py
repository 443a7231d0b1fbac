"""The status of an EtcdBackup, from its runs and what lies in its store: pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from etcd_steward.engine.schedule import Schedule, longest_pause
from etcd_steward.errors import InvalidSchedule, StewardError
from etcd_steward.handlers import words
from etcd_steward.handlers.status import (
    Holds,
    find_condition,
    is_terminal,
    set_condition,
    verified,
)
from etcd_steward.kube import Key, Version
from etcd_steward.metrics import BackupFigures
from etcd_steward.models.kinds import (
    Condition,
    EtcdBackupSpec,
    EtcdBackupStatus,
    EtcdSnapshotStatus,
)
from etcd_steward.models.run import NOT_OURS


@dataclass(frozen=True, slots=True)
class Order:
    """An EtcdBackup as the watch showed it last."""

    key: Key
    version: Version
    generation: int
    created: datetime
    deleting: bool
    status: EtcdBackupStatus
    spec: EtcdBackupSpec | None = None
    """None: this version can't read it, for the reason in `fault`."""
    fault: str = ""
    requested_at: str | None = None
    adopted: tuple[str, ...] = ()
    """IDs of clusters whose backups are to count as ours."""


@dataclass(frozen=True, slots=True)
class Run:
    """An EtcdSnapshot as the watch showed it last."""

    key: Key
    version: Version
    backup_name: str
    created: datetime
    status: EtcdSnapshotStatus
    found_in: str | None = None
    """The folder that it is the record of, where it is no run."""

    @property
    def backup(self) -> Key:
        """The EtcdBackup that it names."""
        return Key(self.key.namespace, self.backup_name)

    @property
    def terminal(self) -> bool:
        """Whether it has ended, or never was a run."""
        return self.found_in is not None or is_terminal(self.status)

    @property
    def ended(self) -> str:
        """When it ended; timestamps of one format compare as text."""
        return self.status.completion_time or ""

    @property
    def complete(self) -> bool:
        """Whether it left a backup."""
        return self.status.phase == "Complete" and self.status.artifact is not None

    @property
    def counts(self) -> bool:
        """Whether it left a verified backup that retention looks after."""
        return self.complete and verified(self.status) and NOT_OURS not in self.status.kept


def of_order(order: Order, runs: Sequence[Run]) -> list[Run]:
    """The runs of this very EtcdBackup, not of one that had its name before.

    A run that failed before it was claimed knows no uid; its age tells.
    """
    return [
        run
        for run in runs
        if run.found_in is None
        and (
            run.status.backup_uid == order.version.uid
            or (
                run.status.backup_uid is None and (not run.terminal or run.created >= order.created)
            )
        )
    ]


def backups_of(order: Order, runs: Sequence[Run]) -> list[Run]:
    """Complete runs of this EtcdBackup, and whatever else was found under its name in its store."""
    own = {run.key for run in of_order(order, runs)}
    return [run for run in runs if run.complete and (run.key in own or run.status.kept)]


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look through the store has found."""

    at: datetime
    cluster: str | None = None
    cluster_id: str | None = None
    frozen: str | None = None
    """Why retention may delete nothing."""
    failure: str | None = None
    """Why the store could not be looked through."""


def _newest(runs: Sequence[Run]) -> Run | None:
    return max(runs, key=lambda run: (run.ended, run.key), default=None)


def backup_status(
    order: Order,
    runs: Sequence[Run],
    now: datetime,
    *,
    problem: StewardError | None = None,
    looked: Looked | None = None,
) -> EtcdBackupStatus:
    """What an EtcdBackup's status says after these runs, and after a look through its store.

    `runs` are all that name it. What its predecessors of that name left in the store counts for the
    times and sizes of backups, but is no run of this one.
    """
    complete = backups_of(order, runs)
    own, old = of_order(order, runs), order.status
    under_way = [run for run in own if not run.terminal]
    active = min(under_way, key=lambda run: run.key, default=None)
    last, best = _newest([run for run in own if run.terminal]), _newest(complete)
    changes: dict[str, object] = {
        "observed_generation": order.generation,
        "active": len(under_way),
        "active_snapshot_name": active.key.name if active else None,
        "kept": sum(run.counts for run in complete),
        "conditions": _conditions(order, active, last, now, problem=problem, looked=looked),
    }
    if last is not None:
        changes["last_snapshot_name"] = last.key.name
    elif old.active_snapshot_name and old.active_snapshot_name not in {run.key.name for run in own}:
        changes["last_snapshot_name"] = old.active_snapshot_name  # deleted in mid-run: it did run
    if best is not None and best.status.artifact is not None:
        changes |= {
            "last_successful_time": best.status.completion_time,
            "last_url": best.status.artifact.url,
            "last_size": best.status.artifact.size,
        }
    proven = [run.status.verification.time for run in complete if run.status.verification]
    if proven:
        changes["last_verified_time"] = max(proven)
    if looked is not None and looked.failure is None:
        changes |= {
            "cluster": looked.cluster,
            "cluster_id": looked.cluster_id,
            "looked_time": words.timestamp(looked.at),
        }
    return old.model_copy(update=changes)


Said = tuple[Holds, str, str]
"""Status, reason and message of a condition."""


def _conditions(
    order: Order,
    active: Run | None,
    last: Run | None,
    now: datetime,
    *,
    problem: StewardError | None,
    looked: Looked | None,
) -> tuple[Condition, ...]:
    conditions = order.status.conditions
    said = {
        "Ready": _ready(order, active, last, problem),
        "EtcdReachable": _side("etcd", order, active, last),
        "StoreAvailable": _side("store", order, active, last),
    }
    if looked is not None:
        said |= _after_look(looked, last)
    for type_, (holds, reason, message) in said.items():
        conditions = set_condition(
            conditions, type_, holds, reason, message, now=now, generation=order.generation
        )
    return conditions


def _after_look(looked: Looked, last: Run | None) -> dict[str, Said]:
    if looked.failure is not None:
        if last is not None and last.ended > words.timestamp(looked.at):
            return {}  # a run has told since
        return {"StoreAvailable": ("False", "LookFailed", looked.failure)}
    if looked.frozen is not None:
        return {"RetentionFrozen": ("True", "Frozen", looked.frozen)}
    return {"RetentionFrozen": ("False", "Applies", "")}


def _ready(
    order: Order, active: Run | None, last: Run | None, problem: StewardError | None
) -> Said:
    if order.spec is None:
        return "False", "InvalidSpec", order.fault
    if problem is not None:
        return "False", problem.reason, str(problem)
    if last is None:
        return "Unknown", *_before_the_first(order, active)
    outcome = find_condition(last.status.conditions, "Complete")
    message = f"{last.key.name}: {outcome.message if outcome else ''}"
    if last.complete:
        return "True", "LastRunComplete", message
    return "False", outcome.reason if outcome else "Failed", message


def _before_the_first(order: Order, active: Run | None) -> tuple[str, str]:
    if active is not None:
        return "FirstRun", f"The first run, {active.key.name}, is under way"
    if order.status.next_schedule_time is not None:
        return "NoRun", f"No run yet; the first one is due at {order.status.next_schedule_time}"
    return "NoRun", "No run yet"


_TYPES = {"etcd": "EtcdReachable", "store": "StoreAvailable"}


def _side(side: str, order: Order, active: Run | None, last: Run | None) -> Said:
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
    best = _newest(backups_of(order, runs))
    failed = [r for r in of_order(order, runs) if r.status.phase == "Failed" and r.ended]
    status = order.status
    duration = raw = stored = None
    if best is not None and best.status.artifact is not None:
        raw, stored = best.status.artifact.raw_bytes, best.status.artifact.stored_bytes
        if best.status.start_time and best.status.completion_time:
            duration = _seconds(best.status.completion_time) - _seconds(best.status.start_time)
    return BackupFigures(
        created=order.created.timestamp(),
        last_success=_seconds(status.last_successful_time) if status.last_successful_time else None,
        last_failure=max((_seconds(run.ended) for run in failed), default=None),
        last_verified=_seconds(status.last_verified_time) if status.last_verified_time else None,
        duration=duration,
        raw_bytes=raw,
        stored_bytes=stored,
        kept=status.kept,
        in_progress=sum(run.status.phase == "Running" for run in runs),
        interval=_interval(order),
        store_available=_holds(order, "StoreAvailable"),
        suspended=order.spec is not None and order.spec.suspend,
    )


def _interval(order: Order) -> float | None:
    """Seconds between two runs at most; None where none is asked for, or can't be followed."""
    if order.spec is None or order.spec.schedule is None:
        return None
    try:
        schedule = Schedule.parse(order.spec.schedule, order.spec.time_zone)
    except InvalidSchedule:
        return None  # Ready says so
    return longest_pause(schedule).total_seconds()


def _holds(order: Order, type_: str) -> bool | None:
    condition = find_condition(order.status.conditions, type_)
    if condition is None or condition.status == "Unknown":
        return None
    return condition.status == "True"


def _seconds(time: str) -> float:
    return words.moment(time).timestamp()
