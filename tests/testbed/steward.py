"""etcd-steward itself, installed into a test bed as deploy/ installs it, run as a child process.

There are no nodes, so its Pod stays Pending; the process here has the same ServiceAccount, and so
the same rights, and is given what the Deployment would give it.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from tests.testbed.kubernetes import ControlPlane
from tests.testbed.part import Part
from tests.testbed.ports import reserved_ports
from tests.testbed.probe import http_status
from tests.testbed.process import Server
from tests.testbed.seaweedfs import SeaweedFS

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "etcd-steward"


async def install(kubernetes: ControlPlane) -> None:
    """Apply all of deploy/, the CRDs included, and wait until the API server serves them.

    Nothing of ours is there afterwards: what earlier tests have left would be looked after too.
    """
    await kubernetes.kubectl("apply", "--server-side", "--kustomize", ROOT / "deploy")
    kinds = ("etcdbackups", "etcdsnapshots", "etcdrestores", "etcdmaintenances")
    names = [f"crd/{kind}.etcdsteward.io" for kind in kinds]
    await kubernetes.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    for kind in kinds:
        await kubernetes.kubectl("delete", kind, "--all", "--all-namespaces", "--wait=false")


async def create_secrets(kubernetes: ControlPlane, s3: SeaweedFS) -> None:
    """Make the Secrets `s3` and `s3-ca` that the pages' and the demo's EtcdBackups name."""
    create = ("create", "secret", "generic", f"--namespace={NAMESPACE}")
    keys = [f"--from-literal={key}={value}" for key, value in s3.environment().items()]
    await kubernetes.kubectl(*create, "s3", *keys)
    await kubernetes.kubectl(*create, "s3-ca", f"--from-file=ca.crt={s3.ca_file}")


class Steward(Part):
    """`async with Steward(directory, kubernetes):` the operator, after `install`.

    Its default etcd is the one behind `kubernetes`; `flags` are added as `--name=value`.
    """

    def __init__(
        self,
        directory: Path,
        kubernetes: ControlPlane,
        *,
        flags: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(directory)
        self.metrics_port = 0
        self.health_port = 0
        self.server: Server
        self._kubernetes = kubernetes
        self._flags = dict(flags or {})
        self._env = dict(env or {})

    async def _start(self) -> None:
        self.server = await self._make_server()
        await self._stack.enter_async_context(self.server)

    async def _make_server(self) -> Server:
        kubeconfig = await self._kubernetes.service_account_kubeconfig(NAMESPACE, NAMESPACE)
        self.metrics_port, self.health_port = self._stack.enter_context(reserved_ports(2))
        flags = {
            "kubeconfig": str(kubeconfig),
            "namespace": NAMESPACE,
            "metrics-port": str(self.metrics_port),
            "health-port": str(self.health_port),
            "spool-dir": str(self.directory / "spool"),
        } | self._flags
        return Server(
            "etcd-steward",
            [
                sys.executable,
                "-m",
                "etcd_steward",
                "run",
                *self._kubernetes.etcd.connection_flags(),
                *(f"--{name}={value}" for name, value in flags.items()),
            ],
            directory=self.directory,
            ready=self._ready,
            env=self._env,
            grace=65,  # it kills itself after 60: what it stops in order may take as long
        )

    async def _ready(self) -> bool:
        return await http_status(f"http://127.0.0.1:{self.health_port}/readyz") == 200
