"""When a watcher asks a member how far it has told everything."""

import asyncio
from contextlib import aclosing
from types import SimpleNamespace
from typing import cast

import pytest

from etcd_steward.deadline import Deadline
from etcd_steward.errors import TimedOut
from etcd_steward.etcd.endpoint import Endpoint
from etcd_steward.etcd.member import Member
from etcd_steward.etcd.watcher import _PROGRESS, _Stream

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
