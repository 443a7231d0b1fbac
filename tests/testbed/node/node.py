"""One Kubernetes node with its control plane: etcd, API server, controllers, scheduler, kubelet.

The parts of the test bed that know no nodes are used as they are, moved into the node's net.
"""

import asyncio
import functools
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from tests.testbed import process
from tests.testbed.binaries import binary
from tests.testbed.certs import Authority, signing_key, write_private
from tests.testbed.etcd import EtcdCluster, EtcdMember
from tests.testbed.kubernetes import ControlPlane, as_arguments
from tests.testbed.node.images import Archives
from tests.testbed.node.inside import ADDRESS, API_SERVICE
from tests.testbed.node.namespaces import CGROUP, Namespaces
from tests.testbed.node.needs import CNI
from tests.testbed.node.settings import cni_network, containerd_settings, kubelet_settings
from tests.testbed.part import Part
from tests.testbed.ports import reserved_ports
from tests.testbed.probe import http_status
from tests.testbed.process import Server
from tests.testbed.seaweedfs import SeaweedFS

Ready = Callable[[], Awaitable[bool]]

NAME = "node1"
API_PORT = 443  # what the Service of the API server says, with no kube-proxy in between
KUBELET_HEALTH = 10248
ETCD_PORT = 2379  # where kubeadm's etcd listens, beside the port of the test bed


class NodeEtcd(EtcdCluster):
    """One member with mutual TLS; Pods reach it at `pod_endpoint` under the name `localhost`."""

    def __init__(self, directory: Path, space: Namespaces) -> None:
        super().__init__(directory, mtls=True)
        self._space = space

    @property
    def pod_endpoint(self) -> str:
        """Its URL as Pods see it."""
        return f"https://{ADDRESS}:{self.members[0].client_port}"

    async def _make_members(self) -> list[EtcdMember]:
        members = await super()._make_members()
        for member in members:
            here, port = member.endpoint, member.client_port
            everywhere = (
                f"--listen-client-urls=https://0.0.0.0:{port},https://127.0.0.1:{ETCD_PORT}"
            )
            command = [
                everywhere if one == f"--listen-client-urls={here}" else one
                for one in member.command
            ]
            member.command = self._space.network(command)
            for seen in (port, int(member.metrics_url.rpartition(":")[2])):
                await self._stack.enter_async_context(self._space.portal(seen))
        return members


class NodeS3(SeaweedFS):
    """SeaweedFS in the node's net; Pods reach it at `pod_endpoint`."""

    def __init__(self, directory: Path, space: Namespaces) -> None:
        super().__init__(directory)
        self._space = space

    @property
    def pod_endpoint(self) -> str:
        """Its URL as Pods see it."""
        return f"http://{ADDRESS}:{self.port}"

    async def _make_server(self) -> Server:
        server = await super()._make_server()
        command = [
            "-ip.bind=0.0.0.0" if one == "-ip.bind=127.0.0.1" else one for one in server.command
        ]
        server.command = self._space.network(command)
        await self._stack.enter_async_context(self._space.portal(self.port))
        return server


class NodePlane(ControlPlane):
    """A control plane whose API server knows the kubelet, and with a scheduler."""

    def __init__(self, directory: Path, etcd: NodeEtcd, space: Namespaces) -> None:
        super().__init__(directory, etcd)
        self.kubelet_kubeconfig = directory / "kubelet.kubeconfig"
        self.scheduler: Server
        self._space = space

    async def _start(self) -> None:
        pki = self.directory / "pki"
        self._authority = Authority.create(pki)
        addresses = (ADDRESS, API_SERVICE)
        self._server_pair = self._authority.issue("kube-apiserver", addresses=addresses)
        self._kubelet_client = self._authority.issue(
            "kubelet-client", organization="system:masters"
        )
        self._signing = signing_key(pki)
        kubelet_token = "node-" + self.token
        tokens = f'{self.token},admin,admin,"system:masters"\n'
        tokens += f'{kubelet_token},system:node:{NAME},node,"system:nodes"\n'
        write_private(pki / "tokens.csv", tokens.encode())
        inner = self.directory / "inner.kubeconfig"
        self.url = f"https://127.0.0.1:{API_PORT}"
        self._write_kubeconfig(inner, self.token)
        self._write_kubeconfig(self.kubelet_kubeconfig, kubelet_token)
        api_port, manager_port = self._stack.enter_context(reserved_ports(2))
        await self._stack.enter_async_context(self._space.portal(api_port, API_PORT))
        self.url = f"https://127.0.0.1:{api_port}"
        self._write_kubeconfig(self.kubeconfig, self.token)

        self.api_server = await self._server(
            "kube-apiserver",
            self._api_server_flags(API_PORT) | self._node_flags(),
            "/readyz",
        )
        files = dict.fromkeys(
            ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"), str(inner)
        )
        self.controller_manager = await self._server(
            "kube-controller-manager",
            self._controller_manager_flags(manager_port) | files,
            "/api/v1/namespaces/default/serviceaccounts/default",
        )
        flags = {"leader-elect": "false", "bind-address": "127.0.0.1"}
        self.scheduler = await self._server("kube-scheduler", files | flags, "/readyz")

    async def _server(self, name: str, flags: dict[str, str], path: str) -> Server:
        server = Server(
            name,
            self._space.network([await binary(name), *as_arguments(flags)]),
            directory=self.directory,
            ready=functools.partial(self._answers, path),
        )
        await self._stack.enter_async_context(server)
        return server

    def _node_flags(self) -> dict[str, str]:
        return {
            "bind-address": "0.0.0.0",  # noqa: S104  # of a net that ends at this machine
            "advertise-address": ADDRESS,
            "client-ca-file": str(self.ca_file),
            "kubelet-client-certificate": str(self._kubelet_client.cert),
            "kubelet-client-key": str(self._kubelet_client.key),
            "kubelet-preferred-address-types": "InternalIP",
            "enable-admission-plugins": "NodeRestriction",
        }


