"""What `kubectl apply -k` makes of deploy/ and its overlays, judged by schemas and a server."""

import json
import shutil
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from etcd_steward.handlers.elector import LEASE
from tests.support.users import Object, User
from tests.testbed import ControlPlane, TestbedError
from tests.testbed.steward import NAMESPACE, ROOT, install

LEVEL = "pod-security.kubernetes.io/enforce"
# By folder: the level that the namespace enforces, and which of the host's files the Pod reads.
KUBEADM = "/etc/kubernetes/pki/etcd"
K3S = "/var/lib/rancher/k3s/server/tls/etcd"
SHIPPED: dict[str, tuple[str, set[str]]] = {
    "deploy": ("restricted", set()),
    "deploy/overlays/external": ("restricted", set()),
    "deploy/overlays/kubeadm": (
        "privileged",
        {f"{KUBEADM}/{n}" for n in ("ca.crt", "healthcheck-client.crt", "healthcheck-client.key")},
    ),
    "deploy/overlays/k3s": (
        "privileged",
        {f"{K3S}/{n}" for n in ("server-ca.crt", "client.crt", "client.key")},
    ),
}
# As much of the Prometheus operator's CRDs as is needed for its objects to be taken and checked.
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
RULE = {
    "type": "object",
    "required": ["expr"],
    "properties": {
        "alert": {"type": "string"},
        "expr": {"type": "string"},
        "for": {"type": "string", "pattern": "^([0-9]+(ms|[smhdwy]))+$"},
        "labels": TEXTS,
        "annotations": TEXTS,
    },
}
PROMETHEUS_RULES: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "prometheusrules.monitoring.coreos.com"},
    "spec": {
        "group": "monitoring.coreos.com",
        "scope": "Namespaced",
        "names": {
            "kind": "PrometheusRule",
            "listKind": "PrometheusRuleList",
            "plural": "prometheusrules",
            "singular": "prometheusrule",
        },
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "groups": {
                                        "type": "array",
                                        "items": {
                                            "type": "object",
                                            "required": ["name"],
                                            "properties": {
                                                "name": {"type": "string"},
                                                "rules": {"type": "array", "items": RULE},
                                            },
                                        },
                                    }
                                },
                            }
                        },
                    }
                },
            }
        ],
    },
}
SERVICE_MONITORS: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "servicemonitors.monitoring.coreos.com"},
    "spec": {
        "group": "monitoring.coreos.com",
        "scope": "Namespaced",
        "names": {
            "kind": "ServiceMonitor",
            "listKind": "ServiceMonitorList",
            "plural": "servicemonitors",
            "singular": "servicemonitor",
        },
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "required": ["endpoints", "selector"],
                                "properties": {
                                    "endpoints": {
                                        "type": "array",
                                        "items": {
                                            "type": "object",
                                            "properties": {
                                                "port": {"type": "string"},
                                                "interval": {"type": "string"},
                                            },
                                        },
                                    },
                                    "selector": {
                                        "type": "object",
                                        "properties": {
                                            "matchLabels": {
                                                "type": "object",
                                                "additionalProperties": {"type": "string"},
                                            }
                                        },
                                    },
                                },
                            }
                        },
                    }
                },
            }
        ],
    },
}


async def rendered(plane: ControlPlane, folder: Path) -> list[Object]:
    return list(yaml.safe_load_all(await plane.kubectl("kustomize", folder)))


def named(objects: list[Object], kind: str) -> list[Object]:
    return [one for one in objects if one["kind"] == kind]


def pod_of(objects: list[Object]) -> dict[str, Any]:
    (deployment,) = named(objects, "Deployment")
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
async def plane(control_plane: ControlPlane) -> ControlPlane:
    """With the namespace and the CRDs there: a dry run makes nothing that the next object needs."""
    await install(control_plane)
    return control_plane


@pytest.mark.parametrize("folder", SHIPPED)
async def test_it_is_valid_and_taken(plane: ControlPlane, folder: str) -> None:
    objects = await rendered(plane, ROOT / folder)
    for one in objects:
        kubernetes_validate.validate(one, "1.35", strict=True)
    await plane.kubectl(
        "apply", "--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts",
        "-k", ROOT / folder,
    )  # fmt: skip
    kinds = {one["kind"] for one in objects}
    assert {"Lease", "Secret"}.isdisjoint(kinds), "made at run time, and by the user"
    assert {"Deployment", "PodDisruptionBudget", "CustomResourceDefinition"} <= kinds


