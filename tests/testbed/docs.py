"""The sandbox in which the documentation's commands run: what a reader's own cluster would be."""

import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.testbed.binaries import binary, say
from tests.testbed.etcd import EtcdCluster
from tests.testbed.kubernetes import ControlPlane
from tests.testbed.pages import ROOT, Aliases, Deeds, File, Ran, Shell, rewritten, run_page, shims
from tests.testbed.process import TestbedError, stop_all
from tests.testbed.rpc import raise_alarm
from tests.testbed.seaweedfs import SeaweedFS
from tests.testbed.seed import seed
from tests.testbed.steward import NAMESPACE, Steward, create_secrets, install

BUCKET = "etcd-backups"
BUMP = 1_000_000_000  # what the page on restores bumps revisions by
STANDING_ORDERS = """
apiVersion: etcdsteward.io/v1alpha1
kind: EtcdBackup
metadata: {name: nightly, namespace: etcd-steward}
spec:
  schedule: "17 2 * * *"
  store:
    s3: {bucket: etcd-backups, prefix: prod, endpoint: "https://s3.example.com", credentialsSecretName: s3, caSecretName: s3-ca}
---
apiVersion: etcdsteward.io/v1alpha1
kind: EtcdMaintenance
metadata: {name: main, namespace: etcd-steward}
spec:
  schedule: "30 3 * * 0"
  window: {duration: 2h}
  defragmentation: {minReclaim: 256Mi, minFragmentationPercent: 50}
  compaction: {mode: WhenStalled}
  alarms: {noSpace: Rescue}
"""  # noqa: E501
"""What a reader of a runbook has declared before."""
# Where there is no zstd, the library that it is made of does the same.
ZSTD = f"""#!{sys.executable}
import pathlib, sys
from etcd_steward.engine.compress import zstd
quiet, source, out, target = sys.argv[2:]
pathlib.Path(target).write_bytes(zstd.decompress(pathlib.Path(source).read_bytes()))
"""


