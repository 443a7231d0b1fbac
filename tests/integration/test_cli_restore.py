"""`restore namespace|object|undo` as people type them, on a real control plane."""

import asyncio
import fcntl
import functools
import json
import os
import secrets
import termios
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import PROGRAM, Said, steward
from tests.testbed import ControlPlane, wait_until
from tests.testbed.process import clean_environment

Object = dict[str, Any]


def manifests(namespace: str) -> list[Object]:
    """A namespace as somebody's application has it, and a Secret that nobody may see."""
    meta = {"namespace": namespace}
    labels = {"app": "web"}
    pod = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "web", "image": "registry.example.com/web:1"}]},
    }
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {**meta, "name": "db"},
            "stringData": {"password": "hunter2-hunter2"},
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {**meta, "name": "settings"},
            "data": {"colour": "green"},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {**meta, "name": "web"},
            "spec": {"selector": labels, "ports": [{"port": 80}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {**meta, "name": "web"},
            "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod},
        },
    ]


KINDS = "secrets,configmaps,services,deployments,replicasets,serviceaccounts"


@dataclass(frozen=True, slots=True)
class Shop:
    """A namespace, and the command line beside it."""

    plane: ControlPlane
    name: str
    spool: Path

    def words(self, *words: str | Path) -> list[str]:
        """The arguments of a call."""
        flags = (f"--kubeconfig={self.plane.kubeconfig}", f"--spool-dir={self.spool}")
        every = ("restore", *words, *flags, *self.plane.etcd.connection_flags())
        return [str(word) for word in every]

    async def steward(self, *words: str | Path) -> Said:
        return await steward(*self.words(*words), timeout=120)

    async def restore(self, *words: str | Path) -> Said:
        return await self.steward(*words, "--no-second-look")

    async def uids(self) -> dict[str, str]:
        """What is there, and as which incarnation."""
        words = ("get", KINDS, f"--namespace={self.name}", "-o", "json")
        items = json.loads(await self.plane.kubectl(*words))["items"]
        return {f"{one['kind']}/{one['metadata']['name']}": one["metadata"]["uid"] for one in items}

    async def delete(self) -> None:
        """`kubectl delete namespace`, which waits until it is gone."""
        await self.plane.kubectl("delete", "namespace", self.name, timeout=90)


@pytest.fixture
async def shop(control_plane: ControlPlane, tmp_path: Path) -> AsyncIterator[Shop]:
    """A namespace of this test's own, with a Deployment that has made its ReplicaSet."""
    there = Shop(control_plane, f"shop-{secrets.token_hex(3)}", tmp_path / "spool")
    text = "\n---\n".join(json.dumps(one) for one in manifests(there.name))
    await control_plane.kubectl("apply", "-f", "-", stdin=text)

    async def complete() -> bool:
        found = await there.uids()
        return any(one.startswith("ReplicaSet/") for one in found) and {
            "ServiceAccount/default",
            "ConfigMap/kube-root-ca.crt",
        } <= set(found)

    await wait_until(complete, "the controllers have made what they make")
    yield there
    await control_plane.kubectl(
        "delete", "namespace", there.name, "--wait=false", "--ignore-not-found"
    )


async def test_a_deleted_namespace_comes_back_out_of_etcds_own_memory(shop: Shop) -> None:
    before = await shop.uids()
    await shop.delete()

    planned = await shop.restore("namespace", shop.name, "--plan")
    assert planned.code == 0, planned.err
    assert "would be written. Plan sha256:" in planned.out
    assert "hunter2" not in planned.out + planned.err
    assert "deployments.apps" in planned.out

    unasked = await shop.restore("namespace", shop.name)
    assert unasked.code == 3
    assert "there is no terminal to ask on" in unasked.err
    digest = planned.out.rpartition("Plan ")[2].strip()
    assert f"--approve {digest}" in unasked.err
    other = await shop.restore("namespace", shop.name, f"--approve=sha256:{'0' * 64}")
    assert (other.code, "which was approved" in other.err) == (3, True)

    done = await shop.restore("namespace", shop.name, f"--approve={digest}", "-o", "json")
    assert done.code == 0, done.err
    told = done.json()
    assert told["digest"] == digest
    outcomes = {one["outcome"] for one in told["result"]["restored"]}
    assert outcomes == {"written"}
    assert told["result"]["readBack"] == len(told["result"]["restored"])
    assert await shop.uids() == before

    then = told["plan"]["source"]["revision"]
    again = await shop.restore("namespace", shop.name, "--apply", f"--at={then}", "-o", "json")
    assert (again.code, "result" in again.json()) == (0, False), again.err
    verdicts = {one["verdict"] for one in again.json()["plan"]["items"]}
    assert verdicts <= {"identical", "differs", "excluded"}
    nothing = await shop.restore("namespace", shop.name, "--apply")
    said = nothing.out + nothing.err  # what controllers have deleted since, they have made anew
    assert "0 keys would be written" in said or "was deleted since revision" in said

    undone = await shop.steward("undo", told["place"], "--apply")
    assert undone.code == 0, undone.err
    assert "deleted" in undone.out

    async def gone() -> bool:
        found = await shop.plane.kubectl("get", "namespace", "--ignore-not-found", shop.name)
        return not found.strip()

    await wait_until(gone, "the undo has taken all back")


