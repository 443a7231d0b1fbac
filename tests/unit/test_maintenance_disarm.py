"""Taking NOSPACE back by hand: never while the members hold different data."""

from typing import cast

import pytest

from etcd_steward.deadline import Deadline
from etcd_steward.engine.maintenance.disarm import disarm
from etcd_steward.errors import Refused
from etcd_steward.etcd.client import EtcdClient, MemberInfo
from etcd_steward.etcd.member import Alarm, MemberStatus
from etcd_steward.models.maintenance import MaintenanceOptions
from tests.support.maintenance import CORRUPT, NOSPACE, info, member
from tests.support.runs import Heard


class Etcd:
    """Three members with room enough, and alarms."""

    def __init__(self, *alarms: Alarm) -> None:
        self.raised = list(alarms)

    async def members(self) -> list[MemberStatus]:
        return [member(one) for one in (1, 2, 3)]

    async def member_list(self) -> list[MemberInfo]:
        return [info(one) for one in (1, 2, 3)]

    async def alarms(self) -> list[Alarm]:
        return list(self.raised)

    async def disarm(self, alarm: Alarm, *, deadline: Deadline) -> None:
        assert not deadline.passed
        self.raised.remove(alarm)


async def take_back(etcd: Etcd, whose: str | None) -> list[Alarm]:
    client, deadline = cast("EtcdClient", etcd), Deadline.after(60)
    options = MaintenanceOptions()
    done = await disarm(client, options, "NOSPACE", whose, Heard(), deadline=deadline)
    return [one.alarm for one in done]


@pytest.mark.parametrize("whose", [None, "etcd2"])
async def test_it_stays_while_corrupt_is_raised(whose: str | None) -> None:
    etcd = Etcd(NOSPACE, CORRUPT)
    with pytest.raises(Refused, match="CORRUPT alarm"):
        await take_back(etcd, whose)
    assert etcd.raised == [NOSPACE, CORRUPT]


async def test_it_goes_where_there_is_room() -> None:
    etcd = Etcd(NOSPACE)
    assert await take_back(etcd, None) == [NOSPACE]
    assert etcd.raised == []
