"""What statuses say, from what happened."""

import copy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcd_steward.handlers import status as transition
from etcd_steward.handlers import words
from etcd_steward.handlers.standing import Looked, Order, Run, backup_status, figures
from etcd_steward.kube import Key, Version
from etcd_steward.models.kinds import (
    EtcdBackupSpec,
    EtcdBackupStatus,
    EtcdSnapshotStatus,
)
from etcd_steward.models.manifest import BackupRef, Level, Manifest, Proof, RunRef, StoredFile
from etcd_steward.models.places import StoreSpec
from etcd_steward.models.run import Failure, Journal, Progress, Result
from etcd_steward.units import size

NOW = datetime(2026, 11, 22, 2, 17, tzinfo=UTC)
LATER = NOW + timedelta(seconds=95)
SPEC = EtcdBackupSpec(store=StoreSpec())
UID = "0a1b2c3d-0000-0000-0000-000000000000"


def manifest() -> Manifest:
    """A manifest of a verified backup."""
    stored = StoredFile(
        name="snapshot.db.zst", role="snapshot", size=410_000_000, sha256="aa", crc32c="00000000"
    )
    return Manifest(
        cluster="1f0c9a3e",
        cluster_id="cdf818194e3a8c32",
        member_id="8e9e05c52164694d",
        backup=BackupRef(namespace="ns", name="nightly"),
        run=RunRef(),
        folder="1f0c9a3e/ns.nightly/20261122T021700Z-7c1e04b2",
        tick=NOW,
        started_at=NOW,
        finished_at=LATER,
        etcd_version="3.6.16",
        steward_version="0",
        read_revision=9,
        revision=10,
        compact_revision=1,
        live_keys=1203,
        records=2000,
        raw_size=1_430_000_000,
        raw_sha256="bb",
        files=(stored,),
        warnings=("one member is down",),
        proof=Proof(
            level=Level.STRUCTURE,
            at=LATER,
            by="test",
            stored_sha256="aa",
            raw_sha256="bb",
            read_back="sampled",
        ),
    )


RESULT = Result(url="s3://b/prod/x", manifest=manifest())


def claimed() -> EtcdSnapshotStatus:
    """A run that was just claimed."""
    return transition.claimed(
        EtcdSnapshotStatus(), spec=SPEC, backup_uid=UID, now=NOW, generation=1
    )


def running() -> EtcdSnapshotStatus:
    """A run in its first attempt."""
    return transition.started(claimed(), attempt=1, starts=1, now=NOW)


def complete(seconds: float = 95) -> EtcdSnapshotStatus:
    """A run that has left a backup."""
    return transition.completed(running(), RESULT, now=NOW + timedelta(seconds=seconds))


def failed(reason: str = "NotFound", side: Any = "store") -> EtcdSnapshotStatus:  # noqa: ANN401
    """A run that has failed."""
    failure = Failure(reason=reason, message="no bucket", hint="Create it", side=side)
    return transition.failed(running(), failure, backup_name="nightly", now=LATER)


def make_run(name: str, status: EtcdSnapshotStatus) -> Run:
    return Run(Key("ns", name), Version(name, 1), "nightly", NOW, status)


def order(**status: object) -> Order:
    return Order(
        key=Key("ns", "nightly"),
        version=Version(UID, 1),
        generation=3,
        created=NOW,
        deleting=False,
        status=EtcdBackupStatus(**status),
        spec=SPEC,
    )


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    one = transition.set_condition((), "Ready", "True", "A", "a", now=NOW, generation=1)
    two = transition.set_condition(one, "Ready", "True", "B", "b", now=LATER, generation=2)
    three = transition.set_condition(two, "Ready", "False", "B", "b", now=LATER, generation=2)
    assert [found[0].last_transition_time for found in (one, two, three)] == [
        words.timestamp(NOW),
        words.timestamp(NOW),
        words.timestamp(LATER),
    ]
    assert (two[0].reason, two[0].observed_generation) == ("B", 2)


def test_a_complete_run_says_what_lies_where() -> None:
    status = complete()
    assert status.phase == "Complete"
    assert transition.is_terminal(status)
    assert status.duration == "1m35s"
    assert status.journal is None
    assert status.artifact is not None
    assert status.artifact.size == "410 MB"
    assert status.verification is not None
    assert status.verification.level == "Structure"
    assert status.warnings == ("one member is down",)
    said = {one.type: (one.status, one.message) for one in status.conditions}
    assert said["Complete"] == (
        "True",
        "1203 keys at revision 10, 1.43 GB stored as 410 MB in s3://b/prod/x",
    )
    assert said["Verified"][0] == "True"
    assert said["Failed"][0] == "False"
    assert status.message == said["Complete"][1]


