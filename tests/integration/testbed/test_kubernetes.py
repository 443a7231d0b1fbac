"""The test bed's control plane over an etcd with mutual TLS, and the registry seeded through it."""

import json

import pytest

from tests.testbed import ControlPlane, TestbedError
from tests.testbed.seed import NAMESPACES, REGIONS, seed


async def test_objects_land_in_the_etcd_behind(control_plane: ControlPlane, namespace: str) -> None:
    await control_plane.kubectl("create", "configmap", "hello", f"--namespace={namespace}")
    key = f"/registry/configmaps/{namespace}/hello"
    assert await control_plane.etcd.etcdctl("get", key, "--keys-only") == f"{key}\n\n"
    version = json.loads(await control_plane.kubectl("version", "-o", "json"))
    assert version["serverVersion"]["gitVersion"] == "v1.35.4"


async def test_a_service_account_has_only_its_own_rights(
    control_plane: ControlPlane, namespace: str
) -> None:
    inside = f"--namespace={namespace}"
    await control_plane.kubectl("create", "serviceaccount", "robot", inside)
    await control_plane.kubectl(
        "create", "role", "robot", "--verb=get,list", "--resource=configmaps", inside
    )
    await control_plane.kubectl(
        "create",
        "rolebinding",
        "robot",
        "--role=robot",
        f"--serviceaccount={namespace}:robot",
        inside,
    )
    kubeconfig = await control_plane.service_account_kubeconfig(namespace, "robot")
    await control_plane.kubectl("get", "configmaps", kubeconfig=kubeconfig)  # its own namespace
    with pytest.raises(TestbedError, match="secrets is forbidden"):
        await control_plane.kubectl("get", "secrets", kubeconfig=kubeconfig)


async def test_the_api_server_comes_back_after_a_kill(
    control_plane: ControlPlane, namespace: str
) -> None:
    await control_plane.api_server.kill()
    with pytest.raises(TestbedError, match="refused"):
        await control_plane.kubectl("get", "namespaces")
    await control_plane.api_server.start()
    assert namespace in await control_plane.kubectl("get", "namespaces")


async def test_seeding_creates_many_kinds_and_is_repeatable(control_plane: ControlPlane) -> None:
    seeded = await seed(control_plane)
    assert seeded.objects > 300
    assert len(seeded.kinds) > 25
    revision = await control_plane.kubectl(
        "get", "widget/widget-0", f"-n={NAMESPACES[0]}", "-oyaml"
    )
    assert await seed(control_plane) == seeded
    again = await control_plane.kubectl("get", "widget/widget-0", f"-n={NAMESPACES[0]}", "-oyaml")
    assert revision == again

    widgets = await control_plane.kubectl("get", "widgets", "--all-namespaces", "-o", "name")
    assert len(widgets.split()) == 5 * len(NAMESPACES)
    prefix = "/registry/testbed.etcdsteward.io/regions/"
    keys = await control_plane.etcd.etcdctl("get", prefix, "--prefix", "--keys-only")
    assert keys.split() == [prefix + region for region in REGIONS]
