"""One deadline passed down a chain of calls, instead of a time-out for each of them.

A time-out per call adds up: ten calls of thirty seconds each may take five minutes. A `Deadline`
is a point in monotonic time; every call below asks it how much is left.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from etcd_steward.errors import TimedOut


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time, in seconds of `time.monotonic()`, after which nobody waits any more."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """The deadline that lies `seconds` from now."""
        return cls(time.monotonic() + seconds)

    def left(self) -> float:
        """Seconds until the deadline; never below zero."""
        return max(0.0, self.at - time.monotonic())

    def within(self, seconds: float) -> "Deadline":
        """The earlier of this deadline and `seconds` from now."""
        return Deadline(min(self.at, time.monotonic() + seconds))

    @property
    def passed(self) -> bool:
        """True once nothing is left."""
        return self.left() == 0.0

    @asynccontextmanager
    async def enforce(self, what: str) -> AsyncIterator[None]:
        """Cancel the body at the deadline and raise `TimedOut`, naming `what` was being done."""
        started = time.monotonic()
        timeout = asyncio.timeout(self.left())
        try:
            async with timeout:
                yield
        except TimeoutError as error:
            if not timeout.expired():
                raise
            waited = time.monotonic() - started
            raise TimedOut(f"{what} took longer than {waited:.0f} s") from error
