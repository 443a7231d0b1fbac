"""The resources of group `etcdsteward.io/v1alpha1`, field by field.

The CRDs in `crds/` are made from these models by `tools/generate_crds.py`: a field's description
and example are what `kubectl explain` prints. Changes must be additive (kopf serves no conversion).
"""

from typing import Annotated, Literal

from pydantic import Field

from etcd_steward.models.base import Model, Name
from etcd_steward.models.manifest import BackupType
from etcd_steward.models.places import StoreSpec
from etcd_steward.models.registry import Filter

GROUP = "etcdsteward.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
BACKUP_LABEL = f"{GROUP}/backup"
"""On an EtcdSnapshot: the name of the EtcdBackup that it belongs to."""
REQUESTED_AT = f"{GROUP}/requestedAt"
"""Annotation on an EtcdBackup: a new value asks for a run now."""
ADOPT_CLUSTER = f"{GROUP}/adopt-cluster"
"""Annotation on an EtcdBackup: IDs of clusters, separated by commas, whose backups are ours too."""
FOUND_IN = f"{GROUP}/found-in"
"""Annotation on an EtcdSnapshot that records a backup found in the store: its folder. Such a one
never runs."""

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""A moment in UTC, as Kubernetes writes it: `2026-11-22T02:17:00Z`."""


class SecretName(Model):
    """A Secret in the resource's own namespace."""

    secret_name: Name = Field(
        description="Name of a Secret in this namespace.", examples=["etcd-client"]
    )


class Etcd(Model):
    """Which etcd, and with what credentials."""

    endpoints: tuple[Annotated[str, Field(pattern=r"^https?://[^\s/]+$")], ...] = Field(
        min_length=1,
        max_length=32,
        description="Client URLs of the members. Each may be a member or a virtual IP: members are "
        "told apart by the ID that they answer with.",
        examples=[["https://10.0.0.1:2379", "https://10.0.0.2:2379", "https://10.0.0.3:2379"]],
    )
    tls: SecretName | None = Field(
        default=None,
        description="Secret with `ca.crt`, and `tls.crt` and `tls.key` for a client certificate.",
        examples=[{"secretName": "etcd-client"}],
    )
    auth: SecretName | None = Field(
        default=None,
        description="Secret with `username` and `password` of an etcd user with role root.",
        examples=[{"secretName": "etcd-root"}],
    )
    server_name: str | None = Field(
        default=None,
        description="Name to verify the members' certificates against, where it differs from the "
        "host in the endpoint.",
        examples=["etcd.internal"],
    )


class Verification(Model):
    """How hard each backup is proven before it counts as verified."""

    level: Literal["Structure"] = Field(
        default="Structure",
        description="`Structure`: every page, key and revision of the snapshot is read and "
        "checked; of a RegistryExport, every row.",
        examples=["Structure"],
    )


Count = Annotated[int, Field(ge=0, le=10000)]
Duration = Annotated[str, Field(pattern=r"^([1-9][0-9]{0,5}(y|mo|w|d|h|m|s))+$", max_length=32)]
"""Like `30d` or `1w2d`; `m` is minutes, `mo` months."""


class Retention(Model):
    """Which verified backups are kept: each that at least one of these asks for, as restic has it.

    Of each hour, day, week, month or year it is the newest backup that counts.
    """

    keep_last: Count | None = Field(
        default=None, description="Keep the newest so many.", examples=[7]
    )
    keep_hourly: Count | None = Field(
        default=None,
        description="Keep the newest of each hour, for the last so many hours that have one.",
        examples=[24],
    )
    keep_daily: Count | None = Field(
        default=None,
        description="Keep the newest of each day, for the last so many days that have one.",
        examples=[14],
    )
    keep_weekly: Count | None = Field(
        default=None,
        description="Keep the newest of each ISO week, for the last so many weeks that have one.",
        examples=[8],
    )
    keep_monthly: Count | None = Field(
        default=None,
        description="Keep the newest of each month, for the last so many months that have one.",
        examples=[12],
    )
    keep_yearly: Count | None = Field(
        default=None,
        description="Keep the newest of each year, for the last so many years that have one.",
        examples=[3],
    )
    keep_within: Duration | None = Field(
        default=None,
        description="Keep all that are younger than this, seen from the newest one.",
        examples=["30d"],
    )


