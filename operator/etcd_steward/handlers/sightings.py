"""Which revision an etcd had when: how a compaction knows what was there ten minutes ago.

Ages are measured by the monotonic clock, which nobody sets, and told as times by the wall clock as
it is now: a clock that is set, forwards or back, makes nothing older or younger than it is.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from etcd_steward.models.maintenance_run import Sighting

_EACH: Final = 3600.0
"""Seconds for which every sighting is kept."""
_STEP: Final = 600.0
"""Seconds between those that are kept for longer."""
_LONGEST: Final = 8 * 86400.0
"""Seconds after which they go: about 1,300 in all, at one in 30 seconds."""


@dataclass(frozen=True, slots=True)
class _Seen:
    at: float
    """By the monotonic clock."""
    revision: int
    compact_revision: int | None


@dataclass(slots=True)
class Sightings:
    """Those of one etcd."""

    monotonic: Callable[[], float] = time.monotonic
    older: deque[_Seen] = field(default_factory=deque)
    recent: deque[_Seen] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self.older) + len(self.recent)

    def add(self, revision: int, compact_revision: int | None) -> None:
        """Note what etcd was just seen to be at.

        One that has gone back is another etcd, or one that was restored: what was seen before tells
        nothing of it.
        """
        if self.recent and revision < self.recent[-1].revision:
            self.older.clear()
            self.recent.clear()
        now = self.monotonic()
        self.recent.append(_Seen(now, revision, compact_revision))
        while now - self.recent[0].at > _EACH:
            leaving = self.recent.popleft()
            if not self.older or leaving.at - self.older[-1].at >= _STEP:
                self.older.append(leaving)
        while self.older and now - self.older[0].at > _LONGEST:
            self.older.popleft()

    def told(self, now: datetime) -> tuple[Sighting, ...]:
        """All of them, oldest first, with times by a wall clock that shows `now`."""
        monotonic = self.monotonic()
        return tuple(
            Sighting(
                time=now - timedelta(seconds=monotonic - seen.at),
                revision=seen.revision,
                compact_revision=seen.compact_revision,
            )
            for seen in (*self.older, *self.recent)
        )
