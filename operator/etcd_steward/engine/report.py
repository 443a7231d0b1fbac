"""How a run tells somebody how far it is."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from etcd_steward.models.run import Journal, Progress

_EVERY = 0.5
"""Seconds between two reports while figures change."""
_HEARTBEAT = 15.0
"""Seconds between two reports when nothing changes: silence means death to whoever watches."""


class Report(Protocol):
    """Whoever listens to a run: a progress bar, or the pipe to the operator."""

    def progress(self, progress: Progress) -> None:
        """Show how far the run is. Must not block."""
        ...

    def warning(self, message: str) -> None:
        """Show what a person should know though the run goes on."""
        ...

    async def journal(self, journal: Journal) -> None:
        """Write down what to clean up if this process dies; returns once that is safe."""
        ...

    def settled(self) -> None:
        """Nothing that was journalled, by this attempt or earlier ones, is left in the store."""
        ...


class Tracker:
    """Figures of a run that any thread may raise, reported at a bearable rate."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.step = "Connecting"
        self.raw = 0
        self.total = 0
        self.stored = 0

    def _now(self) -> Progress:
        return Progress(
            step=self.step,
            raw_bytes=self.raw,
            total_bytes=self.total,
            stored_bytes=self.stored,
        )

    async def _tell(self) -> None:
        loop = asyncio.get_running_loop()
        last, at = None, 0.0
        while True:
            now = self._now()
            if now != last or loop.time() - at >= _HEARTBEAT:
                self.report.progress(now)
                last, at = now, loop.time()
            await asyncio.sleep(_EVERY)

    @asynccontextmanager
    async def reporting(self) -> AsyncIterator[None]:
        """Report while the body runs."""
        teller = asyncio.create_task(self._tell(), name="report progress")
        try:
            yield
            self.report.progress(self._now())
        finally:
            teller.cancel()
