"""Watching keys: each change once, in order, and none left out.

A watch is one stream of its own. It is not resumed when it breaks: whoever must go on begins again
after the last revision that came whole.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from etcd_steward.deadline import Deadline
from etcd_steward.errors import Compacted, Unauthorized, Unavailable
from etcd_steward.etcd import stubs
from etcd_steward.etcd.endpoint import Endpoint
from etcd_steward.etcd.keys import KeyRange

_ASK_EVERY = 0.1
"""Seconds; etcd brings watchers that lag up to date as often (`watchResyncPeriod`)."""
_NOBODY = -1
"""The watch ID of an answer about progress: it is true of all watches of the stream."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Some changes in the order of their revisions."""

    revision: int
    """etcd's own, when it sent these."""
    events: Sequence[stubs.Event] = field(repr=False)
    more: bool = False
    """More of the last revision follows: etcd has split what was too large for one message."""


async def watch(
    via: Endpoint, wanted: KeyRange, *, start: int, upto: int | None = None, deadline: Deadline
) -> AsyncGenerator[Changes, None]:
    """Changes of `wanted` from revision `start` on, for ever, or all up to revision `upto`.

    The latter ends once etcd says that it has sent them, which it does reliably from 3.4.25 and
    3.5.8 on (etcd-io/etcd#15695); later changes may be among the last ones. `deadline` bounds the
    beginning only. Raises `Compacted` if the history does not reach back to `start`.
    """
    requests = _requests(wanted, start, ask=upto is not None)
    async with via.watch(requests, deadline=deadline) as answers:
        async for answer in answers:
            if answer.canceled:
                raise _ended(answer, start)
            if answer.events:
                yield Changes(answer.header.revision, answer.events, answer.fragment)
            elif upto is not None and _sent(answer, upto):
                return


async def compact_revision(via: Endpoint, key: bytes, *, deadline: Deadline) -> int:
    """Before which revision etcd has forgotten its history.

    Only a watch from before it tells, and only if there has been a compaction. Raises
    `Unavailable` if etcd says nothing of it.
    """
    requests = _requests(KeyRange.key(key), 1, ask=False)
    async with (
        deadline.enforce("asking how far back the history reaches"),
        via.watch(requests, deadline=deadline) as answers,
    ):
        async for answer in answers:
            if answer.canceled and answer.compact_revision:
                return answer.compact_revision
            if answer.canceled:
                raise _ended(answer, 1)
    raise Unavailable(f"{via.url} did not say how far back its history reaches")


async def _requests(
    wanted: KeyRange, start: int, *, ask: bool
) -> AsyncGenerator[stubs.WatchRequest, None]:
    """The watch, and then, again and again, whether all was sent: etcd answers only if so."""
    create = stubs.WatchCreateRequest(
        key=wanted.start, range_end=wanted.end, start_revision=start, fragment=True
    )
    yield stubs.WatchRequest(create_request=create)
    while ask:
        await asyncio.sleep(_ASK_EVERY)
        yield stubs.WatchRequest(progress_request=stubs.WatchProgressRequest())
    await asyncio.Event().wait()  # the end of the requests would be the end of the stream


def _sent(answer: stubs.WatchResponse, upto: int) -> bool:
    """Whether etcd says that it has sent all up to this revision."""
    return answer.watch_id == _NOBODY and answer.header.revision >= upto


def _ended(answer: stubs.WatchResponse, start: int) -> Compacted | Unauthorized | Unavailable:
    """Why etcd has cancelled a watch."""
    if answer.compact_revision:
        return Compacted(
            f"etcd has compacted its history up to revision {answer.compact_revision}, and can't "
            f"tell of changes from revision {start} on",
            hint="ask for a newer revision, or look into a backup",
        )
    reason = answer.cancel_reason or "it gives no reason"
    if "permission denied" in reason:
        return Unauthorized(
            f"etcd did not let us watch: {reason}",
            hint="give the user the right to read these keys",
        )
    return Unavailable(f"etcd has ended the watch: {reason}", hint="try again")
