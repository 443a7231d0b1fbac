"""Taking an alarm back by hand: one alarm, and only where its cause is gone.

`etcdctl alarm disarm` takes back every alarm there is, CORRUPT among them, and asks nothing.
"""

from dataclasses import dataclass
from typing import Literal

from etcd_steward.deadline import Deadline
from etcd_steward.engine.hash_members import hash_members
from etcd_steward.engine.hashkv import Verdict, judge
from etcd_steward.engine.maintenance.corrupt import refuse_corrupt
from etcd_steward.engine.maintenance.facts import Facts, gather, quota_of
from etcd_steward.engine.maintenance.rule import rescued_below
from etcd_steward.engine.report import Report
from etcd_steward.errors import InvalidInput, NotFound, Refused
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.member import Alarm
from etcd_steward.models.maintenance import MaintenanceOptions
from etcd_steward.units import size

Kind = Literal["NOSPACE", "CORRUPT"]


@dataclass(frozen=True, slots=True)
class Raised:
    """An alarm, and what its member says of itself."""

    alarm: Alarm
    name: str
    """Of the member; empty where etcd names nobody."""
    db_size: int = 0
    quota: int | None = None


async def raised(client: EtcdClient, options: MaintenanceOptions) -> list[Raised]:
    """Every alarm there is. Raises what etcd raises; a quorum is needed."""
    facts = await gather(client, options)
    return [_described(alarm, facts, options) for alarm in await client.alarms()]


def _described(alarm: Alarm, facts: Facts, options: MaintenanceOptions) -> Raised:
    status = facts.member(alarm.member_id)
    if status is None:
        return Raised(alarm, facts.name(alarm.member_id) if alarm.member_id else "")
    quota = quota_of(status, facts.metrics, options)
    return Raised(alarm, facts.name(alarm.member_id), status.db_size, quota)


async def disarm(
    client: EtcdClient,
    options: MaintenanceOptions,
    kind: Kind,
    member: str | None,
    report: Report,
    *,
    deadline: Deadline,
) -> list[Raised]:
    """Take back alarms of one kind, of `member` (a name or an ID in hex) or of all members.

    Raises `NotFound` where there is none, `Refused` where its cause is still there, or NOSPACE is
    to be taken back beside CORRUPT, `InvalidInput` where CORRUPT is to be taken back of nobody in
    particular.
    """
    every = await raised(client, options)
    found = [one for one in every if one.alarm.kind == kind]
    chosen = [one for one in found if member is None or member in _names(one)]
    if not chosen:
        whose = f" of {member}" if member is not None else ""
        raise NotFound(
            f"no {kind} alarm{whose} is raised", hint="`etcd-steward alarm list` shows them"
        )
    if kind == "CORRUPT":
        if member is None:
            raise InvalidInput("a CORRUPT alarm is taken back of one member", hint="name it")
        await _must_agree(client, report, deadline)
    else:
        refuse_corrupt(one.alarm for one in every)
        _must_have_room(await gather(client, options), options)
    for one in chosen:
        await client.disarm(one.alarm, deadline=deadline)
    return chosen


def _names(one: Raised) -> set[str]:
    return {one.name, f"{one.alarm.member_id:x}"}


async def _must_agree(client: EtcdClient, report: Report, deadline: Deadline) -> None:
    """Raise unless every member holds the same data now."""
    hashed = await hash_members(client, 0, report, deadline=deadline)
    verdict = judge(hashed)
    members = {info.member_id for info in await client.member_list(deadline=deadline)}
    if verdict is Verdict.SAME and len(hashed) == len(members):
        return
    raise Refused(
        "the members were not shown to hold the same data, so the CORRUPT alarm stays",
        hint="replace the bad member, name all members by --endpoints, and compare them: "
        "`etcd-steward hashkv`",
    )


def _must_have_room(facts: Facts, options: MaintenanceOptions) -> None:
    """Raise unless every voter's file is known to be below the threshold."""
    percent = rescued_below(options)
    for info in facts.voters:
        name = facts.name(info.member_id)
        status = facts.member(info.member_id)
        if status is None:
            raise Refused(
                f"member {name} was not asked, and may still be full",
                hint="name every voter by --endpoints",
            )
        quota = quota_of(status, facts.metrics, options)
        if quota is None:
            raise Refused(f"nobody knows the quota of member {name}", hint="state it by --quota")
        if status.db_size > percent / 100 * quota:
            raise Refused(
                f"member {name} is still full: its file has {size(status.db_size)}, above "
                f"{percent} % of its quota of {size(quota)}; the alarm would come back",
                hint="`etcd-steward alarm rescue` frees space and disarms",
            )
