"""`EtcdRestore`, field by field; see `models/kinds.py` for how the CRD is made of it."""

from typing import Annotated, Literal

from pydantic import Field

from etcd_steward.models.base import Model, Name
from etcd_steward.models.kinds import Condition, Duration, Etcd, RunProgress, Time
from etcd_steward.models.places import StoreSpec
from etcd_steward.models.registry import Filter
from etcd_steward.models.restore import ClusterScoped, ExistingObjects, Verdict, Via, Workloads

FIRST_ITEMS = 50
"""So many keys of a plan, and failures of an apply, stand in a status; all are in the file."""

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class LiveSpec(Model):
    """Which moment of the live etcd's own history: exactly one of these."""

    before_deletion: bool = Field(
        default=False,
        description="As it was before the namespace, or each named object, was marked for "
        "deletion.",
        examples=[True],
    )
    ago: Annotated[Duration, Field(pattern=r"^([1-9][0-9]{0,4}(h|m|s))+$")] | None = Field(
        default=None,
        description="As it was so long before this EtcdRestore was created.",
        examples=["3m"],
    )
    revision: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="As it was at this revision of etcd.", examples=[81234]
    )


class RestoreSource(Model):
    """Where the keys come from: one of `snapshotName`, `backupName`, `store`, `live`, `undoOf`."""

    snapshot_name: Name | None = Field(
        default=None,
        description="Name of an EtcdSnapshot in this namespace, of either type.",
        examples=["nightly-1795313820"],
    )
    backup_name: Name | None = Field(
        default=None,
        description="Name of an EtcdBackup in this namespace: its newest verified backup.",
        examples=["nightly"],
    )
    store: StoreSpec | None = Field(
        default=None,
        description="A store to look in, with `path`.",
        examples=[{"s3": {"bucket": "etcd-backups", "credentialsSecretName": "s3"}}],
    )
    path: Annotated[str, Field(min_length=1, max_length=1024)] | None = Field(
        default=None,
        description="With `store`: a backup's folder in it. Left out: the newest verified one.",
        examples=["1f0c9a3e/etcd-steward.nightly/20261122T021700Z-7c1e04b2"],
    )
    live: LiveSpec | None = Field(
        default=None,
        description="What the live etcd still remembers: it keeps its history until the next "
        "compaction, which the API server asks for every five minutes.",
        examples=[{"beforeDeletion": True}],
    )
    undo_of: Name | None = Field(
        default=None,
        description="Name of an EtcdRestore in this namespace: put back what was there before it. "
        "Claims and volumes that it created stay, but for those that `include` names.",
        examples=["shop"],
    )


class EtcdRestoreSpec(Model):
    """Which keys, from where, and how they come back."""

    source: RestoreSource = Field(
        description="Where the keys come from.", examples=[{"backupName": "nightly"}]
    )
    include: Filter | None = Field(
        default=None,
        description="Which keys: those that fit every field that is given. It must name something, "
        "unless this is an undo.",
        examples=[{"namespaces": ["shop"]}],
    )
    exclude: Filter | None = Field(
        default=None,
        description="Which keys of these are left out: those that fit every field that is given.",
        examples=[{"resources": ["secrets"]}],
    )
    include_cluster_scoped: ClusterScoped = Field(
        default="Related",
        description="`Related`: the Namespaces themselves as well, and the PersistentVolumes that "
        "their claims are bound to. `None`: only what `include` names.",
        examples=["Related"],
    )
    workloads: Workloads = Field(
        default="AsBackedUp",
        description="`Suspended`: CronJobs and Jobs come back suspended, and everything that has "
        "replicas with none.",
        examples=["Suspended"],
    )
    via: Via = Field(
        default="Registry",
        description="`Registry`: keys are written to etcd as they were: same uid, status, owners. "
        "`API`: objects are created through the API server: admission is asked, uids are new.",
        examples=["Registry"],
    )
    namespace_mapping: Annotated[dict[Name, Name], Field(max_length=100)] = Field(
        default_factory=dict,
        description="Into which namespace each one goes; with `via: API` only.",
        examples=[{"shop": "shop-restored"}],
    )
    existing_objects: ExistingObjects = Field(
        default="Skip",
        description="What becomes of an object that is there and differs. `Skip`: it stays. "
        "`Overwrite`: it becomes what it was; another object of that name, by its uid, stays even "
        "so. `Fail`: nothing at all is written.",
        examples=["Skip"],
    )
    other_cluster: bool = Field(
        default=False,
        description="A backup of another cluster is what is meant; else it is refused.",
        examples=[True],
    )
    mode: Literal["Plan", "Apply"] = Field(
        default="Plan",
        description="`Plan`: say what would be done, and wait for `approvedPlanDigest`. `Apply`: "
        "do it at once.",
        examples=["Plan"],
    )
    approved_plan_digest: Digest | None = Field(
        default=None,
        description="`status.plan.digest` of the plan that is to be applied: exactly that one, or "
        "none. The only field that can be changed.",
        examples=[f"sha256:{'9f' * 32}"],
    )
    plan_time_to_live: Annotated[Duration, Field(pattern=r"^([1-9][0-9]{0,4}(d|h|m|s))+$")] = Field(
        default="24h",
        description="How long a plan can be approved.",
        examples=["24h"],
    )
    etcd: Etcd | None = Field(
        default=None,
        description="The etcd to restore into. Left out: the one that the operator was installed "
        "with, for its allowed namespaces only.",
        examples=[{"endpoints": ["https://10.0.0.1:2379"], "tls": {"secretName": "etcd-client"}}],
    )
    store: StoreSpec | None = Field(
        default=None,
        description="Where plan, claim, undo file and result are kept. Left out: in the store of "
        "the backup; with `live`, on the operator's own disk, where its spool is.",
        examples=[{"s3": {"bucket": "etcd-backups", "credentialsSecretName": "s3"}}],
    )
    keep_for: Duration = Field(
        default="30d", description="How long these are kept.", examples=["30d"]
    )
    unthrottled: bool = Field(
        default=False,
        description="Write as fast as etcd can, whatever that does to its other clients.",
        examples=[True],
    )
    active_deadline_seconds: Annotated[int, Field(ge=10, le=86400)] = Field(
        default=3600,
        description="Seconds that planning may take, and an apply without its second look.",
        examples=[3600],
    )


