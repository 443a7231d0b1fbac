"""What speaks against defragmenting a member now: every rule that has been paid for by an incident.

Pure: facts in, reasons out. A round asks before each member, and while it waits for the cluster to
settle after one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from etcd_steward.engine.maintenance.estimate import budget, expected
from etcd_steward.engine.maintenance.facts import Facts, quota_of, release
from etcd_steward.etcd.member import MemberStatus
from etcd_steward.models.maintenance import MaintenanceOptions
from etcd_steward.units import size

_LAG: Final = 1000
"""Entries between what is committed and what a member has applied; from 5,000 on it refuses to
work (etcd server/etcdserver/v3_server.go, `maxGapBetweenApplyAndCommitIndex`)."""
_FIXED: Final = {(3, 4): 38, (3, 5): 23, (3, 6): 5}
"""The first release of each line in which a defragmentation can't destroy data.

Before, one that meets a snapshot from the leader corrupts the member (etcd issue 20650); older ones
yet lose track of the revision if they crash in it (issue 14685), or panic (issue 18842)."""
_COPY: Final = 1.2
"""The copy's size in parts of what is in use, with some air for what is written meanwhile."""


@dataclass(frozen=True, slots=True)
class Objection:
    """One reason not to go on."""

    text: str
    passing: bool = False
    """It usually goes by itself in seconds: worth a second look."""


def objections(
    facts: Facts, options: MaintenanceOptions, *, full_is_fine: bool = False
) -> list[Objection]:
    """What speaks against touching any member; `full_is_fine` for the rescue of a full etcd."""
    return [
        *_identity(facts),
        *_presence(facts),
        *_alarms(facts, full_is_fine=full_is_fine),
        *_leadership(facts),
        *_condition(facts),
        *_versions(facts),
        *_alone(facts, options),
    ]


def member_objections(
    status: MemberStatus, facts: Facts, options: MaintenanceOptions, speed: float | None
) -> list[Objection]:
    """What speaks against rewriting this very member's file."""
    return [*_room(status, facts, options), *_time(status, options, speed)]


def _identity(facts: Facts) -> Iterator[Objection]:
    clusters = {member.cluster_id for member in facts.members}
    if len(clusters) > 1:
        named = ", ".join(f"{one.endpoint} to {one.cluster_id:x}" for one in facts.members)
        yield Objection(f"the endpoints belong to more than one etcd cluster: {named}")


def _presence(facts: Facts) -> Iterator[Objection]:
    reached = {member.member_id for member in facts.members}
    failed = {one.member_id: one for one in facts.failures}
    for info in facts.listed:
        if info.is_learner:
            yield Objection(
                f"member {info.name or f'{info.member_id:x}'} is a learner, which takes the data "
                "over from the leader: promote or remove it first"
            )
        elif info.member_id not in reached:
            yield _absent(info.name or f"{info.member_id:x}", info.client_urls, failed)
    strangers = reached - {info.member_id for info in facts.listed}
    for stranger in sorted(strangers):
        yield Objection(f"{facts.name(stranger)} is not a member of the cluster that answers")


def _absent(name: str, urls: tuple[str, ...], failed: object) -> Objection:
    told = failed.values() if isinstance(failed, dict) else ()
    why = next((one.error.message for one in told if one.endpoint.rstrip("/") in urls), "")
    if why:
        return Objection(f"member {name} does not answer: {why}")
    where = f" (it says of itself that it is at {', '.join(urls)})" if urls else ""
    return Objection(f"no endpoint leads to member {name}: every voter must be named{where}")


def _alarms(facts: Facts, *, full_is_fine: bool) -> Iterator[Objection]:
    alarms = {alarm.kind for member in facts.members for alarm in member.alarms}
    if "CORRUPT" in alarms:
        yield Objection("the CORRUPT alarm is set: find and replace the bad member before all else")
    if "NOSPACE" in alarms and not full_is_fine:
        yield Objection(
            "the NOSPACE alarm is set: `etcd-steward alarm rescue` compacts, defragments and "
            "disarms in the right order"
        )


