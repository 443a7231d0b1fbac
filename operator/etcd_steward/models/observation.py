"""What is seen of an etcd from outside, and what the process that looks is asked.

One process looks at all clusters. Its request names them; another line on its standard input, in
the same form, replaces the whole list. Each look at a cluster leaves it as one `Observation`.
"""

from datetime import datetime
from typing import Final, Literal

from pydantic import AwareDatetime, Field

from etcd_steward.models.base import Hex64, Model
from etcd_steward.models.connection import EtcdConnection

OTHER: Final = "other"
"""Instead of a name: all that are not among the largest."""
NAMES: Final = 25
"""Resources, and namespaces, that have a figure of their own."""

QuotaSource = Literal["Status", "Metrics", "Spec"]
"""Who told a quota: the member itself (from etcd 3.6.6 on), its metrics page, a person."""


class WatchedCluster(Model):
    """One etcd that is to be looked at."""

    name: str
    """`<namespace>/<name>` of its EtcdMaintenance: what metrics call it (`etcd_cluster`)."""
    etcd: EtcdConnection
    metrics_endpoints: tuple[str, ...] = ()
    """`http://host:2381`: where members tell more than Status does. Each says whose it is."""
    quota_bytes: int | None = Field(default=None, gt=0)
    """The quota where nobody else tells it."""
    registry_prefix: str = "/registry"
    """The API server's `--etcd-prefix`."""


class ObservationPace(Model):
    """How often what is looked at, in seconds; tests shorten it."""

    status: float = 30.0
    """Members, revisions, leases, alarms."""
    keys: float = 300.0
    """Keys per resource: counted by etcd in its index, no value is read."""
    namespaces: float = 3600.0
    """Keys per namespace, by reads of keys alone."""
    identity: float = 3600.0
    """Certificates, and whose registry it is."""
    share: float = 0.01
    """Whatever took long is repeated less often: it may take this part of the time."""


class ObserveRequest(Model):
    """Look at these clusters until told otherwise."""

    job: Literal["observe"] = "observe"
    clusters: tuple[WatchedCluster, ...]
    pace: ObservationPace = ObservationPace()


class ObservedAlarm(Model):
    """An alarm that is set."""

    kind: str
    """`NOSPACE` or `CORRUPT`."""
    member_id: Hex64 = Field(alias="memberID")
    """Who set it; 0 where etcd found corruption without a culprit."""
    member: str = ""
    """Its name; empty where that is not known."""


class ObservedMember(Model):
    """One member, as it was at the last look. Sizes in bytes."""

    name: str
    """From the member list; its ID in hex, or else its endpoint, where it has no name there."""
    member_id: Hex64 | None = Field(default=None, alias="memberID")
    endpoint: str = ""
    """By which it was asked; empty if no endpoint that was given leads to it."""
    up: bool | None = None
    """Whether it told its status; None where it could not be asked."""
    error: str = ""
    """Why it did not."""
    leader: bool = False
    learner: bool = False
    has_leader: bool = False
    """Whether it knows of a leader."""
    lag: int | None = None
    """Raft entries that it has yet to apply, of those that any member knows of."""
    version: str = ""
    storage_version: str = ""
    """Empty before etcd 3.6."""
    db_size: int | None = None
    db_in_use: int | None = None
    quota: int | None = None
    """None: nobody tells it."""
    quota_source: QuotaSource | None = None
    revision: int | None = None
    errors: tuple[str, ...] = ()
    """Its own complaints other than alarms, such as `etcdserver: no leader`."""
    certificate_expires: AwareDatetime | None = None
    """When the certificate that it shows ends."""

    @property
    def fragmentation(self) -> float | None:
        """The part of its file that holds nothing, from 0 to 1."""
        if not self.db_size or self.db_in_use is None:
            return None
        return max(0.0, 1 - self.db_in_use / self.db_size)

    @property
    def quota_used(self) -> float | None:
        """Its file's size in parts of its quota: what etcd itself compares."""
        if not self.quota or self.db_size is None:
            return None
        return self.db_size / self.quota


