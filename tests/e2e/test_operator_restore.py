"""EtcdRestores, as a person makes them with kubectl, beside a running operator."""

import json
import os
import secrets
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
import yaml

from tests.support.users import (
    HastySteward,
    Object,
    User,
    backup,
    children,
    condition,
    installed,
    s3_store,
)
from tests.testbed import ControlPlane, SeaweedFS, wait_until
from tests.testbed.steward import NAMESPACE, ROOT, Steward

KINDS = "secrets,configmaps,services,deployments,replicasets,serviceaccounts"
ENDED = {"Complete", "Failed"}
TIMING: dict[str, object] = {
    "refusal_patience": 3.0,
    "progress_every": 0.5,
    "presumed_dead_after": 3.0,
    "idle": 1.0,
    "second_look": 2.0,
}


def restore(name: str, spec: Object, namespace: str = NAMESPACE) -> Object:
    """An EtcdRestore."""
    return {
        "apiVersion": "etcdsteward.io/v1alpha1",
        "kind": "EtcdRestore",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


@pytest.fixture(scope="module")
async def steward(
    control_plane: ControlPlane, seaweedfs: SeaweedFS, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Steward]:
    """The operator, with the rights that restores need."""
    await installed(control_plane, seaweedfs)
    await control_plane.kubectl("apply", "-f", ROOT / "deploy/components/restore/rbac.yaml")
    operator = HastySteward(tmp_path_factory.mktemp("steward"), control_plane)
    operator.timing = TIMING
    async with operator:
        yield operator


class Restorer(User):
    """Somebody who restores."""

    async def ended(self, name: str, timeout: float = 420) -> Object:
        """An EtcdRestore, once it is Complete or Failed."""
        return await self.shown(name, lambda status: status.get("phase") in ENDED, timeout)

    async def shown(self, name: str, holds: Any, timeout: float = 120) -> Object:  # noqa: ANN401
        """An EtcdRestore, once something holds of its status."""
        found: Object = {}

        async def check() -> bool:
            found.clear()
            found.update(await self.get("erestore", name))
            return bool(holds(found.get("status", {})))

        await wait_until(check, f"{name} is as expected: {found}", timeout=timeout)
        return found

    async def approve(self, name: str, digest: str) -> None:
        patch = json.dumps({"spec": {"approvedPlanDigest": digest}})
        words = ("patch", "erestore", name, "-n", self.namespace, "--type=merge", "-p", patch)
        await self.plane.kubectl(*words)

    async def uids(self, namespace: str) -> dict[str, str]:
        """What is in a namespace, and as which incarnation."""
        words = ("get", KINDS, f"--namespace={namespace}", "-o", "json")
        items = json.loads(await self.plane.kubectl(*words))["items"]
        return {f"{one['kind']}/{one['metadata']['name']}": one["metadata"]["uid"] for one in items}


@pytest.fixture
def user(control_plane: ControlPlane, steward: Steward) -> Restorer:  # noqa: ARG001, it must run
    """Somebody with kubectl, beside a running operator."""
    return Restorer(control_plane)


@pytest.fixture
async def shop(user: Restorer) -> AsyncIterator[str]:
    """A namespace with a Deployment and what belongs to it."""
    name = f"shop-{secrets.token_hex(3)}"
    labels = {"app": "web"}
    pod = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "web", "image": "registry.example.com/web:1"}]},
    }
    meta = {"namespace": name, "name": "web"}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod}
    await user.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"a": "hunter2"}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec},
    )

    async def complete() -> bool:
        found = await user.uids(name)
        made = {"ServiceAccount/default", "ConfigMap/kube-root-ca.crt"}
        return made <= set(found) and any(one.startswith("ReplicaSet/") for one in found)

    await wait_until(complete, "the controllers have made what they make")
    yield name
    await user.plane.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")


