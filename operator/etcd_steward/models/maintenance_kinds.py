"""`EtcdMaintenance`, field by field; see `models/kinds.py` for how the CRD is made of it."""

from typing import Annotated, Literal

from pydantic import Field

from etcd_steward.models.base import Hex64, Model, Name
from etcd_steward.models.kinds import Condition, Duration, Etcd, SecretName, Time
from etcd_steward.models.maintenance import Outcome

Size = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,14}(Ki|Mi|Gi|Ti|k|M|G|T)?)$")]
"""Bytes, like `256Mi` or `2G`."""
Span = Annotated[Duration, Field(pattern=r"^([1-9][0-9]{0,4}(d|h|m|s))+$")]
"""Like `2h` or `1h30m`."""
Budget = Annotated[str, Field(pattern=r"^(None|([1-9][0-9]{0,4}(h|m|s))+)$", max_length=32)]
"""A span, or `None`: nobody minds."""
Percent = Annotated[int, Field(ge=0, le=100)]
MetricsURL = Annotated[str, Field(pattern=r"^https?://[^\s/]+(/[^\s]*)?$")]


class MaintainedEtcd(Etcd):
    """Which etcd, with what credentials, and where its members tell more."""

    endpoints: tuple[Annotated[str, Field(pattern=r"^https?://[^\s/]+$")], ...] = Field(
        default=(),
        max_length=32,
        description="Client URLs of the members, each of which must be reached by itself. Left "
        "out: those of the etcd that the operator was installed with, for its allowed namespaces "
        "only.",
        examples=[["https://10.0.0.1:2379", "https://10.0.0.2:2379", "https://10.0.0.3:2379"]],
    )
    tls: SecretName | None = Field(
        default=None,
        description="Secret with `ca.crt`, and `tls.crt` and `tls.key` for a client certificate.",
        examples=[{"secretName": "etcd-client"}],
    )
    metrics_endpoints: tuple[MetricsURL, ...] = Field(
        default=(),
        max_length=32,
        description="Where the members' metrics are served without a client certificate "
        "(`--listen-metrics-urls`): they tell the quota of an etcd older than 3.6.6, and what no "
        "other call does.",
        examples=[["http://10.0.0.1:2381", "http://10.0.0.2:2381", "http://10.0.0.3:2381"]],
    )


class Window(Model):
    """How long a round that the schedule starts may go on."""

    duration: Span = Field(
        description="No member's turn begins unless it is expected to end within so long of the "
        "schedule's time; what is left waits for the next window.",
        examples=["2h"],
    )


class Defragmentation(Model):
    """Which members are defragmented: those that any is gained at, by this rule.

    It is read again for each member just before its turn.
    """

    min_reclaim: Size = Field(
        default="256Mi",
        description="Bytes of free pages below which nothing is gained: etcd uses them again by "
        "itself.",
        examples=["256Mi"],
    )
    min_fragmentation_percent: Percent = Field(
        default=50,
        description="Free pages in percent of the file from which on it is worth it.",
        examples=[50],
    )
    quota_usage_percent_above: Percent = Field(
        default=80,
        description="It is also worth it where the file takes more than so many percent of the "
        "quota.",
        examples=[80],
    )
    always: bool = Field(
        default=False,
        description="Every member, whatever it gives back.",
        examples=[True],
    )
    settle: Span = Field(
        default="30s",
        description="How long all members must be well after one before the next one's turn.",
        examples=["30s"],
    )
    allow_single_member: bool = Field(
        default=False,
        description="Defragment an etcd of one voter too: nobody answers meanwhile, for about a "
        "second per 100 MB in use.",
        examples=[True],
    )


class Compaction(Model):
    """When history is forgotten that nobody else forgets."""

    mode: Literal["WhenStalled", "Retain"] = Field(
        default="WhenStalled",
        description="`WhenStalled`: the API server compacts, and it is done in its place only when "
        "it has stopped. `Retain`: for an etcd that nobody compacts.",
        examples=["WhenStalled"],
    )
    stalled_after: Span | None = Field(
        default=None,
        description="With `WhenStalled`: so long without a compaction means that nobody compacts "
        "any more. Left out: 30m. The API server's own come every five minutes.",
        examples=["30m"],
    )
    retain_revisions: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="With `Retain`: the newest so many revisions stay readable.",
        examples=[100000],
    )
    retain_duration: Span | None = Field(
        default=None,
        description="With `Retain`: what was there so long ago stays readable. With both, what "
        "either asks for is kept.",
        examples=["10m"],
    )


