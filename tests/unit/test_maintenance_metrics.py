"""What the metrics of EtcdMaintenances say, and what they no longer say."""

from prometheus_client import CollectorRegistry

from etcd_steward.handlers import maintenance_status as step
from etcd_steward.metrics import Board
from etcd_steward.metrics.maintenance import (
    Defragmented,
    MaintenanceFigures,
    MaintenanceMetrics,
)
from etcd_steward.models.maintenance_kinds import EtcdMaintenanceStatus
from tests.unit.test_maintenance_agenda import CREATED, NOW
from tests.unit.test_maintenance_status import defragmented, report, running

MAIN = "ns/main"


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    said = {"etcd_cluster": MAIN, **labels}
    return registry.get_sample_value(f"etcd_steward_maintenance_{name}", said)


def test_a_status_gives_its_figures() -> None:
    registry = CollectorRegistry()
    metrics = MaintenanceMetrics(Board(registry))
    metrics.show(MAIN, step.figures(CREATED, running()))
    assert value(registry, "in_progress", task="round") == 1
    assert value(registry, "next_timestamp_seconds") is None
    assert value(registry, "runs_total", task="round", result="aborted") == 0
    metrics.count(MAIN, "round", "complete")
    ended = step.round_ended(running(), report("Done", defragmented("etcd0")))
    metrics.show(MAIN, step.figures(CREATED, ended))
    done = NOW.timestamp() + 120
    assert value(registry, "created_timestamp_seconds") == CREATED.timestamp()
    assert value(registry, "in_progress", task="round") == 0
    assert value(registry, "runs_total", task="round", result="complete") == 1
    assert value(registry, "last_success_timestamp_seconds", task="round") == done
    assert value(registry, "last_defragmentation_timestamp_seconds", member="etcd0") == done
    assert value(registry, "defragmentation_duration_seconds", member="etcd0") == 1.5
    assert value(registry, "reclaimed_bytes", member="etcd0") == 59_000_000
    # A later round that has left it alone does not change when that was.
    metrics.show(MAIN, step.figures(CREATED, EtcdMaintenanceStatus()))
    assert value(registry, "reclaimed_bytes", member="etcd0") == 59_000_000


def test_a_member_that_was_replaced_is_forgotten() -> None:
    registry = CollectorRegistry()
    metrics = MaintenanceMetrics(Board(registry))
    done = {name: Defragmented(1.0, 2.0, 3) for name in ("etcd0", "etcd1")}
    metrics.show(MAIN, MaintenanceFigures(created=1.0, members=done))
    there = frozenset({"etcd1", "etcd2"})
    metrics.show(MAIN, MaintenanceFigures(created=1.0, members=done, there=there))
    assert value(registry, "reclaimed_bytes", member="etcd0") is None
    assert value(registry, "reclaimed_bytes", member="etcd1") == 3


def test_one_that_is_gone_says_nothing_more() -> None:
    registry = CollectorRegistry()
    metrics = MaintenanceMetrics(Board(registry))
    metrics.show(MAIN, MaintenanceFigures(created=1.0))
    metrics.keep_only([MAIN])
    assert value(registry, "created_timestamp_seconds") == 1
    metrics.keep_only([])
    assert value(registry, "created_timestamp_seconds") is None
    metrics.count(MAIN, "round", "failed")
    assert value(registry, "runs_total", task="round", result="failed") is None
