"""What the API server's answers become, and how a status is written when it can't be.

A small server gives the answers that a healthy API server does not: the faults are all it fakes.
"""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.config import incluster_config

from etcd_steward.errors import (
    AlreadyExists,
    InvalidInput,
    NotFound,
    OutOfSpace,
    StewardError,
    Throttled,
    Unauthorized,
    Unavailable,
)
from etcd_steward.handlers.status import waiting
from etcd_steward.handlers.writer import REFUSALS, Gone, StatusWriter
from etcd_steward.kube import SNAPSHOTS, Key, Kube, Version
from etcd_steward.models.kinds import EtcdSnapshotStatus

WHERE = Key("ns", "one")
OURS = Version("u", 1)
TAKEN = {"metadata": {"uid": "u", "resourceVersion": "1"}}
MINIMUM = {"phase": "Pending", "conditions": []}


class Server:
    """Answers every request with what `answer` says, and remembers the bodies."""

    def __init__(self) -> None:
        self.answer: tuple[int, Any] = (200, TAKEN)
        self.bodies: list[Any] = []
        self.paths: list[str] = []
        self.taken: set[str] | None = None
        """A status of just these fields is taken, whatever `answer` says."""

    async def handle(self, request: web.Request) -> web.Response:
        self.paths.append(request.path_qs)
        self.bodies.append(json.loads(await request.text() or "null"))
        status, body = self.answer
        if self.taken is not None and set(self.bodies[-1]["status"]) == self.taken:
            status, body = 200, TAKEN
        return web.json_response(body, status=status)

    def refuses(self, status: int, message: str, reason: str = "") -> None:
        self.answer = (status, {"kind": "Status", "message": message, "reason": reason})


@pytest.fixture
def server() -> Server:
    """Takes everything until told otherwise."""
    return Server()


@pytest.fixture
async def kube(server: Server, tmp_path: Path) -> AsyncIterator[Kube]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    kubeconfig = tmp_path / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "x", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "x", "user": {"token": "hush"}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "current-context": "x",
    }
    await asyncio.to_thread(kubeconfig.write_text, json.dumps(config))
    client = await Kube.connect(kubeconfig)
    yield client
    await client.aclose()
    await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "message", "reason", "error"),
    [
        (401, "Unauthorized", "Unauthorized", Unauthorized),
        (403, "forbidden", "Forbidden", Unauthorized),
        (404, "not found", "NotFound", NotFound),
        (409, "exists", "AlreadyExists", AlreadyExists),
        (409, "the object has been modified", "Conflict", Unavailable),
        (422, "spec is invalid", "Invalid", InvalidInput),
        (429, "too many requests", "TooManyRequests", Throttled),
        (500, "etcdserver: mvcc: database space exceeded", "", OutOfSpace),
        (500, "etcdserver: request timed out", "InternalError", Unavailable),
        (503, "apiserver is shutting down", "ServiceUnavailable", Unavailable),
    ],
)
async def test_a_refusal_becomes_one_of_our_errors(
    kube: Kube, server: Server, status: int, message: str, reason: str, error: type[StewardError]
) -> None:
    server.refuses(status, message, reason)
    with pytest.raises(StewardError) as caught:
        await kube.get(SNAPSHOTS, WHERE)
    assert isinstance(caught.value, error)
    assert message in str(caught.value)
    assert "hush" not in str(caught.value)


