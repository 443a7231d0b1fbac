"""What a plan makes of single values and of their order."""

import json
from dataclasses import replace
from typing import Any

import pytest

from etcd_steward.engine.restore import order, rewriting
from etcd_steward.engine.restore.drafts import Draft
from etcd_steward.engine.restore.facts import ClaimFacts
from etcd_steward.errors import Undecodable
from etcd_steward.models.registry import KeyPath
from etcd_steward.registry import builtin, objectmeta, paths
from etcd_steward.registry.decode import decode
from etcd_steward.registry.objectmeta import ObjectMeta, OwnerReference
from tests.support.values import field, protobuf

UNKNOWN = field(4000, b"from a newer Kubernetes")


def workload(api_version: str, kind: str, **spec: object) -> bytes:
    """A stored workload whose spec and end hold fields that nobody here knows."""
    message: Any = builtin.type_of(api_version, kind)
    assert message is not None
    made = message()
    for name, value in spec.items():
        setattr(made.spec, name, value)
    made.spec.SetInParent()
    body = field(2, made.spec.SerializeToString() + UNKNOWN) + UNKNOWN
    return protobuf(api_version, kind, body, uid="u", generation=3)


@pytest.mark.parametrize(
    ("api_version", "kind", "resource", "member", "before", "after"),
    [
        ("apps/v1", "Deployment", "deployments", "replicas", 5, 0),
        ("apps/v1", "ReplicaSet", "replicasets", "replicas", 5, 0),
        ("apps/v1", "StatefulSet", "statefulsets", "replicas", 5, 0),
        ("v1", "ReplicationController", "replicationcontrollers", "replicas", 5, 0),
        ("batch/v1", "CronJob", "cronjobs", "suspend", False, True),
        ("batch/v1", "Job", "jobs", "suspend", False, True),
    ],
)
def test_a_workload_at_rest_differs_in_that_alone(
    api_version: str, kind: str, resource: str, member: str, before: object, after: object
) -> None:
    path = KeyPath(resource, api_version.rpartition("/")[0], "shop", "x")
    value = workload(api_version, kind, **{member: before})
    found = rewriting.at_rest(path, value)
    assert found.note == f"at rest: {member} {before} becomes {after}".replace(
        "False", "false"
    ).replace("True", "true")
    expected = workload(api_version, kind, **{member: after})
    expected = objectmeta.rewrite(expected, lambda meta: replace(meta, generation=4))
    assert decode(found.value).object == decode(expected).object
    assert found.value.count(UNKNOWN) == 2
    assert rewriting.at_rest(path, found.value).value == found.value
    document = json.dumps(decode(value).object).encode()
    assert decode(rewriting.at_rest(path, document).value).object == decode(expected).object


def test_what_has_no_replicas_yet_gets_them() -> None:
    path = KeyPath("deployments", "apps", "shop", "x")
    found = rewriting.at_rest(path, workload("apps/v1", "Deployment"))
    assert decode(found.value).object["spec"]["replicas"] == 0
    assert found.note == "at rest: replicas 1 becomes 0"


def test_other_values_stay_as_they_are() -> None:
    value = workload("apps/v1", "DaemonSet")
    found = rewriting.at_rest(KeyPath("daemonsets", "apps", "shop", "x"), value)
    assert found.value is value
    assert "can't be suspended" in found.note
    secret = b"anything"
    assert rewriting.at_rest(KeyPath("secrets", "", "shop", "x"), secret).value is secret


@pytest.mark.parametrize(
    "value", [protobuf("apps/v9", "Deployment"), b'{"apiVersion":"apps/v1","kind":"Deployment"}']
)
def test_a_workload_that_cannot_be_put_to_rest_is_told(value: bytes) -> None:
    with pytest.raises(Undecodable):
        rewriting.at_rest(KeyPath("deployments", "apps", "shop", "x"), value)


def draft(place: str, uid: str = "", *owners: str, **more: Any) -> Draft:  # noqa: ANN401
    """A write, by its key below the prefix."""
    key = f"/registry/{place}".encode()
    references = tuple(OwnerReference("x/v1", "X", uid, uid) for uid in owners)
    return Draft(
        key,
        paths.parse(key),
        ("json", "v1", "X", uid or None),
        meta=ObjectMeta(owner_references=references),
        write=True,
        **more,
    )


def test_groups_are_written_owners_first() -> None:
    drafts = [
        draft("replicasets/a/web-1", "rs", "deploy"),
        draft("configmaps/a/of-rs", "cm", "rs"),
        draft("secrets/a/of-cr", "secret", "cr"),
        draft("deployments/a/web", "deploy", "cr"),
        draft("example.com/apps/a/one", "cr"),
        draft("namespaces/a", "ns"),
        draft("configmaps/a/kube-root-ca.crt", "root"),
        draft("serviceaccounts/a/default", "sa"),
        draft("serviceaccounts/b/default", "other"),
        draft("persistentvolumes/pv", "pv"),
        draft("persistentvolumeclaims/a/c", "claim", facts=ClaimFacts("pv")),
        draft("validatingwebhookconfigurations/w", "hook"),
        draft("apiextensions.k8s.io/customresourcedefinitions/apps.example.com", "crd"),
    ]
    left = draft("pods/a/p")
    left.write = False
    found = order.ordered([left, *drafts])
    groups: dict[int, list[str]] = {}
    for one in found:
        groups.setdefault(one.group, []).append(one.key.decode().removeprefix("/registry/"))
    assert groups == {
        1: ["apiextensions.k8s.io/customresourcedefinitions/apps.example.com"],
        2: ["configmaps/a/kube-root-ca.crt", "serviceaccounts/a/default", "namespaces/a"],
        3: ["serviceaccounts/b/default"],
        4: ["persistentvolumeclaims/a/c", "persistentvolumes/pv"],
        5: [
            "example.com/apps/a/one", "deployments/a/web", "secrets/a/of-cr",
            "replicasets/a/web-1", "configmaps/a/of-rs",
        ],
        6: ["validatingwebhookconfigurations/w"],
        0: ["pods/a/p"],
    }  # fmt: skip


def test_owners_in_a_circle_end() -> None:
    found = order.ordered([draft("secrets/a/x", "x", "y"), draft("secrets/a/y", "y", "x")])
    assert len(found) == 2
    assert all(one.group for one in found)
