"""The preflight: whether a backup would work, what stands in its way, and what to do about it.

Each check answers for itself: one that fails hides none of the others. What it finds is worded as
the backup would word it, because it asks the same code.
"""

import shutil
from collections.abc import Sequence
from itertools import pairwise

from etcd_steward.deadline import Deadline
from etcd_steward.engine.certificates import check_certificates
from etcd_steward.engine.checklist import IN_SHORT
from etcd_steward.engine.findings import Finding, answered, failure, ok, warning
from etcd_steward.engine.members import choose
from etcd_steward.engine.spool import Spool
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.member import MemberFailure, MemberStatus
from etcd_steward.models.connection import EtcdConnection
from etcd_steward.models.run import SpoolSettings
from etcd_steward.units import size

_QUOTA_PERCENT = 80
"""Share of the quota from which a look is due: etcd refuses all writes at 100."""
_QUOTA_TOLD_RIGHT = (3, 6, 6)
"""etcd tells its quota from 3.6 on, and a wrong one before this (etcd CHANGELOG-3.6)."""

# From each, up to but without the second: what is known of those versions. The last fix of each
# line is in etcd's CHANGELOG of that line; none of these is about reading a snapshot.
_KNOWN_BAD = (
    ((3, 4, 0), (3, 5, 0), "is no longer maintained: no fixes are made for etcd 3.4"),
    ((3, 5, 0), (3, 5, 3), "can lose or diverge data in a crash (etcd issue 13766)"),
    ((3, 5, 3), (3, 5, 6), "can diverge if it crashes while defragmenting (etcd issue 14685)"),
    (
        (3, 5, 6),
        (3, 5, 23),
        "can corrupt a member that catches up while defragmenting (etcd 20653)",
    ),
    ((3, 6, 0), (3, 6, 5), "can corrupt a member that catches up while defragmenting (etcd 20653)"),
)


async def check_etcd(
    client: EtcdClient, connection: EtcdConnection
) -> tuple[list[Finding], int | None]:
    """Look at a cluster; also the size of the largest database, None where no member answers."""
    found = await client.members()
    members = [one for one in found if isinstance(one, MemberStatus)]
    findings = await answered("certificates", check_certificates(connection))
    findings += _endpoints(found, len(set(connection.endpoints)))
    if not members:
        return findings, None
    findings += await answered("members", _unreached(client, found))
    findings += [*_leader(members), *_alarms(members), *_quota(members), *_versions(members)]
    findings += await answered("snapshot", _source(client, found))
    return findings, max(member.db_size for member in members)


def _endpoints(found: Sequence[MemberStatus | MemberFailure], named: int) -> list[Finding]:
    members = [one for one in found if isinstance(one, MemberStatus)]
    failures = [one for one in found if isinstance(one, MemberFailure)]
    findings = [ok("endpoints", _words(member)) for member in members]
    for one in failures:
        say = warning if members else failure
        findings.append(say("endpoints", f"{one.endpoint}: {one.error.message}", one.error.hint))
    if len(found) < named:
        findings.append(
            ok("endpoints", f"{named} endpoints lead to {len(members)} members, told by their IDs")
        )
    clusters = {member.cluster_id for member in members}
    if len(clusters) > 1:
        names = ", ".join(f"{m.endpoint} to {m.cluster_id:x}" for m in members)
        findings.append(
            failure(
                "endpoints",
                f"the endpoints belong to {len(clusters)} clusters: {names}",
                "name the endpoints of one cluster only",
            )
        )
    return findings


def _words(member: MemberStatus) -> str:
    role = "leader" if member.is_leader else "learner" if member.is_learner else "follower"
    name = f"{member.name} " if member.name else ""
    return (
        f"{member.endpoint} is member {name}({member.member_id:x}), {role}, etcd {member.version}"
    )


async def _unreached(
    client: EtcdClient, found: Sequence[MemberStatus | MemberFailure]
) -> list[Finding]:
    """Members of the cluster that no endpoint leads to: neither watched nor ever read from."""
    known = {one.member_id for one in found}
    listed = await client.member_list(linearizable=False)
    missing = [info for info in listed if info.member_id not in known]
    findings = [
        warning(
            "members",
            f"member {info.name or '(never started)'} ({info.member_id:x}) is behind none of the "
            "endpoints",
            f"add {', '.join(info.client_urls) or 'it'} to --endpoints, or remove the member",
        )
        for info in missing
    ]
    return findings or [ok("members", f"the endpoints lead to all members ({len(listed)})")]


