"""Waiting for what can't be cancelled.

A thread goes on when the task that waits for it is cancelled. Where its end matters (a part that
lands after its upload was aborted stays in the bucket for ever), these wait for it all the same.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def settled(work: Awaitable[T], stop: Callable[[], None] | None = None) -> T:
    """The result of `work`, which is run to its end even if this task is cancelled meanwhile.

    `CancelledError` is raised then, but only after `work` has ended; `stop` is called to make it
    end sooner.
    """
    future = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if stop is not None:
            stop()
        while not future.done():
            # A second cancellation changes nothing: the first one is raised below.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # looked at, or asyncio says that it "was never retrieved"
        raise
