"""Moments and revisions."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etcd_steward.engine.times import Clock, Mark, agreeing
from etcd_steward.errors import Compacted, InvalidInput, NotFound

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def marks(*pairs: tuple[int, float]) -> list[Mark]:
    return [Mark(revision, after(seconds)) for revision, seconds in pairs]


def test_a_moment_lies_between_two_marks() -> None:
    clock = Clock(marks((10, 0), (20, 2), (30, 4)))

    found = clock.at(after(3), after(9))
    assert (found.revision, found.moment) == (20, after(2))
    assert found.within == timedelta(seconds=2)
    assert found.since == NOON


def test_after_the_last_mark_it_is_less_exact() -> None:
    clock = Clock(marks((10, 0), (20, 2)))

    found = clock.at(after(60), after(62))
    assert (found.revision, found.within) == (20, timedelta(seconds=60))


def test_what_the_history_does_not_reach_is_said() -> None:
    clock = Clock(marks((10, 0)))

    with pytest.raises(Compacted, match="back to 2026-11-22 12:00:00Z only"):
        clock.at(after(-1), after(9))
    with pytest.raises(InvalidInput, match="yet to come"):
        clock.at(after(10), after(9))
    with pytest.raises(NotFound, match="no Lease"):
        Clock([])


def test_a_host_whose_clock_is_wrong_is_left_out() -> None:
    right = [(number, number) for number in range(10, 40, 2)]
    wrong = [(number, number + 3600.0) for number in range(11, 40, 8)]
    clock = Clock(marks(*right, *wrong))

    assert clock.contradicting == len(wrong)
    assert clock.at(after(21), after(99)).revision == 20


def test_a_revision_lies_between_two_moments() -> None:
    clock = Clock(marks((10, 0), (20, 2)))

    assert clock.of(9) == (None, NOON)
    assert clock.of(10) == (NOON, NOON)
    assert clock.of(15) == (NOON, after(2))
    assert clock.of(21) == (after(2), None)


def test_what_was_before_the_history_tells_of_its_beginning_only() -> None:
    clock = Clock(marks((3, -86400), (8, -1), (30, 4)), oldest=10)

    assert clock.since == after(-1)
    assert clock.at(after(0), after(9)).revision == 10


@settings(max_examples=100)
@given(st.lists(st.integers(0, 9), max_size=9))
def test_no_more_marks_could_agree(seconds: list[int]) -> None:
    given_marks = marks(*enumerate(seconds))
    chosen = agreeing(given_marks)

    assert all(one.moment <= other.moment for one, other in pairwise(chosen))
    longest = [0] * (len(seconds) + 1)
    for number, second in enumerate(seconds):
        longest[number] = 1 + max(
            (longest[other] for other in range(number) if seconds[other] <= second), default=0
        )
    assert len(chosen) == max(longest)
    assert [mark for mark in given_marks if mark in chosen] == chosen
