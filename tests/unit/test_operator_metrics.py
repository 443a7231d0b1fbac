"""What the operator's metrics say, and what they no longer say."""

from prometheus_client import CollectorRegistry, generate_latest

from etcd_steward.metrics import BackupFigures, BackupMetrics, Board

NIGHTLY = ("ns", "nightly")


def said(registry: CollectorRegistry) -> dict[str, float]:
    lines = generate_latest(registry).decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {
        series.replace('backup_name="nightly",backup_namespace="ns"', "").removeprefix(
            "etcd_steward_backup_"
        ): float(value)
        for series, value in pairs
    }


def test_figures_that_are_gone_are_not_shown() -> None:
    registry = CollectorRegistry()
    metrics = BackupMetrics(Board(registry))
    metrics.show(NIGHTLY, "u", BackupFigures(created=1.0, raw_bytes=7))
    assert said(registry)["raw_bytes{}"] == 7
    metrics.show(NIGHTLY, "u", BackupFigures(created=1.0))
    assert said(registry) == {
        "created_timestamp_seconds{}": 1.0,
        "in_progress{}": 0.0,
        "suspended{}": 0.0,
        'runs_total{,result="complete"}': 0.0,
        'runs_total{,result="failed"}': 0.0,
    }


def test_another_backup_of_the_same_name_begins_anew() -> None:
    registry = CollectorRegistry()
    metrics = BackupMetrics(Board(registry))
    metrics.show(NIGHTLY, "one", BackupFigures(raw_bytes=7))
    metrics.count(*NIGHTLY, "one", "failed")
    assert said(registry)['runs_total{,result="failed"}'] == 1
    metrics.show(NIGHTLY, "two", BackupFigures())
    metrics.count(*NIGHTLY, "one", "failed")  # a run of the old one, at last
    assert said(registry)['runs_total{,result="failed"}'] == 0
    assert "raw_bytes{}" not in said(registry)


def test_only_backups_that_exist_are_counted() -> None:
    registry = CollectorRegistry()
    metrics = BackupMetrics(Board(registry))
    metrics.count(*NIGHTLY, "u", "failed")
    metrics.count(*NIGHTLY, None, "failed")
    assert said(registry) == {}
    metrics.show(NIGHTLY, "u", BackupFigures())
    metrics.keep_only([])
    assert said(registry) == {}
