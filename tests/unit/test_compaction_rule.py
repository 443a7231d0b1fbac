"""To which revision history may be forgotten, decided from what was seen."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcd_steward.engine.maintenance.compaction_rule import (
    History,
    aged,
    decide,
    decide_on,
    seen_before,
)
from etcd_steward.engine.maintenance.deeper import steps
from etcd_steward.errors import InvalidInput
from etcd_steward.models.maintenance import CompactionOptions
from etcd_steward.models.maintenance_run import Sighting

START = datetime(2026, 11, 22, 2, 17, tzinfo=UTC)


def seen(*looks: tuple[float, int], compacted: int | None = 1) -> list[Sighting]:
    """What was seen so many seconds after the start."""
    return [
        Sighting(time=START + timedelta(seconds=at), revision=revision, compact_revision=compacted)
        for at, revision in looks
    ]


def steady(until: float, *, every: float = 30.0, compacted: int | None = 1) -> list[Sighting]:
    """A revision a second, looked at regularly."""
    count = int(until / every)
    return seen(
        *((n * every, 100 + round(n * every)) for n in range(count + 1)), compacted=compacted
    )


def retain(**what: float) -> CompactionOptions:
    return CompactionOptions.model_validate({"mode": "Retain", **what})


def test_so_many_revisions_stay() -> None:
    decision = decide(retain(retain_revisions=1000), History(5000, 100))
    assert decision.target == 4000
    assert "1000 revisions stay" in decision.reason
    assert decide(retain(retain_revisions=1000), History(1050, 50)).target is None
    for young in (900, 1001):
        decision = decide(retain(retain_revisions=1000), History(young, 0))
        assert decision.target is None
        assert "begins at revision 1 already" in decision.reason


def test_what_was_there_so_long_ago_stays() -> None:
    history = History(730, 50, sightings=steady(600))
    decision = decide(retain(retain_seconds=120), history)
    assert decision.target == 100 + 600 - 120
    both = retain(retain_seconds=120, retain_revisions=500)
    assert decide(both, history).target == 230  # the one that keeps more


def test_nothing_is_forgotten_before_it_was_watched_for_so_long() -> None:
    decision = decide(retain(retain_seconds=120), History(200, 5, sightings=steady(90)))
    assert decision.target is None
    assert "watched for 90 s" in decision.reason
    assert decide(retain(retain_seconds=120), History(200, 5)).target is None


def test_never_the_newest_revision() -> None:
    """Nothing was written for an hour: what was seen then is what there is."""
    still = seen(*((n * 30.0, 70) for n in range(120)))
    assert decide(retain(retain_seconds=120), History(70, 5, sightings=still)).target == 69
    with pytest.raises(InvalidInput, match="is the newest there is"):
        decide_on(70, History(70, 5))


def test_a_revision_that_is_named() -> None:
    assert decide_on(60, History(70, 5)).target == 60
    with pytest.raises(InvalidInput, match="in the future: etcd is at 70"):
        decide_on(71, History(70, 5))
    for gone in (5, 4, 1):
        decision = decide_on(gone, History(70, 5))
        assert decision.target is None
        assert "begins at revision 5 already" in decision.reason


def test_a_running_export_holds_it_back() -> None:
    history = History(5000, 100, {"0a1b2c3d": 3000, "ffff0000": 4900})
    decision = decide(retain(retain_revisions=1000), history)
    assert decision.target == 3000
    assert "export 0a1b2c3d still reads at 3000" in decision.reason
    assert decide_on(4500, history).target == 3000
    assert decide_on(4500, History(5000, 3000, {"0a1b2c3d": 3000})).target is None


def test_what_is_retained_must_be_said() -> None:
    with pytest.raises(InvalidInput, match="retainRevisions, retainDuration"):
        decide(CompactionOptions(mode="Retain"), History(70, 5))


def test_whoever_compacts_is_left_alone() -> None:
    moving = [
        one.model_copy(update={"compact_revision": 100 + 300 * (n // 10)})
        for n, one in enumerate(steady(7200))
    ]
    last = moving[-1].compact_revision or 0
    decision = decide(CompactionOptions(), History(7300, last, sightings=moving))
    assert decision.target is None
    assert "counts as stalled after 30 min" in decision.reason


def test_a_stalled_compaction_is_done_for_it() -> None:
    history = History(3700, 100, sightings=steady(3600, compacted=100))
    decision = decide(CompactionOptions(), history)
    assert decision.target == 3700 - 600  # ten minutes stay
    assert "nobody has compacted this etcd for 60 min" in decision.reason
    never = History(3700, 0, sightings=steady(3600, compacted=0))
    assert decide(CompactionOptions(), never).target == 3100
    unknown = History(3700, 100, sightings=steady(3600, compacted=None))
    assert decide(CompactionOptions(), unknown).target is None


def test_a_clock_that_is_set_forward_makes_nothing_old() -> None:
    """A day passes within one look: nothing is a day older for it."""
    day = 86400.0
    looks = seen((0, 100), (30, 130), (60 + day, 160), (90 + day, 190))
    assert [age for age, _ in aged(History(200, 1, sightings=looks), 120)] == [0, 30, 30, 60]
    assert decide(retain(retain_seconds=120), History(200, 1, sightings=looks)).target is None


def test_a_clock_that_is_set_back_makes_nothing_older() -> None:
    looks = seen((0, 100), (30, 130), (60 - 3600, 160), (90 - 3600, 190))
    assert [age for age, _ in aged(History(200, 1, sightings=looks), 120)] == [0, 30, 30, 60]


def test_an_etcd_that_went_back_was_restored() -> None:
    """What was seen before tells nothing of what is there now."""
    looks = [*steady(600), *seen((630, 50), (660, 80))]
    history = History(90, 1, sightings=looks)
    assert [one.revision for _, one in aged(history, 120)] == [80, 50]
    assert aged(History(40, 1, sightings=looks), 120) == []


@given(
    gaps=st.lists(st.tuples(st.floats(-1e6, 1e6, allow_nan=False), st.integers(0, 50)), min_size=1),
    seconds=st.floats(60, 7200),
)
def test_an_age_is_never_more_than_what_plausible_gaps_add_up_to(
    gaps: Sequence[tuple[float, int]], seconds: float
) -> None:
    at, revision = 0.0, 100
    looks: list[tuple[float, int]] = []
    for gap, grown in gaps:
        at, revision = at + gap, revision + grown
        looks.append((at, revision))
    history = History(revision, 1, sightings=seen(*looks))
    ages = [age for age, _ in aged(history, seconds)]
    assert ages[0] == 0
    assert all(0 <= older - newer <= max(seconds / 4, 90) for newer, older in pairwise(ages))
    found = seen_before(history, seconds)
    assert found is None or found.revision <= revision


def test_a_rescue_goes_no_deeper_than_needed_and_never_to_the_end() -> None:
    assert steps(History(5000, 100)) == [4000, 4900, 4990, 4999]
    assert steps(History(5000, 4950)) == [4990, 4999]
    assert steps(History(8, 0)) == [7]
    old = History(9000, 100, sightings=steady(1200))
    assert steps(old) == [100 + 600, 8000, 8900, 8990, 8999]
