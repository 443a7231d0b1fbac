"""What an object looks like to an API server that never knew it, and in which order they go."""

import json
from typing import Any

from etcd_steward.engine.restore.api_bodies import (
    additions,
    body_of,
    comparable,
    holds,
    notes_of,
    over,
    status_of,
    target_of,
)
from etcd_steward.engine.restore.api_order import ordered
from etcd_steward.kube_discovery import ApiResource, served
from etcd_steward.models.restore import PlanItem
from etcd_steward.registry.objectmeta import ObjectMeta, OwnerReference

FORMER = {
    "uid": "5d8c2f6e-1c5f-4d1b-9a37-0b8a4f0f6a11",
    "generation": 7,
    "creationTimestamp": "2026-11-22T02:17:00Z",
    "deletionTimestamp": "2026-11-22T02:18:00Z",
    "deletionGracePeriodSeconds": 30,
    "managedFields": [{"manager": "kubectl"}],
    "finalizers": ["foregroundDeletion", "example.com/mine"],
    "ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "old"}],
}


def resource(plural: str, *, group: str = "", status: bool = True) -> ApiResource:
    return ApiResource(group, "v1", plural, "K", True, frozenset(), status)


def sent(
    kind: str,
    name: str,
    group: str = "",
    mapping: dict[str, str] | None = None,
    **parts: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """The body for an object of this type in namespace shop, as JSON."""
    meta = {"name": "one", "namespace": "shop", **FORMER, **parts.pop("metadata", {})}
    version = f"{group}/v1" if group else "v1"
    value = {"apiVersion": version, "kind": kind, "metadata": meta, **parts}
    owner = OwnerReference("v1", "X", "x", "new")
    body = body_of(
        json.dumps(value).encode(),
        resource(name, group=group),
        ("shop2", "one"),
        (owner,),
        mapping or {},
    )
    assert isinstance(body, dict)
    return body


def test_a_former_life_is_left_out() -> None:
    body = sent("Thing", "things", "example.com", spec={"a": 1}, status={"b": 2})
    assert body == {
        "apiVersion": "example.com/v1",
        "kind": "Thing",
        "metadata": {
            "name": "one",
            "namespace": "shop2",
            "finalizers": ["example.com/mine"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "new"}],
        },
        "spec": {"a": 1},
    }


def test_a_namespace_is_not_labelled_by_its_former_name() -> None:
    labels = {"kubernetes.io/metadata.name": "shop", "team": "a"}
    body = sent("Namespace", "namespaces", metadata={"labels": labels})
    assert body["metadata"]["labels"] == {"team": "a"}


def test_addresses_and_ports_are_the_targets() -> None:
    applied = json.dumps({"spec": {"ports": [{"port": 80, "nodePort": 30080}]}})
    spec = {
        "clusterIP": "10.96.0.7",
        "clusterIPs": ["10.96.0.7"],
        "healthCheckNodePort": 30001,
        "ports": [{"port": 80, "nodePort": 30080}, {"port": 81, "nodePort": 30081}],
    }
    last = {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": applied}}
    body = sent("Service", "services", spec=spec, metadata=last)
    assert body["spec"] == {"ports": [{"port": 80, "nodePort": 30080}, {"port": 81}]}
    body = sent("Service", "services", spec={"clusterIP": "None", "clusterIPs": ["None"]})
    assert body["spec"] == {"clusterIP": "None", "clusterIPs": ["None"]}


def test_claims_are_bound_anew_and_volumes_keep_whom_they_wait_for() -> None:
    bound = {"annotations": {"pv.kubernetes.io/bind-completed": "yes", "mine": "1"}}
    body = sent(
        "PersistentVolumeClaim",
        "persistentvolumeclaims",
        metadata=bound,
        spec={"volumeName": "pv", "storageClassName": "fast"},
    )
    assert body["spec"] == {"storageClassName": "fast"}
    assert body["metadata"]["annotations"] == {"mine": "1"}
    live = {"spec": {"volumeName": "there"}}
    assert over(body, live)["spec"] == {"storageClassName": "fast", "volumeName": "there"}
    claim = {"namespace": "shop", "name": "data", "uid": "old", "resourceVersion": "7"}
    body = sent(
        "PersistentVolume", "persistentvolumes", mapping={"shop": "shop2"}, spec={"claimRef": claim}
    )
    assert body["spec"]["claimRef"] == {"namespace": "shop2", "name": "data"}


def test_jobs_pods_bindings_and_tokens() -> None:
    labels = {"batch.kubernetes.io/controller-uid": "u", "controller-uid": "u", "job-name": "one"}
    job = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}}}
    body = sent("Job", "jobs", "batch", metadata={"labels": dict(labels)}, spec=job)
    assert body["metadata"]["labels"] == {"job-name": "one"}
    assert body["spec"] == {"template": {"metadata": {"labels": {"job-name": "one"}}}}
    manual = {"manualSelector": True, "selector": {"matchLabels": {"a": "b"}}, "template": {}}
    assert sent("Job", "jobs", "batch", spec=manual)["spec"] == manual

    mount = {"name": "kube-api-access-x", "mountPath": "/var/run"}
    pod = {
        "nodeName": "n1",
        "volumes": [{"name": "kube-api-access-x"}, {"name": "data"}],
        "containers": [{"name": "c", "volumeMounts": [mount, {"name": "data"}]}],
    }
    assert sent("Pod", "pods", spec=pod)["spec"] == {
        "volumes": [{"name": "data"}],
        "containers": [{"name": "c", "volumeMounts": [{"name": "data"}]}],
    }
    subjects = [{"kind": "ServiceAccount", "namespace": "shop"}, {"kind": "User", "name": "u"}]
    body = sent(
        "RoleBinding",
        "rolebindings",
        "rbac.authorization.k8s.io",
        {"shop": "shop2"},
        subjects=subjects,
    )
    assert body["subjects"][0]["namespace"] == "shop2"
    token = {"annotations": {"kubernetes.io/service-account.uid": "old", "a": "b"}}
    kind = "kubernetes.io/service-account-token"
    body = sent("Secret", "secrets", metadata=token, type=kind, data={"token": "eA=="})
    assert (body["data"], body["metadata"]["annotations"]) == ({}, {"a": "b"})
    assert sent("Secret", "secrets", type="Opaque", data={"a": "eA=="})["data"] == {"a": "eA=="}


