"""The announcement of a snapshot, when etcd fails in the middle of it."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import cast

import pytest

from etcd_steward.deadline import Deadline
from etcd_steward.engine.announce import announced
from etcd_steward.engine.maintenance import lock, token
from etcd_steward.engine.maintenance.lock import LockRecord
from etcd_steward.errors import OutOfSpace, Unavailable
from etcd_steward.etcd import stubs
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.member import MemberStatus
from tests.support.maintenance import member
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


class Full(Etcd):
    """One that takes no write; of the maintenance lock and the tokens it tells."""

    def __init__(
        self, *, at_work: int | None = None, tokens: Iterable[int] = (), looks: int = 1 << 30
    ) -> None:
        super().__init__(OutOfSpace("full"))
        self.at_work = at_work
        self.looks = looks
        """After so many the holder is done."""
        self.tokens = tuple(tokens)

    async def grant_lease(self, seconds: int) -> int:  # noqa: ARG002
        raise self.failure

    async def get(self, key: bytes) -> stubs.KeyValue | None:
        assert key == lock.KEY
        self.looks -= 1
        if self.at_work is None or self.looks < 0:
            return None
        said = LockRecord(
            holder="a round", run="1", since=datetime.now(UTC), member_id=f"{self.at_work:x}"
        )
        value = said.model_dump_json(by_alias=True, exclude_none=True).encode()
        return stubs.KeyValue(key=key, value=value, mod_revision=5)

    async def range(self, *_: bytes, keys_only: bool) -> stubs.RangeResponse:
        assert keys_only
        kvs = [stubs.KeyValue(key=token.key(number)) for number in self.tokens]
        return stubs.RangeResponse(kvs=kvs)

    async def members(self) -> list[MemberStatus]:
        return [member(7)]

    async def member_list(self) -> list[MemberStatus]:
        return [member(7)]


ALL = range(1, token.TOKENS + 1)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_LOOK", 0.01)
    monkeypatch.setattr(lock, "SILENT", 0.1)


async def snapshot(etcd: Full) -> tuple[list[str], int]:
    """What it warns of, and how often it waited."""
    heard, waited = Heard(), []
    async with announced(
        cast("EtcdClient", etcd),
        7,
        "run",
        seconds=100,
        report=heard,
        waiting=lambda: waited.append(True),
    ):
        assert "can't be announced" in heard.warnings[0]
    assert etcd.revoked == []
    return heard.warnings[1:], len(waited)


@pytest.mark.parametrize("tokens", [(), ALL])
async def test_a_full_etcd_is_backed_up_unannounced(tokens: Iterable[int]) -> None:
    assert await snapshot(Full(tokens=tokens)) == ([], 0)
    assert await snapshot(Full(tokens=tokens, at_work=8)) == ([], 0)


@pytest.mark.usefixtures("hasty")
async def test_on_a_full_etcd_who_is_at_work_on_the_member_is_waited_for() -> None:
    etcd = Full(at_work=7, looks=4)
    assert await snapshot(etcd) == ([], 1)
    assert etcd.looks < 0, "until it was done"
    dead = Full(at_work=7)  # it can't give a sign of life either, but its member answers
    assert await snapshot(dead) == ([], 1)


async def test_a_rescue_that_has_taken_a_token_is_told_of() -> None:
    (told,), waited = await snapshot(Full(tokens=ALL[1:]))
    assert "a rescue seems to be at work" in told
    assert waited == 0


async def test_a_put_that_a_full_etcd_refuses_leaves_no_lease() -> None:
    class Filled(Full):
        async def grant_lease(self, seconds: int) -> int:
            return seconds

    etcd, heard = Filled(), Heard()
    async with announced(cast("EtcdClient", etcd), 7, "run", seconds=100, report=heard):
        assert "can't be announced" in heard.warnings[0]
    assert etcd.revoked == [160]