def test_a_suspect_backup_is_complete_but_not_verified() -> None:
    suspect = manifest().model_copy(update={"proof": None, "suspect": "taken from a lone member"})
    result = Result(url="s3://b/prod/x", manifest=suspect)
    status = transition.completed(running(), result, now=LATER)
    verified = transition.find_condition(status.conditions, "Verified")
    assert verified is not None
    assert (verified.status, verified.message) == ("False", "taken from a lone member")
    assert status.verification is None


def test_a_failed_run_says_what_to_do_next() -> None:
    status = failed()
    assert transition.is_terminal(status)
    found = transition.find_condition(status.conditions, "Failed")
    assert found is not None
    assert found.message == (
        "no bucket. Create it. "
        "To run it again, create an EtcdSnapshot with spec.backupName: nightly"
    )
    assert status.progress is not None
    assert status.progress.text == "Failed (Starting)"


def test_a_retry_is_counted_and_shown() -> None:
    failure = Failure(reason="Unavailable", message="nobody answers", transient=True, side="etcd")
    status = transition.retrying(running(), failure, attempt=1, delay=30, now=LATER)
    assert (status.phase, status.attempt) == ("Pending", 2)
    assert status.progress is not None
    assert status.progress.text == "Attempt 2 of 3 in 30s"
    assert not transition.is_terminal(status)
    found = transition.find_condition(status.conditions, "Complete")
    assert found is not None
    assert found.message == "Attempt 1 of 3 failed: nobody answers"


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress(step="Connecting"), "Connecting"),
        (
            Progress(step="Streaming", raw_bytes=310_000_000, total_bytes=1_430_000_000),
            "Streaming 310 MB of 1.43 GB",
        ),
        (Progress(step="Streaming", raw_bytes=1), "Streaming"),
        (Progress(step="Uploading", stored_bytes=16_777_216), "Uploading, 16.8 MB stored"),
    ],
)
def test_progress_is_told_in_words(progress: Progress, text: str) -> None:
    status = transition.progressed(running(), progress, now=LATER)
    assert status.progress is not None
    assert status.progress.text == text
    assert status.heartbeat_time == words.timestamp(LATER)


def test_warnings_are_told_once_and_their_number_is_bounded() -> None:
    status = running()
    for number in range(50):
        status = transition.warned(transition.warned(status, f"w{number}"), f"w{number}")
    assert status.warnings == tuple(f"w{number}" for number in range(30, 50))


def test_a_journal_is_kept_until_the_run_has_ended() -> None:
    status = transition.journalled(running(), Journal(folder="f", key="f/k", upload_id="u"))
    assert status.journal is not None
    assert status.journal.upload_id == "u"
    assert transition.completed(status, RESULT, now=LATER).journal is None


def test_an_order_without_runs_knows_nothing() -> None:
    status = backup_status(order(), [], NOW)
    assert {one.type: one.status for one in status.conditions} == {
        "Ready": "Unknown",
        "EtcdReachable": "Unknown",
        "StoreAvailable": "Unknown",
    }
    assert status.observed_generation == 3


def test_an_orders_status_follows_its_runs() -> None:
    runs = [make_run("a", complete(95)), make_run("b", failed()), make_run("c", running())]
    status = backup_status(order(), runs, NOW)
    assert status.active_snapshot_name == "c"
    assert status.last_snapshot_name in {"a", "b"}
    assert status.last_url == "s3://b/prod/x"
    assert status.last_size == "410 MB"
    assert status.last_verified_time == words.timestamp(LATER)
    again = backup_status(
        order(**status.model_dump()), list(reversed(runs)), NOW + timedelta(days=1)
    )
    assert again.conditions == status.conditions


def test_the_side_that_failed_is_named() -> None:
    good = backup_status(order(), [make_run("a", complete())], NOW)
    later = failed().model_copy(update={"completion_time": words.timestamp(NOW + timedelta(1))})
    runs = [make_run("a", complete()), make_run("b", later)]
    status = backup_status(order(**good.model_dump()), runs, NOW)
    said = {one.type: (one.status, one.reason) for one in status.conditions}
    assert said["Ready"] == ("False", "NotFound")
    assert said["StoreAvailable"] == ("False", "NotFound")
    assert said["EtcdReachable"] == ("True", "LastRunComplete")
    assert status.last_successful_time == words.timestamp(LATER)


def test_a_run_deleted_on_its_way_counts_as_the_last_one() -> None:
    status = backup_status(order(active_snapshot_name="a"), [], NOW)
    assert status.active_snapshot_name is None
    assert status.last_snapshot_name == "a"