class EtcdBackupSpec(Model):
    """What to back up, when, where to, how long to keep it, and how hard to prove it."""

    type: BackupType = Field(
        default="Snapshot",
        description="`Snapshot`: the whole database, restorable by etcdutl. `RegistryExport`: the "
        "live keys with their values, or some of them, in one Parquet file. Can't be changed "
        "later.",
        examples=["Snapshot"],
    )
    include: Filter | None = Field(
        default=None,
        description="Which keys a RegistryExport holds: those that fit every field that is given. "
        "Left out: all.",
        examples=[{"namespaces": ["shop", "team-*"]}],
    )
    exclude: Filter | None = Field(
        default=None,
        description="Which keys of these a RegistryExport leaves out: those that fit every field "
        "that is given.",
        examples=[{"resources": ["events", "leases.coordination.k8s.io"]}],
    )
    etcd: Etcd | None = Field(
        default=None,
        description="The etcd to back up. Left out: the one that the operator was installed with, "
        "for its allowed namespaces only.",
        examples=[{"endpoints": ["https://10.0.0.1:2379"], "tls": {"secretName": "etcd-client"}}],
    )
    store: StoreSpec = Field(
        description="Where backups lie: exactly one of `s3` and `local`.",
        examples=[{"s3": {"bucket": "etcd-backups", "credentialsSecretName": "s3"}}],
    )
    schedule: Annotated[str, Field(min_length=1, max_length=100)] | None = Field(
        default=None,
        description="When to run: five fields of cron, or `@hourly`, `@daily`, `@weekly`, "
        "`@monthly`, `@yearly`. Left out: once, now.",
        examples=["17 2 * * *"],
    )
    time_zone: Annotated[str, Field(min_length=1, max_length=64)] = Field(
        default="Etc/UTC",
        description="Time zone of the schedule, by its IANA name.",
        examples=["Europe/Berlin"],
    )
    suspend: bool = Field(
        default=False,
        description="Start nothing by the schedule; what is under way ends, and runs asked for by "
        "annotation or by an EtcdSnapshot are made.",
        examples=[True],
    )
    starting_deadline_seconds: Annotated[int, Field(ge=10, le=31536000)] | None = Field(
        default=None,
        description="A run that could not start for so many seconds after its time is missed; left "
        "out: it starts however late. Of several missed ones only the newest is made up for.",
        examples=[3600],
    )
    spread: Annotated[Duration, Field(pattern=r"^([1-9][0-9]{0,4}(h|m|s))+$")] | None = Field(
        default=None,
        description="Start up to so much later than the schedule says, always by the same amount "
        "for one backup, so that many backups don't start at once.",
        examples=["5m"],
    )
    retention: Retention | None = Field(
        default=None,
        description="Which backups are kept. Left out: all. Applied after each verified backup; "
        "the newest verified one is never deleted.",
        examples=[{"keepLast": 7, "keepDaily": 14, "keepWeekly": 8}],
    )
    failed_history_limit: Annotated[int, Field(ge=0, le=100)] = Field(
        default=3,
        description="How many EtcdSnapshots of failed runs are kept.",
        examples=[3],
    )
    deletion_policy: Literal["Retain", "Delete"] = Field(
        default="Retain",
        description="What becomes of a backup in the store when its EtcdSnapshot is deleted. "
        "`Retain`: it stays, and the EtcdSnapshot comes back. `Delete`: it is deleted too, but not "
        "when the EtcdBackup, the namespace or the CRDs go as well.",
        examples=["Retain"],
    )
    verification: Verification = Field(
        default_factory=Verification,
        description="How hard each backup is proven.",
        examples=[{"level": "Structure"}],
    )
    attempts: Annotated[int, Field(ge=1, le=10)] = Field(
        default=3,
        description="How often a run is tried before it fails; only errors that may pass are "
        "tried again.",
        examples=[3],
    )
    active_deadline_seconds: Annotated[int, Field(ge=10, le=86400)] = Field(
        default=3600,
        description="Seconds that one attempt may take.",
        examples=[3600],
    )


