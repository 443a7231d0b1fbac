"""Restoring through an API server that has something else there, dies, or refuses."""

import base64
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from etcd_steward.engine.live_source import LiveSource
from etcd_steward.engine.report import Tracker
from etcd_steward.engine.restore.api_undo import undo_via_api
from etcd_steward.engine.restore.place import Place
from etcd_steward.engine.restore.stash import Reopened, reopen
from etcd_steward.engine.restore.undo import UndoSettings
from etcd_steward.engine.restore.via_api import ApiSettings, apply_via_api
from etcd_steward.errors import Refused
from etcd_steward.models.registry import Filter
from tests.support.cli import steward
from tests.support.runs import Heard
from tests.support.through_api import (
    SETTINGS,
    Cluster,
    cluster_of,
    config_maps,
    of,
    place_of,
    planned,
)
from tests.testbed import Authority, ControlPlane, wait_until
from tests.testbed.process import TestbedError

Object = dict[str, Any]
LARGE = "x" * 1_000_000


@pytest.fixture(scope="module")
async def here(control_plane: ControlPlane) -> AsyncIterator[Cluster]:
    """Where the namespaces come from."""
    async with cluster_of(control_plane) as cluster:
        yield cluster


async def test_what_is_there_is_overwritten_and_put_back(
    here: Cluster, namespace: str, tmp_path: Path
) -> None:
    plane = here.plane
    await config_maps(here, namespace, changes="1", races="1", touched="1")
    mapped = f"{namespace}-2"
    await plane.kubectl("create", "namespace", mapped)
    await config_maps(here, mapped, changes="2", races="2", touched="2")
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
        assert await data("changes") == {"a": "2"}

        plan = await planned(here, here, place, include, existing_objects="Overwrite", **mapping)
        report = await apply_via_api(plan, here.api, place, Tracker(Heard()), SETTINGS)
        assert report.counts == {"written": 3}
        assert await data("changes") == {"a": "1"}
        await plane.kubectl("label", "configmap", "touched", "-n", mapped, "x=y")
        back = UndoSettings(restore="team.undo", uid="undo")
        undone = await undo_via_api(here.api, place, Tracker(Heard()), back)
        said = {one.key.rpartition("/")[2]: one.outcome for one in undone.undone}
        assert said == {"changes": "put-back", "races": "put-back", "touched": "changed-since"}
        assert await data("changes") == {"a": "2"}
        assert await data("touched") == {"a": "1"}
        plan.close()
    await plane.kubectl("delete", "namespace", mapped, "--wait=false")


class _Dies(Tracker):
    """Fails when a step begins, or so many bytes are written."""

    def __init__(self, at: str | int) -> None:
        self.__dict__["at"] = at
        super().__init__(Heard())

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        at = self.__dict__["at"]
        if value == at or (name == "raw" and isinstance(at, int) and value > at):  # type: ignore[operator]
            raise RuntimeError("died")


async def test_one_that_died_goes_on(here: Cluster, namespace: str, tmp_path: Path) -> None:
    plane = here.plane
    await config_maps(here, namespace, **{f"c{number}": "1" for number in range(20)}, large=LARGE)
    mapped = f"{namespace}-2"
    include = Filter(namespaces=(namespace,))
    async with place_of(tmp_path) as place:
        mapping = {namespace: mapped}
        plan = await planned(here, here, place, include, namespace_mapping=mapping)
        with pytest.raises(RuntimeError, match="died"):
            await apply_via_api(plan, here.api, place, _Dies("Saving"), SETTINGS)
        assert await reopen(place) is None  # it had not come so far
        with pytest.raises(RuntimeError, match="died"):
            await apply_via_api(plan, here.api, place, _Dies(1000), SETTINGS)
        plan.close()
        for step in ("ReadingBack", "Recording"):
            begun = await _again(place)
            with pytest.raises(RuntimeError, match="died"):
                await apply_via_api(begun, here.api, place, _Dies(step), SETTINGS)
        begun = await _again(place)
        report = await apply_via_api(begun, here.api, place, Tracker(Heard()), SETTINGS)
        written = [one.key for one in report.restored if one.outcome == "written"]
        own = [key for key in written if "/serviceaccounts/" not in key]  # who was faster?
        assert len(own) == 22  # and the Namespace
        assert report.read_back == len(written)
        found = (await here.get(mapped, "configmaps"))["items"]
        assert len(found) == 22  # and kube-root-ca.crt
        assert max(len(json.dumps(one)) for one in found) > len(LARGE)

        # Another restore that was planned before finds that somebody was faster.
        async with place_of(tmp_path) as elsewhere:
            other = ApiSettings(restore="team.other", uid="other", second_look_after=0.0)
            late = await apply_via_api(begun, here.api, elsewhere, Tracker(Heard()), other)
            assert late.counts == {"changed-since": 22, "unchanged": 1}, late  # its default account
            assert late.second_look is not None
            assert not late.taken_since
    await plane.kubectl("delete", "namespace", mapped, "--wait=false")


async def _again(place: Place) -> Reopened:
    """What a new process of the same restore finds."""
    for file in place.spool.directory.iterdir():
        file.unlink()
    begun = await reopen(place)
    assert begun is not None
    return begun


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
    await config_maps(here, namespace, good="1", bad="1", late="1")
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


async def test_as_people_type_it(here: Cluster, namespace: str, tmp_path: Path) -> None:
    await config_maps(here, namespace, a="1", b="2")
    now = await LiveSource.open(here.client, "/registry")
    flags = (
        f"--kubeconfig={here.plane.kubeconfig}",
        f"--spool-dir={tmp_path}",
        *here.plane.etcd.connection_flags(),
    )
    verb = ("restore", "namespace", namespace, f"--at={now.revision}", "--via=api", "-ojson")
    said = await steward(*verb, "--to=copy-of-it", "--apply", "--no-second-look", *flags)
    assert said.code == 0, said.err
    report = said.json()["result"]
    outcomes = {one["key"].rpartition("/")[2]: one["outcome"] for one in report["restored"]}
    ours = (namespace, "a", "b")
    assert [outcomes.pop(name) for name in ours] == ["written"] * 3
    # What controllers put into every namespace: were they faster, there and here?
    assert outcomes.keys() <= {"default", "kube-root-ca.crt"}
    assert set(outcomes.values()) <= {"unchanged", "written"}
    assert {"a", "b"} <= {
        one["metadata"]["name"] for one in (await here.get("copy-of-it", "configmaps"))["items"]
    }
    undone = await steward("restore", "undo", report["undo"].rpartition("/")[0], "--apply", *flags)
    assert undone.code == 0, undone.err
    with pytest.raises(TestbedError, match="NotFound"):
        await here.plane.kubectl("get", "namespace", "copy-of-it")
