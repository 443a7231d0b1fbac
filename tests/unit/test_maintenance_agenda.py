"""What is due for an etcd that is looked after, from status, observation and a moment."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from etcd_steward.errors import InvalidInput
from etcd_steward.handlers import maintenance_status as step
from etcd_steward.handlers import words
from etcd_steward.handlers.maintained import Maintained
from etcd_steward.handlers.maintenance_agenda import Agenda, Due, Memory, Seen, agenda, must_stop
from etcd_steward.handlers.maintenance_request import options_of, same_etcd
from etcd_steward.handlers.quantities import size_in_bytes
from etcd_steward.kube import Key, Version
from etcd_steward.models.maintenance_kinds import (
    EtcdMaintenanceSpec,
    EtcdMaintenanceStatus,
    LastRescue,
    MaintainedEtcd,
)
from etcd_steward.models.observation import Observation, ObservedAlarm

UID = "0a1b2c3d-0000-0000-0000-000000000000"
CREATED = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
NOW = datetime(2026, 11, 21, 2, 17, tzinfo=UTC)
DAILY: dict[str, Any] = {"schedule": "17 2 * * *", "defragmentation": {}}
RESCUE: dict[str, Any] = {"alarms": {"noSpace": "Rescue"}}


def an_order(
    status: EtcdMaintenanceStatus | None = None,
    *,
    asked: str | None = None,
    **spec: Any,  # noqa: ANN401
) -> Maintained:
    return Maintained(
        key=Key("ns", "main"),
        version=Version(UID, 1),
        generation=1,
        created=CREATED,
        deleting=False,
        status=status or EtcdMaintenanceStatus(),
        spec=EtcdMaintenanceSpec.model_validate(spec),
        requested_at=asked,
    )


def an_observation(*alarms: str, at: datetime = NOW, **changes: Any) -> Observation:  # noqa: ANN401
    return Observation(
        cluster="ns/main",
        at=at,
        seconds=0.1,
        reachable=True,
        leader="etcd0",
        alarms=tuple(ObservedAlarm(kind=one, member_id="1") for one in alarms),
        **changes,
    )


def plan_of(
    order: Maintained,
    *alarms: str,
    now: datetime = NOW,
    elder: Key | None = None,
    **memory: Any,  # noqa: ANN401
) -> Agenda:
    seen = Seen(an_observation(*alarms, at=now), elder, Memory(**memory))
    return agenda(order, seen, now)


def due(plan: Agenda) -> tuple[str, str] | None:
    return None if plan.due is None else (plan.due.task, plan.due.mode)


def begun(order: Maintained, plan: Agenda, now: datetime = NOW) -> EtcdMaintenanceStatus:
    assert plan.due is not None
    return step.begun(order.status, plan.due, generation=1, now=now)


def test_with_no_section_nothing_is_ever_due() -> None:
    assert due(plan_of(an_order())) is None
    assert due(plan_of(an_order(), "NOSPACE")) is None


def test_a_round_is_due_at_its_tick_and_its_memory_moves_when_it_begins() -> None:
    order = an_order(**DAILY)
    assert due(plan_of(order, now=NOW - timedelta(seconds=1))) is None
    plan = plan_of(order)
    assert due(plan) == ("round", "Apply")
    assert plan.status.anchor_time is None
    after = begun(order, plan)
    assert after.last_schedule_time == words.timestamp(NOW)
    assert after.next_schedule_time == words.timestamp(NOW + timedelta(days=1))
    ended = after.model_copy(update={"phase": "Observing", "task": None})
    assert due(plan_of(an_order(ended, **DAILY), now=NOW + timedelta(hours=1))) is None


def test_nobody_has_looked_yet_so_the_round_waits_and_is_made_up_for() -> None:
    order = an_order(**DAILY)
    plan = agenda(order, Seen(), NOW)
    assert due(plan) is None
    assert due(plan_of(an_order(plan.status, **DAILY), now=NOW + timedelta(minutes=9))) is not None


def test_a_window_ends_so_long_after_the_tick_and_a_round_never_begins_behind_it() -> None:
    spec = {**DAILY, "window": {"duration": "2h"}, "spread": "10m"}
    late = NOW + timedelta(hours=1, minutes=10)
    plan = plan_of(an_order(**spec), now=late)
    assert plan.due is not None
    assert plan.due.ends_at is not None
    assert timedelta(hours=2) <= plan.due.ends_at - NOW < timedelta(hours=2, minutes=10)
    missed = plan_of(an_order(**spec), now=NOW + timedelta(hours=3))
    assert due(missed) is None
    assert missed.status.missed_runs == 1
    assert "its window of 2h was over" in (missed.missed or "")
    early = {**spec, "startingDeadlineSeconds": 60}
    assert "startingDeadlineSeconds (60)" in (plan_of(an_order(**early), now=late).missed or "")


def test_a_request_is_one_round_and_takes_a_tick_of_the_same_moment_along() -> None:
    order = an_order(asked="now", defragmentation={}, mode="Plan")
    plan = plan_of(order)
    assert due(plan) == ("round", "Plan")
    after = begun(order, plan).model_copy(update={"phase": "Observing", "task": None})
    assert after.last_handled_requested_at == "now"
    assert due(plan_of(an_order(after, asked="now", defragmentation={}, mode="Plan"))) is None
    both = an_order(asked="now", **DAILY)
    after = begun(both, plan_of(both)).model_copy(update={"phase": "Observing", "task": None})
    assert due(plan_of(an_order(after, asked="now", **DAILY))) is None
    assert after.last_schedule_time == words.timestamp(NOW)


@pytest.mark.parametrize("alarm", ["NOSPACE", "CORRUPT"])
def test_an_alarm_holds_a_scheduled_round_back(alarm: str) -> None:
    order = an_order(**DAILY)
    held = plan_of(order, alarm)
    assert due(held) is None
    again = plan_of(an_order(held.status, **DAILY), now=NOW + timedelta(minutes=20))
    assert due(again) == ("round", "Apply")


def test_a_full_etcd_is_rescued_at_once_whatever_the_status_says() -> None:
    order = an_order(**RESCUE, **DAILY)
    assert due(plan_of(order, "NOSPACE")) == ("rescue", "Apply")
    assert due(plan_of(an_order(**RESCUE, mode="Plan"), "NOSPACE")) is None
    assert due(plan_of(an_order(**RESCUE, suspend=True), "NOSPACE")) is None
    assert due(plan_of(order, "NOSPACE", "CORRUPT")) is None
    assert due(plan_of(order, "NOSPACE", elder=Key("ns", "elder"))) is None
    running = EtcdMaintenanceStatus(phase="Running", task="round", starts=3)
    assert due(plan_of(an_order(running, **RESCUE), "NOSPACE")) == ("rescue", "Apply")


def test_a_rescue_that_failed_is_tried_again_in_a_while_and_by_what_was_seen_since() -> None:
    ended = NOW - timedelta(minutes=2)
    last = LastRescue(
        outcome="Refused",
        start_time=words.timestamp(ended),
        completion_time=words.timestamp(ended),
    )
    order = an_order(EtcdMaintenanceStatus(last_rescue=last), **RESCUE)
    assert due(plan_of(order, "NOSPACE")) is None
    later = NOW + timedelta(minutes=10)
    assert due(plan_of(order, "NOSPACE", now=later)) == ("rescue", "Apply")
    stale = Seen(an_observation("NOSPACE", at=ended - timedelta(seconds=1)))
    assert due(agenda(order, stale, later)) is None


def test_a_rescue_that_keeps_failing_comes_ever_more_rarely_and_keeps_its_snapshot() -> None:
    full = NOW - timedelta(minutes=20)
    begun, ended = NOW - timedelta(minutes=4), NOW
    last = LastRescue(
        outcome="Refused",
        start_time=words.timestamp(begun),
        completion_time=words.timestamp(ended),
        snapshot="file:///backups/one",
    )

    def rescue(minutes: int, since: datetime | None = full, **changes: Any) -> Due | None:  # noqa: ANN401
        status = EtcdMaintenanceStatus(last_rescue=last.model_copy(update=changes))
        now = NOW + timedelta(minutes=minutes)
        return plan_of(an_order(status, **RESCUE), "NOSPACE", now=now, full_since=since).due

    assert rescue(19) is None
    again = rescue(21)
    assert again is not None
    assert again.snapshot == "file:///backups/one"
    # It was disarmed by hand meanwhile, and writes were taken since.
    other = rescue(21, since=NOW + timedelta(minutes=10))
    assert other is not None
    assert other.snapshot == ""
    # The operator that saw it becoming full is gone.
    unknown = rescue(6, since=None)
    assert unknown is not None
    assert unknown.snapshot == ""
    asked = an_order(EtcdMaintenanceStatus(last_rescue=last), asked="now", **RESCUE)
    soon = NOW + timedelta(minutes=1)
    assert due(plan_of(asked, "NOSPACE", now=soon, full_since=full)) == ("rescue", "Apply")
    long = NOW - timedelta(days=1)
    assert rescue(59, since=long) is None
    assert rescue(61, since=long) is not None


@pytest.mark.parametrize("outcome", ["Rescued", "Refused"])
def test_a_rescue_that_ended_in_the_future_says_nothing(outcome: str) -> None:
    ahead = words.timestamp(NOW + timedelta(hours=3))  # the clock was set back since
    last = LastRescue(
        outcome=outcome, start_time=ahead, completion_time=ahead, snapshot="file:///backups/one"
    )
    order = an_order(EtcdMaintenanceStatus(last_rescue=last), **RESCUE)
    plan = plan_of(order, "NOSPACE", full_since=NOW)
    assert due(plan) == ("rescue", "Apply")
    assert plan.due is not None
    assert plan.due.snapshot == ""


def test_a_clock_that_is_set_back_makes_what_is_remembered_worthless() -> None:
    memory = Memory(compaction_checked=NOW, prepared=NOW, full_since=NOW, not_before=NOW)
    memory.look(NOW)
    memory.look(NOW - timedelta(seconds=30))  # not worth a word
    assert (memory.compaction_checked, memory.not_before) == (NOW, NOW)
    memory.look(NOW - timedelta(hours=3))
    assert memory.compaction_checked is memory.prepared is None
    assert memory.full_since is memory.not_before is None


def test_a_request_where_nothing_is_to_be_defragmented_is_only_planned() -> None:
    order = an_order(asked="now", **RESCUE)
    assert due(plan_of(order, prepared=NOW)) == ("round", "Plan")


def test_who_stood_aside_for_an_elder_follows_the_schedule_from_then_on() -> None:
    order = an_order(**DAILY)
    status = plan_of(order, elder=Key("ns", "elder")).status
    assert plan_of(an_order(status, **DAILY), elder=Key("ns", "elder")).status == status
    assert due(plan_of(an_order(status, **DAILY))) is None
    alone = plan_of(an_order(status, **DAILY)).status
    assert due(plan_of(an_order(alone, **DAILY), now=NOW + timedelta(days=1))) is not None


def test_a_request_on_a_full_etcd_asks_for_the_rescue() -> None:
    order = an_order(asked="now", defragmentation={})
    plan = plan_of(order, "NOSPACE")
    assert due(plan) == ("rescue", "Apply")
    assert begun(order, plan).last_handled_requested_at == "now"


def test_a_round_that_was_stopped_goes_on_and_waits_for_its_next_attempt() -> None:
    pending = EtcdMaintenanceStatus(
        phase="Pending",
        task="round",
        task_mode="Apply",
        attempt=2,
        task_end_time=words.timestamp(NOW + timedelta(hours=1)),
    )
    order = an_order(pending, **DAILY)
    plan = plan_of(order)
    assert due(plan) == ("round", "Apply")
    assert plan.due is not None
    assert plan.due.attempt == 2
    assert plan.due.ends_at == NOW + timedelta(hours=1)
    assert due(plan_of(order, not_before=NOW + timedelta(minutes=1))) is None
    assert due(plan_of(order, not_before=NOW)) is not None


def test_busy_means_that_nothing_begins_but_the_schedule_is_remembered() -> None:
    order = an_order(**DAILY, **RESCUE)
    plan = agenda(order, Seen(an_observation("NOSPACE")), NOW, busy=True)
    assert due(plan) is None
    assert due(plan_of(an_order(plan.status, **DAILY), now=NOW + timedelta(minutes=1)))


def test_what_ends_a_task_before_its_next_member() -> None:
    assert must_stop(an_order(**DAILY), Seen(an_observation())) == ""
    assert "suspend" in must_stop(an_order(suspend=True), Seen())
    assert "deleted" in must_stop(None, Seen())
    assert "CORRUPT" in must_stop(an_order(), Seen(an_observation("CORRUPT")))


def compaction_due(rule: dict[str, Any], checked: datetime | None = None, **seen: Any) -> bool:  # noqa: ANN401
    order = an_order(compaction=rule)
    now = Seen(an_observation(**seen), memory=Memory(compaction_checked=checked))
    found = due(agenda(order, now, NOW))
    assert found in {None, ("compaction", "Apply")}
    return found is not None


def test_stalled_compaction_is_looked_into_and_a_moving_one_is_not() -> None:
    history: dict[str, Any] = {"revision": 900, "compact_revision": 500}
    long = NOW - timedelta(minutes=31)
    assert compaction_due({}, **history, compact_revision_since=long)
    assert not compaction_due({}, **history, compact_revision_since=NOW - timedelta(minutes=29))
    assert not compaction_due({}, revision=500, compact_revision=500, compact_revision_since=long)
    assert compaction_due(
        {"stalledAfter": "10m"}, **history, compact_revision_since=NOW - timedelta(minutes=11)
    )


def test_retained_history_is_looked_at_every_so_often() -> None:
    history: dict[str, Any] = {"revision": 900, "compact_revision": 500}
    assert compaction_due({"mode": "Retain", "retainRevisions": 100}, **history)
    assert not compaction_due({"mode": "Retain", "retainRevisions": 400}, **history)
    minutes = {"mode": "Retain", "retainDuration": "2m"}
    assert not compaction_due(minutes, NOW - timedelta(seconds=29), **history)
    assert compaction_due(minutes, NOW - timedelta(seconds=30), **history)
    assert not compaction_due(
        {"mode": "Retain", "retainDuration": "7d"}, NOW - timedelta(minutes=4), **history
    )


def test_what_a_later_rescue_needs_is_put_while_etcd_is_well() -> None:
    order = an_order(**RESCUE)
    assert due(plan_of(order)) == ("compaction", "Apply")
    done = NOW - timedelta(hours=23)
    assert due(plan_of(order, prepared=done)) is None
    late = NOW + timedelta(hours=2)
    assert due(plan_of(order, now=late, prepared=done)) == ("compaction", "Apply")
    by_hand = an_order(alarms={"noSpace": "Report"})
    assert due(plan_of(by_hand)) == ("compaction", "Apply")


def test_what_failed_to_be_put_for_a_rescue_is_tried_again_in_minutes() -> None:
    order, failed = an_order(**RESCUE), NOW - timedelta(minutes=4)
    assert due(plan_of(order, compaction_checked=failed)) is None
    later = NOW + timedelta(minutes=1)
    assert due(plan_of(order, now=later, compaction_checked=failed)) == ("compaction", "Apply")


def test_a_spec_s_words_become_bytes_and_seconds() -> None:
    spec = EtcdMaintenanceSpec.model_validate(
        {
            "defragmentation": {"minReclaim": "64Mi", "allowSingleMember": True},
            "compaction": {"mode": "Retain", "retainDuration": "1h30m"},
            "quota": "8G",
            "liveness": {"etcd": "None", "apiServer": "2m"},
        }
    )
    options = options_of(spec)
    assert options.defragmentation is not None
    assert options.defragmentation.min_reclaim == 64 << 20
    assert options.allow_single_member
    assert options.compaction is not None
    assert options.compaction.retain_seconds == 5400
    assert options.compaction.stalled_after == 1800
    assert options.quota_bytes == 8 * 10**9
    assert options.etcd_liveness_seconds is None
    assert options.api_server_liveness_seconds == 120
    assert options_of(EtcdMaintenanceSpec()).defragmentation is None
    with pytest.raises(InvalidInput, match="no size"):
        size_in_bytes("12 MB")


def test_two_specs_name_one_etcd_if_they_share_an_endpoint_or_name_none() -> None:
    def etcd(*endpoints: str) -> MaintainedEtcd:
        return MaintainedEtcd(endpoints=endpoints)

    assert same_etcd(None, None)
    assert same_etcd(None, etcd())
    assert same_etcd(etcd("http://a:1", "http://b:1"), etcd("http://b:1"))
    assert not same_etcd(etcd("http://a:1"), etcd("http://b:1"))
    assert not same_etcd(None, etcd("http://b:1"))
