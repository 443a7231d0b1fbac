"""What the gate lets through, and what it says of everything else."""

import pytest

from etcd_steward.engine.maintenance.facts import Facts, quota_of, release
from etcd_steward.engine.maintenance.gate import member_objections, objections
from etcd_steward.engine.maintenance.metrics_page import MemberMetrics, parse
from etcd_steward.errors import Unavailable
from etcd_steward.etcd.member import MemberFailure
from etcd_steward.models.maintenance import MaintenanceOptions
from tests.support.maintenance import CORRUPT, GB, MB, NOSPACE, cluster, info, member

USUAL = MaintenanceOptions()


def texts(facts: Facts, **changes: object) -> list[str]:
    options = USUAL.model_copy(update=changes)
    return [one.text for one in objections(facts, options)]


def test_nothing_speaks_against_a_healthy_cluster() -> None:
    assert objections(cluster(), USUAL) == []
    assert member_objections(member(1), cluster(), USUAL, None) == []


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (cluster(member(1), member(2, alarms=(CORRUPT,))), "CORRUPT"),
        (cluster(member(1), member(2, alarms=(NOSPACE,))), "alarm rescue"),
        (cluster(member(1), member(2, cluster_id=78)), "more than one etcd cluster"),
        (cluster(member(1), member(2, leader_id=0)), "no leader"),
        (cluster(member(1), member(2, leader_id=2)), "different leaders"),
        (cluster(member(1), member(2, raft_applied_index=3999)), "lags 1001 entries behind"),
        (cluster(member(1), member(2, errors=("etcdserver: no leader",))), "etcdserver: no leader"),
        (cluster(member(1, leader_id=1), listed=(info(1),)), "one member"),
        (cluster(listed=(info(1), info(2), info(3), info(4, learner=True))), "learner"),
        (cluster(listed=(info(1), info(2), info(3), info(4))), "no endpoint leads to member etcd4"),
        (cluster(listed=(info(1), info(2))), "etcd3 is not a member"),
    ],
)
def test_each_objection_is_said(facts: Facts, said: str) -> None:
    found = texts(facts)
    assert len(found) == 1
    assert said in found[0]


def test_a_member_that_does_not_answer_is_named_with_its_error() -> None:
    silent = MemberFailure("https://10.0.0.3:2379", Unavailable("connection refused"), "etcd3", 3)
    facts = cluster(member(1), member(2), failures=(silent,), listed=(info(1), info(2), info(3)))
    assert texts(facts) == ["member etcd3 does not answer: connection refused"]


def test_only_what_passes_by_itself_is_worth_a_second_look() -> None:
    passing = [
        cluster(member(1), member(2, leader_id=0)),
        cluster(member(1), member(2, raft_applied_index=0)),
    ]
    lasting = [
        cluster(member(1), member(2, alarms=(CORRUPT,))),
        cluster(listed=(info(1), info(2), info(3), info(4))),
    ]
    assert all(one.passing for facts in passing for one in objections(facts, USUAL))
    assert not any(one.passing for facts in lasting for one in objections(facts, USUAL))


def test_a_full_etcd_can_be_rescued_but_no_corrupt_one() -> None:
    full = cluster(member(1), member(2, alarms=(NOSPACE,)))
    assert objections(full, USUAL, full_is_fine=True) == []
    both = cluster(member(1), member(2, alarms=(NOSPACE, CORRUPT)))
    assert ["CORRUPT" in one.text for one in objections(both, USUAL, full_is_fine=True)] == [True]


@pytest.mark.parametrize(
    "version", ["3.4.38", "3.4.45", "3.5.23", "3.5.35", "3.6.5", "3.6.16", "3.7.0", "4.0.0"]
)
def test_releases_that_are_safe(version: str) -> None:
    assert texts(cluster(member(1, version=version), member(2, version=version))) == []


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("3.4.37", "upgrade to 3.4.38"),
        ("3.5.5", "upgrade to 3.5.23"),
        ("3.5.22", "upgrade to 3.5.23"),
        ("3.6.4", "upgrade to 3.6.5"),
        ("3.3.27", "upgrade to a supported release"),
        ("3.7.0-rc.1", ""),
        ("today's", "no release"),
    ],
)
def test_releases_that_destroy_data_or_say_nothing(version: str, said: str) -> None:
    found = texts(cluster(member(1, version=version), member(2, version=version)))
    assert all(said in text for text in found)
    assert bool(found) is bool(said)


