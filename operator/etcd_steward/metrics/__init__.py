"""Prometheus metrics of the operator: their names, and the board that shows them."""

from etcd_steward.metrics import names
from etcd_steward.metrics.backups import BackupFigures, BackupMetrics
from etcd_steward.metrics.board import Board, Sample

__all__ = ["BackupFigures", "BackupMetrics", "Board", "Sample", "names"]
