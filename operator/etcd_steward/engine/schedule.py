"""When a standing order is due, from its schedule alone: no clock, no state.

Cron itself is cronsim's, which does on the days of a change of time what Debian's cron does: a run
in the hour that is skipped comes right after it, and one in the hour that comes twice comes once.
"""

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from etcd_steward.errors import InvalidSchedule

MACROS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
MISSED_LIMIT: Final = 1000
"""So many missed ticks are counted, and no more: a minutely schedule may have slept for a year."""

_TICKS: Final = 60
_MANY_TICKS: Final = 3000
_WEEK: Final = timedelta(days=8)
_UNITS: Final = {"s": 1, "m": 60, "h": 3600}
_DURATION = re.compile(r"(\d+)([smh])")


@cache
def _zone(name: str) -> ZoneInfo:
    if name not in available_timezones():
        raise InvalidSchedule(
            f"timeZone {name!r} is no time zone",
            hint="Name one of the IANA database, such as Europe/Berlin or Etc/UTC",
        )
    return ZoneInfo(name)


@dataclass(frozen=True, slots=True)
class Missed:
    """What a schedule asks for between two moments."""

    newest: datetime
    """The last tick, which is the one to be made up for."""
    earlier: int
    """How many ticks with no run came before it, `MISSED_LIMIT` at most."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Five fields of cron, or a macro, in a time zone. Ticks are moments in UTC."""

    expression: str
    zone: ZoneInfo

    @classmethod
    def parse(cls, expression: str, zone: str) -> "Schedule":
        """Raises `InvalidSchedule` for one that can't be read, or that never comes true."""
        fields = MACROS.get(expression.strip().lower(), expression)
        if fields.startswith("@"):
            raise InvalidSchedule(
                f"schedule {expression!r} is not known", hint=f"Known are {', '.join(MACROS)}"
            )
        if len(fields.split()) != 5:
            raise InvalidSchedule(
                f"schedule {expression!r} has not five fields",
                hint="minute, hour, day of month, month, day of week, like '17 2 * * *'; the zone "
                "belongs into timeZone",
            )
        schedule = cls(fields, _zone(zone))
        try:
            schedule.next(datetime(2024, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            why = str(error)
            hint = "Write * instead of ?" if "?" in fields else "See the fields of crontab(5)"
            raise InvalidSchedule(
                f"schedule {expression!r} can't be followed: {why[:1].lower()}{why[1:]}", hint=hint
            ) from error
        except StopIteration as error:
            raise InvalidSchedule(
                f"schedule {expression!r} never comes true", hint="Look at its day and month"
            ) from error
        return schedule

    def next(self, after: datetime) -> datetime:
        """The first tick later than `after`."""
        return next(CronSim(self.expression, after.astimezone(self.zone))).astimezone(UTC)

    def missed(
        self, after: datetime, until: datetime, made: Collection[datetime] = ()
    ) -> Missed | None:
        """The ticks later than `after` and not later than `until`; None if there are none.

        `made` are ticks that are known to have a run.
        """
        newest = next(
            CronSim(
                self.expression, (until + timedelta(seconds=1)).astimezone(self.zone), reverse=True
            )
        ).astimezone(UTC)
        if newest <= after:
            return None
        earlier, tick = 0, self.next(after)
        while tick < newest and earlier < MISSED_LIMIT:
            earlier, tick = earlier + (tick not in made), self.next(tick)
        return Missed(newest, earlier)


@lru_cache(maxsize=4096)
def longest_pause(schedule: Schedule) -> timedelta:
    """The longest time between two ticks, as far as two months and sixty ticks show it.

    From a Friday on: what rests at weekends shows that at once.
    """
    begin = tick = schedule.next(datetime(2024, 1, 5, tzinfo=UTC))
    longest, count = timedelta(), 0
    while count < _TICKS or (tick - begin < _WEEK and count < _MANY_TICKS):
        following = schedule.next(tick)
        longest, tick, count = max(longest, following - tick), following, count + 1
    return longest


def offset(uid: str, spread: str | None) -> timedelta:
    """How much later than its ticks this order starts: less than `spread`, always the same."""
    if spread is None:
        return timedelta()
    seconds = sum(int(count) * _UNITS[unit] for count, unit in _DURATION.findall(spread))
    digest = hashlib.sha256(uid.encode()).digest()
    return timedelta(seconds=int.from_bytes(digest[:8]) % seconds)
