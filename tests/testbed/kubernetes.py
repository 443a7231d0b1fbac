"""A real Kubernetes control plane over a test bed's etcd: API server and controller manager."""

import functools
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.testbed import process
from tests.testbed.binaries import binary
from tests.testbed.certs import Authority, signing_key, write_private
from tests.testbed.etcd import EtcdCluster
from tests.testbed.part import Part
from tests.testbed.ports import reserved_ports
from tests.testbed.probe import http_status
from tests.testbed.process import Server

SERVICE_RANGE = "10.96.0.0/16"
# What needs nodes or a cloud has nothing to do here.
CONTROLLERS = (
    "*,-node-ipam-controller,-service-lb-controller,-node-route-controller,"
    "-cloud-node-lifecycle-controller"
)
SHUTDOWN_GRACE = 5  # seconds; the API server drains its watches


@dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl with one kubeconfig; its discovery cache lies beside that, apart from the user's."""

    kubeconfig: Path

    async def kubectl(
        self, *arguments: str | Path, stdin: str | bytes | None = None, timeout: float = 60
    ) -> str:
        """Run kubectl and return what it prints; TestbedError with its words if it fails."""
        return await process.check_output(
            await binary("kubectl"),
            f"--kubeconfig={self.kubeconfig}",
            f"--cache-dir={self.kubeconfig.parent / 'kubectl-cache'}",
            *arguments,
            stdin=stdin.encode() if isinstance(stdin, str) else stdin,
            timeout=timeout,
        )


class ControlPlane(Part):
    """`async with ControlPlane(directory, etcd) as kubernetes:` ready in about four seconds.

    `api_server` and `controller_manager` are `Server`s: a test may stop, kill or pause each.
    Without the controller manager (`controllers=False`) no ServiceAccounts, garbage collection or
    namespace deletion happen, and admission of ServiceAccounts is off.
    """

    def __init__(
        self,
        directory: Path,
        etcd: EtcdCluster,
        *,
        controllers: bool = True,
        flags: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(directory)
        self.etcd = etcd
        self.url = ""
        self.kubeconfig = directory / "admin.kubeconfig"
        self.token = secrets.token_urlsafe(24)
        self.api_server: Server
        self.controller_manager: Server | None = None
        self._controllers = controllers
        self._flags = dict(flags or {})

    async def _start(self) -> None:
        pki = self.directory / "pki"
        self._authority = Authority.create(pki)
        self._server_pair = self._authority.issue(
            "kube-apiserver", names=("kubernetes.default.svc",)
        )
        self._signing = signing_key(pki)
        write_private(pki / "tokens.csv", f'{self.token},admin,admin,"system:masters"\n'.encode())
        port, manager_port = self._stack.enter_context(reserved_ports(2))
        self.url = f"https://127.0.0.1:{port}"
        self._write_kubeconfig(self.kubeconfig, self.token)
        self.api_server = Server(
            "kube-apiserver",
            [await binary("kube-apiserver"), *as_arguments(self._api_server_flags(port))],
            directory=self.directory,
            ready=functools.partial(self._answers, "/readyz"),
            grace=SHUTDOWN_GRACE,
        )
        await self._stack.enter_async_context(self.api_server)
        if self._controllers:
            flags = self._controller_manager_flags(manager_port)
            self.controller_manager = Server(
                "kube-controller-manager",
                [await binary("kube-controller-manager"), *as_arguments(flags)],
                directory=self.directory,
                # The first thing that everybody needs of it, and proof that its loops turn.
                ready=functools.partial(
                    self._answers, "/api/v1/namespaces/default/serviceaccounts/default"
                ),
            )
            await self._stack.enter_async_context(self.controller_manager)

    @property
    def ca_file(self) -> Path:
        """The CA of the API server's certificate."""
        return self._authority.ca_file

    async def _answers(self, path: str) -> bool:
        status = await http_status(self.url + path, ca_file=self.ca_file, token=self.token)
        return status == 200

    def _api_server_flags(self, port: int) -> dict[str, str]:
        flags = {
            "etcd-servers": ",".join(self.etcd.endpoints),
            "bind-address": "127.0.0.1",
            "advertise-address": "127.0.0.1",
            "secure-port": str(port),
            "tls-cert-file": str(self._server_pair.cert),
            "tls-private-key-file": str(self._server_pair.key),
            "service-cluster-ip-range": SERVICE_RANGE,
            "service-account-key-file": str(self._signing.public),
            "service-account-signing-key-file": str(self._signing.private),
            "service-account-issuer": self.url,
            "token-auth-file": str(self.directory / "pki" / "tokens.csv"),
            "authorization-mode": "Node,RBAC",
            "allow-privileged": "true",
            "endpoint-reconciler-type": "none",
            "profiling": "false",
        }
        if tls := self.etcd.tls:
            flags |= {
                "etcd-cafile": str(tls.ca_file),
                "etcd-certfile": str(tls.client.cert),
                "etcd-keyfile": str(tls.client.key),
            }
        if not self._controllers:
            flags["disable-admission-plugins"] = "ServiceAccount"
        return flags | self._flags

    def _controller_manager_flags(self, port: int) -> dict[str, str]:
        return {
            "kubeconfig": str(self.kubeconfig),
            "bind-address": "127.0.0.1",
            "secure-port": str(port),
            "cert-dir": str(self.directory / "controller-manager"),
            "authentication-kubeconfig": str(self.kubeconfig),
            "authorization-kubeconfig": str(self.kubeconfig),
            "use-service-account-credentials": "true",
            "kube-api-qps": "500",  # its default of 20 delays the first ServiceAccounts by seconds
            "kube-api-burst": "1000",
            "service-account-private-key-file": str(self._signing.private),
            "root-ca-file": str(self.ca_file),
            "leader-elect": "false",
            "controllers": CONTROLLERS,
            "profiling": "false",
        }

    def _write_kubeconfig(self, path: Path, token: str, namespace: str = "default") -> Path:
        """Write a kubeconfig as JSON, which every reader of YAML reads."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "testbed",
                    "cluster": {"server": self.url, "certificate-authority": str(self.ca_file)},
                }
            ],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [
                {
                    "name": "testbed",
                    "context": {"cluster": "testbed", "user": "user", "namespace": namespace},
                }
            ],
            "current-context": "testbed",
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_private(path, json.dumps(config, indent=1).encode())

    async def kubectl(
        self,
        *arguments: str | Path,
        stdin: str | bytes | None = None,
        kubeconfig: Path | None = None,
        timeout: float = 60,
    ) -> str:
        """Run kubectl, as admin unless told otherwise; TestbedError with its words if it fails."""
        client = Kubectl(kubeconfig or self.kubeconfig)
        return await client.kubectl(*arguments, stdin=stdin, timeout=timeout)

    async def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """Return a kubeconfig with a ServiceAccount's token (1 h): its rights are only its RBAC."""
        token = await self.kubectl("create", "token", name, f"--namespace={namespace}")
        path = self.directory / f"{namespace}.{name}.kubeconfig"
        return self._write_kubeconfig(path, token.strip(), namespace)


def as_arguments(flags: Mapping[str, str]) -> list[str]:
    """Return `--name=value` for each flag."""
    return [f"--{name}={value}" for name, value in flags.items()]
