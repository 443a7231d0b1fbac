"""Compacting a full etcd: no deeper than the rescue needs, and never to the newest revision.

The margins below the newest revision fall step by step, until what is left in use would fit. The
last steps may cost watchers that lag, and lists that are read page by page, a new beginning; an
etcd that refuses all writes costs more.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from etcd_steward.deadline import Deadline
from etcd_steward.engine.maintenance.compaction import look
from etcd_steward.engine.maintenance.compaction_rule import KEPT, History, seen_before
from etcd_steward.engine.maintenance.facts import Facts, gather
from etcd_steward.engine.report import Tracker
from etcd_steward.engine.tasks import together
from etcd_steward.errors import Compacted, Refused, TimedOut
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.member import Member
from etcd_steward.models.maintenance import CompactionReport
from etcd_steward.models.maintenance_run import MaintenanceRequest

_MARGINS: Final = (1000, 100, 10, 1)
"""Revisions below the newest one."""
_MEMBER: Final = 600.0
"""Seconds that a member is given to delete what it may forget."""
_COMMITS: Final = 5.0
"""Seconds until freed pages are counted: at a later commit than the one that frees them."""
_EXPORTS: Final = 900.0
"""Seconds that exports which hold a compaction back are waited for."""
_LOOK: Final = 0.5


@dataclass(slots=True)
class Deeper:
    """Compacts step by step."""

    client: EtcdClient
    request: MaintenanceRequest
    tracker: Tracker
    enough: Callable[[Facts], bool]
    """Whether what is in use now would fit."""

    async def compact(self) -> CompactionReport:
        """Go as deep as is enough, or as may be.

        Raises what etcd raises, and `Refused` if an export holds it back for too long.
        """
        self.tracker.step = "Compacting"
        first = history = await look(self.client, self.request)
        reached, enough = first.compact_revision, False
        for target in steps(history):
            if enough := await self._is_enough():
                break
            history = await self._room_for(target)
            try:
                await self.client.compact(target)
            except Compacted:  # somebody else was as deep
                continue
            reached = target
            await self._done(target)
        compacted = reached > first.compact_revision
        why = "there is room enough already" if enough else "there is no history left to forget"
        return CompactionReport(
            outcome="Compacted" if compacted else "NotNeeded",
            reason="no deeper than needed" if compacted else why,
            revision=history.revision,
            compact_revision=reached,
            compacted_from=first.compact_revision,
            finished_at=datetime.now(UTC),
        )

    async def _room_for(self, target: int) -> History:
        """Wait until no export reads at an older revision than `target`."""
        limit = Deadline.after(_EXPORTS)
        while True:
            history = await look(self.client, self.request)
            older = [run for run, revision in history.needed.items() if revision < target]
            if not older:
                return history
            if limit.passed:
                raise Refused(
                    f"the export {older[0]} still reads at revision {history.needed[older[0]]}",
                    hint="end it, then try again",
                )
            await asyncio.sleep(_LOOK)

    async def _done(self, target: int) -> None:
        """Wait until every member has deleted what it may, or has had its time."""
        facts = await gather(self.client, self.request.options)
        deadline = Deadline.after(_MEMBER)
        async with together() as group:
            for status in facts.members:
                group.create_task(_deleted(self.client.member(status), target, deadline))

    async def _is_enough(self) -> bool:
        limit = Deadline.after(_COMMITS)
        while not self.enough(await gather(self.client, self.request.options)):
            if limit.passed:
                return False
            await asyncio.sleep(_LOOK)
        return True


async def _deleted(member: Member, target: int, deadline: Deadline) -> None:
    with suppress(TimedOut):  # it is only slow: what is in use decides how to go on
        await member.compacted(target, deadline=deadline)


def steps(history: History) -> list[int]:
    """The revisions to compact to, one after the other: first what was seen to be old."""
    seen = seen_before(history, KEPT)
    wanted = [] if seen is None else [min(seen.revision, history.revision - 1)]
    wanted += [history.revision - margin for margin in _MARGINS]
    return sorted({one for one in wanted if one > max(1, history.compact_revision)})