async def test_on_a_terminal_somebody_is_asked(shop: Shop) -> None:
    await shop.plane.kubectl("delete", "secret", "db", f"--namespace={shop.name}")
    words = shop.words("object", f"secret/{shop.name}/db", "--no-second-look")
    for answer, code in ((b"n\n", 3), (b"\x03", 130), (b"y\n", 0)):
        ours, theirs = os.openpty()
        try:
            process = await asyncio.create_subprocess_exec(
                *PROGRAM,
                *words,
                stdin=theirs,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=clean_environment(),
                start_new_session=True,
                preexec_fn=functools.partial(fcntl.ioctl, theirs, termios.TIOCSCTTY, 0),
            )
            assert process.stdout is not None
            async with asyncio.timeout(90):
                said = await process.stdout.readuntil(b"Write 1 key? [y/N]: ")
                os.write(ours, answer)
                said += await process.stdout.read()
                assert await process.wait() == code, said.decode()
        finally:
            os.close(ours)
            os.close(theirs)
    assert "Secret/db" in await shop.uids()


async def test_one_object_comes_back_and_what_is_there_stays(shop: Shop) -> None:
    before = await shop.uids()
    words = ("--namespace", shop.name)
    await shop.plane.kubectl("delete", "secret", "db", *words)
    done = await shop.restore("object", f"secret/{shop.name}/db", "--apply")
    assert done.code == 0, done.err
    assert "1 object back, same uids, in " in done.out
    assert f"restore undo file://{shop.spool}/restores/" in done.out
    assert await shop.uids() == before

    # It is there and differs: it stays, unless it is to be overwritten; what differs is shown.
    found = json.loads(await shop.plane.kubectl("get", "cm", "settings", *words, "-o", "json"))
    at = f"--at={found['metadata']['resourceVersion']}"
    patch = '{"data":{"colour":"red"}}'
    await shop.plane.kubectl("patch", "configmap", "settings", *words, "-p", patch)
    target = f"cm/{shop.name}/settings"
    looked = await shop.restore("object", target, at, "--apply", "--diff")
    assert looked.code == 0, looked.err
    assert 'data.colour: "red" -> "green"' in looked.out
    assert "0 keys would be written" in looked.out
    refused = await shop.restore("object", target, at, "--apply", "--existing=fail")
    assert "existingObjects: Fail" in refused.err
    done = await shop.restore("object", target, at, "--apply", "--existing=overwrite", "-o=json")
    assert done.code == 0, done.err
    colour = ("get", "cm", "settings", *words, "-o", "jsonpath={.data.colour}")
    assert await shop.plane.kubectl(*colour) == "green"
    undone = await shop.steward("undo", done.json()["place"], "--apply")
    assert (undone.code, undone.out) == (0, "1 put-back\n"), undone.err
    assert await shop.plane.kubectl(*colour) == "red"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("namespace", "a", "--at=1", "--ago=1m"), "give one"),
        (("namespace", "a", "--from=x.db", "--at=7"), "leave out --from"),
        (("namespace", "a", "--plan", "--apply"), "--plan writes nothing"),
        (("namespace", "a", "--to=b"), "--to takes --via api"),
        (("namespace", "a", "b", "--via=api", "--to=c"), "say which: --to OLD=NEW"),
        (("object", "secret"), "names no object"),
        (("object", "secret/a/b", "cm/a/b"), "several resources or namespaces"),
        (("undo", "s3://bucket/prod", "--apply"), "is no restore's folder"),
    ],
)
async def test_what_cannot_be_meant_is_said(words: tuple[str, ...], said: str) -> None:
    got = await steward("restore", *words)
    assert (got.code, said in got.err) == (2, True), got.err


async def test_another_namespace_through_the_api_and_back(shop: Shop) -> None:
    before = await shop.uids()
    words = ("get", "secret", "db", f"--namespace={shop.name}", "-o", "json")
    found = json.loads(await shop.plane.kubectl(*words))
    at = f"--at={found['metadata']['resourceVersion']}"
    there = f"{shop.name}-b"
    done = await shop.restore(
        "namespace", shop.name, at, "--via=api", f"--to={there}", "--apply", "-o=json"
    )
    assert done.code == 0, done.err
    copy = ("get", "secret", "db", f"--namespace={there}", "-o", "json")
    copied = json.loads(await shop.plane.kubectl(*copy))
    assert copied["data"] == found["data"]
    assert copied["metadata"]["uid"] != found["metadata"]["uid"]
    assert await shop.uids() == before

    undone = await shop.steward("undo", done.json()["place"], "--apply")
    assert undone.code == 0, undone.err

    async def gone() -> bool:
        return not await shop.plane.kubectl("get", "namespace", there, "--ignore-not-found")

    await wait_until(gone, "the undo has taken all back")
    assert await shop.uids() == before


async def test_a_backup_is_named_by_its_url_its_store_or_its_file(
    shop: Shop, tmp_path: Path
) -> None:
    store = f"file://{tmp_path}/store"
    flags = (f"--store={store}", f"--spool-dir={shop.spool}")
    saved = await steward("snapshot", "save", *flags, *shop.plane.etcd.connection_flags())
    assert saved.code == 0, saved.err
    url = saved.out.strip()
    await shop.plane.kubectl("delete", "secret", "db", f"--namespace={shop.name}")

    file = f"{url.removeprefix('file://')}/registry.parquet"
    digests = set()
    for place in (url, store, file):
        looked = await shop.restore(
            "object", f"secrets/{shop.name}/db", f"--from={place}", "--plan", "-o=json"
        )
        assert looked.code == 0, looked.err
        (item,) = (one for one in looked.json()["plan"]["items"] if one.get("write"))
        digests.add(item["sha256"])
    assert len(digests) == 1
    done = await shop.restore("namespace", shop.name, f"--from={store}", "--apply", "-o=json")
    assert done.code == 0, done.err
    assert done.json()["place"].startswith(f"{store}/")
    assert [one["outcome"] for one in done.json()["result"]["restored"]] == ["written"]
    again = await shop.restore("namespace", shop.name, f"--from={store}", "--apply")
    assert (again.code, "0 keys would be written" in again.out) == (0, True), again.out
