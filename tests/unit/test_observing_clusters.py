"""Looking at several clusters at once: what fails in one of them is its own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from etcd_steward.engine.observe import clusters
from etcd_steward.engine.observe.clusters import observe
from etcd_steward.engine.observe.identity import Identity
from etcd_steward.engine.observe.poll import Poller
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.models.connection import EtcdConnection
from etcd_steward.models.observation import (
    Observation,
    ObservationPace,
    ObserveRequest,
    WatchedCluster,
)
from tests.testbed import wait_until

PACE = ObservationPace(status=0.02, keys=0.02, identity=0.02)


def request(*names: str) -> ObserveRequest:
    etcd = EtcdConnection(endpoints=("http://127.0.0.1:1",), dial_timeout=1.0)  # nobody answers
    return ObserveRequest(
        clusters=tuple(WatchedCluster(name=name, etcd=etcd) for name in names), pace=PACE
    )


class Bed:
    """The engine at work, and what it has told."""

    def __init__(self) -> None:
        self.told: list[Observation] = []
        self.next: asyncio.Queue[ObserveRequest] = asyncio.Queue()

    async def changes(self) -> AsyncIterator[ObserveRequest]:
        while True:
            yield await self.next.get()

    @asynccontextmanager
    async def looking(self, *names: str) -> AsyncIterator[None]:
        at_work = observe(request(*names), self.changes(), self.told.append)
        task = asyncio.create_task(at_work)
        try:
            yield
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.wait({task}, timeout=10)
        assert task.cancelled()

    def of(self, name: str) -> list[str]:
        return [seen.error for seen in self.told if seen.cluster == name]

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        async def so() -> bool:
            return holds()

        await wait_until(so, what)


@pytest.fixture
def odd_page(monkeypatch: pytest.MonkeyPatch) -> None:
    async def identify(wanted: WatchedCluster, client: EtcdClient) -> Identity:
        del client
        if wanted.name == "odd":
            raise KeyError("secret")
        return Identity()

    monkeypatch.setattr(clusters, "identify", identify)


@pytest.mark.usefixtures("odd_page")
async def test_an_error_nobody_thought_of_is_one_clusters_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bed = Bed()
    async with bed.looking("odd", "good"):
        await bed.until(
            lambda: len(bed.of("odd")) > 4 and len(bed.of("good")) > 4, "both are looked at again"
        )
    words = [error for error in bed.of("odd") if "KeyError" in error]
    assert len(words) > 1  # it goes on
    assert not any("secret" in error for error in words)  # that is for the log
    assert not any("KeyError" in error for error in bed.of("good"))
    assert any("KeyError: 'secret'" in (one.exc_text or "") for one in caplog.records)


@pytest.mark.usefixtures("odd_page")
async def test_one_that_fails_is_left_when_nobody_wants_it() -> None:
    bed = Bed()
    async with bed.looking("odd", "good"):
        await bed.until(lambda: any("KeyError" in one for one in bed.of("odd")), "it fails")
        bed.next.put_nowait(request("good"))
        await bed.until(bed.next.empty, "that is heard")
        before = len(bed.of("good"))
        await bed.until(lambda: len(bed.of("good")) > before, "the other is looked at")
        left = len(bed.of("odd"))
        await bed.until(lambda: len(bed.of("good")) > before + 3, "the other is looked at")
        assert len(bed.of("odd")) == left


async def test_a_failure_while_it_ends_does_not_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = asyncio.Event()

    async def look(_: Poller) -> Observation:
        looked.set()
        try:
            await asyncio.sleep(60)
        finally:
            raise KeyError("at the end")

    monkeypatch.setattr(Poller, "look", look)
    bed = Bed()
    async with bed.looking("a"):
        await looked.wait()
    assert bed.told == []
