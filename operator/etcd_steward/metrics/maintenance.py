"""The figures of all EtcdMaintenances.

They are read from the resources' status, so they are right again after a restart; only the counter
of tasks begins at zero, as counters do.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from etcd_steward.metrics import names
from etcd_steward.metrics.board import Board, Sample

Task = Literal["round", "compaction", "rescue"]
Result = Literal["complete", "nothing_to_do", "refused", "aborted", "failed"]

TASKS: Final[tuple[Task, ...]] = ("round", "compaction", "rescue")
_RESULTS: Final[tuple[Result, ...]] = ("complete", "nothing_to_do", "refused", "aborted", "failed")


@dataclass(frozen=True, slots=True)
class Defragmented:
    """What a member's last defragmentation was."""

    at: float
    """Seconds since 1970."""
    seconds: float
    reclaimed_bytes: int


@dataclass(frozen=True, slots=True)
class MaintenanceFigures:
    """What is known of one EtcdMaintenance."""

    created: float
    """Seconds since 1970."""
    next: float | None = None
    """Seconds since 1970; None without a schedule."""
    task: Task | None = None
    """What is under way."""
    last: Mapping[Task, float] = field(default_factory=dict)
    """When a task last did what it was to do, in seconds since 1970."""
    members: Mapping[str, Defragmented] = field(default_factory=dict)
    """Of those that the last round has defragmented, by name."""
    there: frozenset[str] | None = None
    """The members that the etcd has now, by name; None: not known."""


class MaintenanceMetrics:
    """The figures of all EtcdMaintenances, on a board."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._known: dict[str, dict[str, Defragmented]] = {}

    def count(self, cluster: str, task: Task, result: Result) -> None:
        """Count a task that has ended, of an EtcdMaintenance that is there."""
        if cluster in self._known:
            self._board.count(_owner(cluster), names.MAINTENANCE_RUNS, cluster, task, result)

    def show(self, cluster: str, figures: MaintenanceFigures) -> None:
        """Show the figures of one EtcdMaintenance; what is not known is absent."""
        if cluster not in self._known:
            self._known[cluster] = {}
            for task in TASKS:
                for result in _RESULTS:
                    self._board.count(
                        _owner(cluster), names.MAINTENANCE_RUNS, cluster, task, result, by=0
                    )
        known = {**self._known[cluster], **figures.members}
        if figures.there is not None:  # names of members that come and go would pile up
            known = {name: done for name, done in known.items() if name in figures.there}
        self._known[cluster] = known
        self._board.show(_owner(cluster), _samples(cluster, figures, known))

    def keep_only(self, clusters: Iterable[str]) -> None:
        """Forget all series of EtcdMaintenances that are gone."""
        for gone in self._known.keys() - set(clusters):
            self._board.forget(_owner(gone))
            del self._known[gone]


def _owner(cluster: str) -> tuple[str, str]:
    return ("maintenance", cluster)


def _samples(
    cluster: str, figures: MaintenanceFigures, members: Mapping[str, Defragmented]
) -> list[Sample]:
    found = [Sample(names.MAINTENANCE_CREATED, (cluster,), figures.created)]
    if figures.next is not None:
        found.append(Sample(names.MAINTENANCE_NEXT, (cluster,), figures.next))
    for task in TASKS:
        at_work = float(figures.task == task)
        found.append(Sample(names.MAINTENANCE_IN_PROGRESS, (cluster, task), at_work))
        if task in figures.last:
            found.append(Sample(names.MAINTENANCE_LAST, (cluster, task), figures.last[task]))
    for name, done in members.items():
        found += [
            Sample(names.DEFRAGMENTED, (cluster, name), done.at),
            Sample(names.DEFRAGMENTATION_SECONDS, (cluster, name), done.seconds),
            Sample(names.RECLAIMED, (cluster, name), float(done.reclaimed_bytes)),
        ]
    return found
