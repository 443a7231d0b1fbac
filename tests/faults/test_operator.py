"""The operator when things die under it: what becomes of the run, and what is left in the bucket.

A run is held at the very byte that matters by a proxy in front of etcd, the store or the API
server; then whoever is to die is killed.
"""

import asyncio
import os
import signal
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.users import (
    HastySteward,
    Object,
    User,
    backup,
    children,
    condition,
    kubeconfig_through,
    port_of,
    run,
    s3_store,
    secret,
)
from tests.testbed import ControlPlane, Direction, EtcdCluster, FaultProxy, SeaweedFS, wait_until
from tests.testbed.bulk import load
from tests.testbed.probe import http_status
from tests.testbed.steward import NAMESPACE, install

UPLOADED = 2_000_000
"""Bytes that a run has sent to the store when it is held: well within the first parts."""


@pytest.fixture(scope="module")
async def loaded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EtcdCluster]:
    """An etcd with some 40 MB in it, which hardly compress below 10."""
    async with EtcdCluster(tmp_path_factory.mktemp("loaded")) as cluster:
        await load(cluster, 30_000, value_size=1000, namespaces=10, seed=3)
        yield cluster


@dataclass
class Scene:
    """An operator whose etcd, store and API server can each be held."""

    user: User
    steward: HastySteward
    s3: SeaweedFS
    bucket: str
    etcd: FaultProxy
    store: FaultProxy
    api: FaultProxy

    async def declare(self, name: str, **spec: object) -> str:
        """Declare a backup of the loaded etcd; returns its run, once it has begun."""
        store = s3_store(self.s3, self.bucket, endpoint=self.store.address())
        etcd = {"endpoints": [self.etcd.address()]}
        await self.user.apply(backup(name, {"etcd": etcd, "store": store, **spec}))
        made = await self.user.run_of(name)
        return str(made["metadata"]["name"])

    async def hold_upload(self) -> None:
        """Let the store take so much, then nothing more."""
        await self.store.forwarded(Direction.TO_SERVER, self.store.to_server.total + UPLOADED)
        self.store.to_server.stall()

    async def open_uploads(self) -> dict[str, str]:
        """Uploads that were begun and never ended."""
        return await self.s3.open_uploads(self.bucket)

    async def manifests(self) -> list[str]:
        """The backups in the bucket."""
        stored = await self.s3.objects(self.bucket, "")
        return [key for key in stored if key.endswith("/manifest.json")]

    async def no_process(self) -> None:
        """Wait until the operator has no child; a look through the store may just be under way."""

        async def none() -> bool:
            return not children(self.steward.server.pid)

        await wait_until(none, "no process of the operator's is left")

    async def nothing_but(self, made: Object) -> None:
        """Exactly one complete backup lies there, the one that the record shows."""
        assert condition(made, "Complete")["status"] == "True", made["status"]
        folder = made["status"]["artifact"]["url"].removeprefix(f"s3://{self.bucket}/")
        assert await self.manifests() == [f"{folder}/manifest.json"]
        stored = await self.s3.objects(self.bucket, "")
        assert {key.rsplit("/proofs/")[0].rsplit("/", 1)[0] for key in stored} <= {
            folder,
            folder.rsplit("/", 1)[0],
        }
        assert not await self.open_uploads()


@pytest.fixture
async def scene(
    control_plane: ControlPlane,
    loaded: EtcdCluster,
    seaweedfs: SeaweedFS,
    bucket: str,
    tmp_path: Path,
) -> AsyncIterator[Scene]:
    """The operator, reaching everything through proxies, and quick to try again."""
    await install(control_plane)
    user = User(control_plane)
    await user.apply(secret("s3", seaweedfs.environment()))
    async with AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(FaultProxy(port_of(loaded.endpoints[0])))
        store = await stack.enter_async_context(FaultProxy(port_of(seaweedfs.endpoint_url)))
        api = await stack.enter_async_context(FaultProxy(port_of(control_plane.url)))
        kubeconfig = kubeconfig_through(
            await control_plane.service_account_kubeconfig(NAMESPACE, NAMESPACE),
            api.address("https"),
            tmp_path / "kubeconfig",
        )
        steward = HastySteward(tmp_path, control_plane, flags={"kubeconfig": str(kubeconfig)})
        steward.timing = {
            "back_offs": [1.0],
            "progress_every": 1.0,
            "check_every": 1.0,
            "not_ready_after": 5.0,
            "stale_after": 12.0,
            "presumed_dead_after": 3.0,
            "settle_within": 10.0,
            "backup_patience": 3.0,
            "limits": {"silence": 90.0, "grace": 10.0},
        }
        await stack.enter_async_context(steward)
        scene = Scene(user, steward, seaweedfs, bucket, etcd, store, api)
        yield scene
        for proxy in (etcd, store, api):
            proxy.to_server.resume()
            proxy.to_client.resume()
        await control_plane.kubectl(
            "delete", "ebk,esnap", "--all", f"--namespace={NAMESPACE}", timeout=90
        )


