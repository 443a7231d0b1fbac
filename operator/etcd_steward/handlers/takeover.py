"""Taking over a run that another operator has left in the middle, and only such a one."""

import asyncio
import time
from dataclasses import dataclass
from typing import Generic

from etcd_steward.errors import StewardError
from etcd_steward.handlers import status as transition
from etcd_steward.handlers.context import LOOK_AGAIN, Context
from etcd_steward.handlers.status import BegunStatus
from etcd_steward.handlers.waits import sleep_unless
from etcd_steward.handlers.writer import StatusWriter


@dataclass(frozen=True)
class Takeover(Generic[BegunStatus]):
    """What becomes of one run that has been claimed already. Raises `Gone` if it is deleted."""

    context: Context
    writer: StatusWriter[BegunStatus]
    stop: asyncio.Event

    async def take(self) -> bool:
        """Make the run ours once its operator is dead; False if it ends meanwhile, or we do.

        That is written before anything of it is touched: should that operator only have been
        frozen, it sees on waking that the run is not its own any more.
        """
        while await self._wait_until_dead():
            # Whoever had it before us may have started a process without being able to note it.
            self.writer.status = transition.unnoted_start(self.writer.status)
            if self.writer.status.phase != "Running":
                return True
            if await self.writer.write(self.stop, self.context.timing.write_patience):
                return True
            await self._read_again()
        return False

    async def _wait_until_dead(self) -> bool:
        """Wait while the run may be another operator's; False if it ends meanwhile, or we do.

        Nobody but the run's operator writes its heartbeat, so one that stands still tells. How
        long is measured here: clocks of two hosts may differ, and after an outage of the API
        server every heartbeat is old.
        """
        timing = self.context.timing
        beat, since = self._beat(), time.monotonic()
        while self.writer.status.phase == "Running":
            silent = time.monotonic() - since
            if silent >= timing.presumed_dead_after and self.context.leads():
                return True
            left = max(timing.presumed_dead_after - silent, LOOK_AGAIN)
            if await sleep_unless(self.stop, min(left, timing.progress_every)):
                return False
            await self._read_again()
            if self._beat() != beat:
                beat, since = self._beat(), time.monotonic()
        return not transition.is_terminal(self.writer.status)

    def _beat(self) -> tuple[str | None, int | None]:
        return self.writer.status.heartbeat_time, self.writer.status.starts

    async def _read_again(self) -> None:
        while not self.stop.is_set():
            try:
                await self.writer.read_again()
            except StewardError:
                await sleep_unless(self.stop, self.context.timing.progress_every)
            else:
                return
