"""One look at one etcd: what its members say of themselves, and what any of them knows.

Nothing here is proposed to raft and no value is read: Status and the member list are answered from
a member's own memory, the alarms stand in Status (listing them by their own call is a proposal),
leases are counted by a follower, and the compact revision is what a watch from revision 1 fails
with.
"""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from random import Random
from typing import Final, TypeVar

from etcd_steward.deadline import Deadline
from etcd_steward.engine.maintenance.facts import quota_of
from etcd_steward.engine.members import choose
from etcd_steward.engine.observe.identity import Identity
from etcd_steward.errors import StewardError
from etcd_steward.etcd.client import EtcdClient, MemberInfo
from etcd_steward.etcd.member import Member, MemberFailure, MemberStatus
from etcd_steward.models.maintenance import MaintenanceOptions
from etcd_steward.models.observation import (
    LeaseSample,
    Observation,
    ObservationPace,
    ObservedAlarm,
    ObservedMember,
    QuotaSource,
    WatchedCluster,
)
from etcd_steward.registry.paths import root_of

Result = TypeVar("Result")

_LOOK: Final = 20.0
"""Seconds that one look may take."""
SAMPLED: Final = 20
"""Leases whose keys are counted at a look; Kubernetes has tens to low hundreds of leases."""
_NOTHING: Final = MaintenanceOptions()


@dataclass(slots=True)
class Pacer:
    """When something is due again: what takes long is done less often."""

    every: float
    """Seconds, at least."""
    share: float
    """The part of the time that it may take."""
    due_at: float = 0.0

    def due(self) -> bool:
        """Whether it is time."""
        return time.monotonic() >= self.due_at

    def took(self, seconds: float) -> None:
        """Note that it was done, and what it took."""
        self.due_at = time.monotonic() + max(self.every, seconds / self.share)


@dataclass(slots=True)
class Poller:
    """Looks at one cluster again and again, and remembers what is not looked at each time."""

    wanted: WatchedCluster
    client: EtcdClient
    pace: ObservationPace
    random: Random = field(default_factory=Random)
    identity: Identity = field(default_factory=Identity)
    leases: int | None = None
    lease_sample: LeaseSample | None = None
    _leases_due: Pacer = field(init=False)
    _known: dict[str, MemberStatus] = field(default_factory=dict)
    """By endpoint, what was last told there: one that is down keeps its name."""

    def __post_init__(self) -> None:
        self._leases_due = Pacer(0.0, self.pace.share)

    async def look(self) -> Observation:
        """Look once. Whatever goes wrong is in the observation."""
        began, deadline = time.monotonic(), Deadline.after(_LOOK)
        found = await self.client.members(deadline=deadline)
        statuses = [one for one in found if isinstance(one, MemberStatus)]
        self._known |= {one.endpoint: one for one in statuses}
        failures = [self._named(one) for one in found if isinstance(one, MemberFailure)]
        seen = Observation(
            cluster=self.wanted.name, at=datetime.now(UTC), seconds=0.0, reachable=bool(statuses)
        )
        try:
            best = choose(found, emergency=True).status
        except StewardError as error:
            return self._ended(seen, began, [str(error)], (), failures)
        listed, compacted, leases = await asyncio.gather(
            _or_error(self.client.member_list(linearizable=False, deadline=deadline)),
            _or_error(self._compact_revision(best, deadline)),
            _or_error(self._count_leases(self.client.member(best), deadline)),
        )
        told = [one for one in (listed, compacted, leases) if isinstance(one, StewardError)]
        if isinstance(leases, StewardError):
            self.leases = self.lease_sample = None
        infos = listed if isinstance(listed, list) else []
        seen = seen.model_copy(
            update={
                "cluster_id": f"{best.cluster_id:x}",
                "alarms": _alarms(statuses, infos),
                "leader": _leader(statuses, infos),
                "revision": max(one.revision for one in statuses),
                "compact_revision": compacted if isinstance(compacted, int) else None,
                "leases": self.leases,
                "lease_sample": self.lease_sample,
            }
        )
        return self._ended(
            seen,
            began,
            [*map(str, told), *self.identity.warnings],
            statuses,
            failures,
            listed=infos,
        )

    def _named(self, failure: MemberFailure) -> MemberFailure:
        """The same with the member's name, though nobody is left to tell it."""
        known = self._known.get(failure.endpoint)
        if failure.member_id or known is None:
            return failure
        return replace(failure, name=known.name, member_id=known.member_id)

    def _ended(
        self,
        seen: Observation,
        began: float,
        errors: Sequence[str],
        statuses: Sequence[MemberStatus],
        failures: Sequence[MemberFailure],
        *,
        listed: Sequence[MemberInfo] = (),
    ) -> Observation:
        known = self.identity
        members = members_of(statuses, failures, listed, known, self.wanted.quota_bytes)
        return seen.model_copy(
            update={
                "members": members,
                "error": "; ".join(errors),
                "seconds": time.monotonic() - began,
                "kube_system_uid": known.kube_system_uid,
                "client_certificate_expires": known.client_certificate,
                "ca_certificate_expires": known.ca_certificate,
            }
        )

    async def _compact_revision(self, status: MemberStatus, deadline: Deadline) -> int:
        key = root_of(self.wanted.registry_prefix)
        return await self.client.member(status).compact_revision(key, deadline=deadline)

    async def _count_leases(self, member: Member, deadline: Deadline) -> None:
        """Count all, and the keys of some.

        A member sorts all its leases to list them, which takes it half a second for 300,000.
        """
        if not self._leases_due.due():
            return
        began = time.monotonic()
        leases = (await member.leases(deadline=deadline)).leases
        self.leases = count = len(leases)
        took = time.monotonic() - began
        chosen = range(count) if count <= SAMPLED else self.random.sample(range(count), SAMPLED)
        ids = [leases[index].ID for index in chosen]
        keys = []
        for lease in ids:
            found = await member.lease_keys(lease, deadline=deadline)
            if found is not None:
                keys.append(found)
        self.lease_sample = LeaseSample(leases=len(keys), keys=sum(keys), most=max(keys, default=0))
        self._leases_due.took(took)