def pages() -> list[Path]:
    """README.md and everything in docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A seeded control plane on three members with mutual TLS, S3 over TLS, and the operator."""

    directory: Path
    etcd: EtcdCluster
    s3: SeaweedFS
    kubernetes: ControlPlane
    steward: Steward
    path: str

    async def read(self, page: Path) -> tuple[str, list[Ran]]:
        """Run a page's commands with a bucket of its own, and forget what it declared."""
        text = await asyncio.to_thread(page.read_text, encoding="utf-8")
        bucket = await self.s3.create_bucket(f"page-{page.stem.lower()}")
        directory = Path(tempfile.mkdtemp(dir=self.directory, prefix=f"{page.stem}-"))
        aliases = self._aliases(bucket, directory)
        async with Shell(directory, aliases, self._environment(bucket)).started() as shell:
            ran = await run_page(text, shell, self._deeds(directory, shell))
        await self.kubernetes.kubectl(
            *("delete", "ebk,esnap,erestore,emaint", "--all"),
            *(f"--namespace={NAMESPACE}", "--ignore-not-found"),
        )
        return text, ran

    def _aliases(self, bucket: str, directory: Path) -> Aliases:
        members = self.etcd.members
        pairs = [(f"10.0.10.{11 + i}:2379", _host(m.endpoint)) for i, m in enumerate(members)]
        pairs += [(f"10.0.10.{11 + i}:2380", _host(m.peer_url)) for i, m in enumerate(members)]
        pairs += [
            ("s3.example.com", _host(self.s3.endpoint_url)),
            (BUCKET, bucket),
            ("/var/lib/etcd", str(directory / "var-lib-etcd")),
            ("localhost:8080", f"127.0.0.1:{self.steward.metrics_port}"),
            ("localhost:8081", f"127.0.0.1:{self.steward.health_port}"),
            ("/root", str(directory)),
        ]
        return Aliases(tuple(pairs))

    def _environment(self, bucket: str) -> dict[str, str]:
        tls = self.etcd.tls
        assert tls is not None
        return {
            "PATH": self.path,
            "KUBECONFIG": str(self.kubernetes.kubeconfig),
            "ETCDCTL_ENDPOINTS": ",".join(self.etcd.endpoints),
            "ETCDCTL_CACERT": str(tls.ca_file),
            "ETCDCTL_CERT": str(tls.client.cert),
            "ETCDCTL_KEY": str(tls.client.key),
            "ETCD_STEWARD_STORE": f"s3://{bucket}/prod",
            "ETCD_STEWARD_S3_ENDPOINT": self.s3.endpoint_url,
            "ETCD_STEWARD_S3_CA": str(self.s3.ca_file),
            **self.s3.environment(),
        }

    def _deeds(self, directory: Path, shell: Shell) -> Deeds:
        restored = directory / "var-lib-etcd"

        async def take_a_backup() -> None:
            await shell.must("etcd-steward snapshot save --name nightly")

        async def standing_orders() -> None:
            shell.write(File(0, "standing-orders.yaml", STANDING_ORDERS))
            await shell.must("kubectl apply -f standing-orders.yaml")
            # A value of its own: runs are named after it, and a record of another page's may stay.
            now = time.time_ns()
            await shell.must(
                f"kubectl annotate ebk/nightly -n etcd-steward etcdsteward.io/requestedAt={now}"
            )
            await shell.must(
                "kubectl wait --for=condition=Ready ebk/nightly emaint/main -n etcd-steward "
                "--timeout=2m"
            )

        async def stop_control_plane() -> None:
            manager = self.kubernetes.controller_manager
            assert manager is not None
            await stop_all((manager, self.kubernetes.api_server, *self.etcd.members))

        async def put_onto_host(number: int) -> None:
            member = self.etcd.members[number]
            await asyncio.to_thread(shutil.rmtree, member.data_dir)
            await asyncio.to_thread(shutil.move, restored, member.data_dir)

        async def start_etcd() -> None:
            async with asyncio.TaskGroup() as group:
                for member in self.etcd.members:
                    group.create_task(member.start())
            revision = await self.etcd.revision()
            if revision < BUMP:  # it runs, but on what it had before
                raise TestbedError(f"etcd is at revision {revision}: the restore did not take")

        async def start_control_plane() -> None:
            manager = self.kubernetes.controller_manager
            assert manager is not None
            await self.kubernetes.api_server.start()
            await manager.start()

        async def no_secrets_yet() -> None:
            await self.kubernetes.kubectl(
                "delete", "secret", "--all", f"--namespace={NAMESPACE}", "--ignore-not-found"
            )

        return {
            "take-a-backup": take_a_backup,
            "standing-orders": standing_orders,
            "stop-control-plane": stop_control_plane,
            "put-onto-host-0": lambda: put_onto_host(0),
            "put-onto-host-1": lambda: put_onto_host(1),
            "put-onto-host-2": lambda: put_onto_host(2),
            "start-etcd": start_etcd,
            "start-control-plane": start_control_plane,
            "raise-nospace": lambda: raise_alarm(self.etcd, self.etcd.members[0]),
            "no-secrets-yet": no_secrets_yet,
        }


def _host(url: str) -> str:
    return url.rpartition("/")[2]


@contextlib.asynccontextmanager
async def sandbox(directory: Path) -> AsyncIterator[Sandbox]:
    """Start everything; about fifteen seconds."""
    etcd = EtcdCluster(directory / "etcd", members=3, mtls=True)
    s3 = SeaweedFS(directory / "s3", tls=True)
    kubernetes = ControlPlane(directory / "kubernetes", etcd)
    async with etcd, kubernetes, s3:
        await seed(kubernetes)
        await install(kubernetes)
        await create_secrets(kubernetes, s3)
        async with Steward(directory / "operator", kubernetes) as steward:
            path = await _path(directory)
            yield Sandbox(directory, etcd, s3, kubernetes, steward, path)


async def _path(directory: Path) -> str:
    programs = {name: await binary(name) for name in ("etcdctl", "etcdutl", "kubectl")}
    programs["etcd-steward"] = Path(sys.executable).with_name("etcd-steward")
    if shutil.which("zstd") is None:
        programs["zstd"] = directory / "zstd.py"
        programs["zstd"].write_text(ZSTD)
        programs["zstd"].chmod(0o755)
    return shims(directory / "bin", programs)


async def check(chosen: Sequence[Path], *, write: bool) -> bool:
    """Run pages; print what is wrong with them, or write the real output into them."""
    good = True
    with tempfile.TemporaryDirectory(prefix="docs-") as root:
        async with sandbox(Path(root)) as bed:
            for page in chosen:
                say(f"{page.relative_to(ROOT)} …")
                text, ran = await bed.read(page)
                if write:
                    await asyncio.to_thread(page.write_text, rewritten(text, ran))
                faults = [fault for one in ran for fault in one.faults(shown=not write)]
                print("\n\n".join(faults))
                good = good and not faults
    return good
