"""Which backups are kept, and why: restic's `forget` policy, with no clock and no I/O.

As in restic (internal/restic/snapshot_policy.go, `ApplyPolicy`), backups are looked at from the
newest to the oldest. Each count keeps the newest backup of every period that has one until it is
used up; while it is not, the oldest backup is kept as well, so that the history grows as long as
the policy allows. A policy that asks for nothing keeps everything. Periods are in UTC.
"""

import calendar
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from etcd_steward.models.kinds import Retention

_UNITS: Final = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_DURATION: Final = re.compile(r"(\d+)(y|mo|w|d|h|m|s)")
_BEGINNING: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What retention looks at in one backup."""

    folder: str
    tick: datetime
    """The moment it was due or asked for: the time that counts."""
    verified: bool
    suspect: bool = False


@dataclass(slots=True)
class _Rule:
    """One count of a policy while it is being used up."""

    left: int
    name: str
    period: Callable[[datetime], str]
    last: str | None = None

    def reason(self, tick: datetime, *, oldest: bool) -> str | None:
        """Why this rule keeps the backup of `tick`, the next older one; None if it does not."""
        if self.left == 0:
            return None
        period = self.period(tick)
        if not period:  # `last` counts backups, not periods
            self.left -= 1
            return self.name
        if period == self.last and not oldest:
            return None
        again = period == self.last
        self.left, self.last = self.left - 1, period
        return f"oldest {self.name}" if again else f"{self.name} {period}"


def keep(backups: Sequence[Candidate], policy: Retention | None) -> dict[str, tuple[str, ...]]:
    """The folders of those that stay, each with the reasons; what is missing here may go.

    All of `backups` belong to one EtcdBackup of one cluster. Only verified ones count, and only
    they may go; the newest of them stays under every policy. Of two with the same tick the one
    whose folder sorts last counts as newer.
    """
    kept: dict[str, tuple[str, ...]] = {
        one.folder: ("suspect" if one.suspect else "not verified",)
        for one in backups
        if one.suspect or not one.verified
    }
    counted = [one for one in backups if one.folder not in kept]
    counted.sort(key=lambda one: (one.tick, one.folder), reverse=True)
    rules = _rules(policy)
    within = policy.keep_within if policy is not None else None
    if not rules and within is None:
        return kept | {one.folder: ("no retention",) for one in counted}
    for number, one in enumerate(counted):
        tick, oldest = one.tick.astimezone(UTC), number == len(counted) - 1
        reasons = [rule.reason(tick, oldest=oldest) for rule in rules]
        if within is not None and tick > before(counted[0].tick.astimezone(UTC), within):
            reasons.append(f"within {within}")
        if number == 0:
            reasons.append("newest verified")
        if found := tuple(reason for reason in reasons if reason is not None):
            kept[one.folder] = found
    return kept


def _rules(policy: Retention | None) -> list[_Rule]:
    if policy is None:
        return []
    rules = [
        _Rule(policy.keep_last or 0, "last", lambda _: ""),
        _Rule(policy.keep_hourly or 0, "hourly", lambda tick: f"{tick:%Y-%m-%dT%H}"),
        _Rule(policy.keep_daily or 0, "daily", lambda tick: f"{tick:%Y-%m-%d}"),
        _Rule(policy.keep_weekly or 0, "weekly", lambda tick: f"{tick:%G-W%V}"),
        _Rule(policy.keep_monthly or 0, "monthly", lambda tick: f"{tick:%Y-%m}"),
        _Rule(policy.keep_yearly or 0, "yearly", lambda tick: f"{tick:%Y}"),
    ]
    return [rule for rule in rules if rule.left]


def before(moment: datetime, duration: str) -> datetime:
    """The moment that lies `duration` (like `1y2mo3d`) before another, both in UTC.

    Months and years are the calendar's; a day that a month has not is its last one.
    """
    months, rest = 0, timedelta()
    try:
        for count, unit in _DURATION.findall(duration):
            if unit in _UNITS:
                rest += timedelta(**{_UNITS[unit]: int(count)})
            else:
                months += int(count) * (12 if unit == "y" else 1)
        year, month = divmod(moment.year * 12 + moment.month - 1 - months, 12)
        day = min(moment.day, calendar.monthrange(year, month + 1)[1])
        return moment.replace(year=year, month=month + 1, day=day) - rest
    except (OverflowError, ValueError):  # before all time
        return _BEGINNING
