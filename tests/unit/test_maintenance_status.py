"""What the status of an EtcdMaintenance says, step by step."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from etcd_steward.errors import NotFound
from etcd_steward.handlers import maintenance_status as step
from etcd_steward.handlers.maintenance_agenda import Due, Seen
from etcd_steward.handlers.maintenance_health import news, observed, with_conditions
from etcd_steward.handlers.status import find_condition
from etcd_steward.kube import Key
from etcd_steward.models.maintenance import (
    CompactionReport,
    MemberReport,
    RescueReport,
    RoundReport,
)
from etcd_steward.models.maintenance_kinds import EtcdMaintenanceStatus
from etcd_steward.models.maintenance_run import MemberDone, MemberTurn
from etcd_steward.models.observation import ObservedMember
from etcd_steward.models.run import Failure
from tests.unit.test_maintenance_agenda import NOW, RESCUE, an_observation, an_order

DUE = Due("round", "Apply", "its tick")
EVERY = timedelta(minutes=5)


def member(name: str, **changes: Any) -> ObservedMember:  # noqa: ANN401
    fields: dict[str, Any] = {
        "up": True,
        "version": "3.6.16",
        "db_size": 80_000_000,
        "db_in_use": 20_000_000,
        "quota": 100_000_000,
        "has_leader": True,
    }
    return ObservedMember(name=name, member_id="a1", **(fields | changes))


def running() -> EtcdMaintenanceStatus:
    return step.begun(EtcdMaintenanceStatus(), DUE, generation=2, now=NOW)


def defragmented(name: str) -> MemberReport:
    return MemberReport(
        name=name,
        member_id="a1",
        outcome="Defragmented",
        before_bytes=80_000_000,
        after_bytes=21_000_000,
        seconds=1.5,
    )


def report(outcome: str, *members: MemberReport, **changes: Any) -> RoundReport:  # noqa: ANN401
    fields: dict[str, Any] = {
        "mode": "Apply",
        "outcome": outcome,
        "started_at": NOW,
        "finished_at": NOW + timedelta(minutes=2),
        "members": members,
    }
    return RoundReport(**(fields | changes))


def said(status: EtcdMaintenanceStatus, type_: str) -> tuple[str, str]:
    found = find_condition(status.conditions, type_)
    assert found is not None
    return found.status, found.reason


def test_a_round_is_followed_member_by_member() -> None:
    status = running()
    assert (status.phase, status.task, status.starts, status.attempt) == ("Running", "round", 1, 1)
    turn = MemberTurn(name="etcd1", step="Defragmenting", position=2, total=3)
    status = step.turned(status, turn, now=NOW)
    assert status.message == "Defragmenting etcd1, 2 of 3"
    later = NOW + timedelta(seconds=20)
    status = step.lives(status, "Maintaining", now=later)
    assert status.progress is not None
    assert status.progress.step == "Defragmenting"
    assert status.heartbeat_time == "2026-11-21T02:17:20Z"
    done = MemberDone(member=defragmented("etcd1"), position=2, total=3)
    status = step.member_done(status, done, now=later)
    assert status.last_defragmentation_time == "2026-11-21T02:17:20Z"
    assert "80.0 MB before, 21.0 MB after" in (status.progress.text if status.progress else "")


def test_a_round_that_is_done_leaves_nothing_under_way() -> None:
    status = step.round_ended(running(), report("Done", defragmented("etcd0"), speed=1e8))
    assert (status.phase, status.task, status.progress) == ("Observing", None, None)
    assert status.last_round is not None
    assert (
        status.last_round.message == "1 of 1 members defragmented, 59.0 MB given back to the disks"
    )
    assert status.last_round.members[0].reclaimed == "59.0 MB"
    assert status.last_successful_time == "2026-11-21T02:19:00Z"
    assert status.speed == 10**8


def test_a_plan_is_shown_beside_the_last_round() -> None:
    before = step.round_ended(running(), report("Done", defragmented("etcd0")))
    would = MemberReport(
        name="etcd0", member_id="a1", outcome="WouldDefragment", estimated_seconds=3.0
    )
    ended = report("Planned", would, mode="Plan", objections=("member etcd2 does not answer",))
    status = step.round_ended(before, ended)
    assert status.last_round == before.last_round
    assert status.plan is not None
    assert status.plan.message == (
        "1 of 1 members would be defragmented; member etcd2 does not answer"
    )
    assert status.plan.members[0].seconds == "3.0s"


def test_what_somebody_wished_is_no_failure_and_a_surprise_is_one() -> None:
    order = an_order(defragmentation={})
    seen = Seen(an_observation())
    stopped = report("Stopped", defragmented("etcd0"), reason="member etcd1 does not answer")
    for why, ready in (("spec.suspend was set", "True"), ("", "False")):
        status = step.round_ended(running(), stopped, why_stopped=why)
        status = with_conditions(order, status, seen, None, NOW)
        assert said(status, "Ready")[0] == ready
        assert said(status, "RoundSucceeded")[0] == "False"
        assert (why or "etcd1 does not answer") in (status.message or "")


def test_a_task_that_fails_says_so_where_it_belongs() -> None:
    failure = Failure(reason="Unavailable", message="nobody answers", hint="Look at etcd")
    said_so = ("Failed", "nobody answers. Look at etcd")
    one = step.failed(running(), "round", failure, now=NOW).last_round
    two = step.failed(running(), "rescue", failure, now=NOW).last_rescue
    three = step.failed(EtcdMaintenanceStatus(), "compaction", failure, now=NOW).last_compaction
    for last in (one, two, three):
        assert last is not None
        assert (last.outcome, last.message) == said_so


def test_that_nothing_need_be_compacted_is_written_once() -> None:
    def looked(status: EtcdMaintenanceStatus, outcome: str, at: datetime) -> EtcdMaintenanceStatus:
        found = {"outcome": outcome, "reason": "for a reason", "finished_at": at}
        return step.compaction_ended(status, CompactionReport.model_validate(found))

    first = looked(EtcdMaintenanceStatus(), "NotNeeded", NOW)
    assert looked(first, "NotNeeded", NOW + EVERY) is first
    assert looked(first, "Compacted", NOW + EVERY).last_compaction != first.last_compaction


def test_figures_are_written_now_and_then_and_health_at_once() -> None:
    first = an_observation(members=(member("etcd0"), member("etcd1")), revision=7)
    status = observed(EtcdMaintenanceStatus(), first, every=EVERY)
    assert status.etcd is not None
    assert (status.etcd.db_size, status.etcd.in_use) == ("80.0 MB", "20.0 MB")
    assert status.etcd.quota_used == "80%"
    soon = NOW + timedelta(seconds=30)
    grown = an_observation(at=soon, members=(member("etcd0"), member("etcd1", db_size=81_000_000)))
    assert observed(status, grown, every=EVERY) is status
    late = grown.model_copy(update={"at": NOW + EVERY})
    assert observed(status, late, every=EVERY).etcd != status.etcd
    for change in (
        {"members": (member("etcd0"), member("etcd1", up=False))},
        {"alarms": an_observation("NOSPACE").alarms},
        {"leader": "etcd1"},
    ):
        worse = first.model_copy(update={"at": soon, **change})
        assert observed(status, worse, every=EVERY).etcd != status.etcd, change


def test_figures_are_written_once_after_a_round() -> None:
    before = observed(EtcdMaintenanceStatus(), an_observation(revision=7), every=EVERY)
    ended = step.round_ended(before, report("Done", defragmented("etcd0")))
    late = timedelta(minutes=2, seconds=1)
    fresh = observed(ended, an_observation(at=NOW + late, revision=8), every=EVERY)
    assert fresh.etcd is not None
    assert fresh.etcd.revision == 8
    again = an_observation(at=NOW + late + timedelta(seconds=1), revision=9)
    assert observed(fresh, again, every=EVERY) is fresh


def test_an_etcd_that_does_not_answer_keeps_its_last_figures() -> None:
    first = an_observation(members=(member("etcd0"),), revision=7)
    status = observed(EtcdMaintenanceStatus(), first, every=EVERY)
    gone = first.model_copy(update={"reachable": False, "error": "refused", "members": ()})
    status = observed(status, gone, every=EVERY)
    assert status.etcd is not None
    assert (status.etcd.leader, status.etcd.revision) == ("", 7)
    assert [one.up for one in status.etcd.members] == [False]
    status = with_conditions(an_order(), status, Seen(gone), None, NOW)
    assert said(status, "EtcdReachable") == ("False", "EtcdUnreachable")
    assert said(status, "EtcdHealthy")[0] == "Unknown"
    assert said(status, "Ready") == ("False", "EtcdUnreachable")


def test_conditions_name_what_is_wrong() -> None:
    order = an_order(**RESCUE)

    def of(seen: Seen, **changes: Any) -> EtcdMaintenanceStatus:  # noqa: ANN401
        return with_conditions(replace(order, **changes), order.status, seen, None, NOW)

    well = an_observation(members=(member("etcd0"),))
    assert said(of(Seen(well)), "Ready") == ("True", "Observing")
    assert said(of(Seen(well)), "EtcdHealthy") == ("True", "AllWell")
    assert said(of(Seen()), "Ready") == ("Unknown", "NotObservedYet")
    assert said(of(Seen(well, elder=Key("ns", "a"))), "Ready") == ("False", "AnotherMaintains")
    assert said(of(Seen(well), spec=None, fault="spec.x"), "Ready") == ("False", "InvalidSpec")
    full = of(Seen(an_observation("NOSPACE")))
    assert said(full, "EtcdHealthy") == ("False", "NoSpace")
    assert "A rescue begins at once" in (full.message or "")
    assert said(of(Seen(an_observation("CORRUPT"))), "EtcdHealthy") == ("False", "Corrupt")
    headless = an_observation(members=(member("etcd0"),)).model_copy(update={"leader": None})
    assert said(of(Seen(headless)), "EtcdHealthy") == ("False", "NoLeader")
    down = an_observation(members=(member("etcd0"), member("etcd1", up=False)))
    assert said(of(Seen(down)), "EtcdHealthy") == ("False", "MemberDown")
    missing = NotFound("there is no Secret ns/etcd", hint="Create it")
    status = with_conditions(order, order.status, Seen(), missing, NOW)
    assert said(status, "Ready") == ("False", "NotFound")


def test_only_what_changes_is_an_event() -> None:
    order = an_order(**RESCUE)

    def after(status: EtcdMaintenanceStatus, *alarms: str) -> EtcdMaintenanceStatus:
        return with_conditions(order, status, Seen(an_observation(*alarms)), None, NOW)

    well = after(EtcdMaintenanceStatus())
    assert news((), well.conditions) == []
    full = after(well, "NOSPACE")
    assert [one.reason for one in news(well.conditions, full.conditions)] == ["NoSpace"]
    assert news(full.conditions, after(full, "NOSPACE").conditions) == []
    again = news(full.conditions, after(full).conditions)
    assert [(one.good, one.reason) for one in again] == [(True, "EtcdHealthy")]


def test_a_rescue_says_where_its_snapshot_lies_and_that_etcd_takes_writes() -> None:
    rescued = RescueReport(
        outcome="Rescued",
        started_at=NOW,
        finished_at=NOW + timedelta(seconds=42),
        snapshot="s3://b/p",
        round=report("Done", defragmented("etcd0")),
        disarmed=("a1",),
    )
    status = step.rescue_ended(running().model_copy(update={"task": "rescue"}), rescued)
    assert status.last_rescue is not None
    assert status.last_rescue.message == (
        "etcd takes writes again after 42s: 59.0 MB given back; "
        "the snapshot taken before lies in s3://b/p"
    )
    assert status.last_defragmentation_time == "2026-11-21T02:17:42Z"
    assert datetime.fromisoformat(status.last_rescue.completion_time).tzinfo == UTC
