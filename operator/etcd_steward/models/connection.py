"""How to reach one etcd and one store: resolved settings, ready to be used or handed to a child.

Secrets live here and only here. These models are made by the command line from flags and by the
handlers from Kubernetes Secrets.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr

from etcd_steward.models.base import Model, RevealedSecret


class EtcdTLS(Model):
    """PEM texts for mutual TLS with etcd."""

    ca: str | None = None
    """Certificates to trust; None trusts the system's roots."""
    cert: str | None = None
    key: RevealedSecret | None = None
    server_name: str | None = None
    """Name to verify the server's certificate against, where it differs from the endpoint."""


class EtcdConnection(Model):
    """One etcd cluster."""

    endpoints: tuple[str, ...]
    """`https://host:2379` or `http://…`; each may be a member or a virtual IP before several."""
    tls: EtcdTLS | None = None
    user: str | None = None
    password: RevealedSecret | None = None
    dial_timeout: float = 5.0
    """Seconds to wait for a connection."""
    command_timeout: float = 15.0
    """Seconds to wait for an ordinary unary answer."""
    use_proxy: bool = False
    """Obey `https_proxy` and its like. Off: gRPC would obey it even for plaintext 127.0.0.1."""


class S3Encryption(Model):
    """What the server is asked to encrypt with; reading needs it again only for type C."""

    type: Literal["S3", "KMS", "C"]
    """S3: its own keys; KMS: a key of its key service; C: ours, sent with each request."""
    kms_key_id: str | None = Field(default=None, alias="kmsKeyID")
    """None with type KMS: the server's default key."""
    customer_key: RevealedSecret | None = None
    """32 bytes in base64, with type C only."""


class S3Settings(Model):
    """One bucket and prefix."""

    kind: Literal["s3"] = "s3"
    bucket: str
    prefix: str = ""
    """Without leading or trailing slash."""
    endpoint: str | None = None
    region: str | None = None
    force_path_style: bool = False
    """`https://endpoint/bucket/…` instead of `https://bucket.endpoint/…`; addresses always are."""
    ca: str | None = None
    """PEM certificates to trust instead of the public roots."""
    access_key: str | None = None
    secret_key: RevealedSecret | None = None
    session_token: RevealedSecret | None = None
    """All three None: credentials are found as boto3 finds them (environment, profile, IRSA)."""
    profile: str | None = None
    """Section of the AWS configuration files to take credentials, region and the like from."""
    storage_class: str | None = None
    sse: S3Encryption | None = None
    """None: what the bucket does by itself."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Put on every object that is written."""
    retry_seconds: float = 180.0
    """How long server trouble (503, resets, stalls) is ridden out before a call fails."""
    connect_timeout: float = 10.0
    """Seconds to wait for a connection."""
    read_timeout: float = 60.0
    """Seconds that the other side may be silent before a call counts as stalled."""

    @property
    def url(self) -> str:
        """`s3://bucket/prefix`: no credentials, no trailing slash."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


class LocalSettings(Model):
    """A directory on this host."""

    kind: Literal["local"] = "local"
    path: Path

    @property
    def url(self) -> str:
        """`file:///path`."""
        return self.path.absolute().as_uri()


StoreSettings = Annotated[S3Settings | LocalSettings, Field(discriminator="kind")]
"""Where backups lie."""

__all__ = [
    "EtcdConnection",
    "EtcdTLS",
    "LocalSettings",
    "S3Encryption",
    "S3Settings",
    "SecretStr",
    "StoreSettings",
]
