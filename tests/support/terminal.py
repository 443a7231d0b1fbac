"""A shell at a terminal, and somebody who types."""

import asyncio
import os
import pty
import re
import termios
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from tests.testbed import wait_until
from tests.testbed.process import TestbedError

_SEQUENCE = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r|\x07")
PATIENCE = 60  # seconds


class Terminal:
    """What is on the screen, and a keyboard."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._seen = b""
        self._mark = 0

    def take(self) -> None:
        """Read what has come."""
        try:
            self._seen += os.read(self._descriptor, 1 << 16)
        except OSError:  # the shell has gone
            asyncio.get_running_loop().remove_reader(self._descriptor)

    @property
    def shown(self) -> str:
        """What has come since the last keys were typed."""
        return _SEQUENCE.sub(b"", self._seen[self._mark :]).decode(errors="replace")

    async def type(self, keys: str, *expected: str) -> str:
        """Type, and wait until each of these is shown; all that was shown."""
        self._mark = len(self._seen)
        os.write(self._descriptor, keys.encode())

        async def all_shown() -> bool:
            return all(text in self.shown for text in expected)

        try:
            await wait_until(all_shown, f"{expected} after {keys!r}", timeout=PATIENCE)
        except TestbedError as error:
            raise AssertionError(f"after {keys!r} came {self.shown!r}, no {expected}") from error
        return self.shown


@asynccontextmanager
async def terminal(
    command: Sequence[str], env: Mapping[str, str], *, columns: int = 200
) -> AsyncIterator[Terminal]:
    """Run a shell at a terminal of its own; it is gone afterwards."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (50, columns))
    process = await asyncio.create_subprocess_exec(
        *command, stdin=theirs, stdout=theirs, stderr=theirs, env=dict(env), start_new_session=True
    )
    os.close(theirs)
    opened = Terminal(ours)
    loop = asyncio.get_running_loop()
    loop.add_reader(ours, opened.take)
    try:
        yield opened
    finally:
        loop.remove_reader(ours)
        process.kill()
        await process.wait()
        os.close(ours)
