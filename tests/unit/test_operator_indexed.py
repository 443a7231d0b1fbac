"""What a look changes of a run's conditions: `Indexed` and `Verified`, and nothing without need."""

from datetime import UTC, datetime, timedelta

import pytest

from etcd_steward.handlers import status as transition
from etcd_steward.handlers.catalogue import entry_of
from etcd_steward.handlers.resources import run_of
from etcd_steward.handlers.status import find_condition
from etcd_steward.models.kinds import Condition, EtcdSnapshotStatus
from etcd_steward.models.manifest import Footer, Index, Manifest, StoredFile
from etcd_steward.models.run import CatalogueEntry, Failure, Result
from tests.support.backups import TICK, made

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
MANIFEST = made()
URL = f"s3://etcd-backups/prod/{MANIFEST.folder}"
INDEX = Index(
    made_at=NOW,
    by="test",
    raw_sha256=MANIFEST.raw_sha256,
    revision=MANIFEST.revision,
    rows=MANIFEST.live_keys,
    file=StoredFile(
        name="registry.parquet",
        role="registry",
        size=55_000_000,
        sha256="aa",
        crc32c="00000000",
        footer=Footer(size=100, sha256="bb"),
    ),
)
FULL = Failure(reason="OutOfSpace", message="the spool is full", hint="give it more room")


def indexed(status: EtcdSnapshotStatus) -> Condition | None:
    return find_condition(status.conditions, "Indexed")


def ended(**outcome: object) -> EtcdSnapshotStatus:
    result = Result.model_validate({"url": URL, "manifest": MANIFEST, **outcome})
    return transition.completed(EtcdSnapshotStatus(), result, now=NOW)


def looked(
    status: EtcdSnapshotStatus,
    *,
    there: bool | None,
    at: datetime,
    manifest: Manifest = MANIFEST,
) -> EtcdSnapshotStatus:
    found = CatalogueEntry(
        manifest=manifest,
        url=URL,
        level="Structure",
        verified_at=TICK,
        ours=True,
        kept=(),
        indexed=there,
    )
    return transition.followed(status, entry_of(found, "team"), now=at)


def test_a_run_that_made_its_sidecar_is_indexed() -> None:
    status = ended(index=INDEX)
    condition = indexed(status)
    assert condition is not None
    assert (condition.status, condition.reason) == ("True", "Indexed")
    assert condition.message == "registry.parquet: 1203 keys in 55.0 MB"


def test_a_run_whose_sidecar_failed_is_complete_and_says_why() -> None:
    status = ended(index_failure=FULL)
    condition, complete = indexed(status), find_condition(status.conditions, "Complete")
    assert condition is not None
    assert complete is not None
    assert (status.phase, complete.status) == ("Complete", "True")
    assert (condition.status, condition.reason) == ("False", "OutOfSpace")
    assert "the spool is full. give it more room" in condition.message
    assert f"snapshot index {URL}" in condition.message


def test_a_run_that_did_not_come_to_it_says_nothing_before_a_look_does() -> None:
    status = ended()
    assert indexed(status) is None
    condition = indexed(looked(status, there=False, at=NOW))
    assert condition is not None
    assert (condition.status, condition.reason) == ("False", "NotIndexed")


@pytest.mark.parametrize("there", [True, False])
def test_a_look_that_finds_what_is_known_changes_nothing(there: bool) -> None:
    status = ended(index=INDEX) if there else ended(index_failure=FULL)
    assert looked(status, there=there, at=NOW + timedelta(hours=1)).conditions == status.conditions


def test_a_look_corrects_what_is_known() -> None:
    later = NOW + timedelta(hours=1)
    condition = indexed(looked(ended(index_failure=FULL), there=True, at=later))
    assert condition is not None
    assert (condition.status, condition.last_transition_time) == ("True", "2026-11-22T13:00:00Z")
    condition = indexed(looked(ended(index=INDEX), there=False, at=later))
    assert condition is not None
    assert (condition.status, condition.reason) == ("False", "NotIndexed")


def test_an_export_needs_no_sidecar() -> None:
    assert indexed(looked(ended(), there=None, at=NOW)) is None


def kept_in_memory(status: EtcdSnapshotStatus) -> EtcdSnapshotStatus:
    """What the operator has of a run when it looks: some of the status is not kept."""
    metadata = {
        "name": "nightly-29735520",
        "namespace": "team",
        "uid": "u",
        "resourceVersion": "7",
        "creationTimestamp": "2026-11-22T00:00:00Z",
    }
    spec = {"backupName": "nightly"}
    body = {"metadata": metadata, "spec": spec, "status": transition.dumped(status)}
    return run_of(body).status


def test_a_look_through_what_is_kept_in_memory_changes_no_condition() -> None:
    asked = EtcdSnapshotStatus(observed_generation=1)
    result = Result(url=URL, manifest=MANIFEST, index=INDEX)
    status = transition.completed(asked, result, now=NOW)
    later = looked(kept_in_memory(status), there=True, at=NOW + timedelta(hours=1))
    assert [one.observed_generation for one in later.conditions] == [1, 1, 1, 1]
    assert later.conditions == status.conditions


def test_a_backup_that_is_marked_later_is_no_longer_verified() -> None:
    asked = EtcdSnapshotStatus(observed_generation=1)
    status = transition.completed(asked, Result(url=URL, manifest=MANIFEST), now=NOW)
    marked = MANIFEST.model_copy(update={"suspect": "etcd raised CORRUPT"})
    before = kept_in_memory(status)
    condition = find_condition(
        looked(before, there=None, at=NOW, manifest=marked).conditions, "Verified"
    )
    assert condition is not None
    assert (condition.status, condition.reason) == ("False", "Suspect")
    assert (condition.message, condition.observed_generation) == ("etcd raised CORRUPT", 1)