def test_status_comes_back_where_it_is_known_nowhere_else() -> None:
    value = b'{"apiVersion":"v1","kind":"K","metadata":{"name":"a"},"status":{"a":1}}'
    assert status_of(value, resource("things", group="example.com")) == {"a": 1}
    assert status_of(value, resource("things", group="example.com", status=False)) is None
    assert status_of(value, resource("services")) is None
    bare = b'{"apiVersion":"v1","kind":"K","metadata":{"name":"a"},"status":{}}'
    assert status_of(bare, resource("things", group="example.com")) is None
    assert notes_of(value, resource("services"))
    assert not notes_of(value, resource("secrets"))


def test_what_is_wanted_may_have_defaults_beside_it() -> None:
    body = sent("Thing", "things", "example.com", spec={"a": [{"b": 1}], "none": {}, "zero": 0})
    live = {**comparable(body), "spec": {"a": [{"b": 1, "c": 2}], "d": 3}, "status": {}}
    assert holds(live, comparable(body))
    assert not holds({**live, "spec": {"a": [{"b": 2}]}}, comparable(body))
    assert not holds({**live, "spec": {"a": []}}, comparable(body))
    assert not holds(None, {"a": 1})
    assert holds({}, {"a": None})


def test_a_service_account_gets_what_it_lacks() -> None:
    pulls = [{"name": "one"}, {"name": "two"}]
    wanted = {
        "kind": "ServiceAccount",
        "metadata": {"labels": {"a": "b"}},
        "imagePullSecrets": pulls,
        "secrets": [],
    }
    assert additions({"imagePullSecrets": [{"name": "two"}, {"name": "mine"}]}, wanted) == {
        "metadata": {"labels": {"a": "b"}},
        "imagePullSecrets": [{"name": "two"}, {"name": "mine"}, {"name": "one"}],
    }


def item(resource: str, name: str, namespace: str | None = "shop") -> PlanItem:
    key = f"/{resource}/{namespace}/{name}"
    return PlanItem(key=key, resource=resource, namespace=namespace, name=name, verdict="create")


def test_where_things_go() -> None:
    mapping = {"shop": "shop2"}
    assert target_of(item("secrets", "a"), mapping) == ("shop2", "a")
    assert target_of(item("secrets", "a", "other"), mapping) == ("other", "a")
    assert target_of(item("namespaces", "shop", None), mapping) == (None, "shop2")
    assert target_of(item("nodes", "shop", None), mapping) == (None, "shop")


def test_owners_go_before_what_they_own() -> None:
    items = [
        item("validatingwebhookconfigurations.admissionregistration.k8s.io", "hook", None),
        item("replicasets.apps", "web-1"),
        item("configmaps", "of-thing"),
        item("deployments.apps", "web"),
        item("things.example.com", "thing"),
        item("secrets", "s"),
        item("namespaces", "shop", None),
        item("customresourcedefinitions.apiextensions.k8s.io", "things.example.com", None),
    ]
    owners = {"web-1": "web", "of-thing": "thing"}
    metas = {
        one.key: ObjectMeta(
            uid=one.name,
            owner_references=(OwnerReference("v", "K", "n", owners[one.name]),)
            if one.name in owners
            else (),
        )
        for one in items
    }
    found = ordered(items, metas)
    assert [one.name for one in found] == [
        "things.example.com", "shop", "s", "web", "thing", "of-thing", "web-1", "hook"
    ]  # fmt: skip
    assert [one.group for one in found] == [0, 1, 2, 3, 3, 4, 5, 6]
    ring = [item("secrets", "a"), item("secrets", "b")]
    each = {"a": "b", "b": "a"}
    metas = {
        one.key: ObjectMeta(
            uid=one.name, owner_references=(OwnerReference("v", "K", "n", each[one.name]),)
        )
        for one in ring
    }
    assert len(ordered(ring, metas)) == 2


def test_discovery_is_read() -> None:
    status = {"subresource": "status"}
    kind = {"kind": "Thing"}
    one = {
        "resource": "things",
        "responseKind": kind,
        "scope": "Cluster",
        "verbs": ["get"],
        "subresources": [status],
    }
    versions = [
        {"version": "v2", "freshness": "Stale", "resources": [one]},
        {"version": "v1", "resources": [one]},
    ]
    groups = [{"metadata": {"name": "example.com"}, "versions": versions}]
    found = served({"kind": "APIGroupDiscoveryList", "items": groups})
    assert [one.api_version for one in found.versions("things.example.com")] == [
        "example.com/v2", "example.com/v1"
    ]  # fmt: skip
    assert found.stale == {"example.com/v2"}
    thing = found.find("things.example.com", "example.com/v1")
    assert thing is not None
    assert thing.path("ignored", "a/b") == "/apis/example.com/v1/things/a%2Fb"
    assert (thing.status, thing.label(None, "a")) == (True, "things.example.com a")
