"""Applying under a live API server: canaries, no-op updates, the throttle that is the default."""

import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from etcd_steward.engine.report import Tracker
from etcd_steward.engine.restore.apply import apply
from etcd_steward.engine.restore.session import opened
from etcd_steward.engine.restore.throttle import PROBE
from etcd_steward.engine.restore.undo import UndoSettings, undo
from etcd_steward.errors import Refused
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.keys import KeyRange
from etcd_steward.kube_client import Client
from etcd_steward.kube_objects import ApiServer
from etcd_steward.models.connection import LocalSettings
from etcd_steward.models.registry import Filter
from etcd_steward.models.restore import RestoreOptions
from etcd_steward.models.restore_run import FromHistory, RestoreRequest
from etcd_steward.models.run import SpoolSettings
from tests.support.applying import a_place, config_map, made, settings
from tests.support.runs import Heard, connection
from tests.testbed import ControlPlane, wait_until


@pytest.fixture
async def client(control_plane: ControlPlane) -> AsyncIterator[EtcdClient]:
    async with EtcdClient.connect(connection(control_plane.etcd)) as client:
        yield client


@pytest.fixture
async def api(control_plane: ControlPlane) -> AsyncIterator[ApiServer]:
    connected = await Client.connect(control_plane.kubeconfig)
    try:
        yield ApiServer(connected)
    finally:
        await connected.aclose()


def wanted(namespace: str) -> dict[str, bytes]:
    """ConfigMaps as JSON, which no API server of today would write."""
    return {
        f"/registry/configmaps/{namespace}/c{number}": config_map(
            f"c{number}", namespace, "new", uid=str(uuid.uuid4())
        )
        for number in range(8)
    }


async def test_objects_are_shown_written_anew_and_read_back(
    client: EtcdClient, api: ApiServer, namespace: str, tmp_path: Path
) -> None:
    values = wanted(namespace)
    planned = await made(client, values)
    throttled = settings("/registry", unthrottled=False)
    async with a_place(tmp_path) as place:
        report = await apply(planned, client, api, place, Tracker(Heard()), throttled)
        assert report.counts == {"written": 8}
        assert (report.read_back, report.warnings) == (8, ())
        for item in planned.items:
            kv = await client.get(item.key.encode())
            assert kv is not None
            assert kv.value.startswith(b"k8s\0")  # as the API server writes it
            assert kv.version == 2
            assert item.uid is not None
            assert item.uid.encode() in kv.value
        probes = KeyRange.prefix(PROBE.encode())
        assert (await client.range(probes.start, probes.end, count_only=True)).count == 0

        # Undone, but for what another one has taken the name of.
        keys = [item.key.encode() for item in planned.items]
        await client.put(keys[0], config_map("c0", namespace, "other", uid=str(uuid.uuid4())))
        back = UndoSettings(restore="team.undo", uid="undo", volumes=None)
        undone = await undo(client, api, place, Tracker(Heard()), back)
        assert undone.counts == {"gone": 1, "deleted": 7}
        left = [key for key in keys if await client.get(key) is not None]
        assert left == keys[:1]


async def test_what_was_overwritten_goes_back_though_controllers_write_its_status(
    client: EtcdClient, control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    here = f"--namespace={namespace}"
    for name in ("web", "api"):
        await control_plane.kubectl("create", "deployment", name, "--image=one", here)
    await control_plane.kubectl("create", "configmap", "c", "--from-literal=a=one", here)
    before = await control_plane.etcd.revision()
    for name in ("web", "api"):
        await control_plane.kubectl("set", "image", f"deployment/{name}", "*=two", here)
    patch = json.dumps({"data": {"a": "two"}})
    await control_plane.kubectl("patch", "configmap", "c", f"--patch={patch}", here)
    request = RestoreRequest(
        name="team.shop",
        uid=f"u{namespace}",
        etcd=connection(control_plane.etcd),
        source=FromHistory(revision=before),
        store=LocalSettings(path=tmp_path / "restores"),
        kubeconfig=control_plane.kubeconfig,
        spool=SpoolSettings(directory=tmp_path / "spool"),
        options=RestoreOptions(
            include=Filter(namespaces=(namespace,), resources=("deployments.apps", "configmaps")),
            existing_objects="Overwrite",
        ),
        apply=True,
        unthrottled=True,
        second_look=None,
    )
    async with opened(request, client, Heard()) as session:
        report = await session.apply(await session.plan())
        assert report.counts == {"written": 3}
        assert (report.read_back, report.warnings) == (3, ())
        assert await _said(control_plane, namespace) == {"web": "one", "api": "one", "c": "one"}

        async def followed() -> bool:
            told = await control_plane.kubectl("get", "deployment", "web", here, "-ojson")
            found = json.loads(told)
            return bool(found["status"]["observedGeneration"] == found["metadata"]["generation"])

        await wait_until(followed, "the Deployment's controller has seen it")
        await control_plane.kubectl("scale", "deployment", "api", "--replicas=3", here)
        back = UndoSettings(restore="team.undo", uid=f"v{namespace}")
        undone = await undo(client, session.api, session.place, session.tracker, back)
        assert undone.counts == {"put-back": 2, "changed-since": 1}
        (changed,) = [one for one in undone.undone if one.outcome == "changed-since"]
        assert changed.key.endswith("/api")
        assert changed.message == "it has changed: spec.replicas"
    assert await _said(control_plane, namespace) == {"web": "two", "api": "one", "c": "two"}


async def _said(plane: ControlPlane, namespace: str) -> dict[str, str]:
    """The image or the data of each object."""
    told = await plane.kubectl("get", "deploy,cm", f"--namespace={namespace}", "-ojson")
    return {
        one["metadata"]["name"]: one["data"]["a"]
        if one["kind"] == "ConfigMap"
        else one["spec"]["template"]["spec"]["containers"][0]["image"]
        for one in json.loads(told)["items"]
        if one["metadata"]["name"] != "kube-root-ca.crt"
    }


async def test_what_the_api_server_cannot_read_is_taken_back_before_more_is_written(
    client: EtcdClient, api: ApiServer, namespace: str, control_plane: ControlPlane, tmp_path: Path
) -> None:
    values = wanted(namespace)
    there, *_ = values
    await client.put(there.encode(), values[there])
    # Encrypted with a key that is gone: nobody but the API server can tell.
    values = dict.fromkeys(values, b"k8s:enc:aescbc:v1:lost:" + bytes(range(48)))
    planned = await made(client, values)
    items = [
        item.model_copy(
            update={"resource": "configmaps", "namespace": namespace, "name": item.key[-2:]}
        )
        for item in planned.items
    ]
    planned = planned.with_plan(items=tuple(items))
    async with a_place(tmp_path) as place:
        with pytest.raises(Refused, match=r"can't read configmaps c0 .* taken back"):
            await apply(planned, client, api, place, Tracker(Heard()), settings("/registry"))
        assert await place.noted() == {}
    told = await control_plane.kubectl("get", "configmaps", f"--namespace={namespace}", "-ojson")
    found = {one["metadata"]["name"] for one in json.loads(told)["items"]}
    assert found - {"kube-root-ca.crt"} == {"c0"}