def test_runs_of_an_earlier_order_of_that_name_are_not_ours() -> None:
    foreign = complete().model_copy(update={"backup_uid": "another"})
    status = backup_status(order(), [make_run("a", foreign)], NOW)
    assert status.last_snapshot_name is None
    assert status.last_successful_time is None


def test_what_an_earlier_order_left_in_the_store_counts_as_a_backup() -> None:
    left = complete().model_copy(update={"backup_uid": "another", "kept": ("last",)})
    status = backup_status(order(), [make_run("a", left)], NOW)
    assert status.last_snapshot_name is None
    assert status.last_successful_time == words.timestamp(LATER)
    assert status.last_url == "s3://b/prod/x"


def test_a_look_through_the_store_is_told() -> None:
    looked = Looked(LATER, cluster="1f0c9a3e", cluster_id="cd", frozen="the clock is wrong")
    foreign = complete().model_copy(update={"kept": ("not ours",)})
    runs = [make_run("a", complete()), make_run("b", foreign), make_run("c", failed())]
    status = backup_status(order(), runs, NOW, looked=looked)
    assert (status.cluster, status.cluster_id, status.kept) == ("1f0c9a3e", "cd", 1)
    assert status.looked_time == words.timestamp(LATER)
    frozen = transition.find_condition(status.conditions, "RetentionFrozen")
    assert frozen is not None
    assert (frozen.status, frozen.message) == ("True", "the clock is wrong")


def test_a_look_that_failed_is_told_until_a_run_knows_better() -> None:
    looked = Looked(LATER, failure="no such bucket")
    before = make_run("a", complete(10))
    status = backup_status(order(), [before], NOW, looked=looked)
    store = transition.find_condition(status.conditions, "StoreAvailable")
    assert store is not None
    assert (store.status, store.message) == ("False", "no such bucket")
    assert status.kept == 1
    status = backup_status(order(), [make_run("b", complete(500))], NOW, looked=looked)
    store = transition.find_condition(status.conditions, "StoreAvailable")
    assert store is not None
    assert store.status == "True"


def test_a_run_that_failed_before_an_order_existed_is_not_ours() -> None:
    unclaimed = failed().model_copy(update={"backup_uid": None})
    old = replace(make_run("a", unclaimed), created=NOW - timedelta(seconds=1))
    assert backup_status(order(), [old], NOW).last_snapshot_name is None
    new = replace(old, created=NOW)
    assert backup_status(order(), [new], NOW).last_snapshot_name == "a"


def test_figures_come_from_the_newest_complete_run() -> None:
    status = backup_status(order(), [make_run("a", complete())], NOW)
    found = figures(
        order(**status.model_dump()), [make_run("a", complete()), make_run("b", running())]
    )
    assert (found.duration, found.raw_bytes, found.stored_bytes, found.in_progress) == (
        95.0,
        1_430_000_000,
        410_000_000,
        1,
    )
    assert found.last_success == LATER.timestamp()
    assert found.last_failure is None
    assert (found.interval, found.store_available) == (None, True)
    assert (found.kept, found.suspended) == (1, False)
    daily = SPEC.model_copy(update={"schedule": "17 2 * * *", "suspend": True})
    found = figures(replace(order(), spec=daily), [])
    assert (found.interval, found.suspended, found.store_available) == (86400.0, True, None)


def test_a_failure_is_seen_beside_the_success_before_it() -> None:
    status = backup_status(order(), [make_run("a", complete(5))], NOW)
    found = figures(
        order(**status.model_dump()), [make_run("a", complete(5)), make_run("b", failed())]
    )
    assert found.last_failure == LATER.timestamp()
    assert found.last_success == NOW.timestamp() + 5


json_values = st.recursive(
    st.integers() | st.text(max_size=3) | st.booleans(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=2), json_values, max_size=4)


@given(objects, objects)
def test_a_merge_patch_leads_from_one_to_the_other(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    patch = transition.merge_patch(old, new)
    assert apply(copy.deepcopy(old), patch) == new
    assert (patch == {}) == (old == new)


def apply(target: Any, patch: Any) -> Any:  # noqa: ANN401
    """RFC 7386, as the RFC writes it."""
    if not isinstance(patch, dict):
        return patch
    if not isinstance(target, dict):
        target = {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = apply(target.get(key), value)
    return target


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (9996, "10.0 kB"), (37566, "37.6 kB"),
     (999_600, "1.00 MB"), (1_430_000_000, "1.43 GB"), (123_000_000_000_000, "123 TB")],
)  # fmt: skip
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.84, "0.8s"), (12.4, "12s"), (60, "1m"), (95, "1m35s"), (3600, "1h"), (7450, "2h4m")],
)
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text
