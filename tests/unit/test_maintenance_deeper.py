"""Compacting a full etcd, where members are slow to delete, or gone."""

from collections.abc import Callable
from typing import cast

import pytest

from etcd_steward.deadline import Deadline
from etcd_steward.engine.maintenance import deeper
from etcd_steward.engine.maintenance.deeper import Deeper
from etcd_steward.engine.maintenance.facts import Facts
from etcd_steward.engine.report import Tracker
from etcd_steward.errors import TimedOut, Unavailable
from etcd_steward.etcd import stubs
from etcd_steward.etcd.client import EtcdClient, MemberInfo
from etcd_steward.etcd.member import MemberStatus
from etcd_steward.models.connection import EtcdConnection
from etcd_steward.models.maintenance import CompactionReport, MaintenanceOptions
from etcd_steward.models.maintenance_run import MaintenanceRequest
from tests.support.maintenance import info, member
from tests.support.runs import Heard


class Member:
    """A member that deletes at once, or fails to."""

    def __init__(self, failure: Exception | None) -> None:
        self.failure = failure

    async def compacted(self, _revision: int, *, deadline: Deadline) -> None:
        assert not deadline.passed
        if self.failure is not None:
            raise self.failure


class Etcd:
    """Three members at revision 5000; no real one takes ten minutes on demand."""

    def __init__(self, failure: Exception | None = None, compact_revision: int = 0) -> None:
        self.failure = failure
        self.compacted_to = compact_revision

    async def range(self, *_: bytes, **__: object) -> stubs.RangeResponse:
        return stubs.RangeResponse(header=stubs.ResponseHeader(revision=5000))

    async def compact_revision(self) -> int:
        return self.compacted_to

    async def compact(self, revision: int) -> None:
        self.compacted_to = revision

    async def members(self) -> list[MemberStatus]:
        return [member(one) for one in (1, 2, 3)]

    async def member_list(self) -> list[MemberInfo]:
        return [info(one) for one in (1, 2, 3)]

    def member(self, status: MemberStatus) -> Member:
        return Member(self.failure if status.member_id == 2 else None)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deeper, "_COMMITS", 0.0)


async def compact(etcd: Etcd, enough: Callable[[Facts], bool]) -> CompactionReport:
    request = MaintenanceRequest(
        task="rescue",
        etcd=EtcdConnection(endpoints=("https://10.0.0.1:2379",)),
        options=MaintenanceOptions(),
        holder="a test",
        run="1",
    )
    return await Deeper(cast("EtcdClient", etcd), request, Tracker(Heard()), enough).compact()


async def test_a_member_that_is_slow_to_delete_does_not_end_it() -> None:
    etcd = Etcd(TimedOut("10 minutes are over"))
    report = await compact(etcd, lambda _: etcd.compacted_to >= 4900)
    assert (report.outcome, report.compact_revision) == ("Compacted", 4900)
    assert report.reason == "no deeper than needed"


async def test_a_member_that_goes_away_ends_it_by_its_own_error() -> None:
    with pytest.raises(Unavailable, match="gone"):
        await compact(Etcd(Unavailable("gone")), lambda _: False)


async def test_why_nothing_was_compacted() -> None:
    roomy = await compact(Etcd(), lambda _: True)
    assert (roomy.outcome, roomy.reason) == ("NotNeeded", "there is room enough already")
    bare = await compact(Etcd(compact_revision=4999), lambda _: False)
    assert (bare.outcome, bare.reason) == ("NotNeeded", "there is no history left to forget")
