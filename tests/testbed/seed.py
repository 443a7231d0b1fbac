"""A realistic registry: a few hundred objects of many kinds, created through the API server.

Everything depends on fixed lists, so two seeded clusters hold the same names. Controllers then add
what they always add: ReplicaSets, Pods (Pending for ever, without nodes), EndpointSlices, Events.
"""

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.testbed.kubernetes import ControlPlane, Kubectl

NAMESPACES = ("billing", "checkout", "inventory", "monitoring", "search", "shop")
APPS = ("api", "cache", "frontend", "worker")
GROUP = "testbed.etcdsteward.io"
REGIONS = ("ap-south", "eu-central", "us-east")

Object = dict[str, Any]
"""A Kubernetes object as JSON has it: its shape differs with its kind."""


@dataclass(frozen=True, slots=True)
class Seeded:
    """What was applied, not counting what controllers make of it."""

    objects: int
    namespaces: tuple[str, ...]
    kinds: frozenset[str]


async def seed(kubernetes: ControlPlane | Kubectl) -> Seeded:
    """Apply the whole registry; a second call changes nothing. Takes a few seconds."""
    first = [*_definitions(), *_namespaces()]
    await _apply(kubernetes, first)
    crds = [f"crd/{item['metadata']['name']}" for item in _definitions()]
    await kubernetes.kubectl("wait", "--for=condition=Established", "--timeout=30s", *crds)
    rest = [*_cluster_scoped(), *(item for name in NAMESPACES for item in _team(name))]
    await _apply(kubernetes, rest)
    kinds = frozenset(item["kind"] for item in [*first, *rest])
    return Seeded(len(first) + len(rest), NAMESPACES, kinds)


async def _apply(kubernetes: ControlPlane | Kubectl, items: Iterable[Object]) -> None:
    document = {"apiVersion": "v1", "kind": "List", "items": list(items)}
    await kubernetes.kubectl(
        "apply",
        "--server-side",
        "--field-manager=testbed",
        "--filename=-",
        stdin=json.dumps(document),
        timeout=180,
    )


def _object(api_version: str, kind: str, name: str, namespace: str = "", **body: Any) -> Object:  # noqa: ANN401
    metadata: Object = {"name": name, "labels": {"app.kubernetes.io/part-of": "testbed"}}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **body}


def _definition(kind: str, plural: str, scope: str) -> Object:
    schema = {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "properties": {
                    "size": {"type": "integer"},
                    "note": {"type": "string"},
                },
            }
        },
    }
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return _object(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        f"{plural}.{GROUP}",
        spec={
            "group": GROUP,
            "scope": scope,
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [version],
        },
    )


def _definitions() -> list[Object]:
    return [
        _definition("Widget", "widgets", "Namespaced"),
        _definition("Region", "regions", "Cluster"),
    ]


def _namespaces() -> Iterator[Object]:
    for name in NAMESPACES:
        yield _object("v1", "Namespace", name)


def _cluster_scoped() -> Iterator[Object]:
    for name in REGIONS:
        yield _object(f"{GROUP}/v1", "Region", name, spec={"size": len(name), "note": "a region"})
    for name in ("batch", "critical"):
        yield _object("scheduling.k8s.io/v1", "PriorityClass", f"testbed-{name}", value=1000)
    yield _object(
        "storage.k8s.io/v1", "StorageClass", "testbed", provisioner="kubernetes.io/no-provisioner"
    )
    for name in NAMESPACES:
        yield _object(
            "v1",
            "PersistentVolume",
            f"pv-{name}",
            spec={
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "testbed",
                "local": {"path": f"/mnt/{name}"},
                "nodeAffinity": {"required": _on_node("node-1")},
            },
        )
    rules = [{"apiGroups": [GROUP], "resources": ["widgets"], "verbs": ["get", "list"]}]
    yield _object("rbac.authorization.k8s.io/v1", "ClusterRole", "testbed-reader", rules=rules)
    yield _object(
        "rbac.authorization.k8s.io/v1",
        "ClusterRoleBinding",
        "testbed-reader",
        roleRef=_role_ref("ClusterRole", "testbed-reader"),
        subjects=[{"kind": "ServiceAccount", "name": "api", "namespace": NAMESPACES[0]}],
    )


def _on_node(name: str) -> Object:
    match = {"key": "kubernetes.io/hostname", "operator": "In", "values": [name]}
    return {"nodeSelectorTerms": [{"matchExpressions": [match]}]}


