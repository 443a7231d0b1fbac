"""Objects of any kind through a real API server."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from etcd_steward import kube_objects
from etcd_steward.errors import AlreadyExists, NotFound, Throttled, Unavailable
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.kube_client import Client, Conflict
from etcd_steward.kube_discovery import ApiResource, Served
from etcd_steward.kube_objects import ApiServer
from tests.support.runs import connection
from tests.testbed import ControlPlane, wait_until


@pytest.fixture
async def api(control_plane: ControlPlane) -> AsyncIterator[ApiServer]:
    async with connected(control_plane.kubeconfig) as api:
        yield api


@asynccontextmanager
async def connected(kubeconfig: Path) -> AsyncIterator[ApiServer]:
    client = await Client.connect(kubeconfig)
    try:
        yield ApiServer(client)
    finally:
        await client.aclose()


@pytest.fixture
async def client(control_plane: ControlPlane) -> AsyncIterator[EtcdClient]:
    async with EtcdClient.connect(connection(control_plane.etcd)) as client:
        yield client


def core(served: Served, name: str) -> ApiResource:
    found = served.find(name)
    assert found is not None
    return found


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


async def test_what_is_served(api: ApiServer) -> None:
    assert await api.trouble() is None
    assert (await api.version()).startswith("v1.")
    served = await api.served()
    deployments = served.of_kind("apps/v1", "Deployment")
    assert deployments is not None
    assert (
        deployments == served.find("deployments.apps") == served.find("deployments.apps", "apps/v1")
    )
    assert (deployments.name, deployments.namespaced, deployments.status) == (
        "deployments.apps", True, True
    )  # fmt: skip
    assert {"create", "list", "delete"} <= deployments.verbs
    assert deployments.path("shop", "web", "status") == (
        "/apis/apps/v1/namespaces/shop/deployments/web/status"
    )
    assert core(served, "secrets").path(None) == "/api/v1/secrets"
    assert not core(served, "secrets").status
    assert not core(served, "namespaces").namespaced
    scalers = [one.version for one in served.versions("horizontalpodautoscalers.autoscaling")]
    assert scalers == ["v2", "v1"]
    assert served.find("deployments.apps", "apps/v1beta1") is None
    assert served.of_kind("v1", "Nothing") is None
    assert not served.stale


async def test_objects_are_made_read_changed_and_deleted(
    api: ApiServer, client: EtcdClient, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = core(await api.served(), "configmaps")
    made = await api.create(maps, namespace, config_map("a", x="1"), what="a", manager="me")
    with pytest.raises(AlreadyExists):
        await api.create(maps, namespace, config_map("a"), what="a")
    found = await api.get(maps, namespace, "a", managed_fields=True)
    assert [one["manager"] for one in found["metadata"].pop("managedFields")] == ["me"]
    assert found == await api.get(maps, namespace, "a") == made
    assert "data" not in await api.get(maps, namespace, "a", metadata_only=True)

    # The bytes that etcd has are a body as they are; its uid and times are made anew.
    stored = await client.get(f"/registry/configmaps/{namespace}/a".encode())
    assert stored is not None
    assert stored.value.startswith(b"k8s\0")
    await api.delete(maps, namespace, "a", uid=made["metadata"]["uid"])
    again = await api.create(maps, namespace, stored.value, what="a")
    assert again["data"] == {"x": "1"}
    assert again["metadata"]["uid"] != made["metadata"]["uid"]

    # Changes are pinned to a version, deletions to a uid.
    version = again["metadata"]["resourceVersion"]
    again["data"]["x"] = "2"
    await api.replace(maps, namespace, "a", again)
    with pytest.raises(Conflict):
        await api.replace(maps, namespace, "a", again)
    with pytest.raises(Conflict):
        await api.patch(maps, namespace, "a", {"metadata": {"resourceVersion": version}})
    patched = await api.patch(maps, namespace, "a", {"data": {"x": "3"}})
    assert patched["data"] == {"x": "3"}
    with pytest.raises(NotFound, match="another one"):
        await api.delete(maps, namespace, "a", uid=made["metadata"]["uid"])
    uid = again["metadata"]["uid"]
    with pytest.raises(Conflict):
        await api.delete(maps, namespace, "a", uid=uid, resource_version=version)

    # Lists are paged.
    for number in range(4):
        await api.create(maps, namespace, config_map(f"b{number}"), what="b")
    monkeypatch.setattr(kube_objects, "PAGE", 2)
    monkeypatch.setattr(kube_objects, "METADATA_PAGE", 2)
    wanted = {"a", "b0", "b1", "b2", "b3"}
    for only in (False, True):
        found_all = api.objects(maps, namespace, metadata_only=only)
        names = [one["metadata"]["name"] async for one in found_all]
        assert wanted <= set(names) <= wanted | {"kube-root-ca.crt"}
    everywhere = [one async for one in api.objects(maps, metadata_only=True)]
    assert len(everywhere) > len(wanted)
    await api.delete(maps, namespace, "a", uid=uid)
    with pytest.raises(NotFound):
        await api.get(maps, namespace, "a")
    with pytest.raises(NotFound):
        await api.delete(maps, namespace, "a", uid=uid)


async def test_a_no_op_update_writes_an_old_encoding_anew(
    api: ApiServer, client: EtcdClient, namespace: str
) -> None:
    maps = core(await api.served(), "configmaps")
    made = await api.create(maps, namespace, config_map("old", x="1"), what="old")
    key = f"/registry/configmaps/{namespace}/old".encode()
    plain = {**made, "metadata": {**made["metadata"]}}
    del plain["metadata"]["resourceVersion"]
    await client.put(key, json.dumps(plain).encode())
    uid = made["metadata"]["uid"]
    await api.touch(maps, namespace, "old", uid)
    stored = await client.get(key)
    assert stored is not None
    assert stored.value.startswith(b"k8s\0")
    assert (await api.get(maps, namespace, "old"))["data"] == {"x": "1"}
    await api.touch(maps, namespace, "old", uid)
    untouched = await client.get(key)
    assert untouched is not None
    assert untouched.mod_revision == stored.mod_revision
    with pytest.raises(NotFound, match="another one"):
        await api.touch(maps, namespace, "old", "1f0c9a3e-0000-0000-0000-000000000000")


def webhook(name: str, namespace: str, resource: str) -> dict[str, Any]:
    """A webhook for one type in one namespace, behind which nobody answers."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": "check.example.com",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
                "timeoutSeconds": 1,
                "clientConfig": {"url": "https://127.0.0.1:1/"},
                "namespaceSelector": {
                    "matchLabels": {"kubernetes.io/metadata.name": namespace},
                },
                "rules": [
                    {
                        "apiGroups": ["*"],
                        "apiVersions": ["*"],
                        "operations": ["CREATE"],
                        "resources": [resource],
                    }
                ],
            }
        ],
    }