async def test_a_plan_is_made_approved_applied_and_undone(
    user: Restorer, shop: str, seaweedfs: SeaweedFS, bucket: str, steward: Steward
) -> None:
    await user.apply(backup("nightly", {"store": s3_store(seaweedfs, bucket)}))
    taken = (await User(user.plane).run_of("nightly"))["metadata"]["name"]
    await User(user.plane).ended(taken)
    before = await user.uids(shop)
    await user.plane.kubectl("delete", "namespace", shop, timeout=90)

    spec = {"source": {"backupName": "nightly"}, "include": {"namespaces": [shop]}}
    await user.apply(restore("shop", spec))
    planned = await user.shown("shop", lambda status: status.get("phase") in {"Planned", *ENDED})
    status = planned["status"]
    assert status["phase"] == "Planned", status
    plan = status["plan"]
    assert condition(planned, "Planned")["status"] == "True"
    assert condition(planned, "Complete")["reason"] == "WaitingForApproval"
    assert plan["digest"] in status["message"]
    assert plan["counts"]["create"] == plan["writes"] >= 6
    assert plan["source"].startswith(f"s3://{bucket}/prod/")
    assert status["requester"]["manager"].startswith("kubectl")
    assert "finalizers" not in planned["metadata"]
    assert "hunter2" not in json.dumps(planned)
    key = plan["url"].removeprefix(f"s3://{bucket}/")
    assert "hunter2" not in (await seaweedfs.read(bucket, key)).decode()
    with pytest.raises(Exception, match="nothing but approvedPlanDigest can be changed"):
        await user.apply(restore("shop", {**spec, "workloads": "Suspended"}))

    # Another plan's digest applies nothing; the plan's own does, whoever drives it.
    await user.approve("shop", f"sha256:{'0' * 64}")
    await user.shown("shop", lambda status: "nothing is applied" in status.get("message", ""))
    assert not await user.plane.kubectl("get", "ns", shop, "--ignore-not-found")
    await user.approve("shop", plan["digest"])
    ended = await user.ended("shop")
    assert ended["status"]["phase"] == "Complete", ended["status"]
    assert condition(ended, "Complete")["status"] == "True"
    result = ended["status"]["result"]
    assert result["counts"] == {"written": plan["writes"]}
    assert result["readBack"] == plan["writes"]
    assert "secondLookTime" in result
    assert await user.uids(shop) == before
    row = await user.plane.kubectl("get", "erestore", "shop", "-n", NAMESPACE)
    assert "Complete   Done in" in row
    reasons = {reason for _, reason, _ in await user.events("shop")}
    assert {"PlanStarted", "Planned", "AnotherPlanApproved", "ApplyStarted", "Complete"} <= reasons

    # As a whole-cluster restore brings it back: not yet applied, or in the middle of it.
    for phase in ({"phase": "Running", "applying": True}, {"phase": None, "plan": None}):
        wiped = {"status": {"conditions": [], "result": None, "message": "as of old", **phase}}
        words = ("patch", "erestore", "shop", "-n", NAMESPACE, "--subresource=status")
        await user.plane.kubectl(*words, "--type=merge", "-p", json.dumps(wiped))
        back = await user.ended("shop")
        assert "nothing was done now" in back["status"]["message"]
        assert back["status"]["phase"] == "Complete"

    undo = {"source": {"undoOf": "shop"}, "mode": "Apply"}
    await user.apply(restore("undo-shop", undo))
    undone = await user.ended("undo-shop")
    assert undone["status"]["phase"] == "Complete", undone["status"]

    async def gone() -> bool:
        return not await user.plane.kubectl("get", "ns", shop, "--ignore-not-found")

    await wait_until(gone, "the undo has taken all back")
    assert not children(steward.server.pid)


@pytest.mark.parametrize("dies", ["process", "operator", "in order"])
async def test_the_sample_is_understood_and_an_apply_goes_on_whatever_dies(
    user: Restorer, shop: str, steward: Steward, dies: str
) -> None:
    before = await user.uids(shop)
    await user.plane.kubectl("delete", "namespace", shop, timeout=90)
    sample, _ = yaml.safe_load_all((ROOT / "deploy/samples/restore.yaml").read_text())
    name = f"from-memory-{dies.replace(' ', '-')}"
    sample["metadata"]["name"] = name
    sample["spec"] |= {"include": {"namespaces": [shop]}, "mode": "Apply"}
    await user.apply(sample)

    async def begun() -> bool:
        status = (await user.get("erestore", name)).get("status", {})
        return bool(children(steward.server.pid)) and status.get("phase") == "Running"

    await wait_until(begun, "its process runs")
    match dies:
        case "process":
            for pid in children(steward.server.pid):
                os.kill(pid, signal.SIGKILL)
        case "operator":
            await steward.server.kill()
            await steward.server.start()
        case _:
            await steward.server.stop()
            left = (await user.get("erestore", name))["status"]
            assert left["phase"] in {"Pending", "Complete"}, left
            await steward.server.start()
    ended = await user.ended(name)
    assert ended["status"]["phase"] == "Complete", ended["status"]
    assert ended["status"]["attempt"] == (2 if dies == "process" else 1)
    assert await user.uids(shop) == before


