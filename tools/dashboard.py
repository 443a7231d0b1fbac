"""What the Grafana dashboard shows: rows of panels, each with its PromQL.

`generate_dashboard.py` makes Grafana's JSON of it; the tests put each of its questions to a live
Prometheus.
"""

from dataclasses import dataclass
from typing import Final, Literal

VARIABLE: Final = "etcd_cluster"
"""What is chosen at the top of the dashboard."""
_CHOSEN = f'etcd_cluster="${VARIABLE}"'
_BACKUP = "backup_namespace, backup_name"
_BACKUP_LEGEND = "{{backup_namespace}}/{{backup_name}}"
_MEMBER = "etcd_cluster, member"


@dataclass(frozen=True, slots=True)
class Query:
    """One question of a panel."""

    expr: str
    legend: str
    """Grafana's template, such as `{{member}}`. In a table: the column's heading."""
    unit: str = "none"
    """Of a table's column."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A rectangle of the dashboard."""

    title: str
    description: str
    unit: str
    """Grafana's name for it, such as `bytes`."""
    queries: tuple[Query, ...]
    kind: Literal["timeseries", "table"] = "timeseries"
    width: int = 8
    """Of 24."""
    by: tuple[str, ...] = ()
    """Of a table: the labels that a line is about."""
    most: float | None = None
    """Where the scale ends; None: where the data do."""


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


def _newest(labels: str, metric: str, selector: str = "") -> str:
    """The series of whichever replica leads."""
    braces = f"{{{selector}}}" if selector else ""
    return f"max by ({labels}) (etcd_steward_{metric}{braces})"


def _since(labels: str, metric: str, selector: str = "") -> str:
    """Seconds that have passed since a moment."""
    return f"time() - {_newest(labels, f'{metric}_timestamp_seconds', selector)}"


def _until(labels: str, metric: str) -> str:
    """Seconds until something of the chosen etcd ends."""
    return f"{_newest(labels, f'{metric}_timestamp_seconds', _CHOSEN)} - time()"


def _line(metric: str, legend: str, labels: str = VARIABLE) -> Query:
    """A series of the chosen etcd."""
    return Query(_newest(labels, metric, _CHOSEN), legend)


_QUOTA_USED = f"{_newest(_MEMBER, 'etcd_db_size_bytes')} / {_newest(_MEMBER, 'etcd_quota_bytes')}"
_FRAGMENTED = (
    f"1 - {_newest(_MEMBER, 'etcd_db_in_use_bytes')} / {_newest(_MEMBER, 'etcd_db_size_bytes')}"
)

CLUSTERS = Row(
    "Clusters",
    (
        Panel(
            "etcd clusters now",
            "Each etcd that an EtcdMaintenance names, as at the last look.",
            "none",
            (
                Query(f"sum by ({VARIABLE}) ({_newest(_MEMBER, 'etcd_member_up')})", "Members up"),
                Query(_newest(VARIABLE, "etcd_has_leader"), "Leader", "bool_yes_no"),
                Query(
                    f"sum by ({VARIABLE}) ({_newest(f'{_MEMBER}, alarm', 'etcd_alarm')})", "Alarms"
                ),
                Query(f"max by ({VARIABLE}) ({_QUOTA_USED})", "Quota used", "percentunit"),
                Query(f"max by ({VARIABLE}) ({_FRAGMENTED})", "Fragmented", "percentunit"),
                Query(_newest(VARIABLE, "etcd_leases"), "Leases", "short"),
                Query(_newest(VARIABLE, "etcd_revision"), "Revision"),
            ),
            kind="table",
            width=16,
            by=(VARIABLE,),
        ),
        Panel(
            "Quota used",
            "The fullest member's file in parts of its quota. At 100 % etcd refuses every write.",
            "percentunit",
            (Query(f"max by ({VARIABLE}) ({_QUOTA_USED})", "{{etcd_cluster}}"),),
            most=1.0,
        ),
    ),
)

BACKUPS = Row(
    "Backups",
    (
        Panel(
            "Backups now",
            "Each EtcdBackup, and how old its newest complete and its newest proven backup are.",
            "none",
            (
                Query(
                    _since(_BACKUP, "backup_last_success"),
                    "Age",
                    "s",
                ),
                Query(
                    _since(_BACKUP, "backup_last_verified"),
                    "Proven",
                    "s",
                ),
                Query(_newest(_BACKUP, "backup_interval_seconds"), "Interval", "s"),
                Query(_newest(_BACKUP, "backup_duration_seconds"), "Took", "s"),
                Query(_newest(_BACKUP, "backup_stored_bytes"), "Stored", "bytes"),
                Query(_newest(_BACKUP, "backup_kept"), "Kept"),
                Query(_newest(_BACKUP, "backup_store_available"), "Store", "bool_yes_no"),
            ),
            kind="table",
            width=24,
            by=("backup_namespace", "backup_name"),
        ),
        Panel(
            "Age of the newest backup",
            "Falls at each complete run. A saw whose teeth grow has missed one.",
            "s",
            (
                Query(
                    _since(_BACKUP, "backup_last_success"),
                    _BACKUP_LEGEND,
                ),
            ),
        ),
        Panel(
            "Size of the newest backup",
            "As it lies in the store, compressed.",
            "bytes",
            (Query(_newest(_BACKUP, "backup_stored_bytes"), _BACKUP_LEGEND),),
        ),
        Panel(
            "Runs that ended within the last day",
            "By result; what has failed will be tried again by the schedule's next run.",
            "none",
            (
                Query(
                    "sum by (result) (increase(etcd_steward_backup_runs_total[1d]))",
                    "{{result}}",
                ),
            ),
        ),
    ),
)

