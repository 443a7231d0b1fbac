"""What is due, from a status and a moment."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcd_steward.handlers import status as transition
from etcd_steward.handlers import words
from etcd_steward.handlers.agenda import Agenda, agenda, tick_of
from etcd_steward.handlers.standing import Order, Run
from etcd_steward.kube import Key, Version
from etcd_steward.models.kinds import (
    EtcdBackupSpec,
    EtcdBackupStatus,
    EtcdSnapshotStatus,
)
from etcd_steward.models.places import StoreSpec
from etcd_steward.models.run import Failure

UID = "0a1b2c3d-0000-0000-0000-000000000000"
CREATED = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-11-{text}").replace(tzinfo=UTC)


def an_order(status: EtcdBackupStatus | None = None, **spec: object) -> Order:
    return Order(
        key=Key("ns", "nightly"),
        version=Version(UID, 1),
        generation=1,
        created=CREATED,
        deleting=False,
        status=status or EtcdBackupStatus(),
        spec=EtcdBackupSpec.model_validate({"store": StoreSpec(), **spec}),
    )


def daily(status: EtcdBackupStatus | None = None, **spec: object) -> Order:
    return an_order(status, schedule="17 2 * * *", **spec)


def ended(name: str, created: datetime = CREATED) -> Run:
    failure = Failure(reason="NotFound", message="no bucket")
    status = EtcdSnapshotStatus(backup_uid=UID)
    status = transition.failed(status, failure, backup_name="nightly", now=created)
    return Run(Key("ns", name), Version(name, 1), "nightly", created, status)


def active(name: str) -> Run:
    return Run(Key("ns", name), Version(name, 1), "nightly", CREATED, EtcdSnapshotStatus())


def due(plan: Agenda) -> str:
    return "" if plan.due is None else plan.due.name


def then(plan: Agenda) -> EtcdBackupStatus:
    assert plan.due is not None
    return plan.due.then


def test_a_one_shot_is_due_once() -> None:
    name = f"nightly-{int(CREATED.timestamp())}"
    assert due(agenda(an_order(), [], at("22T00:00"))) == name
    assert due(agenda(an_order(), [active(name)], at("22T00:00"))) == ""
    for known in ("last_snapshot_name", "active_snapshot_name"):
        status = EtcdBackupStatus(**{known: name})
        assert due(agenda(an_order(status), [], at("22T00:00"))) == ""


def test_a_suspended_one_shot_waits() -> None:
    assert due(agenda(an_order(suspend=True), [], at("22T00:00"))) == ""


def test_a_tick_is_read_from_the_name_that_was_made_of_it() -> None:
    later = CREATED + timedelta(seconds=95)
    name = due(agenda(an_order(), [], later))
    assert tick_of(name, "nightly", later, made_by_us=True) == CREATED
    assert tick_of(name, "nightly", CREATED + timedelta(days=30), made_by_us=True) == CREATED
    assert tick_of(name, "nightly", later, made_by_us=False) == later
    assert tick_of("by-hand", "nightly", later, made_by_us=True) == later
    assert tick_of("nightly-x", "nightly", later, made_by_us=True) == later
    assert tick_of("nightly-2", "nightly", later, made_by_us=True) == later  # not 1970
    assert tick_of("nightly-99999999999", "nightly", later, made_by_us=True) == later


def test_a_schedule_waits_for_its_tick() -> None:
    plan = agenda(daily(), [], at("20T13:00"))
    assert due(plan) == ""
    assert plan.next == at("21T02:17")
    assert plan.status.next_schedule_time == "2026-11-21T02:17:00Z"
    assert plan.status.observed_schedule == "17 2 * * * Etc/UTC"


def test_a_tick_is_due_at_its_second_and_once() -> None:
    before = agenda(daily(), [], at("20T13:00")).status
    tick = at("21T02:17")
    assert due(agenda(daily(before), [], tick - timedelta(seconds=1))) == ""
    plan = agenda(daily(before), [], tick)
    assert due(plan) == f"nightly-{int(tick.timestamp())}"
    assert then(plan).last_schedule_time == "2026-11-21T02:17:00Z"
    assert then(plan).missed_runs is None
    assert due(agenda(daily(then(plan)), [], tick + timedelta(hours=3))) == ""


def test_a_run_whose_status_was_lost_is_not_made_twice() -> None:
    tick = at("21T02:17")
    name = due(agenda(daily(), [], tick))
    plan = agenda(daily(), [ended(name)], tick)
    assert due(plan) == ""
    assert plan.status.last_schedule_time == "2026-11-21T02:17:00Z"


def test_missed_ticks_collapse_to_the_newest_and_are_counted() -> None:
    plan = agenda(daily(), [], at("25T01:00"))
    assert due(plan) == f"nightly-{int(at('24T02:17').timestamp())}"
    assert then(plan).missed_runs == 3
    assert "3 times" in (plan.missed or "")


def test_a_tick_past_its_deadline_is_missed() -> None:
    order = daily(startingDeadlineSeconds=3600)
    assert due(agenda(order, [], at("21T03:17"))) != ""
    plan = agenda(order, [], at("21T03:18"))
    assert due(plan) == ""
    assert plan.status.missed_runs == 1
    assert "startingDeadlineSeconds" in (plan.missed or "")
    assert (
        agenda(daily(plan.status, startingDeadlineSeconds=3600), [], at("21T03:19")).missed is None
    )


def test_runs_never_overlap_and_the_newest_is_made_up_for() -> None:
    status = agenda(daily(), [], at("20T13:00")).status
    busy = agenda(daily(status), [active("x")], at("22T02:18"))
    assert due(busy) == ""
    assert busy.status.anchor_time == status.anchor_time
    assert due(agenda(daily(busy.status), [ended("x")], at("22T02:20"))) == (
        f"nightly-{int(at('22T02:17').timestamp())}"
    )


def test_suspended_nothing_starts_and_the_newest_follows() -> None:
    plan = agenda(daily(suspend=True), [], at("22T02:18"))
    assert due(plan) == ""
    assert plan.status.next_schedule_time is None
    assert due(agenda(daily(plan.status), [], at("22T03:00"))) != ""


def test_a_changed_schedule_is_followed_from_now_on() -> None:
    status = agenda(daily(), [], at("20T13:00")).status
    plan = agenda(an_order(status, schedule="0 * * * *"), [], at("20T20:30"))
    assert due(plan) == ""
    assert plan.next == at("20T21:00")


def test_a_clock_that_was_ahead_loses_nothing_and_doubles_nothing() -> None:
    status = then(agenda(daily(), [], at("21T02:17")))
    ahead = agenda(daily(status), [], at("29T05:00"))
    run = due(ahead)
    back = agenda(daily(then(ahead)), [ended(run)], at("22T02:00"))
    assert due(back) == ""
    assert back.next == at("22T02:17")
    assert due(agenda(daily(back.status), [ended(run)], at("22T02:17"))) != ""
    # When that day comes its run is there already.
    later = then(agenda(daily(back.status), [ended(run)], at("28T02:17")))
    assert due(agenda(daily(later), [ended(run)], at("29T02:17"))) == ""


def test_spread_moves_the_start_and_not_the_tick() -> None:
    order = daily(spread="1h")
    first = agenda(order, [], at("20T13:00"))
    assert first.next is not None
    assert at("21T02:17") < first.next < at("21T03:17")
    assert due(agenda(order, [], first.next - timedelta(seconds=1))) == ""
    assert due(agenda(order, [], first.next)) == f"nightly-{int(at('21T02:17').timestamp())}"


@pytest.mark.parametrize(
    ("schedule", "zone"),
    [("every night", "Etc/UTC"), ("0 0 31 2 *", "Etc/UTC"), ("@daily", "Mars")],
)
def test_a_schedule_that_cannot_be_followed_is_said(schedule: str, zone: str) -> None:
    plan = agenda(an_order(schedule=schedule, timeZone=zone), [], at("22T00:00"))
    assert plan.problem is not None
    assert plan.problem.reason == "InvalidSchedule"
    assert due(plan) == ""


def test_a_run_asked_for_is_made_once_whatever_else_there_is() -> None:
    asked = replace(daily(suspend=True), requested_at="now please")
    plan = agenda(asked, [active("x")], at("20T13:00"))
    assert due(plan).startswith("nightly-r")
    assert due(plan) == due(agenda(asked, [], at("22T13:00")))
    done = agenda(asked, [ended(due(plan))], at("20T13:00"))
    assert due(done) == ""
    assert done.status.last_handled_requested_at == "now please"
    assert due(agenda(replace(asked, status=done.status), [], at("20T13:00"))) == ""
    again = replace(asked, status=done.status, requested_at="again")
    assert due(agenda(again, [], at("20T13:00"))) not in {"", due(plan)}


def test_the_same_request_of_an_order_made_anew_is_another_one() -> None:
    asked = replace(daily(suspend=True), requested_at="first")
    before = due(agenda(asked, [], at("20T13:00")))
    anew = replace(asked, version=asked.version._replace(uid="another"))
    assert due(agenda(anew, [ended(before)], at("20T14:00"))) not in {"", before}


@pytest.mark.parametrize("change", [{"deleting": True}, {"spec": None}])
def test_nothing_is_due_for_an_order_that_goes_or_cannot_be_read(change: dict[str, object]) -> None:
    assert due(agenda(replace(daily(), **change), [], at("25T00:00"))) == ""  # type: ignore[arg-type]


@given(st.lists(st.integers(1, 40 * 60), min_size=1, max_size=60), st.data())
def test_every_tick_is_accounted_for_exactly_once(gaps: list[int], data: st.DataObject) -> None:
    """Looks at random moments, writes lost at random: a tick has a run, or is counted as missed."""
    status, runs, now = EtcdBackupStatus(), list[Run](), CREATED
    for gap in gaps:
        now += timedelta(minutes=gap)
        plan = agenda(daily(status), runs, now)
        if plan.due is not None:
            assert plan.due.name not in {run.key.name for run in runs}
            runs.append(ended(plan.due.name, now))
        if data.draw(st.booleans()):
            status = plan.status
    if (plan := agenda(daily(status), runs, now)).due is not None:
        runs.append(ended(plan.due.name, now))
        plan = agenda(daily(status), runs, now)
    assert plan.due is None
    first = datetime(2026, 11, 21, 2, 17, tzinfo=UTC)
    ticks = max(0, (now - first) // timedelta(days=1) + 1) if now >= first else 0
    assert len(runs) + (plan.status.missed_runs or 0) == ticks
    assert words.moment(plan.status.anchor_time or "") <= now