class Alarms(Model):
    """What is done about alarms. About CORRUPT nothing is ever done but to stop everything."""

    no_space: Literal["Report", "Rescue"] = Field(
        default="Report",
        description="An etcd that refuses writes because it is full. `Report`: it is said. "
        "`Rescue`: at once a snapshot is taken, history compacted, every member defragmented, and "
        "the alarm disarmed once all have room again.",
        examples=["Rescue"],
    )
    backup_name: Name | None = Field(
        default=None,
        description="With `Rescue`: the EtcdBackup of this namespace in whose store the snapshot "
        "goes. Left out: one for the same etcd, where there is one; else the snapshot stays on the "
        "operator's own disk.",
        examples=["nightly"],
    )


class Liveness(Model):
    """How long a member may be silent before somebody kills it in the middle of its work."""

    etcd: Budget = Field(
        default="80s",
        description="The kubelet's patience with etcd: failureThreshold times periodSeconds of its "
        "liveness probe; kubeadm's is 80s. `None`: nobody probes it.",
        examples=["80s"],
    )
    api_server: Budget = Field(
        default="80s",
        description="The same for the API server beside the member, which waits for it. `None`: "
        "there is none.",
        examples=["80s"],
    )


class EtcdMaintenanceSpec(Model):
    """Which etcd is looked after, and how. With no section it is only observed."""

    etcd: MaintainedEtcd | None = Field(
        default=None,
        description="The etcd to look after. Left out: the one that the operator was installed "
        "with, for its allowed namespaces only.",
        examples=[{"endpoints": ["https://10.0.0.1:2379"], "tls": {"secretName": "etcd-client"}}],
    )
    schedule: Annotated[str, Field(min_length=1, max_length=100)] | None = Field(
        default=None,
        description="When a round of defragmentation begins: five fields of cron, or `@hourly`, "
        "`@daily`, `@weekly`, `@monthly`, `@yearly`. Left out: only when it is asked for by "
        "annotation etcdsteward.io/requestedAt.",
        examples=["30 3 * * 0"],
    )
    time_zone: Annotated[str, Field(min_length=1, max_length=64)] = Field(
        default="Etc/UTC",
        description="Time zone of the schedule, by its IANA name.",
        examples=["Europe/Berlin"],
    )
    window: Window | None = Field(
        default=None,
        description="How long such a round may go on. Left out: until it is done.",
        examples=[{"duration": "2h"}],
    )
    suspend: bool = Field(
        default=False,
        description="Do nothing to this etcd, only observe it: nothing is begun, no rescue "
        "either, and a round under way ends before its next member.",
        examples=[True],
    )
    starting_deadline_seconds: Annotated[int, Field(ge=10, le=31536000)] | None = Field(
        default=None,
        description="A round that could not start for so many seconds after its time is missed; "
        "left out: one whose window is over.",
        examples=[3600],
    )
    spread: Annotated[Duration, Field(pattern=r"^([1-9][0-9]{0,4}(h|m|s))+$")] | None = Field(
        default=None,
        description="Start up to so much later than the schedule says, always by the same amount "
        "for one EtcdMaintenance.",
        examples=["5m"],
    )
    mode: Literal["Apply", "Plan"] = Field(
        default="Apply",
        description="`Plan`: show what a round would do, and do nothing: no compaction and no "
        "rescue either.",
        examples=["Plan"],
    )
    defragmentation: Defragmentation | None = Field(
        default=None,
        description="Defragment members in rounds, one after another, the leader last. Left out: "
        "never.",
        examples=[{"minReclaim": "256Mi", "minFragmentationPercent": 50}],
    )
    compaction: Compaction | None = Field(
        default=None,
        description="Compact history that nobody else compacts. Left out: never.",
        examples=[{"mode": "WhenStalled"}],
    )
    alarms: Alarms | None = Field(
        default=None,
        description="What to do about alarms. Left out: report them.",
        examples=[{"noSpace": "Rescue"}],
    )
    quota: Size | None = Field(
        default=None,
        description="Each member's `--quota-backend-bytes`, for an etcd that tells it neither by "
        "its status (3.6.6 and later do) nor by its metrics.",
        examples=["8Gi"],
    )
    disk_room: Size | None = Field(
        default=None,
        description="Bytes that are surely free on each member's volume: a defragmentation writes "
        "a second file. Left out: what the quota leaves room for counts as free.",
        examples=["20Gi"],
    )
    liveness: Liveness = Field(
        default_factory=Liveness,
        description="How long a member may be silent: if one that is worth it is expected to need "
        "longer for its defragmentation, the whole round is refused.",
        examples=[{"etcd": "80s", "apiServer": "80s"}],
    )


