"""Restoring through real API servers: into another namespace, and into another cluster."""

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from etcd_steward.engine.report import Tracker
from etcd_steward.engine.restore.api_undo import undo_via_api
from etcd_steward.engine.restore.undo import UndoSettings
from etcd_steward.engine.restore.via_api import apply_via_api
from etcd_steward.errors import Refused
from etcd_steward.models.registry import Filter
from tests.support.runs import Heard
from tests.support.through_api import (
    SETTINGS,
    Cluster,
    cluster_of,
    of,
    place_of,
    planned,
)
from tests.testbed import ControlPlane, EtcdCluster, wait_until

Object = dict[str, Any]
GROUP = "shop.example.com"

DEFINITION = f"""
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: things.{GROUP}}}
spec:
  group: {GROUP}
  scope: Namespaced
  names: {{plural: things, singular: thing, kind: Thing}}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {{status: {{}}}}
    schema:
      openAPIV3Schema:
        type: object
        x-kubernetes-preserve-unknown-fields: true
"""

SHOP = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: shop}
---
apiVersion: v1
kind: Secret
metadata: {name: db}
stringData: {password: hunter2}
---
apiVersion: v1
kind: Secret
metadata: {name: token, annotations: {kubernetes.io/service-account.name: shop}}
type: kubernetes.io/service-account-token
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a: "1"}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [secrets], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: shop, namespace: NAMESPACE}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 5432}]}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: web}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: db, image: db}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {containers: [{name: agent, image: agent}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec:
  schedule: "17 2 * * *"
  jobTemplate:
    spec:
      template:
        spec: {restartPolicy: Never, containers: [{name: job, image: job}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: load}
spec:
  template:
    spec: {restartPolicy: Never, containers: [{name: job, image: job}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec: {defaultBackend: {service: {name: web, port: {number: 80}}}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 1, selector: {matchLabels: {app: web}}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec: {maxReplicas: 2, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}
---
apiVersion: shop.example.com/v1
kind: Thing
metadata: {name: one}
spec: {size: 3}
"""
BY_CONTROLLERS = {"replicasets.apps", "controllerrevisions.apps"}


@pytest.fixture(scope="module")
async def here(control_plane: ControlPlane) -> AsyncIterator[Cluster]:
    """Where the namespaces come from."""
    async with cluster_of(control_plane) as cluster:
        yield cluster


@pytest.fixture
async def empty(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A second cluster, with nothing in it."""
    async with (
        EtcdCluster(tmp_path / "etcd") as etcd,
        ControlPlane(tmp_path / "second", etcd) as plane,
        cluster_of(plane) as cluster,
    ):
        yield cluster


@pytest.fixture(scope="module")
async def shop(here: Cluster) -> AsyncIterator[str]:
    """A namespace with a bit of everything, as its controllers have left it. Only look at it."""
    name = f"shop-{secrets.token_hex(4)}"
    plane = here.plane
    await plane.kubectl("create", "namespace", name)
    await plane.kubectl("apply", "-f", "-", stdin=DEFINITION)
    await plane.kubectl("wait", "--for=condition=Established", f"crd/things.{GROUP}")
    objects = SHOP.replace("NAMESPACE", name)
    await plane.kubectl("apply", "-n", name, "-f", "-", stdin=objects)
    await plane.kubectl(
        "patch", "thing", "one", "-n", name, "--subresource=status", "--type=merge",
        '-p={"status":{"phase":"Grown","observedGeneration":1}}',
    )  # fmt: skip
    owner = {
        "apiVersion": f"{GROUP}/v1",
        "kind": "Thing",
        "name": "one",
        "uid": await here.uid(name, "thing", "one"),
        "controller": True,
    }
    meta = {"name": "of-one", "namespace": name, "ownerReferences": [owner]}
    owned = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"b": "2"}}
    await plane.kubectl("apply", "-f", "-", stdin=json.dumps(owned))
    await reconciled(here, name)
    pull = '-p={"imagePullSecrets":[{"name":"registry"}]}'
    await plane.kubectl("patch", "serviceaccount", "default", "-n", name, pull)
    yield name
    await plane.kubectl("delete", "namespace", name, "--wait=false")


async def reconciled(cluster: Cluster, namespace: str) -> None:
    """Wait until the controllers have accepted the workloads of SHOP."""

    async def done() -> bool:
        found = (await cluster.get(namespace, "deploy,sts,ds"))["items"]
        return len(found) == 3 and all(
            one["status"].get("observedGeneration") == one["metadata"]["generation"]
            and one["status"].get("replicas", 1) == 1
            for one in found
        )

    await wait_until(done, f"the workloads of {namespace} are reconciled", timeout=60)


async def test_into_another_namespace_and_back(here: Cluster, shop: str, tmp_path: Path) -> None:
    other = f"{shop}-2"
    mapping = {"namespace_mapping": {shop: other}}
    include = Filter(namespaces=(shop,))
    async with place_of(tmp_path) as place, place_of(tmp_path) as second:
        plan = await planned(here, here, place, include, **mapping)
        wrote = {item.resource for item in plan.plan.items if item.write}
        assert {"deployments.apps", "replicasets.apps", f"things.{GROUP}", "namespaces"} <= wrote
        assert "pods" not in wrote
        assert of(plan, "configmaps", "kube-root-ca.crt").reason == "MadeByController"
        assert of(plan, "jobs.batch", "load").verdict == "blocked"
        assert "new, empty volume" in of(plan, "persistentvolumeclaims", "data").notes[0]
        assert "admission can't be asked" in plan.plan.warnings[0]
        report = await apply_via_api(plan, here.api, place, Tracker(Heard()), SETTINGS)
        plan.close()
        assert not report.warnings
        outcomes = {i.key: i for i in report.restored}
        odd = [i for i in plan.plan.items if i.write and outcomes[i.key].outcome != "written"]
        assert {i.resource for i in odd} <= BY_CONTROLLERS | {"serviceaccounts"}, outcomes
        assert all(outcomes[i.key].outcome == "unchanged" for i in odd), outcomes
        assert report.read_back == report.counts["written"]

        await as_it_was(here, shop, here, other)
        assert await place.result() == report
        again = await apply_via_api(plan, here.api, place, Tracker(Heard()), SETTINGS)
        assert again == report

        plan = await planned(here, here, second, include, **mapping)
        assert plan.plan.writes == 0, [i for i in plan.plan.items if i.write]
        assert of(plan, "secrets", "db").verdict == "identical"
        assert of(plan, "namespaces", shop).verdict == "identical"
        assert of(plan, "services", "web").verdict == "identical"
        assert of(plan, "deployments.apps", "web").verdict == "identical"
        plan.close()

        # And the way back: what it made goes, its claims and so their namespace stay.
        back = UndoSettings(restore="team.undo", uid="undo", patience=60)
        undone = await undo_via_api(here.api, place, Tracker(Heard()), back)
        said = {one.key: one for one in undone.undone}
        claim = of(plan, "persistentvolumeclaims", "data").key
        assert said.pop(claim).outcome == "left"
        space = said.pop(of(plan, "namespaces", shop).key)
        assert (space.outcome, "persistentvolumeclaims data" in space.message) == ("left", True)
        assert {one.outcome for one in said.values()} <= {"deleted", "gone"}, said
        left = (await here.get(other, "deploy,sts,ds,svc,secret,role,cronjob,thing"))["items"]
        assert not left
        volumes = Filter(resources=("persistentvolumeclaims",))
        all_ = UndoSettings(restore="team.undo", uid="undo", volumes=volumes, patience=60)
        undone = await undo_via_api(here.api, place, Tracker(Heard()), all_)
        assert not {one.outcome for one in undone.undone} & {"left", "failed"}


async def as_it_was(source: Cluster, before: str, target: Cluster, after: str) -> None:
    """The restored namespace works, and has uids and addresses of its own."""
    await reconciled(target, after)
    replicas = (await target.get(after, "rs"))["items"]
    deployment = await target.get(after, "deploy", "web")
    assert [one["metadata"]["ownerReferences"][0]["uid"] for one in replicas] == [
        deployment["metadata"]["uid"]
    ]
    assert deployment["metadata"]["uid"] != await source.uid(before, "deploy", "web")
    secret = await target.get(after, "secret", "db")
    assert base64.b64decode(secret["data"]["password"]) == b"hunter2"
    binding = await target.get(after, "rolebinding", "reader")
    assert binding["subjects"][0]["namespace"] == after
    default = await target.get(after, "serviceaccount", "default")
    assert {"name": "registry"} in default["imagePullSecrets"]

    thing = await target.get(after, "thing", "one")
    assert thing["status"] == {"phase": "Grown", "observedGeneration": 1}
    assert thing["spec"] == {"size": 3}
    owned = await target.get(after, "configmap", "of-one")
    assert owned["metadata"]["ownerReferences"][0]["uid"] == thing["metadata"]["uid"]

    async def token() -> bool:
        made = await target.get(after, "secret", "token")
        shop = await target.uid(after, "serviceaccount", "shop")
        uid = made["metadata"]["annotations"].get("kubernetes.io/service-account.uid")
        return bool(made.get("data", {}).get("token")) and uid == shop

    await wait_until(token, "the ServiceAccount has a token of its own")


async def test_into_another_empty_cluster(
    here: Cluster, empty: Cluster, shop: str, tmp_path: Path
) -> None:
    # A type, and all there is of it: what it needs is made on the way.
    types = Filter(resources=("customresourcedefinitions", f"things.{GROUP}"))
    async with place_of(tmp_path) as place:
        plan = await planned(here, empty, place, types)
        assert of(plan, f"things.{GROUP}", "one").verdict == "create"
        report = await apply_via_api(plan, empty.api, place, Tracker(Heard()), SETTINGS)
        plan.close()
        made = {i.key for i in report.restored if i.outcome == "written"}
        assert {of(plan, f"things.{GROUP}", "one").key} <= made, report
        # The same plan goes nowhere else.
        with pytest.raises(Refused, match="was made over the cluster"):
            async with place_of(tmp_path) as elsewhere:
                await apply_via_api(plan, here.api, elsewhere, Tracker(Heard()), SETTINGS)

    async with place_of(tmp_path) as place:
        plan = await planned(here, empty, place, Filter(namespaces=(shop,)))
        assert of(plan, f"things.{GROUP}", "one").verdict == "identical"
        assert "what it lacks is added" in of(plan, "serviceaccounts", "default").message
        # The API server dies while it is asked, and comes back.
        tracker = Tracker(Heard())
        async with asyncio.TaskGroup() as group:
            applying = group.create_task(
                apply_via_api(plan, empty.api, place, tracker, SETTINGS), name="apply"
            )

            async def begun() -> bool:
                return tracker.step == "Writing" and tracker.raw > 0

            await wait_until(begun, "something is written")
            await empty.plane.api_server.kill()
            assert not applying.done()
            await empty.plane.api_server.start()
        report = applying.result()
        plan.close()
        assert not {"failed", "changed-since"} & set(report.counts), report
        await as_it_was(here, shop, empty, shop)
