"""Which member a snapshot is taken from."""

from typing import Any

import pytest

from etcd_steward.engine.members import choose
from etcd_steward.errors import NoLeader, Refused, Unauthorized, Unavailable
from etcd_steward.etcd.member import Alarm, MemberFailure, MemberStatus


def member(member_id: int, **changes: object) -> MemberStatus:
    figures: dict[str, Any] = {
        "endpoint": f"https://m{member_id}:2379",
        "name": f"m{member_id}",
        "member_id": member_id,
        "cluster_id": 7,
        "version": "3.6.16",
        "storage_version": "3.6.0",
        "db_size": 1000,
        "db_size_in_use": 900,
        "db_size_quota": 0,
        "leader_id": 1,
        "is_learner": False,
        "raft_index": 10_000,
        "raft_applied_index": 10_000,
        "raft_term": 2,
        "revision": 50,
        "alarms": (),
        "errors": (),
    }
    return MemberStatus(**(figures | changes))


def failure(member_id: int, error: Exception) -> MemberFailure:
    return MemberFailure(f"https://m{member_id}:2379", error, "", 0)  # type: ignore[arg-type]


def chosen(*found: MemberStatus | MemberFailure, emergency: bool = False) -> int:
    return choose(found, emergency=emergency).status.member_id


def test_a_follower_before_the_leader() -> None:
    assert chosen(member(1), member(2), member(3)) in (2, 3)
    assert chosen(member(1)) == 1


def test_the_follower_that_is_least_behind() -> None:
    assert chosen(member(1), member(2, raft_applied_index=9_000), member(3)) == 3


def test_the_leader_before_a_follower_that_lags_and_before_a_learner() -> None:
    assert chosen(member(1), member(2, raft_applied_index=1)) == 1
    assert chosen(member(1), member(2, is_learner=True)) == 1


def test_members_that_all_lag_are_waited_for() -> None:
    with pytest.raises(Unavailable, match="up to 9999 entries"):
        chosen(member(1, raft_applied_index=1), member(2, raft_applied_index=2))


def test_no_leader() -> None:
    with pytest.raises(NoLeader, match="--emergency"):
        chosen(member(2, leader_id=0))
    choice = choose([member(2, leader_id=0)], emergency=True)
    assert "no leader" in (choice.suspect or "")


def test_a_member_that_sees_a_leader_before_one_that_is_cut_off() -> None:
    assert chosen(member(1), member(2, leader_id=0)) == 1


def test_corrupt_wins_over_everything() -> None:
    alarm = Alarm(3, "CORRUPT")
    with pytest.raises(Refused, match="CORRUPT") as caught:
        chosen(member(1), member(2, alarms=(alarm,)))
    assert caught.value.exit_code == 3


def test_an_emergency_that_is_none_says_so() -> None:
    choice = choose([member(1)], emergency=True)
    assert choice.suspect is None
    assert "not needed" in choice.warnings[0]


def test_a_member_that_is_down_is_a_warning() -> None:
    choice = choose([member(1), failure(2, Unavailable("refused"))], emergency=False)
    assert choice.warnings == ("https://m2:2379 does not answer: refused",)


def test_when_nobody_answers_a_final_error_is_not_retried() -> None:
    with pytest.raises(Unauthorized, match=r"m1:2379.*m2:2379"):
        chosen(failure(1, Unavailable("refused")), failure(2, Unauthorized("wrong password")))
    with pytest.raises(Unavailable, match=r"^refused$"):
        chosen(failure(1, Unavailable("refused")))
