"""Restoring through real API servers: into another namespace, and into another cluster."""

import asyncio
import base64
import contextlib
import json
import secrets
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from etcd_steward.engine.live_source import LiveSource
from etcd_steward.engine.report import Tracker
from etcd_steward.engine.restore.api_undo import undo_via_api
from etcd_steward.engine.restore.place import Place
from etcd_steward.engine.restore.plan import Planned, make_plan
from etcd_steward.engine.restore.stash import reopen
from etcd_steward.engine.restore.undo import UndoSettings
from etcd_steward.engine.restore.via_api import ApiSettings, apply_via_api
from etcd_steward.errors import Refused
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.kube_client import Client
from etcd_steward.kube_objects import ApiServer
from etcd_steward.models.registry import Filter
from etcd_steward.models.restore import PlanItem, RestoreOptions, SourceRef
from tests.support.applying import a_place
from tests.support.runs import Heard, connection
from tests.testbed import Authority, ControlPlane, EtcdCluster, wait_until

Object = dict[str, Any]
SETTINGS = ApiSettings(restore="team.shop", uid="7c1e04b2", second_look_after=None)
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


@dataclass
class Cluster:
    """A control plane, and how it is asked."""

    plane: ControlPlane
    api: ApiServer
    client: EtcdClient = field(repr=False)

    async def get(self, namespace: str, *what: str) -> Object:
        found: Object = json.loads(
            await self.plane.kubectl("get", *what, "-n", namespace, "-ojson")
        )
        return found

    async def uid(self, namespace: str, kind: str, name: str) -> str:
        return str((await self.get(namespace, kind, name))["metadata"]["uid"])


@asynccontextmanager
async def cluster_of(plane: ControlPlane) -> AsyncIterator[Cluster]:
    client = await Client.connect(plane.kubeconfig)
    try:
        async with EtcdClient.connect(connection(plane.etcd)) as etcd:
            yield Cluster(plane, ApiServer(client), etcd)
    finally:
        await client.aclose()


@pytest.fixture
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


@pytest.fixture
async def shop(here: Cluster) -> AsyncIterator[str]:
    """A namespace with a bit of everything, as its controllers have left it."""
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


async def planned(
    source: Cluster,
    target: Cluster,
    place: Place,
    include: Filter,
    **options: Any,  # noqa: ANN401
) -> Planned:
    live = await LiveSource.open(source.client, "/registry")
    return await make_plan(
        live,
        SourceRef(name=live.name, revision=live.revision, live=True),
        source.client,
        RestoreOptions(include=include, via="API", **options),
        prefix="/registry",
        spool=place.spool,
        tracker=Tracker(Heard()),
        api=target.api,
        time_to_live=timedelta(hours=1),
    )


@asynccontextmanager
async def place_of(tmp_path: Path) -> AsyncIterator[Place]:
    async with a_place(tmp_path / secrets.token_hex(4)) as place:
        yield place


def of(plan: Planned, resource: str, name: str) -> PlanItem:
    (found,) = [i for i in plan.plan.items if (i.resource, i.name) == (resource, name)]
    return found


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
        report = await apply_via_api(plan, empty.api, place, Tracker(Heard()), SETTINGS)
        plan.close()
        assert not {"failed", "changed-since"} & set(report.counts), report
        await as_it_was(here, shop, empty, shop)


async def test_what_is_there_is_overwritten_and_put_back(
    here: Cluster, namespace: str, tmp_path: Path
) -> None:
    plane = here.plane
    for name in ("changes", "races", "touched"):
        await plane.kubectl("create", "configmap", name, "-n", namespace, "--from-literal=a=1")
    mapped = f"{namespace}-2"
    await plane.kubectl("create", "namespace", mapped)
    for name in ("changes", "races", "touched"):
        await plane.kubectl("create", "configmap", name, "-n", mapped, "--from-literal=b=2")
    include = Filter(namespaces=(namespace,), resources=("configmaps",))
    mapping = {"namespace_mapping": {namespace: mapped}}

    async def data(name: str) -> Object:
        return dict((await here.get(mapped, "configmap", name))["data"])

    async with place_of(tmp_path) as place:
        plan = await planned(here, here, place, include, **mapping)
        assert of(plan, "configmaps", "changes").reason == "Exists"
        assert plan.plan.writes == 0
        plan = await planned(here, here, place, include, existing_objects="Fail", **mapping)
        assert "nothing is written" in plan.plan.warnings[0]

        # Somebody is faster between the plan and its apply: nothing is begun.
        plan = await planned(here, here, place, include, existing_objects="Overwrite", **mapping)
        await plane.kubectl("label", "configmap", "races", "-n", mapped, "x=y")
        with pytest.raises(Refused, match="races changed since the plan"):
            await apply_via_api(plan, here.api, place, Tracker(Heard()), SETTINGS)
        assert await data("changes") == {"b": "2"}

        plan = await planned(here, here, place, include, existing_objects="Overwrite", **mapping)
        report = await apply_via_api(plan, here.api, place, Tracker(Heard()), SETTINGS)
        assert report.counts == {"written": 3}
        assert await data("changes") == {"a": "1"}
        await asyncio.sleep(1.1)  # managedFields tell whole seconds
        await plane.kubectl("label", "configmap", "touched", "-n", mapped, "x=y")
        back = UndoSettings(restore="team.undo", uid="undo")
        undone = await undo_via_api(here.api, place, Tracker(Heard()), back)
        said = {one.key.rpartition("/")[2]: one.outcome for one in undone.undone}
        assert said == {"changes": "put-back", "races": "put-back", "touched": "changed-since"}
        assert await data("changes") == {"b": "2"}
        assert await data("touched") == {"a": "1"}
        plan.close()
    await plane.kubectl("delete", "namespace", mapped, "--wait=false")