async def test_killed_while_streaming(scene: Scene) -> None:
    scene.etcd.to_client.bytes_per_second = 4_000_000
    name = await scene.declare("streaming")
    await scene.user.until(name, lambda one: one["status"]["progress"]["step"] == "Streaming")
    await scene.steward.server.kill()
    scene.etcd.to_client.bytes_per_second = None
    await scene.steward.server.start()

    made = await scene.user.ended(name)
    assert made["status"]["attempt"] == 2
    await scene.nothing_but(made)
    reasons = [event[1] for event in await scene.user.events(name)]
    assert "Retrying" in reasons


async def test_killed_while_uploading(scene: Scene) -> None:
    name = await scene.declare("uploading")
    await scene.hold_upload()
    before = await scene.user.get("esnap", name)
    assert before["status"]["journal"]["uploadID"] in await scene.open_uploads()
    assert before["metadata"]["finalizers"] == ["etcdsteward.io/run"]
    await scene.steward.server.kill()
    await scene.store.reset()
    scene.store.to_server.resume()
    await scene.steward.server.start()

    made = await scene.user.ended(name)
    assert made["status"]["attempt"] == 2
    await scene.nothing_but(made)


async def test_killed_while_uploading_at_the_last_attempt(scene: Scene) -> None:
    name = await scene.declare("last", attempts=1)
    await scene.hold_upload()
    await scene.steward.server.kill()
    await scene.store.reset()
    scene.store.to_server.resume()
    await scene.steward.server.start()

    made = await scene.user.ended(name)
    said = condition(made, "Failed")
    assert (said["status"], said["reason"]) == ("True", "Interrupted")
    assert "create an EtcdSnapshot" in said["message"]
    assert not await scene.s3.objects(scene.bucket, "")
    assert not await scene.open_uploads()


async def test_killed_between_manifest_and_status(scene: Scene) -> None:
    name = await scene.declare("adopted", attempts=1)
    await scene.hold_upload()
    scene.api.to_server.stall()  # the journal is written; nothing else can be
    scene.store.to_server.resume()

    async def written() -> bool:
        return bool(await scene.manifests())

    await wait_until(written, "the manifest is written", timeout=60)
    before = await scene.s3.objects(scene.bucket, "")
    await scene.steward.server.kill()
    assert (await scene.user.get("esnap", name))["status"]["phase"] == "Running"
    scene.api.to_server.resume()
    await scene.steward.server.start()

    made = await scene.user.ended(name)
    assert made["status"]["attempt"] == 1
    await scene.nothing_but(made)
    after = await scene.s3.objects(scene.bucket, "")
    assert {key: after[key] for key in before} == before


async def test_a_killed_child_is_tried_again(scene: Scene) -> None:
    name = await scene.declare("child")
    await scene.hold_upload()
    (child,) = children(scene.steward.server.pid)
    os.kill(child, signal.SIGKILL)
    await scene.store.reset()
    scene.store.to_server.resume()

    made = await scene.user.ended(name)
    assert made["status"]["attempt"] == 2
    await scene.nothing_but(made)
    said = [event[2] for event in await scene.user.events(name) if event[1] == "Retrying"]
    assert "was killed by signal 9" in said[0]


async def test_a_stopped_operator_begins_the_same_attempt_again(scene: Scene) -> None:
    name = await scene.declare("stopped")
    await scene.hold_upload()
    await scene.store.reset()
    scene.store.to_server.resume()
    scene.store.to_server.bytes_per_second = 500_000
    scene.steward.server.send(signal.SIGTERM)

    async def ended() -> bool:
        return not scene.steward.server.running

    await wait_until(ended, "the operator has ended", timeout=30)
    await scene.steward.server.stop()
    left = await scene.user.get("esnap", name)
    assert left["status"]["phase"] == "Pending"
    assert not await scene.open_uploads()
    scene.store.to_server.bytes_per_second = None
    await scene.steward.server.start()
    made = await scene.user.ended(name)
    assert made["status"]["attempt"] == 1
    await scene.nothing_but(made)


async def test_what_a_failed_run_left_is_looked_at_by_the_next_operator(scene: Scene) -> None:
    name = await scene.declare("left", attempts=1)
    await scene.hold_upload()
    await scene.store.refuse()
    await scene.store.reset()
    (child,) = children(scene.steward.server.pid)
    os.kill(child, signal.SIGKILL)

    failed = await scene.user.ended(name)
    said = condition(failed, "Failed")
    folder = failed["status"]["journal"]["folder"]
    assert said["reason"] == "Died"
    assert f"What it left in the store in folder {folder} could not be looked at" in said["message"]
    assert await scene.open_uploads()
    scene.store.to_server.resume()
    await scene.store.accept()
    await scene.steward.server.restart()

    made = await scene.user.until(name, lambda one: "journal" not in one["status"])
    assert made["status"]["phase"] == "Failed"
    assert not await scene.open_uploads()
    assert not await scene.s3.objects(scene.bucket, "")


