"""When the revisions of an etcd were seen to move: what one look tells the next. Pure."""

from dataclasses import dataclass
from datetime import datetime

from etcd_steward.models.observation import Observation


@dataclass(slots=True)
class Moves:
    """What was seen of one etcd so far; a look that can't tell a revision changes nothing.

    Nothing is seen to have moved in the future: a clock that was set back begins anew.
    """

    revision: int | None = None
    revision_since: datetime | None = None
    compact_revision: int | None = None
    compact_revision_since: datetime | None = None

    def note(self, seen: Observation) -> Observation:
        """The same observation, with when each revision was seen to move, or was first seen."""
        if seen.revision is not None and seen.revision != self.revision:
            self.revision, self.revision_since = seen.revision, seen.at
        if seen.compact_revision is not None and seen.compact_revision != self.compact_revision:
            self.compact_revision, self.compact_revision_since = seen.compact_revision, seen.at
        self.revision_since = _by(seen.at, self.revision_since)
        self.compact_revision_since = _by(seen.at, self.compact_revision_since)
        return seen.model_copy(
            update={
                "revision_since": self.revision_since,
                "compact_revision_since": self.compact_revision_since,
            }
        )


def _by(now: datetime, moment: datetime | None) -> datetime | None:
    return moment if moment is None else min(moment, now)
