"""Ending a round between two members, never inside one."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

Result = TypeVar("Result")


async def between_members(
    work: Callable[[asyncio.Event], Coroutine[Any, Any, Result]], told: Callable[[Result], None]
) -> Result:
    """Run `work`, which ends soon after its event is set. To cancel this only sets the event.

    `told` hears the outcome then, if there is one, before the cancellation goes on: nobody else
    gets it any more.
    """
    stop = asyncio.Event()
    task = asyncio.create_task(work(stop))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        while not task.done():
            with suppress(asyncio.CancelledError):  # one wish to stop is as good as several
                await asyncio.wait([task])
        if not task.cancelled() and task.exception() is None:
            told(task.result())
        raise
