"""etcd clusters of one or three real members, plaintext or mutual TLS, with or without users."""

import asyncio
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.testbed import process
from tests.testbed.binaries import binary
from tests.testbed.certs import Authority, KeyPair
from tests.testbed.part import Part
from tests.testbed.ports import reserved_ports
from tests.testbed.probe import http_status
from tests.testbed.process import Server, stop_all

DEFAULT_VERSION = "3.6"
SHUTDOWN_GRACE = 2  # seconds; members that end together wait for each other in vain
_HEALTH_INTERVAL = 5.0
# Alarms say that something is wrong with the data or its size, not that a member isn't up.
HEALTH = "/health?exclude=NOSPACE&exclude=CORRUPT"


@dataclass(frozen=True, slots=True)
class Auth:
    """Users of a cluster with password authentication: root, and one limited to a key prefix."""

    root_password: str = field(default_factory=secrets.token_urlsafe, repr=False)
    user: str = "app"
    user_password: str = field(default_factory=secrets.token_urlsafe, repr=False)
    user_prefix: str = "/app/"
    token_ttl: int = 300
    """Seconds that a token lives unused: etcd's own default. Set 1 or 2 to see tokens expire."""


@dataclass(frozen=True, slots=True)
class Tls:
    """What a cluster with mutual TLS was given, and what its clients need."""

    authority: Authority
    server: KeyPair
    client: KeyPair

    @property
    def ca_file(self) -> Path:
        """The CA that clients check the server with."""
        return self.authority.ca_file


@dataclass(frozen=True, slots=True)
class EtcdAddress:
    """How a client reaches a cluster and proves who it is."""

    endpoints: tuple[str, ...]
    ca_file: Path | None = None
    client: KeyPair | None = None
    user: str = ""
    password: str = field(default="", repr=False)

    def flags(self) -> list[str]:
        """Return etcdctl's connection flags; etcd-steward takes the same."""
        flags = [f"--endpoints={','.join(self.endpoints)}"]
        if self.ca_file:
            flags.append(f"--cacert={self.ca_file}")
        if self.client:
            flags += [f"--cert={self.client.cert}", f"--key={self.client.key}"]
        if self.user:
            flags.append(f"--user={self.user}:{self.password}")
        return flags


class EtcdMember(Server):
    """One member: a `Server` that also knows its addresses and its ID."""

    def __init__(
        self, name: str, command: Sequence[str | Path], directory: Path, ports: "_Ports"
    ) -> None:
        super().__init__(
            name, command, directory=directory, ready=self._healthy, grace=SHUTDOWN_GRACE
        )
        self.endpoint = ports.client_url
        self.client_port = ports.client
        self.peer_url = ports.peer_url
        self.metrics_url = ports.metrics_url
        self.data_dir = directory / f"{name}.etcd"
        self.id = 0
        """The member ID, known once the cluster is up."""

    async def _healthy(self) -> bool:
        return await http_status(self.metrics_url + HEALTH) == 200


@dataclass(frozen=True, slots=True)
class _Ports:
    client: int
    peer: int
    metrics: int
    scheme: str

    @property
    def client_url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.client}"

    @property
    def peer_url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.peer}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.metrics}"


