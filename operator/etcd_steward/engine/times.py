"""Which revision an etcd was at, at some moment: etcd keeps no times, but what lies in it does.

Whoever holds a Kubernetes Lease writes the time into it every few seconds (`spec.renewTime`), and
the operator every few minutes into what it has observed; so their history is a clock. It is as
exact as its gaps, and as true as its holders' clocks: of marks that contradict each other the most
that agree are kept.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from etcd_steward.errors import Compacted, InvalidInput, NotFound

LEASES: Final = "the renewals of Leases"
OBSERVATIONS: Final = "the operator's observations"


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """Something that tells of a revision when it was written."""

    revision: int
    moment: datetime


@dataclass(frozen=True, slots=True)
class Found:
    """What an etcd held at a moment, as far as marks tell."""

    revision: int
    moment: datetime
    """When that revision was written: at the moment asked for, or before."""
    within: timedelta
    """The true revision was written no more than this after `moment`."""
    since: datetime
    """How far back the marks reach."""


class Clock:
    """The moments of an etcd's revisions. Raises `NotFound` where no mark is."""

    def __init__(self, marks: Iterable[Mark], oldest: int = 0, by: str = LEASES) -> None:
        """`oldest` is the first revision that can be shown: what was before tells of that one."""
        self.by = by
        """What the marks are, in words."""
        every = sorted(marks)
        kept = agreeing(every)
        before = [Mark(oldest, mark.moment) for mark in kept if mark.revision <= oldest]
        self._marks = [*before[-1:], *(mark for mark in kept if mark.revision > oldest)]
        if not self._marks:
            raise NotFound(
                "nothing in this history tells what time it was: no Lease was renewed in it, and "
                "the operator has observed nothing",
                hint="name a revision by --at",
            )
        self.contradicting = len(every) - len(kept)
        """Marks that were left out: a clock was set, or a host's goes wrong."""

    @property
    def since(self) -> datetime:
        """The oldest moment that can be asked for."""
        return self._marks[0].moment

    @property
    def newest(self) -> datetime:
        """The last moment that anything tells of."""
        return self._marks[-1].moment

    def at(self, moment: datetime, now: datetime) -> Found:
        """The newest revision that was surely written by `moment`.

        Raises `Compacted` for one before the first mark, `InvalidInput` for one after `now`.
        """
        if moment > now:
            raise InvalidInput(f"{in_words(moment)} is yet to come")
        number = bisect_right(self._marks, moment, key=lambda mark: mark.moment)
        if number == 0:
            raise Compacted(
                f"the history reaches back to {in_words(self.since)} only",
                hint="look into a backup that was taken before: `etcd-steward snapshot list`",
            )
        mark = self._marks[number - 1]
        after = self._marks[number].moment if number < len(self._marks) else now
        return Found(mark.revision, mark.moment, max(after, mark.moment) - mark.moment, self.since)

    def of(self, revision: int) -> tuple[datetime | None, datetime | None]:
        """Not before, and not after which moment a revision was written; None: nobody knows."""
        number = bisect_right(self._marks, revision, key=lambda mark: mark.revision)
        before = self._marks[number - 1] if number else None
        if before is not None and before.revision == revision:
            return before.moment, before.moment
        after = self._marks[number].moment if number < len(self._marks) else None
        return before.moment if before else None, after


def agreeing(marks: Sequence[Mark]) -> list[Mark]:
    """The most marks, of those in order of their revisions, whose times never go back.

    The longest non-decreasing subsequence, by patience sorting.
    """
    ends: list[datetime] = []
    last: list[int] = []
    before: list[int | None] = []
    for index, mark in enumerate(marks):
        length = bisect_right(ends, mark.moment)
        before.append(last[length - 1] if length else None)
        ends[length : length + 1] = [mark.moment]
        last[length : length + 1] = [index]
    chosen: list[Mark] = []
    at = last[-1] if last else None
    while at is not None:
        chosen.append(marks[at])
        at = before[at]
    return chosen[::-1]


def in_words(moment: datetime) -> str:
    """A moment, to the second, in UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
