"""Clusters as their members would tell of them, and rounds asked of real ones."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime

from etcd_steward.app import open_etcd
from etcd_steward.engine.maintenance.facts import Facts
from etcd_steward.engine.maintenance.round import hold_round
from etcd_steward.engine.report import Tracker
from etcd_steward.etcd.client import MemberInfo
from etcd_steward.etcd.member import Alarm, MemberStatus
from etcd_steward.models.maintenance import (
    CompactionOptions,
    DefragmentationRule,
    MaintenanceOptions,
    MemberReport,
    RoundReport,
)
from etcd_steward.models.maintenance_run import MaintenanceRequest, MemberDone, MemberTurn
from tests.support.runs import Heard, connection
from tests.testbed import EtcdCluster

MB = 1_000_000
GB = 1000 * MB


def member(member_id: int, **changes: object) -> MemberStatus:
    """A healthy follower of member 1, with 1 GB of which 400 MB are in use, and a quota of 8 GB."""
    said: dict[str, object] = {
        "endpoint": f"https://10.0.0.{member_id}:2379",
        "name": f"etcd{member_id}",
        "member_id": member_id,
        "cluster_id": 77,
        "version": "3.6.16",
        "storage_version": "3.6.0",
        "db_size": GB,
        "db_size_in_use": 400 * MB,
        "db_size_quota": 8 * GB,
        "leader_id": 1,
        "is_learner": False,
        "raft_index": 5000,
        "raft_applied_index": 5000,
        "raft_term": 3,
        "revision": 900,
        "alarms": (),
        "errors": (),
    }
    return MemberStatus(**(said | changes))  # type: ignore[arg-type]


def info(member_id: int, *, learner: bool = False) -> MemberInfo:
    """The member as the list has it."""
    url = f"https://10.0.0.{member_id}:2379"
    return MemberInfo(
        member_id, f"etcd{member_id}", (url.replace("2379", "2380"),), (url,), learner
    )


def cluster(*members: MemberStatus, **changes: object) -> Facts:
    """Facts of these members, or of three healthy ones."""
    found = members or (member(1), member(2), member(3))
    said: dict[str, object] = {
        "members": found,
        "failures": (),
        "listed": tuple(info(one.member_id) for one in found),
    }
    return Facts(**(said | changes))  # type: ignore[arg-type]


NOSPACE = Alarm(2, "NOSPACE")
CORRUPT = Alarm(0, "CORRUPT")

Deed = Callable[[MemberTurn | MemberDone], Awaitable[None] | None]


def options(**changes: object) -> MaintenanceOptions:
    """Every member, with little patience for settling."""
    said: dict[str, object] = {
        "defragmentation": DefragmentationRule(always=True),
        "settle_seconds": 0.2,
    }
    return MaintenanceOptions(**(said | changes))


def round_request(etcd: EtcdCluster, /, **changes: object) -> MaintenanceRequest:
    """A round over a test-bed cluster."""
    said: dict[str, object] = {
        "task": "round",
        "etcd": connection(etcd),
        "options": options(),
        "holder": "a test",
        "run": secrets.token_hex(4),
    }
    return MaintenanceRequest(**(said | changes))


def compaction_request(etcd: EtcdCluster, **changes: object) -> MaintenanceRequest:
    """A look at whether to compact a test-bed cluster."""
    said: dict[str, object] = {"task": "compaction", "options": MaintenanceOptions()}
    return round_request(etcd, **(said | changes))


def retain(**what: float) -> MaintenanceOptions:
    """Nobody else compacts: so much stays."""
    rule = CompactionOptions.model_validate({"mode": "Retain", **what})
    return MaintenanceOptions(compaction=rule)


@dataclass
class Held:
    """A round that is being held, and what it tells."""

    etcd: EtcdCluster
    request: MaintenanceRequest
    told: list[MemberTurn | MemberDone] = field(default_factory=list)
    deed: Callable[[MemberTurn | MemberDone], None] = lambda _: None
    """Called with each event, before the round goes on."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def _tell(self, event: MemberTurn | MemberDone) -> None:
        self.told.append(event)
        self.deed(event)

    async def hold(self) -> RoundReport:
        """Hold it to its end."""
        async with open_etcd(self.request.etcd) as client:
            tracker = Tracker(Heard())
            return await hold_round(client, self.request, tracker, self._tell, self.stop)

    def steps(self, name: str) -> list[str]:
        """What was told of one member's turn."""
        return [one.step for one in self.told if isinstance(one, MemberTurn) and one.name == name]


async def hold(etcd: EtcdCluster, /, **changes: object) -> RoundReport:
    """Hold a round with nothing in its way."""
    return await Held(etcd, round_request(etcd, **changes)).hold()


def outcomes(report: RoundReport) -> list[str]:
    """What became of the members, in the order of their turns."""
    return [one.outcome for one in report.members]


def of(report: RoundReport, name: str) -> MemberReport:
    """One member's part."""
    return next(one for one in report.members if one.name == name)


def at(text: str) -> datetime:
    """A moment."""
    return datetime.fromisoformat(text)
