"""Rewriting one member's file, until it is known how that went.

etcd goes on defragmenting when its caller has given up, and answers nobody meanwhile: a time-out
tells nothing. So the member is asked until it answers, and its file's size tells.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Final, Literal

from etcd_steward.deadline import Deadline
from etcd_steward.errors import StewardError, TimedOut, Unavailable
from etcd_steward.etcd.member import Member, MemberStatus

_ASK: Final = 5.0
"""Seconds for an answer while it is not known how it went."""
_PAUSE: Final = 0.5
_TWICE: Final = 2
"""A member that answers so often in a row is not at work: one answer could be from just before."""
_GONE: Final = 60.0
"""Seconds that a member whose process is gone is waited for; its kubelet brings it back sooner."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a defragmentation went."""

    outcome: Literal["Defragmented", "Failed", "Unknown"]
    seconds: float
    after: MemberStatus | None = None
    """What the member says since; None if it says nothing."""
    why: str = ""
    surprise: bool = False
    """It did not go as it should, even if it is done: no other member may be touched."""


async def defragment(
    member: Member, before: MemberStatus, *, patience: float, longest: float
) -> Ended:
    """Rewrite the member's file. Never raises for what etcd does; must not be cancelled.

    `patience` is how long one answer is waited for, `longest` how long the truth is.
    """
    started = time.monotonic()
    try:
        await member.defragment(deadline=Deadline.after(patience))
    except (TimedOut, Unavailable) as error:
        return await _truth(member, before, error, started, longest)
    except StewardError as error:
        return Ended("Failed", time.monotonic() - started, None, str(error), surprise=True)
    seconds = time.monotonic() - started
    try:
        after = await member.status(deadline=Deadline.after(_ASK))
    except StewardError as error:
        why = f"it said that it is done, and nothing since: {error.message}"
        return Ended("Failed", seconds, None, why, surprise=True)
    return Ended("Defragmented", seconds, after)


async def _truth(
    member: Member, before: MemberStatus, first: StewardError, started: float, longest: float
) -> Ended:
    """Ask until the member answers, or its process is surely gone, or it has had the longest."""
    limit = Deadline.after(longest - (time.monotonic() - started))
    answers, gone, error = 0, 0.0, first
    since = time.monotonic()
    while answers < _TWICE:
        try:
            after = await member.status(deadline=Deadline.after(_ASK))
            answers += 1
        except StewardError as now:
            answers, error = 0, now
            gone = gone + (time.monotonic() - since) if isinstance(now, Unavailable) else 0.0
            if gone > _GONE or limit.passed:
                break
        since = time.monotonic()
        await asyncio.sleep(_PAUSE)
    seconds = time.monotonic() - started
    if answers < _TWICE:
        return _silent(error, seconds, gone=gone > _GONE)
    if after.db_size < before.db_size:
        why = f"it took {seconds:.0f} s to be sure: {first.message}"
        return Ended("Defragmented", seconds, after, why, surprise=isinstance(first, Unavailable))
    why = f"it broke off, and its file is as large as before: {first.message}"
    return Ended("Failed", seconds, after, why, surprise=True)


def _silent(error: StewardError, seconds: float, *, gone: bool) -> Ended:
    what = "it went away in the middle, and has not come back" if gone else "it does not answer"
    why = f"{what} for {seconds:.0f} s; it may still be at work: {error.message}"
    return Ended("Unknown", seconds, None, why, surprise=True)
