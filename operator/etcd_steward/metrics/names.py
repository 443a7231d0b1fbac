"""Every metric that the operator has: its name, labels and what it says, in one place.

Units and suffixes are those of https://prometheus.io/docs/practices/naming/. What PromQL can derive
(ages, rates, fragmentation, the part of the quota in use) is no metric of its own. Labels are
bounded for good: clusters, members and backups are as many as somebody has declared, resources and
namespaces are the largest ones and `other`. docs/metrics.md is made from these.
"""

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """One metric. There is one object of each, so that it is its own key."""

    name: str
    """Of a counter without its `_total`."""
    help: str
    labels: tuple[str, ...] = ()
    kind: Literal["gauge", "counter"] = "gauge"

    @property
    def exposed(self) -> str:
        """The name that PromQL knows."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


BACKUP: Final = ("backup_namespace", "backup_name")
"""Not `namespace`: Prometheus sets that one itself, to where the operator runs."""
CLUSTER: Final = ("etcd_cluster",)
MEMBER: Final = ("etcd_cluster", "member")
OTHER: Final = "other"
"""Value of `resource` and `registry_namespace` for all that are not among the largest."""


def _family(section: list[Family], name: str, help: str, *labels: str) -> Family:  # noqa: A002
    section.append(Family(f"etcd_steward_{name}", help, labels))
    return section[-1]


def _counter(section: list[Family], name: str, help: str, *labels: str) -> Family:  # noqa: A002
    section.append(Family(f"etcd_steward_{name}", help, labels, "counter"))
    return section[-1]


_operator: list[Family] = []
LEADER: Final = _family(_operator, "leader", "1 in the replica that leads, 0 in the others.")
BUILD_INFO: Final = _family(_operator, "build_info", "1; the version is a label.", "version")
RESTORES: Final = _counter(
    _operator,
    "restores",
    "EtcdRestores that ended, by result: complete or failed.",
    "result",
)

_backup: list[Family] = []
BACKUP_CREATED: Final = _family(
    _backup, "backup_created_timestamp_seconds", "When the EtcdBackup was created.", *BACKUP
)
BACKUP_LAST_SUCCESS: Final = _family(
    _backup, "backup_last_success_timestamp_seconds", "When a run last became Complete.", *BACKUP
)
BACKUP_LAST_FAILURE: Final = _family(
    _backup,
    "backup_last_failure_timestamp_seconds",
    "When a run last failed, all its attempts used up.",
    *BACKUP,
)
BACKUP_LAST_VERIFIED: Final = _family(
    _backup, "backup_last_verified_timestamp_seconds", "When a run last became Verified.", *BACKUP
)
BACKUP_INTERVAL: Final = _family(
    _backup,
    "backup_interval_seconds",
    "Longest time between two runs that the schedule asks for; absent without a schedule.",
    *BACKUP,
)
BACKUP_DURATION: Final = _family(
    _backup, "backup_duration_seconds", "How long the newest complete run took.", *BACKUP
)
BACKUP_RAW_BYTES: Final = _family(
    _backup, "backup_raw_bytes", "Size of the newest complete backup, uncompressed.", *BACKUP
)
BACKUP_STORED_BYTES: Final = _family(
    _backup, "backup_stored_bytes", "Size of the newest complete backup, in the store.", *BACKUP
)
BACKUP_KEPT: Final = _family(
    _backup, "backup_kept", "Verified backups of ours that the store holds.", *BACKUP
)
BACKUP_IN_PROGRESS: Final = _family(_backup, "backup_in_progress", "Runs under way.", *BACKUP)
BACKUP_STORE_AVAILABLE: Final = _family(
    _backup,
    "backup_store_available",
    "1 if the store answered when it was last asked, 0 if not; absent before it was asked.",
    *BACKUP,
)
BACKUP_SUSPENDED: Final = _family(
    _backup, "backup_suspended", "1 if the EtcdBackup is suspended, else 0.", *BACKUP
)
BACKUP_RUNS: Final = _counter(
    _backup,
    "backup_runs",
    "Runs that ended, by result: complete or failed.",
    *BACKUP,
    "result",
)

_etcd: list[Family] = []
REACHABLE: Final = _family(
    _etcd, "etcd_reachable", "1 if any member told its status at the last look, else 0.", *CLUSTER
)
OBSERVED: Final = _family(
    _etcd,
    "etcd_observed_timestamp_seconds",
    "When etcd was last looked at, whether it answered or not.",
    *CLUSTER,
)
OBSERVING_SECONDS: Final = _family(
    _etcd, "etcd_observation_duration_seconds", "How long the last look took.", *CLUSTER
)
CLUSTER_INFO: Final = _family(
    _etcd,
    "etcd_cluster_info",
    "1; etcd's cluster ID in hex and the kube-system Namespace's uid are labels.",
    *CLUSTER,
    "cluster_id",
    "kube_system_uid",
)
HAS_LEADER: Final = _family(
    _etcd, "etcd_has_leader", "1 if any member that answers knows of a leader, else 0.", *CLUSTER
)
REVISION: Final = _family(_etcd, "etcd_revision", "etcd's revision, of the store.", *CLUSTER)
REVISION_CHANGED: Final = _family(
    _etcd,
    "etcd_revision_changed_timestamp_seconds",
    "When the revision was last seen to move, or was first seen.",
    *CLUSTER,
)
COMPACT_REVISION: Final = _family(
    _etcd,
    "etcd_compact_revision",
    "The oldest revision that can be read; 0 if nothing was ever compacted.",
    *CLUSTER,
)
COMPACT_REVISION_CHANGED: Final = _family(
    _etcd,
    "etcd_compact_revision_changed_timestamp_seconds",
    "When the compact revision was last seen to move, or was first seen.",
    *CLUSTER,
)
LEASES: Final = _family(_etcd, "etcd_leases", "Leases that etcd holds.", *CLUSTER)
SAMPLED_LEASES: Final = _family(
    _etcd, "etcd_sampled_leases", "Leases whose keys were counted: all, or some of many.", *CLUSTER
)
SAMPLED_LEASE_KEYS: Final = _family(
    _etcd, "etcd_sampled_lease_keys", "Keys that hang on the sampled leases.", *CLUSTER
)
SAMPLED_LEASE_KEYS_MAX: Final = _family(
    _etcd, "etcd_sampled_lease_keys_max", "Keys of the sampled lease that has most.", *CLUSTER
)
MEMBER_UP: Final = _family(
    _etcd,
    "etcd_member_up",
    "1 if the member told its status at the last look, 0 if not; absent if no endpoint leads to "
    "it.",
    *MEMBER,
)
MEMBER_INFO: Final = _family(
    _etcd,
    "etcd_member_info",
    "1; the member's ID in hex and version are labels.",
    *MEMBER,
    "member_id",
    "version",
)
MEMBER_IS_LEADER: Final = _family(
    _etcd, "etcd_member_is_leader", "1 if the member leads, else 0.", *MEMBER
)
MEMBER_IS_LEARNER: Final = _family(
    _etcd, "etcd_member_is_learner", "1 if the member is a learner, else 0.", *MEMBER
)
MEMBER_HAS_LEADER: Final = _family(
    _etcd, "etcd_member_has_leader", "1 if the member knows of a leader, else 0.", *MEMBER
)
MEMBER_LAG: Final = _family(
    _etcd,
    "etcd_member_lag_entries",
    "Raft entries that the member has yet to apply, of those that any member knows of.",
    *MEMBER,
)
MEMBER_ALARM: Final = _family(
    _etcd,
    "etcd_alarm",
    "1 if the member has set this alarm (NOSPACE or CORRUPT), else 0; member is empty where etcd "
    "found corruption without a culprit.",
    *MEMBER,
    "alarm",
)
DB_SIZE: Final = _family(
    _etcd, "etcd_db_size_bytes", "Size of the member's database file.", *MEMBER
)
DB_IN_USE: Final = _family(
    _etcd, "etcd_db_in_use_bytes", "Bytes of that file that are in use.", *MEMBER
)
QUOTA: Final = _family(
    _etcd,
    "etcd_quota_bytes",
    "The member's quota, by itself, its metrics page or the spec; absent where nobody tells it.",
    *MEMBER,
)
MEMBER_CERTIFICATE: Final = _family(
    _etcd,
    "member_certificate_expiration_timestamp_seconds",
    "When the certificate ends that the member shows; absent without TLS.",
    *MEMBER,
)
CLIENT_CERTIFICATE: Final = _family(
    _etcd,
    "client_certificate_expiration_timestamp_seconds",
    "When the certificate ends that the operator shows to etcd.",
    *CLUSTER,
)
CA_CERTIFICATE: Final = _family(
    _etcd,
    "ca_certificate_expiration_timestamp_seconds",
    "When the first CA ends that the operator trusts for etcd.",
    *CLUSTER,
)

_registry: list[Family] = []
REGISTRY_KEYS: Final = _family(
    _registry,
    "registry_keys",
    "Keys per resource: the largest 25, all others as other.",
    *CLUSTER,
    "resource",
)
REGISTRY_NAMESPACE_KEYS: Final = _family(
    _registry,
    "registry_namespace_keys",
    "Keys per namespace: the largest 25, all others as other.",
    *CLUSTER,
    "registry_namespace",
)
REGISTRY_BYTES: Final = _family(
    _registry,
    "registry_bytes",
    "Bytes of keys and values per resource in the newest backup that has a registry file: the "
    "largest 25, all others as other.",
    *CLUSTER,
    "resource",
)
REGISTRY_BYTES_AT: Final = _family(
    _registry,
    "registry_bytes_timestamp_seconds",
    "When that backup was taken.",
    *CLUSTER,
)

_maintenance: list[Family] = []
MAINTENANCE_CREATED: Final = _family(
    _maintenance,
    "maintenance_created_timestamp_seconds",
    "When the EtcdMaintenance was created.",
    *CLUSTER,
)
MAINTENANCE_IN_PROGRESS: Final = _family(
    _maintenance,
    "maintenance_in_progress",
    "1 while a task is under way, else 0.",
    *CLUSTER,
    "task",
)
MAINTENANCE_RUNS: Final = _counter(
    _maintenance,
    "maintenance_runs",
    "Tasks (round, compaction, rescue) that ended, by result: complete, nothing_to_do, refused, "
    "aborted or failed.",
    *CLUSTER,
    "task",
    "result",
)
MAINTENANCE_LAST: Final = _family(
    _maintenance,
    "maintenance_last_success_timestamp_seconds",
    "When a task last did what it was to do, or found nothing to do.",
    *CLUSTER,
    "task",
)
MAINTENANCE_NEXT: Final = _family(
    _maintenance,
    "maintenance_next_timestamp_seconds",
    "When the next round is due; absent without a schedule.",
    *CLUSTER,
)
DEFRAGMENTED: Final = _family(
    _maintenance,
    "maintenance_last_defragmentation_timestamp_seconds",
    "When the member was last defragmented by a round.",
    *MEMBER,
)
DEFRAGMENTATION_SECONDS: Final = _family(
    _maintenance,
    "maintenance_defragmentation_duration_seconds",
    "How long the member was silent then.",
    *MEMBER,
)
RECLAIMED: Final = _family(
    _maintenance,
    "maintenance_reclaimed_bytes",
    "Bytes that the member's disk got back then.",
    *MEMBER,
)

SECTIONS: Final[dict[str, tuple[Family, ...]]] = {
    "The operator": tuple(_operator),
    "Backups": tuple(_backup),
    "etcd": tuple(_etcd),
    "What etcd holds": tuple(_registry),
    "Maintenance": tuple(_maintenance),
}
ALL: Final = tuple(family for section in SECTIONS.values() for family in section)
