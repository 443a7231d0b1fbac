"""Maintenance of one etcd: what it may do, and what it reports.

Sizes are bytes, times are seconds, IDs are hex. The CRD's own words (`256Mi`, `2h`) are turned into
these by whoever reads a resource or a flag.
"""

from datetime import datetime
from typing import Literal

from pydantic import Field

from etcd_steward.models.base import Hex64, Model


class DefragmentationRule(Model):
    """Which members are worth defragmenting.

    A member is where it gives back `min_reclaim`, and is fragmented or nearly full besides.
    """

    min_reclaim: int = Field(default=256 << 20, ge=0)
    """Bytes of free pages below which nothing is gained: etcd uses them again by itself."""
    min_fragmentation_percent: int = Field(default=50, ge=0, le=100)
    """Free pages in percent of the file."""
    quota_usage_percent_above: int = Field(default=80, ge=0, le=100)
    """The file in percent of the quota; where the quota is unknown, this never applies."""
    always: bool = False
    """Every member, whatever it gives back."""


class CompactionOptions(Model):
    """When history is forgotten that nobody else forgets."""

    mode: Literal["WhenStalled", "Retain"] = "WhenStalled"
    """`WhenStalled`: the API server compacts, and only if it has stopped is it done for it.
    `Retain`: nobody else compacts this etcd."""
    retain_revisions: int | None = Field(default=None, ge=1)
    """With `Retain`: the newest so many revisions stay readable."""
    retain_seconds: float | None = Field(default=None, gt=0)
    """With `Retain`: what was there so many seconds ago stays readable. With both, what either
    asks for is kept."""
    stalled_after: float = Field(default=1800.0, gt=0)
    """With `WhenStalled`: seconds without a compaction that mean that nobody compacts any more; the
    API server's own come every five minutes."""


class AlarmOptions(Model):
    """What is done about alarms."""

    no_space: Literal["Rescue", "Report"] = "Report"
    """A full etcd: free space and disarm, or only say so."""


class MaintenanceOptions(Model):
    """What maintenance of one etcd may do, and what it can't find out by itself."""

    defragmentation: DefragmentationRule | None = None
    """None: no rounds."""
    compaction: CompactionOptions | None = None
    alarms: AlarmOptions | None = None
    allow_single_member: bool = False
    """Defragment an etcd of one voter: nobody serves it meanwhile."""
    quota_bytes: int | None = Field(default=None, gt=0)
    """The quota of each member where neither Status nor metrics tell it."""
    disk_room_bytes: int | None = Field(default=None, ge=0)
    """Bytes that are surely free on each member's volume; None: only what its quota leaves room
    for counts."""
    etcd_liveness_seconds: float | None = Field(default=80.0, gt=0)
    """How long a member may be silent before its kubelet kills it (kubeadm: 8 x 10 s); None:
    nobody does."""
    api_server_liveness_seconds: float | None = Field(default=80.0, gt=0)
    """The same for the API server beside a member."""
    settle_seconds: float = Field(default=30.0, ge=0)
    """How long all must be well after a member before the next one's turn."""
    defragment_seconds: float | None = Field(default=None, gt=0)
    """How long one answer is waited for; None: as long as its size may need. After that it is
    asked until it is known whether it is done."""
    metrics_endpoints: tuple[str, ...] = ()
    """`http://host:2381`: where members tell more than Status does. Each says whose it is."""


Outcome = Literal["Defragmented", "Skipped", "WouldDefragment", "Failed", "Unknown", "NotReached"]
"""`Unknown`: it did not answer in time, nor later; it may still be at work. `NotReached`: the round
ended before its turn."""


class MemberReport(Model):
    """What a round did to one member."""

    name: str
    member_id: Hex64 = Field(alias="memberID")
    leader: bool = False
    """It led when the round began."""
    outcome: Outcome
    reason: str = ""
    """Why it was chosen, left out or failed, for people."""
    before_bytes: int = 0
    """Size of its database file; 0 = unknown."""
    in_use_bytes: int = 0
    """Bytes in use before."""
    after_bytes: int = 0
    """0 where nothing was done."""
    estimated_seconds: float = 0.0
    """How long it was expected to be silent."""
    seconds: float = 0.0
    """How long it was."""

    @property
    def reclaimed_bytes(self) -> int:
        """What the disk got back."""
        return max(0, self.before_bytes - self.after_bytes) if self.after_bytes else 0


class LeaderMove(Model):
    """Leadership handed over, so that the leader could have its turn."""

    from_id: Hex64 = Field(alias="fromID")
    from_name: str
    to_id: Hex64 = Field(alias="toID")
    to_name: str
    seconds: float
    """Until all members followed the new leader."""


class RoundReport(Model):
    """A round over all members: planned, done, refused or stopped."""

    mode: Literal["Plan", "Apply"]
    outcome: Literal["Planned", "Done", "NothingToDo", "Refused", "Stopped", "WindowOver"]
    """`Refused`: nothing was touched. `Stopped`: a surprise, or somebody's wish, ended it between
    two members. `WindowOver`: the rest must wait for the next window."""
    reason: str = ""
    """Why it did not do all, for people."""
    objections: tuple[str, ...] = ()
    """All that the gate says against it."""
    held_by: str = ""
    """Who holds the lock, if that is why it was refused."""
    started_at: datetime
    finished_at: datetime
    cluster_id: Hex64 = Field(default="0", alias="clusterID")
    members: tuple[MemberReport, ...] = ()
    """In the order of their turns."""
    leader_move: LeaderMove | None = None
    speed: float | None = None
    """Bytes in use per second of the slowest member: what the next round's estimate is made of."""
    warnings: tuple[str, ...] = ()

    @property
    def reclaimed_bytes(self) -> int:
        """What all members' disks got back."""
        return sum(member.reclaimed_bytes for member in self.members)


class CompactionReport(Model):
    """What came of a look at whether to compact."""

    mode: Literal["Plan", "Apply"] = "Apply"
    outcome: Literal["Compacted", "NotNeeded", "Refused"]
    """Of a plan: what would come of it."""
    reason: str
    """For people."""
    revision: int = 0
    """The cluster's, when it was looked at."""
    compact_revision: int = 0
    """The oldest that can be read now; 0 = nothing was ever compacted."""
    compacted_from: int = 0
    """The oldest that could be read before."""
    finished_at: datetime
    warnings: tuple[str, ...] = ()


class RescueReport(Model):
    """What was done for an etcd that refuses writes because it is full."""

    outcome: Literal["Rescued", "NotNeeded", "Refused", "Stopped"]
    reason: str = ""
    started_at: datetime
    finished_at: datetime
    snapshot: str = ""
    """Where the backup lies that was taken first: a URL, or a path on this host."""
    compaction: CompactionReport | None = None
    round: RoundReport | None = None
    disarmed: tuple[Hex64, ...] = ()
    """Members whose NOSPACE alarm was taken back."""
    warnings: tuple[str, ...] = ()