class Node(Part):
    """`async with Node(directory, archives) as node:` Ready, with the images there.

    `directory` must not lie below /run, /etc, /var/lib or /var/log. `kubernetes`, `etcd` and `s3`
    are used from the host, as those without a node; `kubelet` and `containerd` are Servers.
    """

    def __init__(self, directory: Path, archives: Archives) -> None:
        super().__init__(directory)
        self.space = Namespaces(directory, [directory / name for name in ("containerd", "kubelet")])
        self.etcd = NodeEtcd(directory / "etcd", self.space)
        self.s3 = NodeS3(directory / "s3", self.space)
        self.kubernetes = NodePlane(directory / "control-plane", self.etcd, self.space)
        self.containerd: Server
        self.kubelet: Server
        self._archives = archives
        self._socket = directory / "containerd.sock"

    async def _start(self) -> None:
        await self._stack.enter_async_context(self.space)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._start_control_plane())
            group.create_task(self._start_containerd())
            group.create_task(self._stack.enter_async_context(self.s3))
        await self._start_kubelet()

    async def kubectl(
        self, *arguments: str | Path, stdin: str | bytes | None = None, timeout: float = 60
    ) -> str:
        """Run kubectl on the host, as admin."""
        return await self.kubernetes.kubectl(*arguments, stdin=stdin, timeout=timeout)

    async def run(self, *command: str | Path, timeout: float = 60) -> str:
        """Run a command on the node and return what it prints."""
        return await process.check_output(*self.space.inside(command), timeout=timeout)

    async def _start_control_plane(self) -> None:
        await self._stack.enter_async_context(self.etcd)
        await self._stack.enter_async_context(self.kubernetes)

    async def _start_containerd(self) -> None:
        settings = self.directory / "containerd.toml"
        data = self.directory / "containerd"
        networks = self.directory / "net.d"
        networks.mkdir()
        (networks / "bridge.conflist").write_text(json.dumps(cni_network()))
        settings.write_text(containerd_settings(data, self._socket, networks, CNI))
        self.containerd = self._inside(
            "containerd", ["containerd", "--config", settings], self._containerd_answers
        )
        await self._stack.enter_async_context(self.containerd)
        for archive in (self._archives.pause, self._archives.steward):
            await self._ctr("images", "import", archive, timeout=300)

    async def _start_kubelet(self) -> None:
        data = self.directory / "kubelet"
        settings = self.directory / "kubelet.yaml"
        authority = self.kubernetes.ca_file
        settings.write_text(json.dumps(kubelet_settings(data, self._socket, authority, CGROUP)))
        flags = {
            "kubeconfig": str(self.kubernetes.kubelet_kubeconfig),
            "config": str(settings),
            "root-dir": str(data),
            "cert-dir": str(data / "pki"),
            "hostname-override": NAME,
            "node-ip": ADDRESS,
        }
        (health,) = self._stack.enter_context(reserved_ports(1))
        await self._stack.enter_async_context(self.space.portal(health, KUBELET_HEALTH))
        url = f"http://127.0.0.1:{health}/healthz"

        async def healthy() -> bool:
            return await http_status(url) == 200

        command: list[str | Path] = [await binary("kubelet"), *as_arguments(flags)]
        self.kubelet = self._inside("kubelet", command, healthy)
        await self._stack.enter_async_context(self.kubelet)
        await process.wait_until(self._registered, f"{NAME} has registered", timeout=60)
        await self.kubectl("wait", "--for=condition=Ready", f"node/{NAME}", "--timeout=60s")

    async def _registered(self) -> bool:
        return NAME in await self.kubectl("get", "nodes", "--output=name")

    def _inside(self, name: str, command: Sequence[str | Path], ready: Ready) -> Server:
        return Server(name, self.space.inside(command), directory=self.directory, ready=ready)

    async def _containerd_answers(self) -> bool:
        command = self.space.inside(["ctr", "--address", self._socket, "version"])
        return (await process.run(*command)).status == 0

    async def _ctr(self, *arguments: str | Path, timeout: float = 60) -> str:
        words = ("ctr", "--address", self._socket, "--namespace=k8s.io", *arguments)
        return await self.run(*words, timeout=timeout)