async def test_nobody_there_is_unavailable(kube: Kube, tmp_path: Path) -> None:
    text = await asyncio.to_thread((tmp_path / "kubeconfig").read_text)
    nobody = tmp_path / "nobody"
    config = json.loads(text)
    config["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:1"
    await asyncio.to_thread(nobody.write_text, json.dumps(config))
    client = await Kube.connect(nobody)
    with pytest.raises(Unavailable, match="can't be reached"):
        await client.get(SNAPSHOTS, WHERE)
    await client.aclose()
    assert (await kube.credentials()).token is not None


async def test_a_kubeconfig_that_is_none_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--kubeconfig"):
        await Kube.connect(tmp_path / "absent")


async def test_a_pod_hands_its_own_token_on(
    kube: Kube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a Pod the client writes `bearer` in lower case; kopf must get the bare token there too."""
    token, ca = tmp_path / "token", tmp_path / "ca.crt"
    await asyncio.to_thread(token.write_text, "from-the-pod")
    await asyncio.to_thread(ca.write_text, "not looked into before the first call")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(ca))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: None)
    pod = await Kube.connect(None)
    credentials = await pod.credentials()
    await pod.aclose()
    assert credentials.token is not None
    assert credentials.token.get_secret_value() == "from-the-pod"
    assert (await kube.credentials()).server != credentials.server


async def test_credentials_do_not_print(kube: Kube) -> None:
    credentials = await kube.credentials()
    assert credentials.token is not None
    assert credentials.token.get_secret_value() == "hush"
    assert "hush" not in repr(credentials)


async def test_a_secrets_errors_name_it_and_its_key(kube: Kube, server: Server) -> None:
    server.answer = (200, {"data": {"user": "cm9vdA==", "raw": "//8="}})
    secret = await kube.secret(WHERE)
    assert secret.need("user") == "root"
    assert secret.get("absent") is None
    with pytest.raises(NotFound, match=r"Secret ns/one has no key absent \(its keys: raw, user\)"):
        secret.need("absent")
    with pytest.raises(InvalidInput, match="key raw of Secret ns/one is not text"):
        secret.need("raw")
    assert "cm9vdA" not in repr(secret)
    server.answer = (200, {})
    with pytest.raises(NotFound, match="its keys: none"):
        (await kube.secret(WHERE)).need("user")


async def test_versions_come_page_by_page(kube: Kube, server: Server) -> None:
    def item(name: str, version: str) -> dict[str, Any]:
        return {
            "metadata": {"namespace": "ns", "name": name, "uid": name, "resourceVersion": version}
        }

    server.answer = (200, {"items": None, "metadata": {}})
    assert await kube.versions(SNAPSHOTS) == {}
    assert "resourceVersion=0" in server.paths[-1]
    server.answer = (200, {"items": [item("a", "7")], "metadata": {"continue": ""}})
    assert await kube.versions(SNAPSHOTS) == {Key("ns", "a"): Version("a", 7)}


async def test_only_what_has_changed_is_written(kube: Kube, server: Server) -> None:
    writer = StatusWriter(kube, WHERE, OURS, EtcdSnapshotStatus(phase="Running", attempt=1))
    await writer.try_write()
    assert server.bodies == []
    writer.status = waiting(writer.status, "wait")
    await writer.try_write()
    (patch,) = server.bodies
    assert set(patch["status"]) == {"phase", "progress", "message"}
    await writer.try_write()
    assert len(server.bodies) == 1


async def test_after_a_lost_answer_everything_is_written_again(kube: Kube, server: Server) -> None:
    before = EtcdSnapshotStatus(phase="Running", attempt=1)
    writer = StatusWriter(kube, WHERE, OURS, before)
    writer.status = waiting(before, "wait")
    server.refuses(503, "perhaps it was written")
    with pytest.raises(Unavailable):
        await writer.try_write()
    server.answer = (200, TAKEN)
    writer.status = before  # back again: unknown to us what the API server has
    await writer.try_write()
    assert server.bodies[-1]["status"] == {
        "phase": "Running",
        "progress": None,
        "message": None,
    }


async def test_an_api_server_that_is_full_is_waited_for_only_so_long(
    kube: Kube, server: Server
) -> None:
    server.refuses(500, "etcdserver: mvcc: database space exceeded")
    writer = StatusWriter(kube, WHERE, OURS, EtcdSnapshotStatus())
    writer.status = waiting(writer.status, "wait")
    begin = time.monotonic()
    assert not await writer.write(asyncio.Event(), patience=1.0)
    assert 1.0 <= time.monotonic() - begin < 5.0
    assert len(server.bodies) >= 2


async def test_what_must_be_written_is_written_once_the_api_server_takes_it(
    kube: Kube, server: Server
) -> None:
    server.refuses(500, "etcdserver: request timed out")
    writer = StatusWriter(kube, WHERE, OURS, EtcdSnapshotStatus())
    writer.status = waiting(writer.status, "wait")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(writer.write(asyncio.Event()))
        while len(server.bodies) < 2:  # noqa: ASYNC110, the server has no event to wait for
            await asyncio.sleep(0.05)
        assert not task.done()
        server.answer = (200, TAKEN)
    assert server.bodies[-1]["status"]["phase"] == "Pending"


async def test_a_stop_ends_the_waiting_after_one_more_try(kube: Kube, server: Server) -> None:
    server.refuses(503, "gone for now")
    writer = StatusWriter(kube, WHERE, OURS, EtcdSnapshotStatus())
    writer.status = waiting(writer.status, "wait")
    stop = asyncio.Event()
    stop.set()
    assert not await writer.write(stop)
    assert len(server.bodies) == 1


async def test_a_status_that_is_refused_is_written_in_its_barest_form(
    kube: Kube, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etcd_steward.handlers.writer.PAUSES", (0.0,))
    writer = StatusWriter(kube, WHERE, OURS, EtcdSnapshotStatus())
    writer.status = waiting(writer.status, "wait")
    server.taken = {"phase", "conditions"}
    server.refuses(422, "status.message: Invalid value", "Invalid")
    assert await writer.write(asyncio.Event())
    assert server.bodies[-1] == {"metadata": {"resourceVersion": "1"}, "status": MINIMUM}
    assert len(server.bodies) == REFUSALS + 1

    writer.status = waiting(writer.status, "another")
    server.taken = None
    server.refuses(403, "forbidden", "Forbidden")
    assert not await writer.write(asyncio.Event())  # given up, in the log


async def test_a_refusal_that_passes_costs_nothing(
    kube: Kube, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etcd_steward.handlers.writer.PAUSES", (0.05,))
    server.refuses(403, "RBAC: not synced yet", "Forbidden")
    writer = StatusWriter(kube, WHERE, OURS, EtcdSnapshotStatus())
    writer.status = waiting(writer.status, "wait")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(writer.write(asyncio.Event()))
        while len(server.bodies) < 2:  # noqa: ASYNC110, the server has no event to wait for
            await asyncio.sleep(0.01)
        server.answer = (200, TAKEN)
    assert task.result()
    assert server.bodies[-1]["status"]["progress"]["text"] == "wait"


async def test_an_object_that_is_gone_is_told_apart(kube: Kube, server: Server) -> None:
    server.refuses(404, "not found", "NotFound")
    writer = StatusWriter(kube, WHERE, OURS, EtcdSnapshotStatus())
    writer.status = waiting(writer.status, "wait")
    with pytest.raises(Gone):
        await writer.write(asyncio.Event())
