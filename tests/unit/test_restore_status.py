"""What an EtcdRestore's status says, and when something is to be done about one."""

from datetime import UTC, datetime, timedelta
from typing import Any

from etcd_steward.handlers import restore_status as step
from etcd_steward.handlers.asked import asked_of
from etcd_steward.handlers.status import dumped, is_terminal
from etcd_steward.models.restore import PlanItem, SourceRef
from etcd_steward.models.restore_kinds import EtcdRestoreStatus
from etcd_steward.models.restore_run import PlanMade, RestoreEnded
from etcd_steward.models.run import Failure

NOW = datetime(2026, 11, 22, 2, 17, tzinfo=UTC)
DIGEST = f"sha256:{'9f' * 32}"


def plan(**changes: Any) -> PlanMade:  # noqa: ANN401
    made: dict[str, Any] = {
        "digest": DIGEST,
        "url": "s3://b/prod/1f0c9a3e/_restores/team.shop-1/plan.json",
        "source": SourceRef(name="the live etcd", revision=7, live=True),
        "made_at": NOW,
        "expires_at": NOW + timedelta(hours=24),
        "writes": 1,
        "counts": {"create": 1, "excluded": 3},
        "reasons": {"Pod": 3},
        "items": (
            PlanItem(
                key="/registry/secrets/shop/db", resource="secrets", verdict="create", write=True
            ),
        ),
        "warnings": ("w" * 5000,),
    }
    return PlanMade(**(made | changes))


def ended(**changes: Any) -> RestoreEnded:  # noqa: ANN401
    made: dict[str, Any] = {
        "digest": DIGEST,
        "url": "s3://b/prod/1f0c9a3e/_restores/team.shop-1/result.json",
        "undo": "s3://b/prod/1f0c9a3e/_restores/team.shop-1/undo.parquet",
        "started_at": NOW,
        "finished_at": NOW + timedelta(seconds=4.1),
        "counts": {"written": 212},
        "read_back": 212,
        "second_look": None,
        "taken_since": (),
        "failures": (),
        "warnings": (),
    }
    return RestoreEnded(**(made | changes))


def running() -> EtcdRestoreStatus:
    return step.begun(
        EtcdRestoreStatus(), applying=True, attempt=1, requester=None, generation=1, now=NOW
    )


def body(status: EtcdRestoreStatus, generation: int = 1, **spec: object) -> dict[str, Any]:
    meta = {
        "namespace": "team",
        "name": "shop",
        "uid": "1",
        "resourceVersion": "7",
        "generation": generation,
        "creationTimestamp": "2026-11-22T02:00:00Z",
        "managedFields": [
            {"manager": "kubectl-patch", "time": "2026-11-22T02:10:00Z"},
            {"manager": "kubectl-create", "time": "2026-11-22T02:00:00Z"},
            {"manager": "etcd-steward", "subresource": "status", "time": "2026-11-22T01:00:00Z"},
        ],
    }
    wanted = {"source": {"backupName": "nightly"}, "include": {"namespaces": ["shop"]}, **spec}
    return {"kind": "EtcdRestore", "metadata": meta, "spec": wanted, "status": dumped(status)}


def test_a_plan_waits_until_its_digest_is_approved() -> None:
    planned = step.planned(running(), plan(), now=NOW)
    assert planned.phase == "Planned"
    assert DIGEST in (planned.message or "")
    assert not asked_of(body(planned)).wants_us
    assert asked_of(body(planned, 2, approvedPlanDigest=DIGEST)).wants_us
    other = f"sha256:{'0' * 64}"
    refused = step.not_this_plan(planned, other, generation=2, now=NOW)
    assert not asked_of(body(refused, 2, approvedPlanDigest=other)).wants_us
    assert asked_of(body(refused, 3, approvedPlanDigest=DIGEST)).wants_us
    assert refused.phase == "Planned"


def test_a_plan_that_is_applied_at_once_goes_on_running() -> None:
    status = step.planned(running(), plan(applying=True), now=NOW)
    assert (status.phase, status.applying) == ("Running", True)
    assert status.plan is not None
    assert len(status.plan.warnings[0]) == 512


def test_what_is_not_all_back_has_failed() -> None:
    complete = step.completed(running(), ended(), now=NOW)
    assert (complete.phase, complete.message) == ("Complete", "212 written, in 4.1s")
    assert is_terminal(complete)
    assert not asked_of(body(complete)).wants_us
    again = step.completed(running(), ended(before=True), now=NOW)
    assert (again.phase, "nothing was done now" in (again.message or "")) == ("Complete", True)
    taken = step.completed(running(), ended(taken_since=("secrets shop/db is gone",)), now=NOW)
    assert (taken.phase, is_terminal(taken)) == ("Failed", True)
    assert "since then: secrets shop/db is gone" in (taken.message or "")
    failure = Failure(reason="PlanChanged", message="it changed", hint="plan anew")
    failed = step.failed(running(), failure, generation=1, now=NOW)
    assert {one.reason for one in failed.conditions} == {"PlanChanged"}


def test_whoever_created_it_is_named_as_far_as_the_api_server_tells() -> None:
    asked = asked_of(body(EtcdRestoreStatus()))
    assert asked.requester is not None
    assert asked.requester.manager == "kubectl-create"
    assert asked.wants_us
    unreadable = asked_of({**body(EtcdRestoreStatus()), "spec": {"sauce": {}}})
    assert (unreadable.spec, "spec.source" in unreadable.fault) == (None, True)
    assert unreadable.wants_us
