"""Waiting for something, but not past a stop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


async def sleep_unless(stop: asyncio.Event, seconds: float) -> bool:
    """Sleep; True if it was cut short by `stop`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
    return stop.is_set()


@contextlib.asynccontextmanager
async def held_unless(
    stop: asyncio.Event, lock: asyncio.Lock | asyncio.Semaphore
) -> AsyncIterator[bool]:
    """Hold `lock` in the body, which is told whether it does: False means `stop` came first."""
    acquire = asyncio.create_task(lock.acquire())
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({acquire, stopped}, return_when=asyncio.FIRST_COMPLETED)
        yield acquire.done()
    finally:
        stopped.cancel()
        acquire.cancel()
        if acquire.done() and not acquire.cancelled():
            lock.release()
