"""Schedules: what is due when, on days when the clocks change too."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcd_steward.engine.schedule import Missed, Schedule, longest_pause, offset
from etcd_steward.errors import InvalidSchedule


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def ticks(schedule: Schedule, after: datetime, until: datetime) -> list[datetime]:
    found = []
    while (tick := schedule.next(after)) <= until:
        found.append(tick)
        after = tick
    return found


def test_next_is_in_the_zone_of_the_schedule() -> None:
    berlin = Schedule.parse("17 2 * * *", "Europe/Berlin")
    assert berlin.next(utc("2026-11-22T00:00")) == utc("2026-11-22T01:17")
    assert berlin.next(utc("2026-07-22T00:00")) == utc("2026-07-22T00:17")
    assert berlin.next(utc("2026-11-22T01:17")) == utc("2026-11-23T01:17")


def test_a_run_in_the_skipped_hour_comes_right_after_it() -> None:
    berlin = Schedule.parse("30 2 * * *", "Europe/Berlin")
    day = ticks(berlin, utc("2026-03-28T12:00"), utc("2026-03-29T22:00"))
    assert day == [utc("2026-03-29T01:00")]  # 03:00 summer time: 02:30 does not exist


def test_a_run_in_the_doubled_hour_comes_once() -> None:
    berlin = Schedule.parse("30 2 * * *", "Europe/Berlin")
    day = ticks(berlin, utc("2026-10-24T12:00"), utc("2026-10-25T22:00"))
    assert len(day) == 1


def test_an_hourly_run_comes_each_hour_whatever_the_clocks_do() -> None:
    berlin = Schedule.parse("@hourly", "Europe/Berlin")
    assert len(ticks(berlin, utc("2026-10-24T22:00"), utc("2026-10-25T23:00"))) == 25


@pytest.mark.parametrize(
    ("macro", "expected"),
    [
        ("@hourly", "2026-11-22T11:00"),
        ("@daily", "2026-11-23T00:00"),
        ("@midnight", "2026-11-23T00:00"),
        ("@weekly", "2026-11-29T00:00"),
        ("@monthly", "2026-12-01T00:00"),
        ("@yearly", "2027-01-01T00:00"),
        ("@Annually", "2027-01-01T00:00"),
    ],
)
def test_macros(macro: str, expected: str) -> None:
    assert Schedule.parse(macro, "Etc/UTC").next(utc("2026-11-22T10:30")) == utc(expected)


@pytest.mark.parametrize(
    ("schedule", "zone", "says"),
    [
        ("every night", "Etc/UTC", "five fields"),
        ("0 0 17 2 * *", "Etc/UTC", "five fields"),
        ("TZ=Europe/Berlin 0 0 * * *", "Etc/UTC", "five fields"),
        ("61 2 * * *", "Etc/UTC", "bad minute"),
        ("0 0 ? * *", "Etc/UTC", "Write \\* instead"),
        ("0 0 31 2 *", "Etc/UTC", "bad day-of-month"),
        ("@reboot", "Etc/UTC", "Known are"),
        ("0 0 * * *", "Mars/Olympus", "no time zone"),
        ("0 0 * * *", "../../etc/passwd", "no time zone"),
        ("0 0 * * *", "", "no time zone"),
    ],
)
def test_what_cannot_be_followed_is_said(schedule: str, zone: str, says: str) -> None:
    with pytest.raises(InvalidSchedule, match=says):
        Schedule.parse(schedule, zone)


def test_a_leap_day_comes() -> None:
    assert Schedule.parse("0 0 29 2 *", "Etc/UTC").next(utc("2026-11-22T00:00")) == utc(
        "2028-02-29T00:00"
    )


def test_missed_ticks_collapse_to_the_newest() -> None:
    daily = Schedule.parse("17 2 * * *", "Etc/UTC")
    found = daily.missed(utc("2026-11-01T02:17"), utc("2026-11-22T02:17"))
    assert found == Missed(utc("2026-11-22T02:17"), earlier=20)
    assert daily.missed(utc("2026-11-22T02:17"), utc("2026-11-22T23:00")) is None


def test_counting_missed_ticks_ends() -> None:
    found = Schedule.parse("* * * * *", "Etc/UTC").missed(
        utc("2020-01-01T00:00"), utc("2026-11-22T02:17:30")
    )
    assert found == Missed(utc("2026-11-22T02:17"), earlier=1000)


@given(
    after=st.integers(0, 270 * 24 * 60).map(
        lambda minute: utc("2026-03-01") + timedelta(minutes=minute)
    ),
    minutes=st.integers(0, 4 * 24 * 60),
    expression=st.sampled_from(
        ["17 2 * * *", "30 2 * * *", "*/20 * * * *", "0 */3 * * *", "5 0,2,3 * * 0", "0 0 1 * 1"]
    ),
    zone=st.sampled_from(["Etc/UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
)
def test_looking_back_finds_what_looking_ahead_finds(
    after: datetime, minutes: int, expression: str, zone: str
) -> None:
    schedule, start = Schedule.parse(expression, zone), after
    until = start + timedelta(minutes=minutes)
    ahead, back = ticks(schedule, start, until), schedule.missed(start, until)
    assert (back.newest if back else None) == (ahead[-1] if ahead else None)
    assert (back.earlier + 1 if back else 0) == len(ahead)


@given(uid=st.uuids())
def test_spread_is_the_same_each_time_and_below_its_limit(uid: object) -> None:
    assert timedelta() <= offset(str(uid), "1h5m") < timedelta(minutes=65)
    assert offset(str(uid), "1h5m") == offset(str(uid), "1h5m")
    assert offset(str(uid), None) == timedelta()


@pytest.mark.parametrize(
    ("expression", "hours"),
    [
        ("17 2 * * *", 24),
        ("@hourly", 1),
        ("*/5 * * * *", 1 / 12),
        ("0 8-18 * * 1-5", 62),  # from Friday evening on
        ("* 8-18 * * 1-5", 61 + 1 / 60),
        ("0 3 * * 0", 7 * 24),
        ("0 0 1 * *", 31 * 24),
        ("0 0 1 */3 *", 92 * 24),
    ],
)
def test_the_longest_pause_between_two_ticks(expression: str, hours: float) -> None:
    schedule = Schedule.parse(expression, "Etc/UTC")
    assert longest_pause(schedule) == timedelta(hours=hours)