@pytest.mark.parametrize("folder", SHIPPED)
async def test_the_namespace_demands_as_much_as_the_pod_can_keep(
    plane: ControlPlane, folder: str
) -> None:
    level, files = SHIPPED[folder]
    objects = await rendered(plane, ROOT / folder)
    (namespace,) = named(objects, "Namespace")
    assert namespace["metadata"]["labels"][LEVEL] == level
    spec = pod_of(objects)
    paths = {v["hostPath"]["path"] for v in spec["volumes"] if "hostPath" in v}
    assert paths == files
    mounts = spec["containers"][0]["volumeMounts"]
    assert {m["name"] for m in mounts} == {v["name"] for v in spec["volumes"]}
    host = {v["name"] for v in spec["volumes"] if "hostPath" in v}
    assert all(m["readOnly"] for m in mounts if m["name"] in host)
    assert spec["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    # A NetworkPolicy on the host's network would be a false promise.
    assert bool(spec.get("hostNetwork")) != bool(named(objects, "NetworkPolicy"))


@pytest.mark.parametrize("folder", SHIPPED)
async def test_pod_security_agrees(plane: ControlPlane, folder: str, namespace: str) -> None:
    level, _ = SHIPPED[folder]
    spec = pod_of(await rendered(plane, ROOT / folder)) | {"serviceAccountName": "default"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "as-deployed", "namespace": namespace},
        "spec": spec,
    }

    async def create() -> None:
        await plane.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))

    await plane.kubectl("label", "namespace", namespace, f"{LEVEL}=restricted")
    if level == "restricted":
        await create()
        return
    with pytest.raises(TestbedError, match="violates PodSecurity"):
        await create()
    await plane.kubectl("label", "--overwrite", "namespace", namespace, f"{LEVEL}={level}")
    await create()


async def test_overlays_name_their_etcd(plane: ControlPlane) -> None:
    for name in ("kubeadm", "k3s", "external"):
        objects = await rendered(plane, ROOT / "deploy" / "overlays" / name)
        (settings,) = named(objects, "ConfigMap")
        spec = pod_of(objects)
        (source,) = spec["containers"][0]["envFrom"]
        assert source["configMapRef"]["name"] == settings["metadata"]["name"]
        mounted = [m["mountPath"] for m in spec["containers"][0]["volumeMounts"]]
        for variable in ("ETCDCTL_CACERT", "ETCDCTL_CERT", "ETCDCTL_KEY"):
            path = settings["data"][variable]
            assert any(path == at or path.startswith(f"{at}/") for at in mounted)
        assert settings["data"]["ETCDCTL_ENDPOINTS"].startswith("https://")


async def test_a_user_s_own_overlay_adds_what_prometheus_needs(
    plane: ControlPlane, tmp_path: Path
) -> None:
    for name in ("crds", "deploy"):
        shutil.copytree(ROOT / name, tmp_path / name)
    own = tmp_path / "own"
    own.mkdir()
    components = ("servicemonitor", "alerts-etcd-steward", "alerts-etcd-size")
    (own / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "resources": ["../deploy"],
                "components": [f"../deploy/components/{name}" for name in components],
                "images": [{"name": "etcd-steward", "newName": "registry.example.com/es"}],
            }
        )
    )
    await User(plane).apply(SERVICE_MONITORS, PROMETHEUS_RULES)
    kinds = ("servicemonitors", "prometheusrules")
    crds = [f"crd/{kind}.monitoring.coreos.com" for kind in kinds]
    await plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", *crds)
    try:
        await plane.kubectl(
            "apply", "--server-side", "--dry-run=server", "--validate=strict",
            "--force-conflicts", "-k", own,
        )  # fmt: skip
        objects = await rendered(plane, own)
    finally:
        await plane.kubectl("delete", *crds)
    groups = [one["spec"]["groups"][0]["name"] for one in named(objects, "PrometheusRule")]
    assert sorted(groups) == ["etcd-size", "etcd-steward"]
    (monitor,), (service,) = named(objects, "ServiceMonitor"), named(objects, "Service")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    assert wanted <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    assert pod_of(objects)["containers"][0]["image"] == "registry.example.com/es:0.1.0"


@pytest.mark.parametrize("folder", SHIPPED)
async def test_the_role_is_for_the_lease_whatever_else_has_its_name(
    plane: ControlPlane, folder: str
) -> None:
    """Kustomize takes any name in a Role for a reference to what it has given a suffix."""
    (role,) = named(await rendered(plane, ROOT / folder), "Role")
    assert [rule.get("resourceNames") for rule in role["rules"]] == [None, [LEASE]]


async def test_the_rights_are_those_and_no_more(plane: ControlPlane) -> None:
    user = f"system:serviceaccount:{NAMESPACE}:etcd-steward"

    async def can(*words: str) -> bool:
        try:
            said = await plane.kubectl("auth", "can-i", *words, f"--as={user}")
        except TestbedError:  # kubectl's way to say no
            return False
        return said.strip() == "yes"

    here = f"--namespace={NAMESPACE}"
    for verb in ("get", "update", "patch"):
        assert await can(verb, "leases/etcd-steward", here)
    assert await can("create", "leases", here)
    assert await can("get", "namespaces/kube-system")
    assert await can("get", "customresourcedefinitions/etcdbackups.etcdsteward.io")
    assert await can("delete", "etcdsnapshots", "--all-namespaces")
    assert not await can("get", "leases/another", here)
    assert not await can("get", "leases/etcd-steward", "--namespace=kube-system")
    assert not await can("delete", "etcdbackups", "--all-namespaces")
    assert not await can("get", "customresourcedefinitions/another.example.com")
    assert not await can("list", "secrets", here)
    assert not await can("get", "secrets", "--namespace=kube-system")
