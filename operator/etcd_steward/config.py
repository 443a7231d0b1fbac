"""Settings of this process: where its own etcd is, and how the operator was installed.

Made from flags and environment variables by `cli/`; files are read when a connection is opened,
not when the process starts, so that renewed certificates are used without a restart.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from etcd_steward.errors import InvalidInput
from etcd_steward.models.connection import EtcdConnection, EtcdTLS

if TYPE_CHECKING:  # it brings all models with it, which few verbs need
    from etcd_steward.models.run import SpoolSettings


def read_pem(path: Path, what: str) -> str:
    """The text of a PEM file, or `InvalidInput` saying `what` it should have been."""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"{what} {path} can't be read: {getattr(error, 'strerror', None) or 'not a PEM file'}"
        ) from error


@dataclass(frozen=True, slots=True)
class EtcdFlags:
    """etcdctl's connection flags, as they were given."""

    endpoints: tuple[str, ...] = ("127.0.0.1:2379",)
    cacert: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    user: str | None = None
    password: SecretStr | None = field(default=None, repr=False)
    server_name: str | None = None
    dial_timeout: float = 5.0
    """Seconds."""
    command_timeout: float = 15.0
    """Seconds."""
    use_proxy: bool = False

    def connection(self) -> EtcdConnection:
        """Read the files and say how to reach etcd.

        An endpoint without a scheme means https where any TLS file is named, else http, as with
        etcdctl. Raises `InvalidInput` for a file that can't be read or a lone certificate or key.
        """
        if (self.cert is None) != (self.key is None):
            raise InvalidInput("--cert and --key belong together: only one of them is set")
        secure = self.cacert is not None or self.cert is not None
        tls = None
        if secure or any(endpoint.startswith("https://") for endpoint in self.endpoints):
            tls = EtcdTLS(
                ca=read_pem(self.cacert, "the CA file") if self.cacert else None,
                cert=read_pem(self.cert, "the client certificate") if self.cert else None,
                key=SecretStr(read_pem(self.key, "the client key")) if self.key else None,
                server_name=self.server_name,
            )
        scheme = "https" if secure else "http"
        return EtcdConnection(
            endpoints=tuple(
                endpoint if "://" in endpoint else f"{scheme}://{endpoint}"
                for endpoint in self.endpoints
            ),
            tls=tls,
            user=self.user,
            password=self.password,
            dial_timeout=self.dial_timeout,
            command_timeout=self.command_timeout,
            use_proxy=self.use_proxy,
        )


@dataclass(frozen=True, slots=True)
class OperatorConfig:
    """How the operator was installed."""

    namespace: str
    """The operator's own."""
    etcd: EtcdFlags | None
    """The etcd for resources that name none; None if the installer gave none."""
    etcd_namespaces: tuple[str, ...]
    """Namespaces whose resources may use that etcd, local stores and ambient S3 credentials."""
    spool: "SpoolSettings"
    registry_prefix: str = "/registry"
    kubeconfig: Path | None = None
    """None: in the pod, else as kubectl finds it."""
    max_runs: int = 2
    """At most so many runs at once, over all EtcdBackups."""
    metrics_port: int = 8080
    health_port: int = 8081
    leader_elect: bool = True
    """Whether other operators may run: a Lease in `namespace` says which one acts."""
