"""Keys of the registry, after the paths in Kubernetes' test/integration/etcd/data.go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcd_steward.models.registry import KeyPath
from etcd_steward.registry import paths

OBJECTS = {
    "/registry/configmaps/shop/cm1": KeyPath("configmaps", "", "shop", "cm1"),
    "/registry/services/specs/shop/s": KeyPath("services", "", "shop", "s"),
    "/registry/services/endpoints/shop/s": KeyPath("endpoints", "", "shop", "s"),
    "/registry/controllers/shop/rc": KeyPath("replicationcontrollers", "", "shop", "rc"),
    "/registry/minions/node1": KeyPath("nodes", "", None, "node1"),
    "/registry/namespaces/shop": KeyPath("namespaces", "", None, "shop"),
    "/registry/ingress/shop/web": KeyPath("ingresses", "networking.k8s.io", "shop", "web"),
    "/registry/events/shop/e.17": KeyPath("events", "", "shop", "e.17"),
    "/registry/deployments/shop/d": KeyPath("deployments", "apps", "shop", "d"),
    "/registry/podsecuritypolicy/p": KeyPath("podsecuritypolicies", "policy", None, "p"),
    "/registry/clusterroles/system:node": KeyPath(
        "clusterroles", "rbac.authorization.k8s.io", None, "system:node"
    ),
    "/registry/ipaddresses/10.96.0.1": KeyPath(
        "ipaddresses", "networking.k8s.io", None, "10.96.0.1"
    ),
    "/registry/apiregistration.k8s.io/apiservices/v1.apps": KeyPath(
        "apiservices", "apiregistration.k8s.io", None, "v1.apps"
    ),
    "/registry/apiextensions.k8s.io/customresourcedefinitions/foos.bar.com": KeyPath(
        "customresourcedefinitions", "apiextensions.k8s.io", None, "foos.bar.com"
    ),
    "/registry/cr.bar.com/foos/shop/one": KeyPath("foos", "cr.bar.com", "shop", "one"),
    "/registry/cr.bar.com/foos/one": KeyPath("foos", "cr.bar.com", None, "one"),
    "/registry/cr.bar.com/pods/shop/one": KeyPath("pods", "cr.bar.com", "shop", "one"),
    "/registry/newthings/shop/one": KeyPath("newthings", "", "shop", "one"),
    "/registry/newthings/one": KeyPath("newthings", "", None, "one"),
}


@pytest.mark.parametrize("key", OBJECTS)
def test_keys_of_objects(key: str) -> None:
    assert paths.parse(key.encode()) == OBJECTS[key]


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (b"/registry/health", "health check of an API server"),
        (b"/registry/ranges/serviceips", "service IP ranges"),
        (b"/registry/ranges/servicenodeports", "service node ports"),
        (b"/registry/ranges/new", "allocations of service IPs and node ports"),
        (b"/registry/masterleases/10.0.0.1", "lease of an API server"),
        (b"/registry/peerserverleases/a1", "lease of an API server"),
        (b"compact_rev_key", "compaction mark of an API server"),
        (b"/etcdsteward.io/lock/a", "etcd-steward's own"),
        (b"/calico/ipam/v2/x", "Calico's own"),
        (b"/other/pods/a/b", "outside of /registry/"),
        (b"/registry2/pods/a/b", "outside of /registry/"),
        (b"/registry", "outside of /registry/"),
        (b"/registry/pods/a/\xff", "not UTF-8"),
        (b"/registry/pods/a", "no known layout"),
        (b"/registry/pods/a/b/c", "no known layout"),
        (b"/registry/minions/a/b", "no known layout"),
        (b"/registry/services/other/a", "no known layout"),
        (b"/registry/services/specs", "no known layout"),
        (b"/registry/cr.bar.com/foos", "no known layout"),
        (b"/registry/cr.bar.com/foos/a/b/c", "no known layout"),
        (b"/registry/core/configmaps/root:org/shop/cm", "no known layout"),
        (b"/registry/pods//b", "no known layout"),
        (b"/registry/pods/a/", "no known layout"),
        (b"/registry/pods/../b", "no known layout"),
        (b"/registry/pods/a/b%2F", "no known layout"),
        (b"", "outside of /registry/"),
    ],
)
def test_keys_that_are_no_objects_are_named(key: bytes, name: str) -> None:
    assert paths.parse(key) is None
    assert paths.other(key) == name


@pytest.mark.parametrize(
    ("prefix", "key"),
    [
        ("/registry", b"/registry/pods/a/b"),
        ("registry/", b"/registry/pods/a/b"),
        ("/kubernetes.io", b"/kubernetes.io/pods/a/b"),
        ("/one/two", b"/one/two/pods/a/b"),
        ("/", b"/pods/a/b"),
        ("", b"/pods/a/b"),
    ],
)
def test_other_prefixes(prefix: str, key: bytes) -> None:
    assert paths.parse(key, prefix) == KeyPath("pods", "", "a", "b")


@pytest.mark.parametrize(
    ("path", "api_version", "kind", "resource", "group"),
    [
        # Newer than our table, or of an aggregated API server: the value has the group.
        (
            KeyPath("newthings", "", "a", "b"),
            "new.k8s.io/v1",
            "NewThing",
            "newthings",
            "new.k8s.io",
        ),
        (
            KeyPath("jobs", "batch", "a", "b"),
            "jobs.example.com/v1",
            "Job",
            "jobs",
            "jobs.example.com",
        ),
        # Of another API server, whose prefix is ours and a domain.
        (KeyPath("pods", "one.shard", "a", "b"), "v1", "Pod", "pods", ""),
        (KeyPath("minions", "one.shard", None, "b"), "v1", "Node", "nodes", ""),
        (
            KeyPath("ingress", "one.shard", "a", "b"),
            "networking.k8s.io/v1",
            "Ingress",
            "ingresses",
            "networking.k8s.io",
        ),
        # A custom resource with a built-in's plural; built-in ones in groups they have left.
        (KeyPath("pods", "cr.bar.com", "a", "b"), "cr.bar.com/v1", "Pod", "pods", "cr.bar.com"),
        (
            KeyPath("deployments", "apps", "a", "b"),
            "extensions/v1beta1",
            "Deployment",
            "deployments",
            "apps",
        ),
        (KeyPath("events", "", "a", "b"), "events.k8s.io/v1", "Event", "events", ""),
        # Encrypted, no object, or nonsense: the key alone.
        (KeyPath("pods", "", "a", "b"), None, None, "pods", ""),
        (KeyPath("pods", "", "a", "b"), "a/b/c", "Pod", "pods", ""),
    ],
)
def test_the_value_decides_where_the_key_can_not(
    path: KeyPath, api_version: str | None, kind: str | None, resource: str, group: str
) -> None:
    settled = paths.settle(path, api_version, kind)
    assert settled == path._replace(resource=resource, api_group=group)


NAMES = st.text(min_size=1, max_size=9).filter(
    lambda name: "/" not in name and "%" not in name and name not in {".", ".."}
)


@given(builtin=st.sampled_from(sorted(paths.BUILTINS.values())), namespace=NAMES, name=NAMES)
def test_every_builtin_resource_and_any_name(
    builtin: paths.Builtin, namespace: str, name: str
) -> None:
    space = [namespace] if builtin.namespaced else []
    key = "/".join(["", "registry", builtin.path, *space, name]).encode()
    found = KeyPath(
        builtin.resource, builtin.api_group, namespace if builtin.namespaced else None, name
    )
    assert paths.parse(key) == found


@given(tail=st.binary(max_size=40), prefix=st.sampled_from(["/registry", "/", "/kubernetes.io"]))
def test_any_bytes_are_an_object_or_named(tail: bytes, prefix: str) -> None:
    for key in (tail, paths.root_of(prefix) + tail):
        path = paths.parse(key, prefix)
        assert path is None or all(part != "" for part in path if part is not path.api_group)
        assert paths.other(key, prefix)