async def test_admission_is_asked_by_a_dry_run(
    api: ApiServer, client: EtcdClient, namespace: str
) -> None:
    served = await api.served()
    maps, quotas = core(served, "configmaps"), core(served, "resourcequotas")
    hooks = core(served, "validatingwebhookconfigurations.admissionregistration.k8s.io")
    said = await api.admits(maps, namespace, config_map("new"), what="new")
    assert said.verdict == "yes"
    with pytest.raises(NotFound):
        await api.get(maps, namespace, "new")
    await api.create(maps, namespace, config_map("there"), what="there")
    assert (await api.admits(maps, namespace, config_map("there"), what="x")).verdict == "yes"
    said = await api.admits(maps, f"{namespace}-none", config_map("new"), what="new")
    assert said.verdict == "unknown"
    said = await api.admits(maps, namespace, config_map("No_Name"), what="new")
    assert said.verdict == "no"
    assert "RFC 1123" in said.message

    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none"},
        "spec": {"hard": {"count/secrets": "0"}},
    }
    await api.create(quotas, namespace, quota, what="quota")
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}

    async def refused() -> bool:  # once the quota is counted
        said = await api.admits(core(served, "secrets"), namespace, secret, what="secret")
        return said.verdict == "no" and "exceeded quota" in said.message

    await wait_until(refused, "the quota is counted")

    # A webhook that does not answer, and one that must not be asked for nothing.
    hook = await api.create(hooks, None, webhook(namespace, namespace, "configmaps"), what="hook")
    try:
        assert "failed calling webhook" in await _until_unknown(api, maps, namespace)
        key = f"/registry/validatingwebhookconfigurations/{namespace}".encode()
        del hook["metadata"]["resourceVersion"]
        hook["webhooks"][0]["sideEffects"] = "Unknown"  # as admissionregistration/v1beta1 had it
        await client.put(key, json.dumps(hook).encode())

        async def no_dry_run() -> bool:
            return "does not support dry run" in await _until_unknown(api, maps, namespace)

        await wait_until(no_dry_run, "the webhook has side effects")
    finally:
        await api.delete(hooks, None, namespace, uid=hook["metadata"]["uid"])