class ObservedMember(Model):
    """One member as it was seen last."""

    name: str = Field(description="Its name.")
    member_id: Hex64 = Field(alias="memberID", description="Its ID, in hex.")
    up: bool = Field(description="Whether it answers.")
    leader: bool = Field(default=False, description="Whether it leads.")
    learner: bool = Field(default=False, description="Whether it does not vote yet.")
    version: str = Field(default="", description="Its version of etcd.")
    db_size: str = Field(default="", description="Size of its database file, for people.")
    db_size_bytes: int = Field(default=0, description="The same in bytes.")
    in_use: str = Field(default="", description="How much of it is in use, for people.")
    in_use_bytes: int = Field(default=0, description="The same in bytes.")
    quota_bytes: int | None = Field(default=None, description="Its quota, where it is known.")
    lag: int = Field(default=0, description="Raft entries that it has yet to apply.")
    message: str = Field(default="", description="Why it does not answer.")


class ObservedEtcd(Model):
    """The etcd as it was seen last: of sizes the largest member's."""

    time: Time = Field(description="When.")
    cluster_id: Hex64 | None = Field(
        default=None, alias="clusterID", description="etcd's cluster ID, in hex."
    )
    leader: str = Field(default="", description="Name of the member that leads.")
    version: str = Field(default="", description="Version of its oldest member.")
    revision: int = Field(default=0, description="Its revision.")
    compact_revision: int | None = Field(
        default=None, description="The oldest revision that can be read."
    )
    compacted_time: Time | None = Field(
        default=None, description="When that was last seen to move."
    )
    leases: int | None = Field(default=None, description="How many leases it holds.")
    db_size: str = Field(default="", description="Size of the largest database file.")
    in_use: str = Field(default="", description="How much of that is in use.")
    quota_used: str = Field(default="", description="How much of the quota that file takes.")
    alarms: tuple[str, ...] = Field(default=(), description="Alarms that are raised.")
    members: tuple[ObservedMember, ...] = Field(default=(), description="Its members.")


class MaintenanceProgress(Model):
    """How far the task is that is under way."""

    step: str = Field(description="What it does.", examples=["Defragmenting"])
    text: str = Field(
        default="", description="The same for people.", examples=["Defragmenting etcd-1, 2 of 3"]
    )


class RoundMember(Model):
    """What a round did to one member, or would do."""

    name: str = Field(description="Its name.")
    member_id: Hex64 = Field(alias="memberID", description="Its ID, in hex.")
    leader: bool = Field(default=False, description="Whether it led when the round began.")
    outcome: Outcome = Field(description="What became of it.")
    reason: str = Field(default="", description="Why.")
    before: str = Field(default="", description="Size of its file before.")
    after: str = Field(default="", description="Size of its file after.")
    reclaimed: str = Field(default="", description="What the disk got back.")
    reclaimed_bytes: int = Field(default=0, description="The same in bytes.")
    milliseconds: int = Field(default=0, description="How long it was silent.")
    seconds: str = Field(default="", description="The same for people; of a plan, an estimate.")


class Round(Model):
    """How a round went, or a plan of one."""

    mode: Literal["Apply", "Plan"] = Field(description="Whether it was only a plan.")
    outcome: Literal[
        "Planned", "Done", "NothingToDo", "Refused", "Stopped", "WindowOver", "Failed"
    ] = Field(
        description="`Refused`: nothing was touched. `Stopped`: something unexpected, or a wish of "
        "somebody's, ended it between two members. `WindowOver`: the rest waits for the next window"
    )
    reason: str = Field(default="", description="The same as one word.")
    message: str = Field(default="", description="Why, for people.")
    start_time: Time = Field(description="When it began.")
    completion_time: Time = Field(description="When it ended.")
    reclaimed: str = Field(default="", description="What the disks got back.")
    objections: tuple[str, ...] = Field(default=(), description="All that spoke against it.")
    members: tuple[RoundMember, ...] = Field(
        default=(), description="Its members, in the order of their turns."
    )
    warnings: tuple[str, ...] = Field(default=(), description="What to look at.")


