"""When a watcher asks a member how far it has told everything, and how it logs in again."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from types import SimpleNamespace
from typing import cast

import pytest

from etcd_steward.deadline import Deadline
from etcd_steward.errors import TimedOut
from etcd_steward.etcd import stubs
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.endpoint import Endpoint
from etcd_steward.etcd.keys import KeyRange
from etcd_steward.etcd.member import Member
from etcd_steward.etcd.watcher import _PROGRESS, Watch, Watcher, _Stream

NOBODY = cast("Endpoint", SimpleNamespace(url="http://nobody"))


class Answers:
    """What a member says of its version, one answer after the other; None: it is late."""

    def __init__(self, *versions: str | None) -> None:
        self.left = list(versions)

    async def status(self, *, deadline: Deadline) -> SimpleNamespace:
        assert deadline.left() > 0
        version = self.left.pop(0)
        if version is None:
            raise TimedOut("the member did not say how it is")
        return SimpleNamespace(version=version)


async def test_progress_is_asked_for_once_the_member_has_said_its_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = Answers(None, None, "3.6.0")
    monkeypatch.setattr(Member, "status", answers.status)
    stream = _Stream({})
    async with aclosing(stream.requests(NOBODY, 5, 0.01)) as requests:
        for _ in range(2):
            assert await asyncio.wait_for(anext(requests), 30) == _PROGRESS
    assert stream.true
    assert not answers.left


async def test_a_version_that_is_too_old_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = Answers("3.5.7", "3.6.0")
    monkeypatch.setattr(Member, "status", answers.status)
    stream = _Stream({})
    async with aclosing(stream.requests(NOBODY, 5, 0.01)) as requests:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(requests), 0.5)
    assert answers.left == ["3.6.0"]
    assert not stream.true


class Forgetful:
    """An endpoint that has forgotten our token; others get their turn while its stream ends."""

    url = "http://forgetful"

    def __init__(self) -> None:
        self.knows_us = False
        self.ending: Callable[[], None]

    @asynccontextmanager
    async def watch(
        self, requests: AsyncIterator[stubs.WatchRequest], *, deadline: Deadline
    ) -> AsyncIterator[AsyncGenerator[stubs.WatchResponse, None]]:
        assert deadline.left() > 0
        try:
            yield self._answers(requests)
        finally:
            self.ending()

    async def _answers(
        self, requests: AsyncIterator[stubs.WatchRequest]
    ) -> AsyncGenerator[stubs.WatchResponse, None]:
        async for request in requests:
            if not self.knows_us:
                stale = "etcdserver: invalid auth token"
                yield stubs.WatchResponse(created=True, canceled=True, cancel_reason=stale)
            yield stubs.WatchResponse(created=True)
            happened = stubs.Event(kv=stubs.KeyValue(key=b"/b", mod_revision=1))
            number = request.create_request.watch_id
            yield stubs.WatchResponse(watch_id=number, events=[happened])


async def test_a_watch_that_is_cancelled_while_its_token_is_renewed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next one finds the token renewed, though nothing was left to watch."""
    via = Forgetful()
    client = SimpleNamespace(endpoints=[via], command_timeout=5)
    watcher = Watcher(cast("EtcdClient", client), notice=pytest.fail)
    first = watcher.watch(Watch(KeyRange.key(b"/a")))
    via.ending = lambda: watcher.cancel(first)
    later: list[int] = []

    async def log_in(*_: object, **__: object) -> None:
        via.knows_us = True
        via.ending = lambda: None
        later.append(watcher.watch(Watch(KeyRange.key(b"/b"))))

    monkeypatch.setattr(Member, "range", log_in)
    async with asyncio.timeout(30), aclosing(watcher.told()) as every:
        told = await anext(every)
    assert [told.number] == later
    assert [event.kv.key for event in told.answer.events] == [b"/b"]
