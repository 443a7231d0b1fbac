"""deploy/ as it is, in Pods, on a real node: schedules, a change of leader, and its removal."""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from tests.support.users import Object, User, backup, condition, s3_store, secret
from tests.testbed import bulk, wait_until
from tests.testbed.node.images import STEWARD, archives
from tests.testbed.node.node import Node
from tests.testbed.steward import NAMESPACE, ROOT

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

MINUTE = 60
KEYS = 60_000  # of 1 kB: a run takes long enough to be interrupted
SLOW = 180  # seconds; other tests may want the cores as well
CRDS = ("crd/etcdbackups.etcdsteward.io", "crd/etcdsnapshots.etcdsteward.io")
MOUNTED = "/var/lib/kubelet"  # one of the mounts that only the node sees
CERTIFICATES = Path("/etc/kubernetes/pki/etcd")
# What the Pod may do, as the kernel tells it: its user, its capabilities, a file it may not write.
WHO_AM_I = """
import json, os, zoneinfo
status = dict(line.split(":\\t") for line in open("/proc/self/status") if ":\\t" in line)
try:
    open("/opt/etcd-steward/touched", "w")
    writable = True
except OSError:
    writable = False
zoneinfo.ZoneInfo("Europe/Berlin")
print(json.dumps({"uid": os.getuid(), "capabilities": int(status["CapBnd"], 16),
                  "seccomp": int(status["Seccomp"]), "no new privileges":
                  int(status["NoNewPrivs"]), "writable": writable}))
"""