async def test_what_may_not_be_is_refused_in_words(
    user: Restorer, namespace: str, seaweedfs: SeaweedFS, bucket: str
) -> None:
    include = {"include": {"namespaces": ["nowhere"]}}
    live = {"source": {"live": {"beforeDeletion": True}}}
    tenant = Restorer(user.plane, namespace)
    await tenant.apply(restore("foreign", {**live, **include}, namespace))
    await user.apply(
        restore("absent", {"source": {"backupName": "absent"}, **include}),
        restore("unknown", {"source": {"snapshotName": "unknown"}, **include}),
        restore("nowhere", {**live, **include, "mode": "Apply"}),
        restore("nothing", {"source": {"undoOf": "absent"}, "mode": "Apply"}),
    )
    said = {
        (tenant, "foreign"): f"namespace {namespace} may not use the operator's own etcd",
        (user, "absent"): f"there is no EtcdBackup {NAMESPACE}/absent",
        (user, "unknown"): f"there is no EtcdSnapshot {NAMESPACE}/unknown",
        (user, "nowhere"): "was deleted since revision",
        (user, "nothing"): "has no plan, and so has written nothing",
    }
    for (somebody, name), words in said.items():
        ended = await somebody.ended(name)
        assert ended["status"]["phase"] == "Failed"
        assert words in condition(ended, "Failed")["message"], ended["status"]
    for name, spec, words in (
        ("two", {"source": {"backupName": "a", "snapshotName": "b"}, **include}, "exactly one"),
        ("all", {"source": {"backupName": "a"}, "include": {}}, "include must name something"),
        ("map", {**live, **include, "namespaceMapping": {"a": "b"}}, "is for via: API"),
        ("when", {"source": {"live": {}}, **include}, "set exactly one moment"),
        ("undo", {"source": {"undoOf": "a"}}, "an undo has no plan of its own"),
        ("path", {"source": {"backupName": "a", "path": "b"}, **include}, "path is a folder"),
    ):
        assert words in await user.refused(restore(name, spec)), name
    assert not await seaweedfs.objects(bucket, "")


async def test_a_plan_that_is_too_old_or_overtaken_is_not_applied(
    user: Restorer, namespace: str
) -> None:
    words = (f"--namespace={namespace}", "--from-literal=a=1")
    await user.plane.kubectl("create", "configmap", "settings", *words)
    await user.plane.kubectl("delete", "configmap", "settings", f"--namespace={namespace}")
    spec = {
        "source": {"live": {"beforeDeletion": True}},
        "include": {"namespaces": [namespace], "names": ["settings"]},
    }
    await user.apply(
        restore("old", {**spec, "planTimeToLive": "1s"}),
        restore("overtaken", spec),
    )
    digests = {}
    for name in ("old", "overtaken"):
        planned = await user.shown(name, lambda status: status.get("phase") in {"Planned", *ENDED})
        assert planned["status"]["phase"] == "Planned", planned["status"]
        assert planned["status"]["plan"]["writes"] == 1
        digests[name] = planned["status"]["plan"]["digest"]
    await user.plane.kubectl("create", "configmap", "settings", *words)
    for name, said in (
        ("old", "the plan could be approved until"),
        ("overtaken", "changed since the plan was made: nothing was written"),
    ):
        await user.approve(name, digests[name])
        ended = await user.ended(name)
        assert ended["status"]["phase"] == "Failed"
        assert said in condition(ended, "Failed")["message"], ended["status"]
