"""Which members are worth it, in which order, and how long that takes."""

import math
from datetime import UTC, datetime, timedelta

import pytest

from etcd_steward.engine.maintenance import estimate
from etcd_steward.engine.maintenance.leader import successor
from etcd_steward.engine.maintenance.plan import Terms, plan
from etcd_steward.engine.maintenance.round import Window
from etcd_steward.engine.maintenance.rule import judge, rescued_below
from etcd_steward.errors import Refused
from etcd_steward.models.maintenance import (
    DefragmentationRule,
    MaintenanceOptions,
    MemberReport,
    RoundReport,
)
from tests.support.maintenance import GB, MB, at, cluster, info, member

RULE = DefragmentationRule(min_reclaim=200 * MB)


def worth(
    db_size: int, in_use: int, quota: int | None = 8 * GB, rule: DefragmentationRule = RULE
) -> tuple[bool, str]:
    verdict = judge(rule, member(2, db_size=db_size, db_size_in_use=in_use), quota)
    return verdict.worth, verdict.why


@pytest.mark.parametrize(
    ("db_size", "in_use", "quota", "expected"),
    [
        (GB, 400 * MB, 8 * GB, True),
        (GB, 500 * MB, 8 * GB, True),
        (GB, 501 * MB, 8 * GB, False),
        (GB, 501 * MB, GB, True),  # more than 80 % of the quota
        (GB, 501 * MB, 1250 * MB, False),  # 80 % exactly
        (GB, 501 * MB, None, False),
        (399 * MB, 200 * MB, 400 * MB, False),  # too little comes back, whatever else
        (0, 0, 8 * GB, False),
        (100, 200, 8 * GB, False),  # read while the file was growing
    ],
)
def test_the_rule(db_size: int, in_use: int, quota: int | None, expected: bool) -> None:
    assert worth(db_size, in_use, quota)[0] is expected


def test_why_is_said_in_figures() -> None:
    assert worth(GB, 400 * MB)[1] == "600 MB of 1.00 GB would come back (60 %)"
    assert worth(GB, 900 * MB)[1].endswith("(10 %): less than 200 MB")
    assert worth(GB, 600 * MB)[1].endswith("less than 50 %, and the file takes 12 % of its quota")
    assert worth(GB, 600 * MB, GB)[1].endswith("(40 %), and the file takes 100 % of its quota")
    assert worth(GB, 600 * MB, None)[1].endswith("less than 50 %, and the quota is unknown")


def test_always_takes_what_gives_nothing_back() -> None:
    assert worth(GB, GB, rule=DefragmentationRule(always=True))[0]


def test_followers_go_first_and_who_gives_back_most_before_all() -> None:
    facts = cluster(
        member(1, db_size=4 * GB),
        member(2, db_size=2 * GB),
        member(3, db_size=3 * GB),
        listed=(info(1), info(2), info(3)),
    )
    turns = plan(facts, Terms(MaintenanceOptions()))
    assert [turn.status.member_id for turn in turns] == [3, 2, 1]


def test_learners_have_no_turn() -> None:
    facts = cluster(
        member(1),
        member(2),
        member(4, is_learner=True),
        listed=(info(1), info(2), info(4, learner=True)),
    )
    assert [turn.status.member_id for turn in plan(facts, Terms(MaintenanceOptions()))] == [2, 1]


def test_who_shall_lead() -> None:
    facts = cluster(
        member(1), member(2, raft_applied_index=5000), member(3, raft_applied_index=4990)
    )
    assert successor(facts, frozenset({2, 3})).member_id == 2
    assert successor(facts, frozenset({3})).member_id == 3
    assert successor(facts, frozenset()).member_id == 2
    with pytest.raises(Refused, match="no other voter"):
        successor(cluster(member(1)), frozenset())


def test_estimates() -> None:
    options = MaintenanceOptions()
    assert estimate.expected(200 * MB, None) == 11
    assert estimate.expected(200 * MB, 300 * MB) == 2
    assert estimate.patience(GB // 10, options) == 60
    assert estimate.patience(4 * GB, options) == 200
    assert estimate.patience(4 * GB, MaintenanceOptions(defragment_seconds=0.1)) == 0.1
    assert estimate.longest(MB, options) == 600
    assert estimate.longest(4 * GB, options) == 2000
    assert estimate.measured(10 * MB, 1.0) is None
    measured = estimate.measured(200 * MB, 3.0)
    assert measured == 100 * MB
    assert estimate.expected(200 * MB, measured) >= 3.0
    assert estimate.measured(200 * MB, 0.5) == 800 * MB


def test_the_shortest_budget_holds() -> None:
    both = MaintenanceOptions(etcd_liveness_seconds=30, api_server_liveness_seconds=20)
    assert estimate.budget(both) == (20, "the liveness probe of the API server beside it")
    one = both.model_copy(update={"api_server_liveness_seconds": None})
    assert estimate.budget(one) == (30, "etcd's own liveness probe")
    assert estimate.budget(one.model_copy(update={"etcd_liveness_seconds": None})) is None


def test_reports_add_up() -> None:
    done = MemberReport(
        name="a", member_id="1", outcome="Defragmented", before_bytes=GB, after_bytes=400 * MB
    )
    left = MemberReport(name="b", member_id="2", outcome="NotReached", before_bytes=GB)
    grown = done.model_copy(update={"after_bytes": 2 * GB})
    moment = at("2026-11-23T03:30:00+00:00")
    report = RoundReport(
        mode="Apply",
        outcome="Stopped",
        started_at=moment,
        finished_at=moment,
        members=(done, left, grown),
    )
    assert report.reclaimed_bytes == 600 * MB
    assert RoundReport.model_validate_json(report.model_dump_json(by_alias=True)) == report


@pytest.mark.parametrize(("rule", "percent"), [(0, 80), (30, 80), (80, 80), (90, 90), (100, 95)])
def test_a_rule_makes_no_rescue_impossible_and_none_a_farce(rule: int, percent: int) -> None:
    wanted = DefragmentationRule(quota_usage_percent_above=rule)
    assert rescued_below(MaintenanceOptions(defragmentation=wanted)) == percent
    assert rescued_below(MaintenanceOptions()) == 80


def test_a_window_is_no_longer_for_a_clock_that_is_set_back() -> None:
    now = datetime(2026, 11, 21, 2, 17, tzinfo=UTC)
    window = Window.begin(now + timedelta(hours=1), now)
    assert window.left(now) == pytest.approx(3600, abs=60)
    assert window.left(now - timedelta(hours=3)) <= 3600
    assert window.left(now + timedelta(minutes=50)) == 600
    assert window.left(now + timedelta(hours=2)) < 0
    assert Window.begin(None, now).left(now) == math.inf
