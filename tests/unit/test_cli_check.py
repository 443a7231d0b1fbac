"""What the preflight thinks of versions, sizes and leaders that the test bed can't produce."""

from dataclasses import replace

import pytest

from etcd_steward.engine import check
from etcd_steward.engine.findings import Verdict
from etcd_steward.etcd.member import MemberStatus

MEMBER = MemberStatus(
    endpoint="https://10.0.0.1:2379",
    name="etcd0",
    member_id=1,
    cluster_id=9,
    version="3.6.16",
    storage_version="3.6.0",
    db_size=1_000_000_000,
    db_size_in_use=400_000_000,
    db_size_quota=2_000_000_000,
    leader_id=1,
    is_learner=False,
    raft_index=10,
    raft_applied_index=10,
    raft_term=2,
    revision=5,
    alarms=(),
    errors=(),
)


def judged(versions: list[str]) -> list[str]:
    members = [replace(MEMBER, version=version) for version in versions]
    return [f.message for f in check._versions(members) if f.verdict is Verdict.WARNING]


@pytest.mark.parametrize(
    "version", ["3.5.23", "3.5.35", "3.6.5", "3.6.16", "3.7.0", "3.7.3", "3.8.0-alpha.0"]
)
def test_sound_versions(version: str) -> None:
    assert judged([version]) == []


@pytest.mark.parametrize(
    ("version", "issue"),
    [
        ("3.4.45", "no longer maintained"),
        ("3.5.0", "13766"),
        ("3.5.2", "13766"),
        ("3.5.3", "14685"),
        ("3.5.5", "14685"),
        ("3.5.22", "20653"),
        ("3.6.4", "20653"),
    ],
)
def test_versions_with_known_trouble(version: str, issue: str) -> None:
    (message,) = judged([version, version])
    assert issue in message


def test_versions_that_differ() -> None:
    assert judged(["3.6.15", "3.6.16"]) == []
    (message,) = judged(["3.6.16", "3.5.35"])
    assert message == "the members run different minor versions: 3.5.35, 3.6.16"


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        ({}, Verdict.OK, "1.00 GB, 400 MB in use, 50 % of the quota of 2.00 GB"),
        ({"db_size": 1_599_999_999}, Verdict.OK, "80 %"),
        ({"db_size": 1_600_000_000}, Verdict.WARNING, "80 %"),
        ({"version": "3.6.5", "db_size": 1_900_000_000}, Verdict.OK, "3.6.6"),
        ({"version": "3.5.35", "db_size_quota": 0}, Verdict.OK, "3.6.6"),
    ],
)
def test_size_against_the_quota(change: dict[str, object], verdict: Verdict, words: str) -> None:
    (finding,) = check._quota([replace(MEMBER, **change)])  # type: ignore[arg-type]
    assert finding.verdict is verdict
    assert words in finding.message


def test_members_that_disagree_on_their_leader() -> None:
    other = replace(MEMBER, member_id=2, leader_id=2, endpoint="https://10.0.0.2:2379")
    lost = replace(other, leader_id=0)
    assert [f.verdict for f in check._leader([MEMBER, other])] == [Verdict.WARNING]
    (finding,) = check._leader([MEMBER, lost])
    assert finding.verdict is Verdict.WARNING
    assert "https://10.0.0.2:2379 knows of none" in finding.message
    assert [f.verdict for f in check._leader([lost])] == [Verdict.FAILURE]