class LeaseSample(Model):
    """Keys that hang on leases: of some, where there are many."""

    leases: int
    """How many were looked at."""
    keys: int
    """Keys of all these."""
    most: int
    """Keys of the one with most."""


class Tallied(Model):
    """A figure for each of a bounded number of names, the largest ones, and for all the rest."""

    at: AwareDatetime
    """As of when."""
    largest: dict[str, int]
    """By name, largest first."""
    other: int = 0
    """The sum of all that are not named."""
    total: int

    @classmethod
    def of(cls, figures: dict[str, int], at: datetime, *, names: int = NAMES) -> "Tallied":
        """The largest `names` of these; what has no name already stays so."""
        named = ((name, figure) for name, figure in figures.items() if name != OTHER)
        ranked = sorted(named, key=lambda item: (-item[1], item[0]))
        total = sum(figures.values())
        largest = dict(ranked[:names])
        return cls(at=at, largest=largest, other=total - sum(largest.values()), total=total)


class Observation(Model):
    """One etcd cluster at one look. What could not be found out is None, or as last known."""

    event: Literal["observation"] = "observation"
    cluster: str
    """The `WatchedCluster`'s name."""
    at: AwareDatetime
    seconds: float
    """How long the look took."""
    reachable: bool
    """Whether any member told its status."""
    error: str = ""
    """Why none did, or what else could not be found out."""
    cluster_id: Hex64 | None = Field(default=None, alias="clusterID")
    kube_system_uid: str | None = Field(default=None, alias="kubeSystemUID")
    """Whose registry it holds; None where it holds none, or that is not known."""
    members: tuple[ObservedMember, ...] = ()
    """Voters and learners, by name."""
    leader: str | None = None
    """Name of the leader; None if no member that answers knows one."""
    alarms: tuple[ObservedAlarm, ...] = ()
    revision: int | None = None
    revision_since: AwareDatetime | None = None
    """When the revision was seen to move to this, or was first seen."""
    compact_revision: int | None = None
    """The oldest that can be read; 0 = nothing was ever compacted."""
    compact_revision_since: AwareDatetime | None = None
    """When it was seen to move to this, or was first seen: nothing was compacted since then."""
    leases: int | None = None
    lease_sample: LeaseSample | None = None
    keys: Tallied | None = None
    """Per resource; keys that are no API objects' are told apart in words."""
    namespace_keys: Tallied | None = None
    """Per namespace."""
    sizes: Tallied | None = None
    """Bytes per resource, of the newest backup's registry file: as of then."""
    client_certificate_expires: AwareDatetime | None = None
    ca_certificate_expires: AwareDatetime | None = None
    """The one of them that ends first."""

    @property
    def voters(self) -> tuple[ObservedMember, ...]:
        """All but learners."""
        return tuple(member for member in self.members if not member.learner)

    def has_alarm(self, kind: str) -> bool:
        """Whether any member has set `NOSPACE` or `CORRUPT`."""
        return any(alarm.kind == kind for alarm in self.alarms)

    @property
    def quota_used(self) -> float | None:
        """The fullest member's file in parts of its quota."""
        return max((m.quota_used for m in self.members if m.quota_used is not None), default=None)

    @property
    def db_size(self) -> int | None:
        """Bytes of the largest file."""
        return max((m.db_size for m in self.members if m.db_size is not None), default=None)

    @property
    def db_in_use(self) -> int | None:
        """Bytes in use of the member that uses most."""
        return max((m.db_in_use for m in self.members if m.db_in_use is not None), default=None)

    @property
    def version(self) -> str:
        """The oldest member's: what the cluster as a whole can do. Empty if none answers."""
        versions = (m.version for m in self.members if m.version)
        return min(versions, key=_numbers, default="")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.partition("-")[0].split(".") if part.isdigit())