def test_an_upgrade_is_finished_first() -> None:
    found = texts(cluster(member(1, version="3.5.30"), member(2, version="3.6.9")))
    assert found == ["the members run different versions (3.5, 3.6): finish the upgrade first"]


def test_one_member_is_refused_with_what_it_costs() -> None:
    lone = cluster(member(1, db_size_in_use=200 * MB))
    assert "nobody can read or write, for about 11 s" in texts(lone)[0]
    assert texts(lone, allow_single_member=True) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"applying_snapshot": True}, "taking a snapshot over"),
        ({"defragmenting": True}, "somebody else is defragmenting member etcd2"),
    ],
)
def test_what_only_metrics_tell(changes: dict[str, bool], said: str) -> None:
    page = {"defragmenting": False, "applying_snapshot": False} | changes
    facts = cluster(metrics={2: MemberMetrics(2, None, **page)})
    assert said in texts(facts)[0]


def room(options: MaintenanceOptions, **changes: object) -> list[str]:
    one = member(2, **changes)
    return [each.text for each in member_objections(one, cluster(), options, None)]


def test_the_copy_must_find_room() -> None:
    """400 MB in use: the copy needs 480 MB."""
    assert room(USUAL.model_copy(update={"disk_room_bytes": 480 * MB})) == []
    found = room(USUAL.model_copy(update={"disk_room_bytes": 479 * MB}))
    assert "needs 480 MB of disk for the copy, and only 479 MB" in found[0]
    assert room(USUAL, db_size_quota=GB + 480 * MB) == []
    assert "promises only 479 MB more" in room(USUAL, db_size_quota=GB + 479 * MB)[0]
    assert "promises only 0 B more" in room(USUAL, db_size_quota=GB // 2)[0]


def test_a_quota_that_nobody_knows_promises_nothing() -> None:
    found = room(USUAL, db_size_quota=0)
    assert "state how much is free there, or the quota" in found[0]
    assert room(USUAL.model_copy(update={"quota_bytes": 8 * GB}), db_size_quota=0) == []
    assert room(USUAL.model_copy(update={"disk_room_bytes": GB}), db_size_quota=0) == []


def test_where_a_quota_is_known_from() -> None:
    stated = USUAL.model_copy(update={"quota_bytes": 3 * GB})
    pages = {2: MemberMetrics(2, 5 * GB, defragmenting=False, applying_snapshot=False)}
    assert quota_of(member(2), pages, stated) == 8 * GB
    assert quota_of(member(2, version="3.6.5"), pages, stated) == 5 * GB  # Status lies there
    assert quota_of(member(2, db_size_quota=0), {}, stated) == 3 * GB
    assert quota_of(member(2, db_size_quota=0), {}, USUAL) is None
    assert release("3.6.16") == (3, 6, 16)
    assert release("3.6") is None


def test_a_member_that_would_be_killed_in_the_middle_is_left_alone() -> None:
    """At 20 MB/s the default budget of 80 s is enough for 1.58 GB in use."""
    large = member(2, db_size=3 * GB, db_size_in_use=2 * GB)
    found = member_objections(large, cluster(), USUAL, None)
    assert "silent for about 101 s, and after 80 s etcd's own liveness probe" in found[0].text
    assert member_objections(large, cluster(), USUAL, 100 * MB) == []
    nobody = {"etcd_liveness_seconds": None, "api_server_liveness_seconds": None}
    assert member_objections(large, cluster(), USUAL.model_copy(update=nobody), None) == []
    api = USUAL.model_copy(update={"api_server_liveness_seconds": 10.0})
    assert "API server" in member_objections(member(2), cluster(), api, None)[0].text


PAGE = """\
# HELP etcd_server_id Server or member ID in hexadecimal format. 1 for 'server_id' label.
# TYPE etcd_server_id gauge
etcd_server_id{server_id="8211f1d0f64f3269"} 1
# TYPE etcd_server_quota_backend_bytes gauge
etcd_server_quota_backend_bytes 2.147483648e+09
# TYPE etcd_disk_defrag_inflight gauge
etcd_disk_defrag_inflight 1
# TYPE etcd_server_snapshot_apply_in_progress_total gauge
etcd_server_snapshot_apply_in_progress_total 0
"""


def test_a_metrics_page_says_whose_it_is() -> None:
    page = MemberMetrics(
        0x8211F1D0F64F3269, 2147483648, defragmenting=True, applying_snapshot=False
    )
    assert parse(PAGE) == page
    assert parse("# TYPE up gauge\nup 1\n") is None
    with pytest.raises(ValueError, match="float"):
        parse("<html>no metrics</html> at all {")