class LastCompaction(Model):
    """What came of the last compaction of ours."""

    outcome: Literal["Compacted", "NotNeeded", "Refused", "Failed"] = Field(
        description="Whether it compacted."
    )
    message: str = Field(default="", description="Why, for people.")
    time: Time = Field(description="When.")
    compact_revision: int = Field(
        default=0, description="The oldest revision that could be read after it."
    )


class LastRescue(Model):
    """How the last rescue of a full etcd went."""

    outcome: Literal["Rescued", "NotNeeded", "Refused", "Stopped", "Failed"] = Field(
        description="Whether etcd takes writes again."
    )
    reason: str = Field(default="", description="The same as one word.")
    message: str = Field(default="", description="Why, for people.")
    start_time: Time = Field(description="When it began.")
    completion_time: Time = Field(description="When it ended.")
    snapshot: str = Field(
        default="", description="Where the snapshot lies that was taken before: a URL, or a path."
    )
    disarmed: tuple[Hex64, ...] = Field(
        default=(), description="Members whose alarm was taken back."
    )


class EtcdMaintenanceStatus(Model):
    """How the etcd is, and what was last done to it."""

    phase: Literal["Observing", "Pending", "Running", "Suspended"] | None = Field(
        default=None, description="For people; machines read the conditions."
    )
    observed_generation: int | None = Field(default=None, description="Generation last looked at.")
    message: str | None = Field(default=None, description="How it stands, for people.")
    observed_schedule: str | None = Field(
        default=None, description="The schedule, with its zone, that the times below are of."
    )
    anchor_time: Time | None = Field(
        default=None,
        description="Rounds due after this moment are still to be made: when the last one was due, "
        "or when the schedule was set.",
    )
    last_schedule_time: Time | None = Field(
        default=None, description="When the last round that the schedule started was due."
    )
    next_schedule_time: Time | None = Field(
        default=None, description="When the next round will start by the schedule."
    )
    missed_runs: int | None = Field(
        default=None, description="Times of the schedule for which no round was made."
    )
    last_handled_requested_at: str | None = Field(
        default=None,
        description="Value of annotation etcdsteward.io/requestedAt that a round was last made "
        "for.",
    )
    task: Literal["round", "rescue"] | None = Field(
        default=None, description="What is under way, or waits to go on."
    )
    task_mode: Literal["Apply", "Plan"] | None = Field(
        default=None, description="Whether it is only a plan."
    )
    task_end_time: Time | None = Field(default=None, description="When its window is over.")
    attempt: int | None = Field(default=None, description="Which attempt of it this is.")
    start_time: Time | None = Field(default=None, description="When it was begun.")
    starts: int | None = Field(
        default=None, description="How often a process was started for this EtcdMaintenance."
    )
    heartbeat_time: Time | None = Field(
        default=None, description="When its process last said that it lives."
    )
    progress: MaintenanceProgress | None = Field(default=None, description="How far it is.")
    etcd: ObservedEtcd | None = Field(default=None, description="The etcd as it was seen last.")
    speed: int | None = Field(
        default=None,
        description="Bytes in use per second of the slowest member in the last round: what the "
        "next one's estimates are made of.",
    )
    last_successful_time: Time | None = Field(
        default=None, description="When a round last did what was to be done, or found nothing."
    )
    last_defragmentation_time: Time | None = Field(
        default=None, description="When a member was last defragmented by a round of this order."
    )
    last_round: Round | None = Field(default=None, description="How the last round went.")
    plan: Round | None = Field(default=None, description="What a round would have done.")
    last_compaction: LastCompaction | None = Field(
        default=None, description="What came of the last compaction of ours."
    )
    last_rescue: LastRescue | None = Field(
        default=None, description="How the last rescue of a full etcd went."
    )
    conditions: tuple[Condition, ...] = Field(
        default=(), description="`Ready`, `EtcdReachable`, `EtcdHealthy`, `RoundSucceeded`."
    )
