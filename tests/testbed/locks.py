"""One holder at a time across processes, told who it is waiting for."""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

POLL_SECONDS = 0.5


@contextlib.asynccontextmanager
async def locked_file(
    path: Path, *, owner: str, waiting: Callable[[str], None]
) -> AsyncIterator[None]:
    """Hold an exclusive lock on `path`; the kernel frees it even after kill -9.

    `waiting` is called once with the present holder's `owner` text if the lock is taken. The lock
    is polled, because a blocking flock in a thread could not be cancelled.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        told = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    waiting(os.pread(descriptor, 1000, 0).decode() or "somebody")
                    told = True
                await asyncio.sleep(POLL_SECONDS)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, owner.encode(), 0)
        yield
    finally:
        os.close(descriptor)
