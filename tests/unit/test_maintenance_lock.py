"""The lock's holder, where etcd fails as no real one does on demand; and how rounds stop."""

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from etcd_steward.engine.maintenance import lock
from etcd_steward.engine.maintenance.lock import maintenance_lock, parsed
from etcd_steward.engine.maintenance.stopping import between_members
from etcd_steward.errors import IntegrityError, Refused, Unavailable
from etcd_steward.etcd import stubs
from etcd_steward.etcd.client import EtcdClient
from tests.support.maintenance import member


class Etcd:
    """One key, and transactions on it that may fail, or whose answers may be lost."""

    def __init__(self) -> None:
        self.revision = 1
        self.value: bytes | None = None
        self.failure: Exception | None = None
        self.lost = 0
        """Answers that are lost though the transaction was done."""
        self.written = asyncio.Condition()

    async def beaten(self) -> None:
        """Wait for two more signs of life, or attempts at one."""
        async with self.written:
            for _ in range(2):
                await self.written.wait()

    async def get(self, _key: bytes) -> stubs.KeyValue | None:
        if self.value is None:
            return None
        return stubs.KeyValue(key=lock.KEY, value=self.value, mod_revision=self.revision)

    async def txn(
        self, compare: Sequence[stubs.Compare], done: Sequence[stubs.RequestOp], **_: object
    ) -> stubs.TxnResponse:
        async with self.written:
            self.written.notify_all()
        if self.failure is not None:
            raise self.failure
        if compare[0].mod_revision != (0 if self.value is None else self.revision):
            return stubs.TxnResponse(succeeded=False)
        self.revision += 1
        delete = done[0].HasField("request_delete_range")
        self.value = None if delete else done[0].request_put.value
        if self.lost:
            self.lost -= 1
            raise Unavailable("the answer was lost")
        header = stubs.ResponseHeader(revision=self.revision)
        return stubs.TxnResponse(succeeded=True, header=header)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_BEAT", 0.01)


def client(etcd: Etcd) -> EtcdClient:
    return cast("EtcdClient", etcd)


@pytest.mark.parametrize("failure", [IntegrityError("corrupt cluster"), Unavailable("gone")])
async def test_no_failing_sign_of_life_cancels_what_is_at_work(failure: Exception) -> None:
    etcd = Etcd()
    async with maintenance_lock(client(etcd), holder="a", run="1"):
        etcd.failure = failure
        await etcd.beaten()
        etcd.failure = None
        await etcd.beaten()
    assert etcd.value is None


async def test_a_lost_answer_is_no_lost_lock() -> None:
    etcd = Etcd()
    etcd.lost = 1
    async with maintenance_lock(client(etcd), holder="a", run="1") as held:
        etcd.lost = 2
        await etcd.beaten()
        await held.enter(member(2), longest=60)
        assert etcd.value is not None
        assert parsed(etcd.value).member_id == "2"
        await held.leave()
        assert parsed(etcd.value).member_id == ""
    assert etcd.value is None


async def test_a_lock_that_was_taken_from_us_is_noticed_and_left_alone() -> None:
    etcd = Etcd()
    theirs = b'{"holder":"b","run":"2","since":"2026-11-23T03:30:00Z"}'
    async with maintenance_lock(client(etcd), holder="a", run="1") as held:
        etcd.value, etcd.revision = theirs, etcd.revision + 1
        with pytest.raises(Refused, match="b holds it now"):
            await held.enter(member(2), longest=60)
    assert etcd.value == theirs


async def test_a_lock_by_another_hand_tells_nothing() -> None:
    assert parsed(b"do not touch").holder == "somebody unknown"


async def test_a_lock_that_is_abandoned_stays() -> None:
    etcd = Etcd()
    async with maintenance_lock(client(etcd), holder="a", run="1") as held:
        await held.enter(member(2), longest=60)
        held.abandon()
    assert etcd.value is not None
    assert parsed(etcd.value).member == "etcd2"


async def test_to_cancel_a_round_only_tells_it_to_stop() -> None:
    told: list[str] = []
    begun = asyncio.Event()

    async def work(stop: asyncio.Event) -> str:
        begun.set()
        await stop.wait()
        await asyncio.sleep(0.01)  # the member that is at work
        return "stopped"

    task = asyncio.create_task(between_members(work, told.append))
    await begun.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == ["stopped"]


async def test_a_round_that_fails_while_it_is_told_to_stop_is_cancelled_all_the_same() -> None:
    begun = asyncio.Event()

    async def work(stop: asyncio.Event) -> str:
        begun.set()
        await stop.wait()
        raise Unavailable("gone")

    task = asyncio.create_task(between_members(work, lambda _: None))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await between_members(lambda _: asyncio.sleep(0, "done"), lambda _: None) == "done"