async def test_a_second_operator_leaves_a_living_run_alone(
    scene: Scene, control_plane: ControlPlane, tmp_path: Path
) -> None:
    name = await scene.declare("shared")
    await scene.hold_upload()
    await scene.user.until(name, lambda one: one["status"]["phase"] == "Running")
    directory = tmp_path / "second"
    directory.mkdir()
    alone = {"ETCD_STEWARD_LEADER_ELECT": "false"}
    second = HastySteward(directory, control_plane, env=alone)
    second.timing = {**scene.steward.timing, "presumed_dead_after": 60.0}
    async with second:
        scene.store.to_server.resume()
        made = await scene.user.ended(name)
    assert (made["status"]["attempt"], made["status"]["starts"]) == (1, 1)
    await scene.nothing_but(made)


async def test_deleted_in_mid_run(scene: Scene) -> None:
    scene.store.to_server.bytes_per_second = 500_000
    name = await scene.declare("deleted")
    await scene.store.forwarded(Direction.TO_SERVER, UPLOADED)
    assert await scene.open_uploads()
    await scene.user.delete("esnap", name, timeout=90)
    assert not await scene.open_uploads()
    assert not await scene.s3.objects(scene.bucket, "")
    await scene.no_process()


async def test_deleted_while_the_operator_was_dead(scene: Scene) -> None:
    name = await scene.declare("both")
    await scene.hold_upload()
    await scene.steward.server.kill()
    await scene.store.reset()
    scene.store.to_server.resume()
    assert await scene.open_uploads()
    await scene.user.plane.kubectl("delete", "esnap", name, "-n", NAMESPACE, "--wait=false")
    await scene.steward.server.start()
    await scene.user.plane.kubectl(
        "wait", "--for=delete", f"esnap/{name}", "-n", NAMESPACE, "--timeout=60s", timeout=70
    )
    assert not await scene.open_uploads()
    assert not await scene.s3.objects(scene.bucket, "")


async def test_a_namespace_deleted_in_mid_run_goes(scene: Scene, namespace: str) -> None:
    plane = scene.user.plane
    await plane.kubectl(
        "create", "rolebinding", "etcd-steward-secrets", f"--namespace={namespace}",
        "--clusterrole=etcd-steward-secrets", "--serviceaccount=etcd-steward:etcd-steward",
    )  # fmt: skip
    tenant = User(plane, namespace)
    await tenant.apply(secret("s3", scene.s3.environment(), namespace))
    scene.store.to_server.bytes_per_second = 500_000
    store = s3_store(scene.s3, scene.bucket, endpoint=scene.store.address())
    spec = {"etcd": {"endpoints": [scene.etcd.address()]}, "store": store}
    await tenant.apply(backup("doomed", spec, namespace))
    await scene.store.forwarded(Direction.TO_SERVER, UPLOADED)
    await plane.kubectl("delete", "namespace", namespace, "--timeout=60s", timeout=70)
    assert not await scene.open_uploads()
    await plane.kubectl("create", "namespace", namespace)  # for the fixture's sake


async def test_an_api_server_gone_for_a_while_does_not_stop_a_run(scene: Scene) -> None:
    health = f"http://127.0.0.1:{scene.steward.health_port}"
    name = await scene.declare("alone")
    await scene.hold_upload()
    await scene.api.refuse()
    await scene.api.reset()
    scene.store.to_server.resume()

    async def not_ready() -> bool:
        return await http_status(f"{health}/readyz") == 503

    await wait_until(not_ready, "the operator says that it is not ready", timeout=30)
    assert await http_status(f"{health}/healthz") == 200

    async def written() -> bool:
        return bool(await scene.manifests())

    await wait_until(written, "the manifest is written", timeout=60)
    await asyncio.sleep(5)  # the outage itself: there is nothing to be waited for
    await scene.api.accept()
    made = await scene.user.ended(name)
    assert made["status"]["attempt"] == 1
    await scene.nothing_but(made)

    async def ready() -> bool:
        return await http_status(f"{health}/readyz") == 200

    await wait_until(ready, "the operator is ready again", timeout=60)


async def test_a_watch_that_shows_nothing_any_more_is_noticed(scene: Scene) -> None:
    health = f"http://127.0.0.1:{scene.steward.health_port}"
    assert await http_status(f"{health}/readyz") == 200
    scene.api.to_client.stall()  # connections that exist; a new one gets through
    scene.api.to_client = type(scene.api.to_client)()
    await scene.user.apply(run("unseen", "nothing"))

    async def says(page: str) -> bool:
        return await http_status(f"{health}{page}") == 503

    await wait_until(lambda: says("/readyz"), "the operator is not ready", timeout=60)
    await wait_until(lambda: says("/healthz"), "a restart is asked for", timeout=60)
    words = await asyncio.to_thread(read, f"{health}/healthz")
    assert "the watch of etcdsnapshots is" in words
    await scene.steward.server.restart()
    assert (await scene.user.ended("unseen"))["status"]["phase"] == "Failed"


def read(url: str) -> str:
    """What a page says, whatever its status."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310, our own
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode()
