"""What a maintenance child is asked to do, and what it says while doing it."""

from datetime import datetime
from typing import Literal

from etcd_steward.models.base import Model
from etcd_steward.models.connection import EtcdConnection, StoreSettings
from etcd_steward.models.maintenance import (
    CompactionReport,
    MaintenanceOptions,
    MemberReport,
    RescueReport,
    RoundReport,
)
from etcd_steward.models.manifest import BackupRef, RunRef
from etcd_steward.models.run import SpoolSettings


class Sighting(Model):
    """What an etcd was seen to be at, at a moment of the observer's own clock."""

    time: datetime
    revision: int
    compact_revision: int | None = None
    """None: not looked at then."""


class RescueBackup(Model):
    """Where the backup goes that a rescue takes first."""

    store: StoreSettings | None = None
    """None: it stays in the spool, and the report says where."""
    spool: SpoolSettings
    backup: BackupRef
    requester: RunRef
    registry_prefix: str = "/registry"
    timeout: float = 3600.0
    taken: str = ""
    """One that an earlier rescue has taken since etcd takes no writes, a URL or a path: it will do
    if it is still there."""


class MaintenanceRequest(Model):
    """One task of maintenance on one etcd."""

    job: Literal["maintenance"] = "maintenance"
    task: Literal["round", "compaction", "rescue"]
    etcd: EtcdConnection
    options: MaintenanceOptions
    mode: Literal["Plan", "Apply"] = "Apply"
    """`Plan` touches nothing and takes no lock."""
    holder: str
    """Who asks, as the lock shows it to others: `<namespace>/<name>`, or a host and process."""
    run: str
    """8 hex digits: this run's own, so that nobody takes its lock for theirs."""
    ends_at: datetime | None = None
    """No member's turn begins unless it is expected to end by then."""
    speed: float | None = None
    """Bytes in use per second of earlier rounds; None: unknown."""
    sightings: tuple[Sighting, ...] = ()
    """Oldest first: how `Retain` and `WhenStalled` know what was when."""
    compact_to: int | None = None
    """A compaction to exactly this revision, where somebody names one."""
    backup: RescueBackup | None = None
    """For a rescue."""


class MemberTurn(Model):
    """A member's turn has come, and how far it is."""

    event: Literal["turn"] = "turn"
    name: str
    step: Literal["WaitingForSnapshot", "MovingLeader", "Defragmenting", "Settling"]
    """While `Defragmenting` the member answers nobody."""
    position: int
    """1 for the first."""
    total: int


class MemberDone(Model):
    """A member's turn is over; members that need none are told of as well."""

    event: Literal["member"] = "member"
    member: MemberReport
    position: int
    total: int


class RoundEnded(Model):
    """The outcome of a round."""

    event: Literal["round"] = "round"
    report: RoundReport


class CompactionEnded(Model):
    """The outcome of a compaction."""

    event: Literal["compaction"] = "compaction"
    report: CompactionReport


class RescueEnded(Model):
    """The outcome of a rescue."""

    event: Literal["rescue"] = "rescue"
    report: RescueReport


MaintenanceEnded = RoundEnded | CompactionEnded | RescueEnded
"""How a task ends; what kept it from beginning is a `Failure`."""
