"""What is made of an observation: times of moves, sightings, advice and figures."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from etcd_steward.engine.findings import Verdict
from etcd_steward.engine.observe.advice import advice
from etcd_steward.engine.observe.moves import Moves
from etcd_steward.handlers.figures import figures
from etcd_steward.handlers.sightings import Sightings
from etcd_steward.metrics import Board, Sample, names
from etcd_steward.models.observation import (
    LeaseSample,
    Observation,
    ObservedAlarm,
    ObservedMember,
    Tallied,
)

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
MIB = 1 << 20
GIB = 1 << 30


def member(number: int, **changes: object) -> ObservedMember:
    """One that is well."""
    told: dict[str, object] = {
        "name": f"etcd{number}",
        "member_id": f"{number + 10:x}",
        "endpoint": f"https://10.0.0.{number}:2379",
        "up": True,
        "leader": number == 0,
        "has_leader": True,
        "lag": 0,
        "version": "3.6.16",
        "db_size": 100 * MIB,
        "db_in_use": 90 * MIB,
        "quota": 2 * GIB,
        "quota_source": "Status",
        "revision": 1000,
    }
    return ObservedMember.model_validate(told | changes)


def seen(*members: ObservedMember, **changes: object) -> Observation:
    """A cluster that is well, but for what is given."""
    told: dict[str, object] = {
        "cluster": "ns/main",
        "at": NOW,
        "seconds": 0.01,
        "reachable": True,
        "cluster_id": "cafe",
        "kube_system_uid": "1f0c9a3e-0000",
        "members": members or (member(0), member(1), member(2)),
        "leader": "etcd0",
        "revision": 1000,
        "compact_revision": 900,
        "leases": 12,
        "lease_sample": LeaseSample(leases=12, keys=30, most=9),
    }
    return Observation.model_validate(told | changes)


def later(seconds: float, **changes: object) -> Observation:
    return seen(at=NOW + timedelta(seconds=seconds), **changes)


def test_a_revision_stands_since_it_was_seen_to_move() -> None:
    moves = Moves()
    first = moves.note(seen())
    assert (first.revision_since, first.compact_revision_since) == (NOW, NOW)
    second = moves.note(later(30, revision=1005))
    assert second.revision_since == NOW + timedelta(seconds=30)
    assert second.compact_revision_since == NOW
    # One look that can't tell forgets nothing.
    third = moves.note(later(60, revision=None, compact_revision=None))
    assert third.revision is None
    assert third.revision_since == second.revision_since
    fourth = moves.note(later(90, revision=1005, compact_revision=1000))
    assert fourth.revision_since == second.revision_since
    assert fourth.compact_revision_since == NOW + timedelta(seconds=90)


def test_a_clock_that_is_set_back_makes_no_revision_move_in_the_future() -> None:
    moves = Moves()
    moves.note(seen())
    back = moves.note(later(-7200))
    assert back.revision_since == back.compact_revision_since == back.at
    assert moves.note(later(-7100)).compact_revision_since == back.at


def test_sightings_are_as_old_as_they_are_whatever_the_clock_says() -> None:
    now = 1000.0
    sightings = Sightings(monotonic=lambda: now)
    for revision in range(10):
        sightings.add(revision, revision // 2)
        now += 30
    told = sightings.told(NOW)  # the wall clock may have been set meanwhile: only ages count
    assert [one.revision for one in told] == list(range(10))
    assert told[0].time == NOW - timedelta(seconds=300)
    assert told[-1].time == NOW - timedelta(seconds=30)
    assert told[-1].compact_revision == 4
    day_back = sightings.told(NOW - timedelta(days=1))
    assert day_back[0].time == NOW - timedelta(days=1, seconds=300)


def test_sightings_of_a_week_are_bounded_and_still_close() -> None:
    now = 0.0
    sightings = Sightings(monotonic=lambda: now)
    for step in range(10 * 2880):
        now = step * 30.0
        sightings.add(step, None)
    told = sightings.told(NOW)
    assert len(told) < 1400
    ages = [(NOW - one.time).total_seconds() for one in told]
    assert ages == sorted(ages, reverse=True)
    assert 7.9 * 86400 < ages[0] <= 8 * 86400
    pauses = [before - after for before, after in pairwise(ages)]
    assert max(pauses) <= 630
    assert max(pause for pause, age in zip(pauses, ages[1:], strict=False) if age < 3500) == 30


def test_an_etcd_that_went_back_was_never_seen_before() -> None:
    sightings = Sightings()
    for revision in (100, 110, 90):
        sightings.add(revision, None)
    assert [one.revision for one in sightings.told(NOW)] == [90]


def test_the_largest_have_names_and_the_others_are_added_up() -> None:
    tallied = Tallied.of({"a": 1, "b": 5, "c": 5, "d": 2, "other": 7}, NOW, names=2)
    assert (tallied.largest, tallied.other, tallied.total) == ({"b": 5, "c": 5}, 8 + 2, 20)


def test_nothing_is_advised_where_all_is_well() -> None:
    assert advice(seen()) == []
    assert advice(seen(member(0))) == []


@pytest.mark.parametrize(
    ("observation", "verdict", "words"),
    [
        (seen(reachable=False, error="refused", members=()), "failure", "no member of etcd"),
        (
            seen(alarms=(ObservedAlarm(kind="NOSPACE", member_id="b", member="etcd1"),)),
            "failure",
            "NOSPACE is set by etcd1",
        ),
        (seen(alarms=(ObservedAlarm(kind="CORRUPT", member_id="0"),)), "failure", "CORRUPT is set"),
        (seen(leader=None), "failure", "no leader: 3 of 3 voters"),
        (seen(member(0), member(1, up=False, error="refused")), "warning", "etcd1 is down"),
        (seen(member(0), member(1, up=None)), "warning", "etcd1 was not asked"),
        (seen(member(0), member(1, has_leader=False)), "warning", "etcd1 knows of no leader"),
        (seen(member(0), member(1, learner=True)), "warning", "etcd1 is a learner"),
        (seen(member(0), member(1, lag=5001)), "warning", "etcd1 is 5,001 entries behind"),
        (seen(member(0), member(1, version="3.7.0")), "warning", "3.6.16 and 3.7.0"),
        (
            seen(member(0, db_size=1900 * MIB, db_in_use=1890 * MIB)),
            "warning",
            "etcd0 takes 93 % of its quota",
        ),
        (
            seen(member(0, db_size=1000 * MIB, db_in_use=400 * MIB)),
            "warning",
            "629 MB of the files of etcd0 are free pages",
        ),
        (seen(member(0, quota=None)), "warning", "the quota is unknown"),
        (seen(revision=200_000), "warning", "199,100 revisions are kept"),
        (
            seen(compact_revision_since=NOW - timedelta(minutes=31)),
            "warning",
            "none was compacted for 31 minutes",
        ),
        (seen(leases=20_000), "warning", "20,000 leases"),
        (
            seen(client_certificate_expires=NOW + timedelta(days=3)),
            "warning",
            "our client certificate ends in 3 days",
        ),
        (
            seen(member(0, certificate_expires=NOW - timedelta(days=3))),
            "failure",
            "the certificate of etcd0 expired",
        ),
    ],
)
def test_what_needs_a_look_is_said_with_what_to_do(
    observation: Observation, verdict: str, words: str
) -> None:
    (found,) = advice(observation)
    assert found.verdict is Verdict(verdict)
    assert words in found.message
    assert found.hint


def shown(*samples: Sample) -> dict[str, float]:
    registry = CollectorRegistry()
    Board(registry).show("x", samples)
    lines = generate_latest(registry).decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {series.removeprefix("etcd_steward_"): float(value) for series, value in pairs}


def test_figures_of_a_cluster() -> None:
    tallied = Tallied.of({"pods": 7, "secrets": 3}, NOW, names=1)
    alarm = ObservedAlarm(kind="NOSPACE", member_id="b", member="etcd1")
    said = shown(*figures(seen(alarms=(alarm,), keys=tallied, sizes=tallied, revision_since=NOW)))
    main = 'etcd_cluster="ns/main"'
    assert said[f"etcd_reachable{{{main}}}"] == 1
    assert said[f"etcd_revision{{{main}}}"] == 1000
    assert said[f"etcd_revision_changed_timestamp_seconds{{{main}}}"] == NOW.timestamp()
    assert f"etcd_compact_revision_changed_timestamp_seconds{{{main}}}" not in said
    assert said[f"etcd_sampled_lease_keys{{{main}}}"] == 30
    assert said[f'etcd_db_size_bytes{{{main},member="etcd2"}}'] == 100 * MIB
    assert said[f'etcd_alarm{{alarm="NOSPACE",{main},member="etcd1"}}'] == 1
    assert said[f'etcd_alarm{{alarm="NOSPACE",{main},member="etcd0"}}'] == 0
    assert said[f'registry_keys{{{main},resource="pods"}}'] == 7
    assert said[f'registry_keys{{{main},resource="other"}}'] == 3
    assert said[f"registry_bytes_timestamp_seconds{{{main}}}"] == NOW.timestamp()
    info = 'cluster_id="cafe",etcd_cluster="ns/main",kube_system_uid="1f0c9a3e-0000"'
    assert said[f"etcd_cluster_info{{{info}}}"] == 1


def test_a_cluster_that_does_not_answer_has_no_figures_but_that() -> None:
    down = ObservedMember(name="etcd1", up=False, error="refused")
    gone = seen(down, reachable=False, leader=None, revision=None, compact_revision=None)
    gone = gone.model_copy(update={"leases": None, "lease_sample": None, "cluster_id": None})
    assert {series.partition("{")[0] for series in shown(*figures(gone))} == {
        "etcd_reachable",
        "etcd_observed_timestamp_seconds",
        "etcd_observation_duration_seconds",
        "etcd_member_up",
        "etcd_member_is_learner",
    }


def test_corruption_without_a_culprit_is_nobodys() -> None:
    said = shown(*figures(seen(alarms=(ObservedAlarm(kind="CORRUPT", member_id="0"),))))
    alarms = {series for series, value in said.items() if "etcd_alarm" in series and value}
    assert alarms == {'etcd_alarm{alarm="CORRUPT",etcd_cluster="ns/main",member=""}'}


def test_an_alarm_of_a_member_that_is_no_more_is_told() -> None:
    left = ObservedAlarm(kind="NOSPACE", member_id="1234", member="1234")
    said = shown(*figures(seen(alarms=(left,))))
    alarms = {series for series, value in said.items() if "etcd_alarm" in series and value}
    assert alarms == {'etcd_alarm{alarm="NOSPACE",etcd_cluster="ns/main",member="1234"}'}


def test_an_owner_replaces_all_that_it_has_said() -> None:
    registry = CollectorRegistry()
    board = Board(registry)
    board.show("a", [Sample(names.LEASES, ("a",), 1.0), Sample(names.REVISION, ("a",), 2.0)])
    board.show("b", [Sample(names.LEASES, ("b",), 3.0)])
    board.count("b", names.RESTORES, "failed", by=0)
    board.count("b", names.RESTORES, "failed")
    board.show("a", [Sample(names.LEASES, ("a",), 4.0)])
    text = generate_latest(registry).decode()
    assert 'etcd_steward_etcd_leases{etcd_cluster="a"} 4.0' in text
    assert "etcd_steward_etcd_revision" not in text
    assert 'etcd_steward_restores_total{result="failed"} 1.0' in text
    board.forget("b")
    assert "restores" not in generate_latest(registry).decode()


def test_the_page_is_what_prometheus_client_makes_of_it() -> None:
    registry = CollectorRegistry()
    board = Board(registry)
    tallied = Tallied.of({"pods": 7, 'a"b\\c\nd': 3}, NOW)
    board.show("a", figures(seen(keys=tallied, sizes=tallied)))
    board.show("b", figures(seen(cluster="ns/other", revision=2**53 + 1)))
    board.count("b", names.RESTORES, "failed", by=1.5)
    board.ask(names.LEADER, lambda: 1.0)
    assert board.page() == generate_latest(registry)


def test_names_are_unique_and_their_page_is_fresh() -> None:
    assert len({family.exposed for family in names.ALL}) == len(names.ALL)
    assert all(family.help.endswith(".") for family in names.ALL)
    check = [sys.executable, str(ROOT / "tools" / "generate_metrics_docs.py"), "--check"]
    subprocess.run(check, check=True)  # ours