async def _until_unknown(api: ApiServer, maps: ApiResource, namespace: str) -> str:
    async def unknown() -> bool:
        said = await api.admits(maps, namespace, config_map("new"), what="new")
        messages.append(said.message)
        return said.verdict == "unknown"

    messages: list[str] = []
    await wait_until(unknown, "the webhook is asked")
    return messages[-1]


async def test_each_api_server_is_asked_directly(
    api: ApiServer, control_plane: ControlPlane, client: EtcdClient
) -> None:
    async with api.each() as servers:
        assert servers == (api,)
    port = int(control_plane.url.rpartition(":")[2])
    announced = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "uid": "5d8c2f6e-1c5f-4d1b-9a37-0b8a4f0f6a11",
            "creationTimestamp": "2026-11-22T02:17:00Z",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["127.0.0.1", "127.0.0.2"], "conditions": {"ready": True}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    }
    key = b"/registry/endpointslices/default/kubernetes"
    await client.put(key, json.dumps(announced).encode())
    try:
        async with api.each() as servers:
            here, nowhere = servers
            assert here.address == control_plane.url
            assert await here.trouble() is None
            assert isinstance(await nowhere.trouble(), Unavailable)
            assert await here.kube_system_uid() == await api.kube_system_uid()
    finally:
        await client.delete(key)


async def test_who_is_asked_to_wait_waits(
    api: ApiServer, control_plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = await api.served()
    levels = core(served, "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io")
    schemas = core(served, "flowschemas.flowcontrol.apiserver.k8s.io")
    maps = core(served, "configmaps")
    await control_plane.kubectl("create", "serviceaccount", "slow", f"--namespace={namespace}")
    await control_plane.kubectl(
        "create", "rolebinding", "slow", "--clusterrole=view",
        f"--serviceaccount={namespace}:slow", f"--namespace={namespace}",
    )  # fmt: skip
    kubeconfig = await control_plane.service_account_kubeconfig(namespace, "slow")
    level = {
        "apiVersion": levels.api_version,
        "kind": levels.kind,
        "metadata": {"name": namespace},
        "spec": {
            "type": "Limited",
            "limited": {
                "nominalConcurrencyShares": 0,  # one request at a time is let through
                "lendablePercent": 0,
                "borrowingLimitPercent": 0,
                "limitResponse": {"type": "Reject"},
            },
        },
    }
    subject = {"kind": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": "slow"}}
    rule = {
        "apiGroups": ["*"],
        "resources": ["*"],
        "namespaces": ["*"],
        "clusterScope": True,
        "verbs": ["*"],
    }
    schema = {
        "apiVersion": schemas.api_version,
        "kind": schemas.kind,
        "metadata": {"name": namespace},
        "spec": {
            "priorityLevelConfiguration": {"name": namespace},
            "matchingPrecedence": 2,
            "rules": [{"subjects": [subject], "resourceRules": [rule]}],
        },
    }
    async with connected(kubeconfig) as slow:

        async def listed() -> int:
            return len([one async for one in slow.objects(maps, namespace)])

        async def throttled() -> list[Throttled]:
            answers = await asyncio.gather(*(listed() for _ in range(8)), return_exceptions=True)
            return [one for one in answers if isinstance(one, Throttled)]

        there = await listed()
        made = [
            (levels, await api.create(levels, None, level, what="level")),
            (schemas, await api.create(schemas, None, schema, what="schema")),
        ]
        try:
            with monkeypatch.context() as impatient:
                impatient.setattr(kube_objects, "PATIENCE", 0.0)

                async def seen() -> bool:
                    return any(one.after >= 1 for one in await throttled())

                await wait_until(seen, "of many requests at once, some are refused")
            answers = await asyncio.gather(*(listed() for _ in range(8)))
            assert answers == [there] * 8
        finally:
            for resource, one in reversed(made):
                await api.delete(resource, None, namespace, uid=one["metadata"]["uid"])
