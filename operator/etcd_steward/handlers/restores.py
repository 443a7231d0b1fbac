"""The loop that drives all EtcdRestores, one task for each that something is to be done about.

No kopf daemon: one that has ended does not start again, and an EtcdRestore goes on when somebody
approves its plan, perhaps days later. So none has a finalizer either: what a restore leaves lies in
the store, and stays there when the object is deleted.
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field

from etcd_steward.handlers.asked import Asked
from etcd_steward.handlers.context import Context
from etcd_steward.handlers.restore import ActiveRestore

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Restores:
    """Starts, stops and forgets."""

    context: Context
    tasks: dict[str, tuple[ActiveRestore, asyncio.Task[None]]] = field(default_factory=dict)
    """By uid."""
    handled: dict[str, int] = field(default_factory=dict)
    """By uid: the version that we wrote last; older ones tell nothing new."""

    ending: bool = False
    """Nothing is begun any more."""

    async def run(self) -> None:
        """Follow what the watch shows, for ever."""
        await self.context.inventory.complete.wait()
        while True:
            self.context.restores_changed.clear()
            self.turn()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.context.timing.idle):
                    await self.context.restores_changed.wait()

    def turn(self) -> None:
        """Bring the tasks in line with what there is."""
        there = {asked.version.uid: asked for asked in self.context.restores()}
        for uid, (active, task) in list(self.tasks.items()):
            if task.done():
                self._ended(uid, active, task)
            elif uid not in there or there[uid].deleting:
                active.stop.set()
        for uid in self.handled.keys() - there.keys():
            del self.handled[uid]
        for uid, asked in there.items():
            wanted = not self.ending and uid not in self.tasks and asked.wants_us
            if wanted and self._is_news(asked):
                self._start(asked)

    def _is_news(self, asked: Asked) -> bool:
        return asked.version.resource_version > self.handled.get(asked.version.uid, 0)

    def _start(self, asked: Asked) -> None:
        active = ActiveRestore(self.context, asked)
        task = asyncio.create_task(active.drive(), name=f"EtcdRestore {asked.key}")
        task.add_done_callback(lambda _: self.context.restores_changed.set())
        self.tasks[asked.version.uid] = active, task

    def _ended(self, uid: str, active: ActiveRestore, task: asyncio.Task[None]) -> None:
        del self.tasks[uid]
        self.handled[uid] = active.writer.version.resource_version
        if not task.cancelled() and (bug := task.exception()) is not None:
            # As kopf does with a daemon: it is not tried again before this operator is another.
            log.error("EtcdRestore %s can't be driven any more", active.asked.key, exc_info=bug)

    async def stop(self) -> None:
        """Stop what is under way, in order: before kopf ends, which cancels whatever is left."""
        self.ending = True
        for active, _ in self.tasks.values():
            active.stop.set()
        if self.tasks:
            await asyncio.wait([task for _, task in self.tasks.values()])
