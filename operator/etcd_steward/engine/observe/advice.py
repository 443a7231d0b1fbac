"""What needs a look in an observation, and what to do next: pure.

In the order in which a person should care: what fails writes now, what will, what costs safety.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from etcd_steward.engine.findings import Finding, failure, warning
from etcd_steward.models.maintenance import DefragmentationRule
from etcd_steward.models.observation import Observation, ObservedMember
from etcd_steward.units import size

_RULE: Final = DefragmentationRule()
"""What a round would think worth it, unless told otherwise."""
_LAG: Final = 5000
"""Entries from which on a member answers "too many requests" (etcd v3_server.go)."""
_LEASES: Final = 10_000
"""Kubernetes holds tens to low hundreds: one a minute for each API server's Events."""
_UNCOMPACTED: Final = 100_000
"""Revisions of history that an API server which compacts every five minutes hardly leaves."""
_STALLED: Final = timedelta(minutes=30)
_SOON: Final = timedelta(days=30)


def advice(seen: Observation) -> list[Finding]:
    """All that needs a look; empty if all is well."""
    if not seen.reachable:
        return [failure("members", f"no member of etcd answers: {seen.error}", _LOOK_AT_HOSTS)]
    return [
        *_alarms(seen),
        *_leader(seen),
        *_members(seen),
        *_space(seen),
        *_history(seen),
        *_certificates(seen),
    ]


_LOOK_AT_HOSTS: Final = "look at the hosts: is etcd up there, and does its port answer from here?"


def _alarms(seen: Observation) -> Iterator[Finding]:
    if seen.has_alarm("CORRUPT"):
        yield failure(
            "alarms",
            "CORRUPT is set: the members hold different data, and writes are refused",
            "defragment, compact and prune nothing; `etcd-steward hashkv` finds the odd "
            "one out, which must be replaced before the alarm is disarmed",
        )
    if seen.has_alarm("NOSPACE"):
        names = ", ".join(a.member or a.member_id for a in seen.alarms if a.kind == "NOSPACE")
        yield failure(
            "alarms",
            f"NOSPACE is set by {names}: etcd is full, and refuses writes",
            "`etcd-steward alarm rescue` makes room and disarms it; then find what has grown: "
            "`etcd-steward registry top`",
        )


def _leader(seen: Observation) -> Iterator[Finding]:
    if seen.leader is None:
        up = sum(bool(member.up) for member in seen.voters)
        yield failure(
            "leader",
            f"etcd has no leader: {up} of {len(seen.voters)} voters answer",
            "bring members back until a majority is up; `etcd-steward snapshot save --emergency` "
            "takes what a last member holds",
        )


def _members(seen: Observation) -> Iterator[Finding]:
    for member in seen.members:
        if member.up is None:
            yield warning(
                "members",
                f"{member.name} was not asked: no endpoint leads to it",
                "name every member's own client URL in --endpoints",
            )
        elif not member.up:
            yield warning("members", f"{member.name} is down: {member.error}", _LOOK_AT_HOSTS)
        elif seen.leader is not None and not member.has_leader:
            yield warning(
                "members",
                f"{member.name} knows of no leader: it is cut off from the others",
                "look at its network and at its log",
            )
        elif member.learner:
            yield warning(
                "members",
                f"{member.name} is a learner: it does not vote",
                "promote it when it has caught up: `etcdctl member promote`",
            )
        if member.lag is not None and member.lag > _LAG:
            yield warning(
                "members",
                f"{member.name} is {member.lag:,} entries behind",
                "look at its disk and network",
            )
    versions = sorted({member.version for member in seen.members if member.version})
    if len(versions) > 1:
        yield warning(
            "members",
            f"they run etcd {' and '.join(versions)}",
            "finish the upgrade: until then the oldest decides what the cluster can do",
        )


def _space(seen: Observation) -> Iterator[Finding]:
    full = [m for m in seen.members if (m.quota_used or 0) * 100 > _RULE.quota_usage_percent_above]
    free = {m.name: (m.db_size or 0) - (m.db_in_use or 0) for m in seen.members}
    for member in full:
        yield warning(
            "space",
            f"{member.name} takes {_percent(member.quota_used)} of its quota; at 100 % etcd "
            "refuses all writes",
            _MAKE_ROOM if free[member.name] >= _RULE.min_reclaim else _FIND_WHAT,
        )
    fragmented = [m.name for m in seen.members if m not in full and _worth_it(m)]
    if fragmented:
        total = sum(free[name] for name in fragmented)
        yield warning(
            "space",
            f"{size(total)} of the files of {', '.join(fragmented)} are free pages",
            _MAKE_ROOM,
        )
    if any(member.up and member.quota is None for member in seen.members):
        yield warning(
            "space",
            "the quota is unknown: etcd tells it from 3.6.6 on",
            "give --metrics-endpoints, or state it by --quota",
        )


_MAKE_ROOM: Final = "`etcd-steward defrag --plan` shows what a defragmentation would give back"
_FIND_WHAT: Final = (
    "hardly any of it is free: find what has grown (`etcd-steward registry top`), or raise "
    "--quota-backend-bytes"
)


def _worth_it(member: ObservedMember) -> bool:
    free = (member.db_size or 0) - (member.db_in_use or 0)
    part = (member.fragmentation or 0) * 100
    return free >= _RULE.min_reclaim and part >= _RULE.min_fragmentation_percent


def _percent(part: float | None) -> str:
    return f"{(part or 0) * 100:.0f} %"


def _history(seen: Observation) -> Iterator[Finding]:
    compacted, since = seen.compact_revision, seen.compact_revision_since
    if compacted is not None and seen.revision is not None:
        held = seen.revision - compacted
        stood = timedelta() if since is None else seen.at - since
        message = f"{held:,} revisions are kept"
        if stood > _STALLED:
            minutes = stood.total_seconds() / 60
            message += f", and none was compacted for {minutes:.0f} minutes"
        if held > _UNCOMPACTED or (stood > _STALLED and held > 0):
            yield warning(
                "history",
                message,
                "an API server compacts every five minutes: look whether one does "
                "(--etcd-compaction-interval), or use `etcd-steward maintenance compact`",
            )
    if seen.leases is not None and seen.leases > _LEASES:
        yield warning(
            "leases",
            f"there are {seen.leases:,} leases; Kubernetes needs some hundreds at most",
            "find out who grants them: each is renewed or expires through raft",
        )


def _certificates(seen: Observation) -> Iterator[Finding]:
    ends = {
        "our client certificate": seen.client_certificate_expires,
        "the CA": seen.ca_certificate_expires,
        **{f"the certificate of {m.name}": m.certificate_expires for m in seen.members},
    }
    for what, end in ends.items():
        if end is None or end - seen.at > _SOON:
            continue
        if end <= seen.at:
            yield failure("certificates", f"{what} expired on {end:%Y-%m-%d %H:%M} UTC", "renew it")
        else:
            days = (end - seen.at).days
            yield warning("certificates", f"{what} ends in {days} days", "renew it")