def _leadership(facts: Facts) -> Iterator[Objection]:
    if any(not member.has_leader for member in facts.members):
        yield Objection("a member knows of no leader", passing=True)
    elif not facts.leader_id:
        yield Objection("the members follow different leaders", passing=True)


def _condition(facts: Facts) -> Iterator[Objection]:
    ahead = max(member.raft_index for member in facts.members)
    for member in facts.members:
        behind = ahead - member.raft_applied_index
        if behind > _LAG:
            name = facts.name(member.member_id)
            yield Objection(f"member {name} lags {behind} entries behind", passing=True)
        for trouble in member.errors:
            yield Objection(f"member {facts.name(member.member_id)} says: {trouble}", passing=True)
        page = facts.metrics.get(member.member_id)
        if page is not None and page.applying_snapshot:
            name = facts.name(member.member_id)
            yield Objection(f"member {name} is taking a snapshot over from the leader")
        if page is not None and page.defragmenting:
            name = facts.name(member.member_id)
            yield Objection(f"somebody else is defragmenting member {name}")


def _versions(facts: Facts) -> Iterator[Objection]:
    lines = set()
    for member in facts.members:
        found = release(member.version)
        if found is None:
            yield Objection(f"{member.version!r} is no release of etcd that is known to be safe")
            continue
        major, minor, patch = found
        lines.add((major, minor))
        fixed = _FIXED.get((major, minor), 0 if (major, minor) > max(_FIXED) else None)
        if fixed is None or patch < fixed:
            safe = f"{major}.{minor}.{fixed}" if fixed is not None else "a supported release"
            yield Objection(
                f"member {facts.name(member.member_id)} runs etcd {member.version}, in which a "
                f"defragmentation can destroy data: upgrade to {safe} or later"
            )
    if len(lines) > 1:
        shown = ", ".join(f"{major}.{minor}" for major, minor in sorted(lines))
        yield Objection(f"the members run different versions ({shown}): finish the upgrade first")


def _alone(facts: Facts, options: MaintenanceOptions) -> Iterator[Objection]:
    if len(facts.voters) == 1 and not options.allow_single_member:
        seconds = max(expected(member.db_size_in_use, None) for member in facts.members)
        yield Objection(
            "this etcd has one member: while it is defragmented nobody can read or write, for "
            f"about {seconds:.0f} s; that must be allowed expressly"
        )


def _room(status: MemberStatus, facts: Facts, options: MaintenanceOptions) -> Iterator[Objection]:
    """The copy must find room: a full disk is worse than a full quota, for the WAL stops, too."""
    need = round(_COPY * status.db_size_in_use)
    name = facts.name(status.member_id)
    if options.disk_room_bytes is not None:
        if options.disk_room_bytes < need:
            yield Objection(
                f"member {name} needs {size(need)} of disk for the copy, and only "
                f"{size(options.disk_room_bytes)} are said to be free"
            )
        return
    quota = quota_of(status, facts.metrics, options)
    if quota is None:
        yield Objection(
            f"nobody knows whether the disk of member {name} has {size(need)} for the copy: state "
            "how much is free there, or the quota"
        )
    elif quota - status.db_size < need:
        yield Objection(
            f"nobody knows whether the disk of member {name} has {size(need)} for the copy: its "
            f"quota of {size(quota)} promises only {size(max(0, quota - status.db_size))} more; "
            "state how much is free there"
        )


def _time(
    status: MemberStatus, options: MaintenanceOptions, speed: float | None
) -> Iterator[Objection]:
    limit = budget(options)
    seconds = expected(status.db_size_in_use, speed)
    if limit is not None and seconds > limit[0]:
        yield Objection(
            f"member {status.name or f'{status.member_id:x}'} would be silent for about "
            f"{seconds:.0f} s, and after {limit[0]:.0f} s {limit[1]} gets it killed in the middle"
        )
