"""Which backups stay: against restic's own examples, and against an independent model."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcd_steward.engine.retention import Candidate, before, keep
from etcd_steward.models.kinds import Retention
from tests.support.retention_model import kept

START = datetime(2026, 11, 22, 2, 17, tzinfo=UTC)


def made(*ticks: datetime, verified: bool = True, suspect: bool = False) -> list[Candidate]:
    return [Candidate(f"{tick:%Y%m%dT%H%M%S}", tick, verified, suspect) for tick in ticks]


def days(count: int) -> list[datetime]:
    """As many nights, newest first."""
    return [START - timedelta(days=day) for day in range(count)]


def reasons(backups: list[Candidate], policy: Retention | None) -> list[tuple[str, ...]]:
    """Of those that stay, newest first."""
    found = keep(backups, policy)
    return [found[one.folder] for one in backups if one.folder in found]


def test_each_one_that_stays_says_why() -> None:
    policy = Retention(keep_last=1, keep_hourly=1, keep_daily=2, keep_weekly=2, keep_monthly=2)
    assert reasons(made(*days(60)), policy) == [
        (
            "last",
            "hourly 2026-11-22T02",
            "daily 2026-11-22",
            "weekly 2026-W47",
            "monthly 2026-11",
            "newest verified",
        ),
        ("daily 2026-11-21",),
        ("weekly 2026-W46",),  # Sunday the 15th
        ("monthly 2026-10",),
    ]


def test_while_a_count_is_not_used_up_the_oldest_stays_too() -> None:
    assert reasons(made(*days(5)), Retention(keep_yearly=3)) == [
        ("yearly 2026", "newest verified"),
        ("oldest yearly",),
    ]
    assert len(reasons(made(*days(5)), Retention(keep_yearly=1))) == 1


def test_within_is_seen_from_the_newest_one() -> None:
    found = reasons(made(*days(10)), Retention(keep_within="3d"))
    assert found == [("within 3d", "newest verified"), ("within 3d",), ("within 3d",)]


@pytest.mark.parametrize("policy", [None, Retention(), Retention(keep_last=0, keep_daily=0)])
def test_a_policy_that_asks_for_nothing_keeps_everything(policy: Retention | None) -> None:
    assert reasons(made(*days(3)), policy) == [("no retention",)] * 3


def test_what_is_not_verified_neither_goes_nor_counts() -> None:
    newest, *older = days(4)
    backups = [
        *made(newest, verified=False),
        *made(older[0], suspect=True),
        *made(older[1], older[2]),
    ]
    assert reasons(backups, Retention(keep_last=1)) == [
        ("not verified",),
        ("suspect",),
        ("last", "newest verified"),
    ]


def test_of_two_runs_of_one_tick_one_counts_as_newer() -> None:
    backups = [Candidate("x-1", START, verified=True), Candidate("x-2", START, verified=True)]
    assert list(keep(backups, Retention(keep_daily=1))) == ["x-2"]


def test_periods_are_in_utc() -> None:
    berlin = START.astimezone(tz=None).replace(hour=0, minute=30)
    folder = made(berlin)[0].folder
    day = f"daily {berlin.astimezone(UTC):%Y-%m-%d}"
    assert day in keep(made(berlin), Retention(keep_daily=1))[folder]


@pytest.mark.parametrize(
    ("duration", "moment"),
    [
        ("30d", datetime(2026, 3, 1, tzinfo=UTC)),
        ("1mo", datetime(2026, 2, 28, tzinfo=UTC)),
        ("1y1mo", datetime(2025, 2, 28, tzinfo=UTC)),
        ("1w2d3h", datetime(2026, 3, 21, 21, tzinfo=UTC)),
        ("90m30s", datetime(2026, 3, 30, 22, 29, 30, tzinfo=UTC)),
        ("999999y", datetime.min.replace(tzinfo=UTC)),
        ("999999w", datetime.min.replace(tzinfo=UTC)),
    ],
)
def test_durations_are_the_calendars(duration: str, moment: datetime) -> None:
    assert before(datetime(2026, 3, 31, tzinfo=UTC), duration) == moment


counts = st.none() | st.integers(0, 6)
policies = st.builds(
    Retention,
    keep_last=counts,
    keep_hourly=counts,
    keep_daily=counts,
    keep_weekly=counts,
    keep_monthly=counts,
    keep_yearly=counts,
)
minutes = st.integers(0, 4 * 366 * 24 * 60) | st.integers(0, 10 * 24 * 60)
"""Spread over four years, or crowded into ten days."""


@given(st.sets(minutes, max_size=60), policies, st.none() | st.integers(1, 900))
def test_it_agrees_with_an_independent_model(
    ago: set[int], policy: Retention, within: int | None
) -> None:
    if within is not None:
        policy = policy.model_copy(update={"keep_within": f"{within}d"})
    ticks = [START - timedelta(minutes=minute) for minute in ago]
    backups = made(*ticks)

    found = keep(backups, policy)

    stay = {one.tick for one in backups if one.folder in found}
    assert stay == kept(ticks, policy, None if within is None else timedelta(days=within))
    if ticks:
        assert max(ticks) in stay
    assert all(found.values())


@given(st.sets(minutes, max_size=40), policies)
def test_pruning_twice_is_pruning_once(ago: set[int], policy: Retention) -> None:
    """Retention is applied again after every backup: it must not eat what it has kept."""
    backups = made(*(START - timedelta(minutes=minute) for minute in ago))
    once = keep(backups, policy)
    left = [one for one in backups if one.folder in once]
    assert keep(left, policy).keys() == once.keys()