@pytest.fixture(scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """A node that has the image; nothing is installed on it yet."""
    images = await archives()
    async with Node(tmp_path_factory.mktemp("node"), images) as started:
        await bulk.load(started.etcd, KEYS, root="/another-program")
        yield started


def installation(directory: Path, *, base: str = "deploy") -> Path:
    """What a user writes who has the image under a name of their own."""
    for name in ("crds", "deploy"):
        shutil.copytree(ROOT / name, directory / name)
    own = directory / "own"
    own.mkdir()
    name, _, tag = STEWARD.rpartition(":")
    images = [{"name": "etcd-steward", "newName": name, "newTag": tag}]
    (own / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": [f"../{base}"], "images": images})
    )
    return own


async def install(node: Node, own: Path) -> None:
    await node.kubectl("apply", "--server-side", "-k", own)
    await node.kubectl("wait", "--for=condition=Established", "--timeout=30s", *CRDS)
    await User(node.kubernetes).apply(secret("s3", node.s3.environment()))


async def remove(node: Node, own: Path) -> None:
    """All of it goes, and nothing waits for anything that never comes."""
    await node.kubectl("delete", "-k", own, f"--timeout={SLOW}s", timeout=SLOW + 20)
    for kind in ("namespaces", "crd", "clusterroles", "clusterrolebindings"):
        assert "steward" not in await node.kubectl("get", kind, "--output=name")


async def pods(node: Node) -> dict[str, Object]:
    """The operator's Pods that are not on their way out, by name."""
    words = ("get", "pods", f"--namespace={NAMESPACE}", "--output=json")
    found = json.loads(await node.kubectl(*words))["items"]
    return {
        one["metadata"]["name"]: one for one in found if "deletionTimestamp" not in one["metadata"]
    }


async def leader(node: Node) -> str:
    """Who holds the Lease, a Pod or, in the host's network, a host; empty if nobody does."""
    words = ("get", "lease", "etcd-steward", f"--namespace={NAMESPACE}", "--ignore-not-found")
    holder = await node.kubectl(*words, "--output=jsonpath={.spec.holderIdentity}")
    return holder.rpartition("_")[0]


async def all_ready(node: Node, replicas: int) -> None:
    """The Deployment has so many ready Pods, and one of them leads."""

    async def ready() -> bool:
        found = await pods(node)
        ready = [one for one in found.values() if condition(one, "Ready").get("status") == "True"]
        return len(ready) == replicas and bool(await leader(node))

    await wait_until(ready, f"{replicas} Pods are ready and one of them leads", timeout=SLOW)


async def runs(user: User, order: str) -> dict[int, Object]:
    """The runs of a backup by their tick; a second one of a tick is a fault."""
    mine = [one for one in await user.all("esnap") if one["spec"]["backupName"] == order]
    found = {int(one["metadata"]["name"].rpartition("-")[2]): one for one in mine}
    assert len(found) == len(mine)
    return found


async def first_running(user: User, order: str) -> int:
    """The tick of the first run, as soon as it reads from etcd."""
    ticks: list[int] = []

    async def running() -> bool:
        ticks[:] = [
            tick
            for tick, one in (await runs(user, order)).items()
            if one.get("status", {}).get("phase") == "Running"
        ]
        return bool(ticks)

    await wait_until(running, "a run is under way", timeout=SLOW, interval=0.1)
    return ticks[0]


async def manifests(node: Node, bucket: str) -> list[str]:
    """Every backup in the bucket."""
    return [one for one in await node.s3.objects(bucket) if one.endswith("/manifest.json")]


async def test_a_schedule_survives_its_leader_and_its_kubelet(node: Node, tmp_path: Path) -> None:
    own, user = installation(tmp_path), User(node.kubernetes)
    await install(node, own)
    await all_ready(node, 2)
    await confined(node)
    spec = await overdue(node, user)

    first = await first_running(user, "minutely")
    before = await leader(node)
    await user.plane.kubectl("delete", "pod", before, f"--namespace={NAMESPACE}", "--wait=false")
    await node.kubelet.restart()
    interrupted = await user.ended(f"minutely-{first}", timeout=SLOW)
    assert condition(interrupted, "Verified")["status"] == "True"
    assert interrupted["status"]["starts"] > 1, "it ended before its leader did"
    await all_ready(node, 2)
    assert await leader(node) != before

    second = await user.ended(f"minutely-{await later_tick(user, first)}", timeout=SLOW)
    assert condition(second, "Verified")["status"] == "True"
    await user.apply(backup("minutely", {**spec, "suspend": True}))
    found = await runs(user, "minutely")
    for name in [one["metadata"]["name"] for one in found.values()]:
        await user.ended(name, timeout=SLOW)
    ticks = sorted(found)
    # Where a run took longer than a minute, ticks have passed meanwhile: those are counted.
    missed = (await user.get("ebk", "minutely"))["status"].get("missedRuns", 0)
    assert len(ticks) + missed == (ticks[-1] - ticks[0]) / MINUTE + 1, "none is lost"
    bucket = spec["store"]["s3"]["bucket"]
    assert len(await manifests(node, bucket)) == len(ticks), "none is doubled"
    assert not await node.s3.open_uploads(bucket)

    stored = await node.s3.objects(bucket)
    await remove(node, own)
    assert await node.s3.objects(bucket) == stored


async def overdue(node: Node, user: User) -> Object:
    """Declare a backup of the node's own etcd that has a tick behind it, so that a run is due now.

    Returns its spec.
    """
    tls = node.etcd.tls
    assert tls is not None
    files = {"ca.crt": tls.ca_file, "tls.crt": tls.client.cert, "tls.key": tls.client.key}
    await user.apply(secret("etcd-tls", {name: at.read_text() for name, at in files.items()}))
    spec: Object = {
        "etcd": {
            "endpoints": [node.etcd.pod_endpoint],
            "serverName": "localhost",
            "tls": {"secretName": "etcd-tls"},
        },
        "store": s3_store(
            node.s3, await node.s3.create_bucket("scheduled"), endpoint=node.s3.pod_endpoint
        ),
        "schedule": "* * * * *",
        "timeZone": "Europe/Berlin",
        "suspend": True,
    }
    await user.apply(backup("minutely", spec))

    async def observed() -> bool:
        return "anchorTime" in (await user.get("ebk", "minutely")).get("status", {})

    await wait_until(observed, "the operator has seen the schedule", timeout=SLOW)
    anchor = datetime.fromtimestamp(time.time() // MINUTE * MINUTE - MINUTE, UTC)
    status = {"anchorTime": anchor.strftime("%Y-%m-%dT%H:%M:%SZ")}
    await node.kubectl(
        "patch", "ebk", "minutely", f"--namespace={NAMESPACE}", "--subresource=status",
        "--type=merge", f"--patch={json.dumps({'status': status})}",
    )  # fmt: skip
    spec["suspend"] = False
    await user.apply(backup("minutely", spec))
    return spec


async def later_tick(user: User, tick: int) -> int:
    """The tick of the next run, once that is there."""

    async def there() -> bool:
        return max(await runs(user, "minutely")) > tick

    await wait_until(there, "the next run is there", timeout=SLOW)
    return max(await runs(user, "minutely"))


async def confined(node: Node) -> None:
    """Pods run under `restricted`, and can do no more than it allows."""
    words = ("get", "namespace", NAMESPACE, "--output=json")
    labels = json.loads(await node.kubectl(*words))["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    command = ("exec", "deploy/etcd-steward", f"--namespace={NAMESPACE}", "--")
    said = await node.kubectl(*command, "/opt/etcd-steward/bin/python", "-c", WHO_AM_I)
    assert json.loads(said) == {
        "uid": 65532,
        "capabilities": 0,
        "seccomp": 2,
        "no new privileges": 1,
        "writable": False,
    }


async def test_the_overlay_for_kubeadm_reads_the_certificates_of_the_host(
    node: Node, tmp_path: Path
) -> None:
    own, user = installation(tmp_path, base="deploy/overlays/kubeadm"), User(node.kubernetes)
    await as_kubeadm_leaves_it(node)
    await install(node, own)
    bucket = await node.s3.create_bucket("kubeadm")
    # Each takes two ports of its node, so on this one there is room for one.
    await all_ready(node, 1)
    store = s3_store(node.s3, bucket, endpoint=node.s3.pod_endpoint)
    await user.apply(backup("host", {"store": store}))
    made = await user.ended((await user.run_of("host"))["metadata"]["name"], timeout=SLOW)
    assert condition(made, "Verified")["status"] == "True"
    assert len(await manifests(node, bucket)) == 1
    await remove(node, own)


async def as_kubeadm_leaves_it(node: Node) -> None:
    """A control plane node by label and taint, with etcd's certificates, root's alone."""
    tls = node.etcd.tls
    assert tls is not None
    await node.run("mkdir", "-p", CERTIFICATES)
    names = {"ca.crt": tls.ca_file, "healthcheck-client.crt": tls.client.cert,
             "healthcheck-client.key": tls.client.key}  # fmt: skip
    for name, source in names.items():
        await node.run("install", "--mode=0600", source, CERTIFICATES / name)
    role = "node-role.kubernetes.io/control-plane"
    await node.kubectl("label", "node", "node1", f"{role}=")
    await node.kubectl("taint", "node", "node1", f"{role}:NoSchedule")


async def test_nothing_of_the_node_is_seen_on_the_host(node: Node) -> None:
    assert "node0" in await node.run("ip", "-oneline", "link")
    assert f" {MOUNTED} " in await node.run("cat", "/proc/self/mounts")
    await asyncio.to_thread(unseen, node.directory)


def unseen(directory: Path) -> None:
    """Neither interfaces nor mounts nor files of the node are the host's."""
    assert not Path("/sys/class/net/node0").exists()
    mounts = Path("/proc/self/mounts").read_text()
    assert str(directory) not in mounts
    assert f" {MOUNTED} " not in mounts
    assert not CERTIFICATES.exists()
