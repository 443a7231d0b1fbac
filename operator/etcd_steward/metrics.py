"""Prometheus metrics of the operator.

Gauges of the last backup are set from the resources' status, so they are right again after a
restart; only the counter of runs begins at zero, as counters do.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics

LABELS = ("backup_namespace", "backup_name")
PREFIX = "etcd_steward_backup"


@dataclass(frozen=True, slots=True)
class BackupFigures:
    """What is known of one EtcdBackup. None: there was no such run yet."""

    created: float | None = None
    """Seconds since 1970."""
    last_success: float | None = None
    """Seconds since 1970."""
    last_verified: float | None = None
    """Seconds since 1970."""
    duration: float | None = None
    """Seconds that the newest complete run took."""
    raw_bytes: int | None = None
    stored_bytes: int | None = None
    in_progress: int = 0


class BackupMetrics:
    """The figures of all EtcdBackups, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        # When a counter began says nothing about a backup.
        disable_created_metrics()  # type: ignore[no-untyped-call]

        def gauge(name: str, documentation: str) -> Gauge:
            return Gauge(f"{PREFIX}_{name}", documentation, LABELS, registry=registry)

        self._gauges = {
            "created": gauge("created_timestamp_seconds", "When the EtcdBackup was created."),
            "last_success": gauge(
                "last_success_timestamp_seconds", "When a run last became Complete."
            ),
            "last_verified": gauge(
                "last_verified_timestamp_seconds", "When a run last became Verified."
            ),
            "duration": gauge("duration_seconds", "How long the newest complete run took."),
            "raw_bytes": gauge("raw_bytes", "Size of the newest complete backup, uncompressed."),
            "stored_bytes": gauge("stored_bytes", "Size of the newest complete backup, stored."),
            "in_progress": gauge("in_progress", "Runs under way."),
        }
        self._runs = Counter(
            f"{PREFIX}_runs",
            "Runs that ended, by result: complete or failed.",
            (*LABELS, "result"),
            registry=registry,
        )
        self._known: dict[tuple[str, str], str] = {}

    def count(self, namespace: str, name: str, uid: str | None, result: str) -> None:
        """Count a run that has ended, `complete` or `failed`, of an EtcdBackup that is there."""
        if uid is not None and self._known.get((namespace, name)) == uid:
            self._runs.labels(namespace, name, result).inc()

    def show(self, backup: tuple[str, str], uid: str, figures: BackupFigures) -> None:
        """Set the gauges of one EtcdBackup; those without a figure are absent."""
        if self._known.get(backup) != uid:  # new, or another one of that name
            self._forget(backup)
            self._known[backup] = uid
            for result in ("complete", "failed"):  # from zero, so that increase() sees the first
                self._runs.labels(*backup, result)
        for field, gauge in self._gauges.items():
            value = getattr(figures, field)
            if value is None:
                gauge.remove_by_labels(dict(zip(LABELS, backup, strict=True)))
            else:
                gauge.labels(*backup).set(value)

    def keep_only(self, backups: Iterable[tuple[str, str]]) -> None:
        """Forget all series of EtcdBackups that are gone."""
        for gone in self._known.keys() - set(backups):
            self._forget(gone)

    def _forget(self, backup: tuple[str, str]) -> None:
        labels = dict(zip(LABELS, backup, strict=True))
        for metric in (*self._gauges.values(), self._runs):
            metric.remove_by_labels(labels)
        self._known.pop(backup, None)