class Condition(Model):
    """A standard condition."""

    type: str = Field(description="Name of the condition, in CamelCase.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: str = Field(description="Why, as one word for machines.")
    message: str = Field(default="", description="Why, in words for people.")
    last_transition_time: Time = Field(description="When the status last changed.")
    observed_generation: int | None = Field(
        default=None, description="The generation of the spec that this was said of."
    )


class EtcdBackupStatus(Model):
    """What has become of a standing order."""

    observed_generation: int | None = Field(default=None, description="Generation last looked at.")
    active: int | None = Field(default=None, description="How many runs have not ended.")
    observed_schedule: str | None = Field(
        default=None, description="The schedule, with its zone, that the times below are of."
    )
    anchor_time: Time | None = Field(
        default=None,
        description="Runs due after this moment are still to be made: when the last one was due, "
        "or when the schedule was set.",
    )
    last_schedule_time: Time | None = Field(
        default=None, description="When the last run that the schedule started was due."
    )
    next_schedule_time: Time | None = Field(
        default=None, description="When the next run will start by the schedule."
    )
    missed_runs: int | None = Field(
        default=None, description="Times of the schedule for which no run was made."
    )
    last_handled_requested_at: str | None = Field(
        default=None,
        description="Value of annotation etcdsteward.io/requestedAt that a run was last made for.",
    )
    cluster: str | None = Field(
        default=None, description="The folder of this etcd's cluster in the store."
    )
    cluster_id: str | None = Field(
        default=None,
        alias="clusterID",
        description="etcd's cluster ID, in hex; changes when etcd is restored.",
    )
    kept: int | None = Field(
        default=None, description="How many verified backups of this EtcdBackup the store holds."
    )
    looked_time: Time | None = Field(
        default=None, description="When the store was last looked through."
    )
    active_snapshot_name: str | None = Field(default=None, description="The run that is under way.")
    last_snapshot_name: str | None = Field(default=None, description="The run that ended last.")
    last_successful_time: Time | None = Field(
        default=None, description="When a run last became Complete."
    )
    last_verified_time: Time | None = Field(
        default=None, description="When a run last became Verified."
    )
    last_url: str | None = Field(
        default=None, alias="lastURL", description="Where the newest complete backup lies."
    )
    last_size: str | None = Field(
        default=None, description="Size of the newest complete backup in the store, for people."
    )
    conditions: tuple[Condition, ...] = Field(
        default=(), description="`Ready`, `EtcdReachable`, `StoreAvailable`."
    )


class EtcdSnapshotSpec(Model):
    """Which backup this is a run of."""

    backup_name: Annotated[str, Field(min_length=1, max_length=52)] = Field(
        description="Name of an EtcdBackup in this namespace. Its spec is copied when the run "
        "starts.",
        examples=["nightly"],
    )


class RunProgress(Model):
    """How far a run is."""

    step: str = Field(description="What the run is doing.", examples=["Streaming"])
    raw_bytes: int = Field(default=0, description="Bytes read from etcd.")
    total_bytes: int = Field(default=0, description="Bytes that etcd announced.")
    stored_bytes: int = Field(default=0, description="Bytes in the store.")
    text: str = Field(
        default="", description="The same for people.", examples=["Streaming 310 MB of 1.4 GB"]
    )


class RunJournal(Model):
    """What to look for and clean up if the operator dies in mid-run."""

    folder: str = Field(description="This run's folder in the store.")
    key: str = Field(description="The file being uploaded.")
    upload_id: str = Field(alias="uploadID", description="Its multipart upload.")


class Artifact(Model):
    """What a complete run left in the store."""

    url: str = Field(description="The backup's own URL.")
    revision: int = Field(description="Revision of etcd that the backup shows.")
    live_keys: int = Field(description="Keys in the backup.")
    raw_bytes: int = Field(
        description="Bytes of the snapshot, uncompressed; of an export, of its file."
    )
    stored_bytes: int = Field(description="Bytes in the store.")
    size: str = Field(description="Bytes in the store, for people.")
    raw_sha256: str = Field(
        description="SHA-256 of the uncompressed snapshot; of an export, of its file."
    )
    stored_sha256: str = Field(description="SHA-256 of the stored file.")
    cluster_id: str = Field(alias="clusterID", description="etcd's cluster ID, in hex.")
    member_id: str = Field(
        alias="memberID", description="The member that it was taken from, in hex."
    )
    etcd_version: str = Field(description="Version of that member.")


class RunVerification(Model):
    """The strongest proof of a run."""

    level: Literal["Digest", "Structure"] = Field(description="How hard it was proven.")
    time: Time = Field(description="When.")


class EtcdSnapshotStatus(Model):
    """One run, and then the record of what lies in the store."""

    type: BackupType | None = Field(
        default=None, description="What the run makes or has left: the type of its EtcdBackup."
    )
    phase: Literal["Pending", "Running", "Complete", "Failed"] | None = Field(
        default=None, description="For people; machines read the conditions."
    )
    observed_generation: int | None = Field(default=None, description="Generation last looked at.")
    backup_spec: EtcdBackupSpec | None = Field(
        default=None, description="The backup's spec as it was when this run was claimed."
    )
    backup_uid: str | None = Field(
        default=None, alias="backupUID", description="uid of the EtcdBackup."
    )
    attempt: int | None = Field(
        default=None, description="Which attempt is under way or was the last."
    )
    starts: int | None = Field(
        default=None,
        description="How often a process was started for this run; its folder in the store is "
        "numbered by it, so that none is used twice.",
    )
    message: str | None = Field(default=None, description="How the run stands, for people.")
    start_time: Time | None = Field(default=None, description="When the run was claimed.")
    completion_time: Time | None = Field(default=None, description="When it ended.")
    duration: str | None = Field(default=None, description="How long it took, for people.")
    heartbeat_time: Time | None = Field(
        default=None, description="When the run last said that it lives."
    )
    progress: RunProgress | None = Field(default=None, description="How far the run is.")
    journal: RunJournal | None = Field(default=None, description="For clean-up after a crash.")
    failed_side: Literal["etcd", "store"] | None = Field(
        default=None, description="Which side the last failure came from, where that is known."
    )
    artifact: Artifact | None = Field(default=None, description="What lies in the store.")
    kept: tuple[str, ...] = Field(
        default=(), description="Why retention keeps it.", examples=[["last", "weekly 2026-W47"]]
    )
    verification: RunVerification | None = Field(default=None, description="The strongest proof.")
    warnings: tuple[str, ...] = Field(
        default=(), description="What to look at though the run succeeded."
    )
    conditions: tuple[Condition, ...] = Field(
        default=(), description="`Complete`, `Failed`, `Verified`, `Indexed`."
    )
