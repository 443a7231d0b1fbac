"""What a run's child says, written into its status at a bearable rate."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Literal

from etcd_steward.errors import StewardError
from etcd_steward.handlers import status as transition
from etcd_steward.handlers.child import Listener
from etcd_steward.handlers.context import Timing
from etcd_steward.handlers.writer import Gone, StatusWriter
from etcd_steward.models.run import Journal, Progress

log = logging.getLogger(__name__)


class Reporter(Listener):
    """The `Listener` of a child: never blocks it, but for its journal."""

    def __init__(
        self,
        writer: StatusWriter,
        stop: asyncio.Event,
        timing: Timing,
        announce: Callable[[Literal["Normal", "Warning"], str, str], None],
    ) -> None:
        self._writer = writer
        self._stop = stop
        self._timing = timing
        self._announce = announce
        self._news = asyncio.Event()

    def progress(self, progress: Progress) -> None:
        """Keep the newest; it is written when the last one is old enough."""
        self._writer.status = transition.progressed(
            self._writer.status, progress, now=datetime.now(UTC)
        )
        self._news.set()

    def warning(self, message: str) -> None:
        """Keep it in the status, and post it."""
        self._writer.status = transition.warned(self._writer.status, message)
        self._announce("Warning", "RunWarning", message)
        self._news.set()

    async def journal(self, journal: Journal) -> None:
        """Write it before the first byte is sent.

        An API server that can't be written to is waited for a little only: the backup matters
        more, and what a dead run left can be found without its journal.
        """
        self._writer.status = transition.journalled(self._writer.status, journal)
        try:
            await self._writer.write(self._stop, self._timing.write_patience)
        except Gone:
            self._stop.set()

    @contextlib.asynccontextmanager
    async def reporting(self) -> AsyncIterator[None]:
        """Write news while the body runs."""
        task = asyncio.create_task(self._write_news(), name="report a run")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled():
            task.result()  # an error of ours must not pass unseen

    async def _write_news(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self._writer.try_write()
            except StewardError as error:
                log.warning("progress is not written: %s", error)
            except Gone:
                self._stop.set()
                return
            await asyncio.sleep(self._timing.progress_every)