class EtcdCluster(Part):
    """An etcd cluster on loopback: `async with EtcdCluster(directory, members=3, mtls=True) as c:`.

    `version` is a minor version ("3.4" … "3.7"). `flags` go to each member as `--name=value`.
    `fsync=False` leaves out the disk flushes (not in 3.4): several times faster, and a `kill()` of
    the process loses nothing, for the page cache survives it; only a machine's crash would.
    """

    def __init__(
        self,
        directory: Path,
        *,
        members: int = 1,
        version: str = DEFAULT_VERSION,
        mtls: bool = False,
        auth: Auth | None = None,
        flags: Mapping[str, str] | None = None,
        fsync: bool = False,
    ) -> None:
        super().__init__(directory)
        self.version = version
        self.auth = auth
        self.tls: Tls | None = None
        self.members: list[EtcdMember] = []
        self._size = members
        self._mtls = mtls
        self._flags = dict(flags or {})
        self._fsync = fsync or version == "3.4"
        self._auth_enabled = False

    @property
    def endpoints(self) -> list[str]:
        """The members' client URLs."""
        return [member.endpoint for member in self.members]

    async def _start(self) -> None:
        if self._mtls:
            self.tls = _make_tls(self.directory / "pki")
        self.members = await self._make_members()
        self._stack.push_async_callback(stop_all, self.members)
        async with asyncio.TaskGroup() as group:
            for member in self.members:
                group.create_task(member.start())
        await self._learn_ids()
        if self.auth:
            await self._enable_auth(self.auth)

    async def _make_members(self) -> list[EtcdMember]:
        program = await binary("etcd", self.version)
        numbers = self._stack.enter_context(reserved_ports(3 * self._size))
        scheme = "https" if self.tls else "http"
        ports = [
            _Ports(client, peer, metrics, scheme)
            for client, peer, metrics in zip(*[iter(numbers)] * 3, strict=True)
        ]
        initial = ",".join(f"etcd{i}={p.peer_url}" for i, p in enumerate(ports))
        common = self._common_flags(initial)
        return [
            EtcdMember(
                f"etcd{i}",
                [program, *_flags(self._member_flags(f"etcd{i}", p) | common)],
                self.directory,
                p,
            )
            for i, p in enumerate(ports)
        ]

    def _member_flags(self, name: str, ports: _Ports) -> dict[str, str]:
        return {
            "name": name,
            "data-dir": str(self.directory / f"{name}.etcd"),
            "listen-client-urls": ports.client_url,
            "advertise-client-urls": ports.client_url,
            "listen-peer-urls": ports.peer_url,
            "initial-advertise-peer-urls": ports.peer_url,
            "listen-metrics-urls": ports.metrics_url,  # health without client certificates
        }

    def _common_flags(self, initial_cluster: str) -> dict[str, str]:
        flags = {
            "initial-cluster": initial_cluster,
            # Cluster and member IDs are digests of this: with the default, clusters would collide.
            "initial-cluster-token": secrets.token_hex(8),
            "log-outputs": "stderr",
        }
        if not self._fsync:
            flags["unsafe-no-fsync"] = "true"
        if self.auth:
            flags["auth-token-ttl"] = str(self.auth.token_ttl)
        if self.tls:
            for side in ("", "peer-"):
                flags |= {
                    f"{side}trusted-ca-file": str(self.tls.ca_file),
                    f"{side}cert-file": str(self.tls.server.cert),
                    f"{side}key-file": str(self.tls.server.key),
                    f"{side}client-cert-auth": "true",
                }
        return flags | self._flags

    async def _learn_ids(self) -> None:
        listed = json.loads(await self.etcdctl("member", "list", "-w", "json"))["members"]
        ids = {entry["name"]: entry["ID"] for entry in listed}
        for member in self.members:
            member.id = ids[member.name]

    async def _enable_auth(self, auth: Auth) -> None:
        await self.etcdctl("user", "add", f"root:{auth.root_password}")
        await self.etcdctl("user", "grant-role", "root", "root")
        await self.etcdctl("role", "add", auth.user)
        grant = ("role", "grant-permission", "--prefix=true", auth.user, "readwrite")
        await self.etcdctl(*grant, auth.user_prefix)
        await self.etcdctl("user", "add", f"{auth.user}:{auth.user_password}")
        await self.etcdctl("user", "grant-role", auth.user, auth.user)
        await self.etcdctl("auth", "enable")
        self._auth_enabled = True

    @property
    def address(self) -> EtcdAddress:
        """How root reaches the cluster."""
        address = EtcdAddress(tuple(self.endpoints))
        if self.tls:
            address = replace(address, ca_file=self.tls.ca_file, client=self.tls.client)
        if self.auth and self._auth_enabled:
            address = replace(address, user="root", password=self.auth.root_password)
        return address

    def connection_flags(self) -> list[str]:
        """Return etcdctl's connection flags, as root; etcd-steward takes the same."""
        return self.address.flags()

    async def etcdctl(
        self,
        *arguments: str | Path,
        stdin: bytes | None = None,
        endpoints: Sequence[str] | None = None,
        timeout: float = 60,
    ) -> str:
        """Run this version's etcdctl against the cluster, as root; TestbedError if it fails."""
        program = await binary("etcdctl", self.version)
        address = self.address
        if endpoints:
            address = replace(address, endpoints=tuple(endpoints))
        return await process.check_output(
            program,
            *address.flags(),
            *arguments,
            stdin=stdin,
            timeout=timeout,
        )

    async def add_learner(self, name: str) -> str:
        """Announce a learner that never comes; its ID in hexadecimal.

        etcd refuses that while its members have not known each other for five seconds ("unhealthy
        cluster", etcd server/etcdserver/server.go: `HealthInterval`), so it is asked again.
        """
        words = ("member", "add", name, "--learner", "--peer-urls=https://127.0.0.1:1")
        give_up = time.monotonic() + 2 * _HEALTH_INTERVAL
        while True:
            try:
                said = json.loads(await self.etcdctl(*words, "--write-out=json"))
            except process.TestbedError as error:
                if "unhealthy cluster" not in str(error) or time.monotonic() > give_up:
                    raise
                await asyncio.sleep(0.5)
            else:
                return f"{said['member']['ID']:x}"

    async def etcdutl(self, *arguments: str | Path, timeout: float = 120) -> str:
        """Run this version's etcdutl (3.5's for 3.4, which had none)."""
        program = await binary("etcdutl", self.version)
        return await process.check_output(program, *arguments, timeout=timeout)

    async def leader(self) -> EtcdMember:
        """Return the member that leads now."""
        said = json.loads(await self.etcdctl("endpoint", "status", "-w", "json"))
        leader = said[0]["Status"]["leader"]
        return next(member for member in self.members if member.id == leader)

    async def revision(self) -> int:
        """Return the current revision."""
        said = json.loads(await self.etcdctl("get", "/", "-w", "json"))
        return int(said["header"]["revision"])


def _make_tls(directory: Path) -> Tls:
    authority = Authority.create(directory)
    return Tls(authority, authority.issue("etcd-server"), authority.issue("etcd-client"))


def _flags(flags: Mapping[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in flags.items()]
