"""From an observation to what the metrics say: pure. What is not known has no sample."""

from collections.abc import Iterator
from datetime import datetime

from etcd_steward.metrics import Sample, names
from etcd_steward.metrics.names import Family
from etcd_steward.models.observation import Observation, ObservedMember, Tallied

_ALARMS = ("NOSPACE", "CORRUPT")


def figures(seen: Observation) -> list[Sample]:
    """All samples of one cluster."""
    found = list(_cluster(seen))
    for member in seen.members:
        found += _member(seen.cluster, member)
        found += _alarms(seen, member)
    listed = {member.member_id for member in seen.members}
    found += [  # of nobody, or of a member that is no more: it refuses writes all the same
        Sample(names.MEMBER_ALARM, (seen.cluster, alarm.member, alarm.kind), 1.0)
        for alarm in seen.alarms
        if alarm.member_id not in listed
    ]
    tallies = (
        (names.REGISTRY_KEYS, seen.keys),
        (names.REGISTRY_NAMESPACE_KEYS, seen.namespace_keys),
        (names.REGISTRY_BYTES, seen.sizes),
    )
    for family, tallied in tallies:
        found += _tallied(family, seen.cluster, tallied)
    return found


def _cluster(seen: Observation) -> Iterator[Sample]:
    sample, sizes = seen.lease_sample, seen.sizes
    told: dict[Family, float | datetime | None] = {
        names.REACHABLE: seen.reachable,
        names.OBSERVED: seen.at,
        names.OBSERVING_SECONDS: seen.seconds,
        names.HAS_LEADER: (seen.leader is not None) if seen.reachable else None,
        names.REVISION: seen.revision,
        names.REVISION_CHANGED: seen.revision_since,
        names.COMPACT_REVISION: seen.compact_revision,
        names.COMPACT_REVISION_CHANGED: seen.compact_revision_since,
        names.LEASES: seen.leases,
        names.SAMPLED_LEASES: sample.leases if sample else None,
        names.SAMPLED_LEASE_KEYS: sample.keys if sample else None,
        names.SAMPLED_LEASE_KEYS_MAX: sample.most if sample else None,
        names.CLIENT_CERTIFICATE: seen.client_certificate_expires,
        names.CA_CERTIFICATE: seen.ca_certificate_expires,
        names.REGISTRY_BYTES_AT: sizes.at if sizes else None,
    }
    yield from _known(told, (seen.cluster,))
    if seen.cluster_id is not None:
        labels = (seen.cluster, seen.cluster_id, seen.kube_system_uid or "")
        yield Sample(names.CLUSTER_INFO, labels, 1.0)


def _member(cluster: str, member: ObservedMember) -> Iterator[Sample]:
    up = member.up
    told: dict[Family, float | datetime | None] = {
        names.MEMBER_UP: up,
        names.MEMBER_IS_LEADER: member.leader if up else None,
        names.MEMBER_IS_LEARNER: member.learner,
        names.MEMBER_HAS_LEADER: member.has_leader if up else None,
        names.MEMBER_LAG: member.lag,
        names.DB_SIZE: member.db_size,
        names.DB_IN_USE: member.db_in_use,
        names.QUOTA: member.quota,
        names.MEMBER_CERTIFICATE: member.certificate_expires,
    }
    yield from _known(told, (cluster, member.name))
    if up:
        labels = (cluster, member.name, member.member_id or "", member.version)
        yield Sample(names.MEMBER_INFO, labels, 1.0)


def _alarms(seen: Observation, member: ObservedMember) -> Iterator[Sample]:
    if seen.reachable:
        set_ = {alarm.kind for alarm in seen.alarms if alarm.member_id == member.member_id}
        for kind in _ALARMS:
            yield Sample(names.MEMBER_ALARM, (seen.cluster, member.name, kind), float(kind in set_))


def _tallied(family: Family, cluster: str, tallied: Tallied | None) -> Iterator[Sample]:
    if tallied is None:
        return
    for name, count in tallied.largest.items():
        yield Sample(family, (cluster, name), float(count))
    yield Sample(family, (cluster, names.OTHER), float(tallied.other))


def _known(
    told: dict[Family, float | datetime | None], labels: tuple[str, ...]
) -> Iterator[Sample]:
    for family, value in told.items():
        if value is not None:
            number = value.timestamp() if isinstance(value, datetime) else float(value)
            yield Sample(family, labels, number)