def _role_ref(kind: str, name: str) -> Object:
    return {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}


def _team(namespace: str) -> Iterator[Object]:
    """Make one namespace's objects: its apps and what surrounds them."""
    for app in APPS:
        yield from _app(namespace, app)
    yield from _policies(namespace)
    yield from _jobs(namespace)
    for number in range(8):
        yield _object(
            "v1",
            "ConfigMap",
            f"settings-{number}",
            namespace,
            data={"app.yaml": f"namespace: {namespace}\nnumber: {number}\n" * 20},
        )
    for number in range(4):
        secret = base64.b64encode(f"{namespace}/{number}/not-a-real-secret".encode()).decode()
        yield _object("v1", "Secret", f"token-{number}", namespace, data={"token": secret})
    for number in range(5):
        spec = {"size": number, "note": f"widget {number} of {namespace}"}
        yield _object(f"{GROUP}/v1", "Widget", f"widget-{number}", namespace, spec=spec)


def _app(namespace: str, app: str) -> Iterator[Object]:
    kind, extra = _WORKLOADS[app]
    labels = {"app": app}
    template = {
        "metadata": {"labels": labels},
        "spec": {
            "serviceAccountName": app,
            "containers": [{"name": app, "image": f"registry.example.com/{namespace}/{app}:1.0"}],
        },
    }
    workload = {"selector": {"matchLabels": labels}, "template": template, **extra}
    yield _object("v1", "ServiceAccount", app, namespace)
    yield _object("apps/v1", kind, app, namespace, spec=workload)
    ports = [{"name": "http", "port": 80, "targetPort": 8080}]
    yield _object("v1", "Service", app, namespace, spec={"selector": labels, "ports": ports})
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "watch"]}]
    yield _object("rbac.authorization.k8s.io/v1", "Role", app, namespace, rules=rules)
    yield _object(
        "rbac.authorization.k8s.io/v1",
        "RoleBinding",
        app,
        namespace,
        roleRef=_role_ref("Role", app),
        subjects=[{"kind": "ServiceAccount", "name": app, "namespace": namespace}],
    )


_WORKLOADS: dict[str, tuple[str, Object]] = {
    "api": ("Deployment", {"replicas": 2}),
    "cache": ("StatefulSet", {"replicas": 1, "serviceName": "cache"}),
    "frontend": ("Deployment", {"replicas": 1}),
    "worker": ("DaemonSet", {}),
}


def _policies(namespace: str) -> Iterator[Object]:
    yield _object(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        "default-deny",
        namespace,
        spec={"podSelector": {}, "policyTypes": ["Ingress"]},
    )
    backend = {"service": {"name": "frontend", "port": {"name": "http"}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    rule = {"host": f"{namespace}.example.com", "http": {"paths": [path]}}
    yield _object("networking.k8s.io/v1", "Ingress", "web", namespace, spec={"rules": [rule]})
    yield _object(
        "policy/v1",
        "PodDisruptionBudget",
        "api",
        namespace,
        spec={"minAvailable": 1, "selector": {"matchLabels": {"app": "api"}}},
    )
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "frontend"}
    yield _object(
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        "frontend",
        namespace,
        spec={"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 3},
    )
    yield _object("v1", "ResourceQuota", "quota", namespace, spec={"hard": {"pods": "50"}})
    limit = {"type": "Container", "default": {"memory": "64Mi"}}
    yield _object("v1", "LimitRange", "limits", namespace, spec={"limits": [limit]})


def _jobs(namespace: str) -> Iterator[Object]:
    container = {"name": "report", "image": "registry.example.com/report:1.0"}
    pod = {"restartPolicy": "Never", "containers": [container]}
    job = {"template": {"spec": pod}}
    yield _object("batch/v1", "Job", "migrate", namespace, spec=job)
    yield _object(
        "batch/v1",
        "CronJob",
        "report",
        namespace,
        spec={"schedule": "17 2 * * *", "suspend": True, "jobTemplate": {"spec": job}},
    )
    yield _object(
        "v1",
        "PersistentVolumeClaim",
        "data",
        namespace,
        spec={
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "testbed",
            "volumeName": f"pv-{namespace}",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    )
    yield _object(
        "coordination.k8s.io/v1", "Lease", "leader", namespace, spec={"leaseDurationSeconds": 15}
    )