def _leader(members: Sequence[MemberStatus]) -> list[Finding]:
    leaders = {member.leader_id for member in members if member.has_leader}
    lost = [member.endpoint for member in members if not member.has_leader]
    if not leaders:
        return [
            failure(
                "leader",
                "etcd has no leader: too few of its members are up, or they can't reach each other",
                "bring members back until a majority is up",
            )
        ]
    if len(leaders) > 1 or lost:
        where = f": {', '.join(lost)} knows of none" if lost else ""
        return [
            warning(
                "leader",
                f"the members don't agree on their leader{where}",
                "an election may be under way: look again, then look at the network between them",
            )
        ]
    (leader,) = leaders
    name = next((m.endpoint for m in members if m.member_id == leader), f"member {leader:x}")
    return [ok("leader", f"{name} leads, in term {members[0].raft_term}")]


def _alarms(members: Sequence[MemberStatus]) -> list[Finding]:
    alarms = {(alarm.kind, alarm.member_id) for member in members for alarm in member.alarms}
    hints = {
        "NOSPACE": "etcd refuses writes: compact, defragment each member, then disarm the alarm",
        "CORRUPT": "the members hold different data: find and replace the bad one before anything "
        "else, and restore nothing taken since",
    }
    if not alarms:
        return [ok("alarms", "none")]
    return [
        failure("alarms", f"{kind} is set by member {member:x}", hints.get(kind, ""))
        for kind, member in sorted(alarms)
    ]


def _quota(members: Sequence[MemberStatus]) -> list[Finding]:
    findings = []
    for member in members:
        use = f"{size(member.db_size)}, {size(member.db_size_in_use)} in use"
        if member.db_size_quota == 0 or _version(member.version) < _QUOTA_TOLD_RIGHT:
            findings.append(
                ok("size", f"{member.endpoint}: {use} (etcd tells its quota from 3.6.6 on)")
            )
            continue
        percent = 100 * member.db_size / member.db_size_quota
        quota = f"{percent:.0f} % of the quota of {size(member.db_size_quota)}"
        message = f"{member.endpoint}: {use}, {quota}"
        if percent < _QUOTA_PERCENT:
            findings.append(ok("size", message))
        else:
            hint = "defragment it, or raise --quota-backend-bytes, before etcd refuses writes"
            findings.append(warning("size", message, hint))
    return findings


def _versions(members: Sequence[MemberStatus]) -> list[Finding]:
    versions = sorted({member.version for member in members}, key=_version)
    findings = [
        warning("versions", f"etcd {version} {what}", "upgrade to the last version of its line")
        for version in versions
        for since, until, what in _KNOWN_BAD
        if since <= _version(version) < until
    ]
    if any(_version(one)[:2] != _version(other)[:2] for one, other in pairwise(versions)):
        findings.append(
            warning(
                "versions",
                f"the members run different minor versions: {', '.join(versions)}",
                "finish the upgrade",
            )
        )
    return findings or [ok("versions", f"etcd {', '.join(versions)}")]


def _version(text: str) -> tuple[int, ...]:
    numbers = text.partition("-")[0].split(".")
    return tuple(int(number) for number in numbers if number.isdecimal())


async def _source(
    client: EtcdClient, found: Sequence[MemberStatus | MemberFailure]
) -> list[Finding]:
    """Choose as a backup would, read through that member, and let it begin to send a snapshot."""
    member = client.member(choose(found, emergency=False).status)
    await member.revision()
    async with member.snapshot(deadline=Deadline.after(30.0)):
        return [
            ok("snapshot", f"{member.endpoint} would be read, and sends snapshots"),
            ok("snapshot", f"it holds what is in etcd; keep by other means: {IN_SHORT}"),
        ]


async def check_spool(settings: SpoolSettings, needed: int | None) -> list[Finding]:
    """Look whether the spool can be used, and holds a snapshot of `needed` bytes."""

    async def look() -> list[Finding]:
        async with Spool.open(settings, "check") as spool:
            spool.reserve(needed or 1)
            free = size(shutil.disk_usage(settings.directory).free)
            limit = "" if settings.limit is None else f", limit {size(settings.limit)}"
            what = "can be written to" if needed is None else f"has room for {size(needed)}"
            return [ok("spool", f"{settings.directory} {what} ({free} free{limit})")]

    return await answered("spool", look())
