"""Handing leadership to a member that has had its turn, so that the leader can have its own."""

import asyncio
import time
from typing import Final

from etcd_steward.deadline import Deadline
from etcd_steward.engine.maintenance.facts import Facts, gather
from etcd_steward.errors import Refused
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.member import MemberStatus
from etcd_steward.models.maintenance import LeaderMove, MaintenanceOptions

_SECONDS: Final = 5.0
"""For the move, which takes milliseconds, and for all members to follow; the leader itself gives up
after an election time-out, until which it takes no writes."""
_PAUSE: Final = 0.1


def successor(facts: Facts, defragmented: frozenset[int]) -> MemberStatus:
    """Who shall lead: a voter that was defragmented, else any; the one that lags least.

    Raises `Refused` where there is no other voter.
    """
    voters = {info.member_id for info in facts.voters}
    candidates = [one for one in facts.members if one.member_id in voters and not one.is_leader]
    if not candidates:
        raise Refused("there is no other voter that could lead")
    return min(
        candidates,
        key=lambda one: (one.member_id not in defragmented, -one.raft_applied_index),
    )


async def move_leader(
    client: EtcdClient, facts: Facts, target: MemberStatus, options: MaintenanceOptions
) -> LeaderMove:
    """Make `target` lead, and wait until every member follows it.

    Raises what etcd says where it refuses, and `Refused` where somebody else leads after it.
    """
    started = time.monotonic()
    leader = facts.member(facts.leader_id)
    if leader is None:
        raise Refused("the leader was not reached")
    deadline = Deadline.after(_SECONDS)
    await client.member(leader).move_leader(target.member_id, deadline=deadline)
    while True:
        now = await gather(client, options)
        if now.leader_id == target.member_id and now.complete:
            break
        if deadline.passed:
            by = now.name(now.leader_id) if now.leader_id else "nobody that all follow"
            raise Refused(f"{target.name} was to lead, and {by} does")
        await asyncio.sleep(_PAUSE)
    return LeaderMove(
        from_id=f"{leader.member_id:x}",
        from_name=facts.name(leader.member_id),
        to_id=f"{target.member_id:x}",
        to_name=facts.name(target.member_id),
        seconds=time.monotonic() - started,
    )
