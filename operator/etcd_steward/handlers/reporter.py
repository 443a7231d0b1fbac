"""What a run's child says, written into its status at a bearable rate."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, Literal

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
        writer: StatusWriter[Any],
        stop: asyncio.Event,
        timing: Timing,
        announce: Callable[[Literal["Normal", "Warning"], str, str], None],
    ) -> None:
        self.writer = writer
        self._stop = stop
        self._timing = timing
        self._announce = announce
        self._news = asyncio.Event()

    def update(self, status: Any) -> None:  # noqa: ANN401  # of whatever kind the writer writes
        """Keep the newest; it is written when the last one is old enough."""
        self.writer.status = status
        self._news.set()

    def progress(self, progress: Progress) -> None:
        """How far it is."""
        self.update(transition.progressed(self.writer.status, progress, now=datetime.now(UTC)))

    def warning(self, message: str) -> None:
        """Keep it in the status, and post it."""
        self.update(transition.warned(self.writer.status, message))
        self._announce("Warning", "RunWarning", message)

    async def journal(self, journal: Journal) -> None:
        """Write it before the first byte is sent.

        An API server that can't be written to is waited for a little only: the backup matters
        more, and what a dead run left can be found without its journal.
        """
        self.writer.status = transition.journalled(self.writer.status, journal)
        try:
            await self.writer.write(self._stop, self._timing.write_patience)
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
        said = ""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self.writer.try_write()
            except StewardError as error:
                if str(error) != said:
                    log.warning("progress is not written: %s", error)
                said = str(error)
            except Gone:
                self._stop.set()
                return
            await asyncio.sleep(self._timing.progress_every)