SIZE = Row(
    "Size of $etcd_cluster",
    (
        Panel(
            "Database",
            "The file counts against the quota, whatever of it is in use. Compaction makes what is "
            "in use less, defragmentation the file.",
            "bytes",
            (
                _line("etcd_db_size_bytes", "{{member}} file", "member"),
                _line("etcd_db_in_use_bytes", "{{member}} in use", "member"),
                Query(f"min({_newest(_MEMBER, 'etcd_quota_bytes', _CHOSEN)})", "quota"),
            ),
            width=12,
        ),
        Panel(
            "Keys by resource",
            "The largest, and all others together.",
            "short",
            (_line("registry_keys", "{{resource}}", "resource"),),
            width=12,
        ),
        Panel(
            "Bytes by resource",
            "Of the newest backup that has a registry file; its age is in the next panel but one.",
            "bytes",
            (_line("registry_bytes", "{{resource}}", "resource"),),
            width=12,
        ),
        Panel(
            "Keys by namespace",
            "The largest, and all others together.",
            "short",
            (_line("registry_namespace_keys", "{{registry_namespace}}", "registry_namespace"),),
            width=12,
        ),
    ),
)

HEALTH = Row(
    "Health of $etcd_cluster",
    (
        Panel(
            "Members",
            "1: it answers, and leads.",
            "none",
            (
                _line("etcd_member_up", "{{member}} up", "member"),
                _line("etcd_member_is_leader", "{{member}} leads", "member"),
            ),
        ),
        Panel(
            "Lag",
            "Raft entries that a member has yet to apply.",
            "short",
            (_line("etcd_member_lag_entries", "{{member}}", "member"),),
        ),
        Panel(
            "Alarms",
            "1: set. NOSPACE: it is full and refuses writes. CORRUPT: members differ.",
            "none",
            (_line("etcd_alarm", "{{alarm}} {{member}}", "alarm, member"),),
        ),
        Panel(
            "Writes",
            "Revisions per second: each is a transaction that changed something.",
            "cps",
            (
                Query(
                    f"max by ({VARIABLE}) (rate(etcd_steward_etcd_revision{{{_CHOSEN}}}[5m]))",
                    "revisions",
                ),
            ),
        ),
        Panel(
            "History",
            "Revisions that can still be read. It falls at each compaction: with an API server "
            "every five minutes.",
            "short",
            (
                Query(
                    f"{_newest(VARIABLE, 'etcd_revision', _CHOSEN)} - "
                    f"{_newest(VARIABLE, 'etcd_compact_revision', _CHOSEN)}",
                    "revisions",
                ),
            ),
        ),
        Panel(
            "Leases",
            "Many of them make an election slow.",
            "short",
            (_line("etcd_leases", "leases"),),
        ),
    ),
)

MAINTENANCE = Row(
    "Maintenance of $etcd_cluster",
    (
        Panel(
            "Last defragmentation",
            "By member: how long ago, what it gave back, and how long the member was silent.",
            "none",
            (
                Query(
                    _since("member", "maintenance_last_defragmentation", _CHOSEN),
                    "Ago",
                    "s",
                ),
                Query(
                    _newest("member", "maintenance_reclaimed_bytes", _CHOSEN), "Gave back", "bytes"
                ),
                Query(
                    _newest("member", "maintenance_defragmentation_duration_seconds", _CHOSEN),
                    "Silent",
                    "s",
                ),
            ),
            kind="table",
            by=("member",),
        ),
        Panel(
            "Tasks within the last day",
            "Rounds, compactions and rescues, by result.",
            "none",
            (
                Query(
                    f"sum by (task, result) "
                    f"(increase(etcd_steward_maintenance_runs_total{{{_CHOSEN}}}[1d]))",
                    "{{task}} {{result}}",
                ),
            ),
        ),
        Panel(
            "What ends, and what is old",
            "How long certificates are valid, and how old the figures of bytes by resource are.",
            "s",
            (
                Query(
                    _until(VARIABLE, "client_certificate_expiration"),
                    "our certificate ends in",
                ),
                Query(
                    f"min({_until(_MEMBER, 'member_certificate_expiration')})",
                    "a member's certificate ends in",
                ),
                Query(
                    _since(VARIABLE, "registry_bytes", _CHOSEN),
                    "bytes by resource, age",
                ),
            ),
        ),
    ),
)

ROWS: Final = (CLUSTERS, BACKUPS, SIZE, HEALTH, MAINTENANCE)
