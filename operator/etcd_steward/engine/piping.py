"""What a thread writes, as the stream of bytes that a store takes."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_HELD: Final = 8
"""Pieces that are held between the two; the thread waits while so many are."""


class _Stopped(Exception):
    """Nobody takes the bytes any more."""


class Piped(Generic[T]):
    """Runs `work` in a thread; what it writes through the function that it is given comes out.

    `result` is there once all of it was taken.
    """

    def __init__(self, work: Callable[[Callable[[bytes], None]], T]) -> None:
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._pieces = asyncio.Queue[bytes | None]()
        self._room = threading.Semaphore(_HELD)
        self._stopped = False
        self._result: list[T] = []

    @property
    def result(self) -> T:
        """What `work` returned."""
        return self._result[0]

    def _put(self, piece: bytes) -> None:
        self._room.acquire()
        if self._stopped:
            raise _Stopped
        self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

    def _run(self) -> T:
        try:
            return self._work(self._put)
        finally:
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, None)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """What is written, in order. Raises what `work` raises; the thread has ended then."""
        running = asyncio.create_task(asyncio.to_thread(self._run))
        try:
            while (piece := await self._pieces.get()) is not None:
                self._room.release()
                yield piece
            self._result.append(await asyncio.shield(running))
        finally:
            self._stopped = True
            self._room.release(_HELD)
            await _ended(running)


async def _ended(running: "asyncio.Task[T]") -> None:
    """Wait for a thread, cancelled or not; what it says is looked at."""
    cancelled = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as error:
            cancelled = error
    running.exception()
    if cancelled is not None:
        raise cancelled
