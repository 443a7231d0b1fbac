"""Prometheus metrics of the operator.

Gauges of the last backup are set from the resources' status, so they are right again after a
restart; only the counter of runs begins at zero, as counters do.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge

LABELS = ("backup_namespace", "backup_name")
PREFIX = "etcd_steward_backup"


@dataclass(frozen=True, slots=True)
class BackupFigures:
    """What is known of one EtcdBackup. None: there was no such run yet."""

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
        def gauge(name: str, documentation: str) -> Gauge:
            return Gauge(f"{PREFIX}_{name}", documentation, LABELS, registry=registry)

        self._gauges = {
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
        self._known: set[tuple[str, str]] = set()

    def count(self, namespace: str, name: str, result: str) -> None:
        """Count a run that has ended: `complete` or `failed`."""
        self._runs.labels(namespace, name, result).inc()

    def show(self, namespace: str, name: str, figures: BackupFigures) -> None:
        """Set the gauges of one EtcdBackup; those without a figure stay absent."""
        if (namespace, name) not in self._known:
            self._known.add((namespace, name))
            for result in ("complete", "failed"):  # from zero, so that increase() sees the first
                self._runs.labels(namespace, name, result)
        for field, gauge in self._gauges.items():
            value = getattr(figures, field)
            if value is not None:
                gauge.labels(namespace, name).set(value)

    def keep_only(self, backups: Iterable[tuple[str, str]]) -> None:
        """Forget all series of EtcdBackups that are gone."""
        for gone in self._known - set(backups):
            labels = dict(zip(LABELS, gone, strict=True))
            for metric in (*self._gauges.values(), self._runs):
                metric.remove_by_labels(labels)
            self._known.discard(gone)
