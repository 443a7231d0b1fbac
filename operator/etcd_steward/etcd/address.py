"""Endpoints as people write them."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from etcd_steward.errors import InvalidInput

DEFAULT_PORT = 2379


@dataclass(frozen=True, slots=True)
class Address:
    """One endpoint: `http://host:port` or `https://host:port`."""

    host: str
    """A name, an IPv4 address or an IPv6 address without brackets."""
    port: int
    secure: bool

    @classmethod
    def parse(cls, text: str, *, secure: bool) -> "Address":
        """Read an endpoint; `secure` decides for one without a scheme, as with etcdctl.

        Raises `InvalidInput`.
        """
        hint = "Write endpoints like https://10.0.0.1:2379"
        scheme, separator, rest = text.strip().rpartition("://")
        if separator and scheme not in ("http", "https"):
            raise InvalidInput(f"endpoint {text!r} has an unknown scheme", hint=hint)
        try:
            parts = urlsplit(f"//{rest}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise InvalidInput(f"endpoint {text!r} can't be read: {error}", hint=hint) from error
        if parts.username is not None or parts.password is not None:
            # Not repeated: it may hold a password.
            raise InvalidInput("an endpoint holds a user or password", hint=hint)
        if not host or parts.query or parts.path not in ("", "/"):
            raise InvalidInput(f"endpoint {text!r} is no host and port", hint=hint)
        return cls(host, port or DEFAULT_PORT, scheme == "https" if separator else secure)

    @property
    def authority(self) -> str:
        """`host:port`, IPv6 in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """How messages name this endpoint."""
        return f"{'https' if self.secure else 'http'}://{self.authority}"