class _Dies(Tracker):
    """Fails once some bytes are written."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "raw" and isinstance(value, int) and value > 1000:
            raise RuntimeError("died")


async def test_one_that_died_goes_on(here: Cluster, namespace: str, tmp_path: Path) -> None:
    plane = here.plane
    for number in range(20):
        await plane.kubectl(
            "create", "configmap", f"c{number}", "-n", namespace, "--from-literal=a=1"
        )
    mapped = f"{namespace}-2"
    include = Filter(namespaces=(namespace,))
    async with place_of(tmp_path) as place:
        mapping = {namespace: mapped}
        plan = await planned(here, here, place, include, namespace_mapping=mapping)
        with pytest.raises(RuntimeError, match="died"):
            await apply_via_api(plan, here.api, place, _Dies(Heard()), SETTINGS)
        plan.close()
        begun = await reopen(place)
        assert begun is not None
        report = await apply_via_api(begun, here.api, place, Tracker(Heard()), SETTINGS)
        written = [one for one in report.restored if one.outcome == "written"]
        assert len(written) == 21  # and the Namespace
        assert report.read_back == 21
        found = (await here.get(mapped, "configmaps"))["items"]
        assert len(found) == 21  # and kube-root-ca.crt
    await plane.kubectl("delete", "namespace", mapped, "--wait=false")


@asynccontextmanager
async def webhook(directory: Path, refused: set[str]) -> AsyncIterator[tuple[str, str]]:
    """A webhook that refuses objects of these names: its URL, and its CA in base64."""
    authority = Authority.create(directory)
    pair = authority.issue("webhook")

    async def review(request: web.Request) -> web.Response:
        asked = (await request.json())["request"]
        no = {"allowed": False, "status": {"message": f"no {asked['name']} here"}}
        said = no if asked["name"] in refused else {"allowed": True}
        answer = {"uid": asked["uid"], **said}
        return web.json_response(
            {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}
        )

    app = web.Application()
    app.router.add_post("/", review)
    runner = web.AppRunner(app)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        port = runner.addresses[0][1]
        yield (
            f"https://127.0.0.1:{port}/",
            base64.b64encode(authority.ca_file.read_bytes()).decode(),
        )
    finally:
        await runner.cleanup()


async def test_admission_has_its_say(here: Cluster, namespace: str, tmp_path: Path) -> None:
    plane = here.plane
    for name in ("good", "bad", "late"):
        await plane.kubectl("create", "configmap", name, "-n", namespace, "--from-literal=a=1")
    mapped = f"{namespace}-2"
    await plane.kubectl("create", "namespace", mapped)
    include = Filter(namespaces=(namespace,), resources=("configmaps",))
    mapping = {"namespace_mapping": {namespace: mapped}}
    refused = {"bad"}
    async with contextlib.AsyncExitStack() as stack:
        url, ca = await stack.enter_async_context(webhook(tmp_path / "hook", refused))
        hook = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": mapped},
            "webhooks": [
                {
                    "name": "names.example.com",
                    "admissionReviewVersions": ["v1"],
                    "sideEffects": "None",
                    "clientConfig": {"url": url, "caBundle": ca},
                    "namespaceSelector": {
                        "matchLabels": {"kubernetes.io/metadata.name": mapped},
                    },
                    "rules": [
                        {
                            "apiGroups": [""],
                            "apiVersions": ["v1"],
                            "operations": ["CREATE"],
                            "resources": ["configmaps"],
                        }
                    ],
                }
            ],
        }
        await plane.kubectl("apply", "-f", "-", stdin=json.dumps(hook))
        stack.push_async_callback(plane.kubectl, "delete", "validatingwebhookconfiguration", mapped)
        place = await stack.enter_async_context(place_of(tmp_path))

        async def asked() -> bool:
            plan = await planned(here, here, place, include, **mapping)
            return of(plan, "configmaps", "bad").verdict == "blocked"

        await wait_until(asked, "the webhook is asked")
        plan = await planned(here, here, place, include, **mapping)
        bad = of(plan, "configmaps", "bad")
        assert (bad.reason, bad.write) == ("AdmissionRefused", False)
        assert "no bad here" in bad.message
        assert of(plan, "configmaps", "good").verdict == "create"
        refused.add("late")
        report = await apply_via_api(plan, here.api, place, Tracker(Heard()), SETTINGS)
        said = {one.key.rpartition("/")[2]: one for one in report.restored}
        assert said["good"].outcome == "written"
        assert said["late"].outcome == "failed"
        assert "no late here" in said["late"].message
    await plane.kubectl("delete", "namespace", mapped, "--wait=false")