class RestorePlanItem(Model):
    """One key of a plan."""

    key: str = Field(description="The key in etcd.")
    verdict: Verdict = Field(description="What becomes of it.")
    reason: str = Field(default="", description="Why it is excluded or blocked, as a word.")
    message: str = Field(default="", description="The same for people.")
    notes: tuple[str, ...] = Field(default=(), description="What to know before it is approved.")
    write: bool = Field(default=False, description="Whether an apply writes it.")


class RestorePlan(Model):
    """What would be done."""

    digest: str = Field(description="Approve it by `spec.approvedPlanDigest`.")
    url: str = Field(description="Where the whole plan lies.")
    source: str = Field(description="What the keys come from, as it was found.")
    revision: int = Field(description="Revision of etcd that they are of.")
    made_time: Time = Field(description="When it was made.")
    expires_time: Time = Field(description="Until when it can be approved.")
    writes: int = Field(description="How many keys an apply writes.")
    counts: dict[str, int] = Field(
        default_factory=dict, description="How many keys have which verdict."
    )
    reasons: dict[str, int] = Field(
        default_factory=dict, description="How many keys are left out or blocked for which reason."
    )
    items: tuple[RestorePlanItem, ...] = Field(
        default=(), description=f"The first {FIRST_ITEMS} keys: those that are written come first."
    )
    warnings: tuple[str, ...] = Field(default=(), description="What concerns the whole.")


class RestoreResult(Model):
    """What was done."""

    url: str = Field(description="Where the whole result lies.")
    undo: str = Field(description="Where what was there before lies.")
    counts: dict[str, int] = Field(
        default_factory=dict, description="How many keys had which outcome."
    )
    read_back: int = Field(
        default=0, description="Objects that the API server showed afterwards as they were written."
    )
    second_look_time: Time | None = Field(
        default=None, description="When it was looked at once more, after the repair loops."
    )
    taken_since: tuple[str, ...] = Field(
        default=(), description="What controllers had taken or changed by then."
    )
    failures: tuple[str, ...] = Field(default=(), description="The first keys that failed, and why")


class Requester(Model):
    """Who created the EtcdRestore, as far as the API server records it."""

    manager: str = Field(description="The client, as metadata.managedFields names it.")
    time: Time | None = Field(default=None, description="When it last wrote the spec.")


class EtcdRestoreStatus(Model):
    """How far a restore is, what it would do, and what it has done."""

    phase: Literal["Pending", "Running", "Planned", "Complete", "Failed"] | None = Field(
        default=None, description="For people; machines read the conditions."
    )
    observed_generation: int | None = Field(default=None, description="Generation last looked at.")
    requester: Requester | None = Field(default=None, description="Who created it.")
    attempt: int | None = Field(
        default=None, description="Which attempt is under way or was the last."
    )
    starts: int | None = Field(
        default=None, description="How often a process was started for this restore."
    )
    message: str | None = Field(default=None, description="How it stands, for people.")
    start_time: Time | None = Field(default=None, description="When it was begun.")
    completion_time: Time | None = Field(default=None, description="When it ended.")
    duration: str | None = Field(default=None, description="How long the apply took, for people.")
    heartbeat_time: Time | None = Field(
        default=None, description="When its process last said that it lives."
    )
    applying: bool | None = Field(
        default=None, description="Whether the process that is under way may write."
    )
    progress: RunProgress | None = Field(default=None, description="How far it is.")
    failed_side: Literal["etcd", "store"] | None = Field(
        default=None, description="Which side the failure came from, where that is known."
    )
    plan: RestorePlan | None = Field(default=None, description="What would be done.")
    result: RestoreResult | None = Field(default=None, description="What was done.")
    warnings: tuple[str, ...] = Field(default=(), description="What to look at.")
    conditions: tuple[Condition, ...] = Field(
        default=(), description="`Planned`, `Complete`, `Failed`."
    )