async def _or_error(asked: Awaitable[Result]) -> Result | StewardError:
    try:
        return await asked
    except StewardError as error:
        return error


def _leader(statuses: Sequence[MemberStatus], listed: Sequence[MemberInfo]) -> str | None:
    """Whom the member of the newest term follows."""
    following = [one for one in statuses if one.has_leader]
    if not following:
        return None
    leader_id = max(following, key=lambda one: (one.raft_term, one.is_leader)).leader_id
    return _name_of(leader_id, statuses, listed)


def _name_of(member_id: int, statuses: Sequence[MemberStatus], listed: Sequence[MemberInfo]) -> str:
    names = {one.member_id: one.name for one in statuses} | {
        info.member_id: info.name for info in listed
    }
    return names.get(member_id) or f"{member_id:x}"


def _alarms(
    statuses: Sequence[MemberStatus], listed: Sequence[MemberInfo]
) -> tuple[ObservedAlarm, ...]:
    """Each alarm once, whoever tells of it."""
    set_ = {(alarm.kind, alarm.member_id) for one in statuses for alarm in one.alarms}
    return tuple(
        ObservedAlarm(
            kind=kind,
            member_id=f"{member_id:x}",
            member=_name_of(member_id, statuses, listed) if member_id else "",
        )
        for kind, member_id in sorted(set_)
    )


def members_of(
    statuses: Sequence[MemberStatus],
    failures: Sequence[MemberFailure],
    listed: Sequence[MemberInfo],
    known: Identity,
    stated_quota: int | None,
) -> tuple[ObservedMember, ...]:
    """All members that are listed or were asked, by name."""
    newest = max((one.raft_index for one in statuses), default=0)
    members: dict[str, ObservedMember] = {}
    for status in statuses:
        one = _told(status, newest, known, stated_quota)
        members[one.member_id or one.endpoint] = one
    for failure in failures:
        member_id = f"{failure.member_id:x}" if failure.member_id else None
        if member_id in members:
            continue  # it answers by another endpoint
        members[member_id or failure.endpoint] = ObservedMember(
            name=failure.name or member_id or failure.endpoint,
            member_id=member_id,
            endpoint=failure.endpoint,
            up=False,
            error=str(failure.error),
            certificate_expires=known.member_certificates.get(failure.endpoint),
        )
    for info in listed:
        id_ = f"{info.member_id:x}"
        if id_ in members:
            members[id_] = members[id_].model_copy(update={"learner": info.is_learner})
        else:
            members[id_] = ObservedMember(
                name=info.name or id_, member_id=id_, learner=info.is_learner
            )
    return tuple(sorted(members.values(), key=lambda one: one.name))


def _told(
    status: MemberStatus, newest: int, known: Identity, stated_quota: int | None
) -> ObservedMember:
    quota, source = _quota(status, known, stated_quota)
    return ObservedMember(
        name=status.name or (f"{status.member_id:x}" if status.member_id else status.endpoint),
        member_id=f"{status.member_id:x}" if status.member_id else None,
        endpoint=status.endpoint,
        up=True,
        leader=status.is_leader,
        learner=status.is_learner,
        has_leader=status.has_leader,
        lag=max(0, newest - status.raft_applied_index),
        version=status.version,
        storage_version=status.storage_version,
        db_size=status.db_size,
        db_in_use=status.db_size_in_use,
        quota=quota,
        quota_source=source,
        revision=status.revision,
        errors=status.errors,
        certificate_expires=known.member_certificates.get(status.endpoint),
    )


def _quota(
    status: MemberStatus, known: Identity, stated: int | None
) -> tuple[int | None, QuotaSource | None]:
    """By itself where that can be trusted, by its metrics page, or as stated."""
    if (quota := quota_of(status, {}, _NOTHING)) is not None:
        return quota, "Status"
    if (quota := known.quotas.get(status.member_id)) is not None:
        return quota, "Metrics"
    return stated, "Spec" if stated is not None else None
