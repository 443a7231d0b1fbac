"""The announcement of a snapshot, when etcd fails in the middle of it."""

import asyncio
from typing import cast

import pytest

from etcd_steward.deadline import Deadline
from etcd_steward.engine.announce import announced
from etcd_steward.errors import OutOfSpace, Unavailable
from etcd_steward.etcd.client import EtcdClient
from tests.support.runs import Heard


class Etcd:
    """A client whose put fails: no real etcd fails just between the two calls."""

    def __init__(self, failure: BaseException) -> None:
        self.failure = failure
        self.revoked: list[int] = []

    async def grant_lease(self, seconds: int) -> int:
        return seconds

    async def put(self, *_: bytes, lease: int) -> None:
        assert lease == 160
        raise self.failure

    async def revoke_lease(self, lease: int, *, deadline: Deadline) -> None:
        assert not deadline.passed
        self.revoked.append(lease)


@pytest.mark.parametrize("failure", [Unavailable("gone"), asyncio.CancelledError()])
async def test_a_lease_without_its_key_is_not_left_behind(failure: BaseException) -> None:
    etcd = Etcd(failure)
    with pytest.raises(type(failure)):
        async with announced(cast("EtcdClient", etcd), 7, "run", seconds=100, report=Heard()):
            pytest.fail("it was not announced")
    assert etcd.revoked == [160]


async def test_a_full_etcd_is_backed_up_unannounced() -> None:
    etcd, heard = Etcd(OutOfSpace("full")), Heard()
    async with announced(cast("EtcdClient", etcd), 7, "run", seconds=100, report=heard):
        assert "can't be announced" in heard.warnings[0]
    assert etcd.revoked == [160]
