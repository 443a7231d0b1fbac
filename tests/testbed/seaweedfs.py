"""A real S3 server: SeaweedFS with checked keys, optional TLS, and helpers for assertions."""

import asyncio
import base64
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.testbed.binaries import binary
from tests.testbed.certs import Authority, write_private
from tests.testbed.part import Part
from tests.testbed.ports import reserved_ports
from tests.testbed.process import Server

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

REGION = "us-east-1"
DOMAIN = "s3.localhost"
"""Buckets are looked for in host names below it; a test resolves them to 127.0.0.1."""
KMS_KEY = "alias/seaweedfs-default"
"""The one key that its key service has; made anew at each start."""
ROLE = "arn:aws:iam::role/backups"
"""What a trusted service account may become, where there is an issuer."""
SHUTDOWN_GRACE = 2  # seconds; left alone it takes 12 to 30, and a kill loses nothing
_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "admin.port",
    "admin.port.grpc",
    "s3.port",
    "s3.port.grpc",
    "s3.port.https",
)


@dataclass(frozen=True, slots=True)
class Identity:
    """A user of the store and what it may do."""

    name: str
    actions: Sequence[str]
    access_key: str = field(default_factory=lambda: "AK" + secrets.token_hex(8).upper())
    secret_key: str = field(default_factory=lambda: secrets.token_urlsafe(30), repr=False)

    def as_config(self) -> dict[str, object]:
        """Return the identity in the form of SeaweedFS' configuration file."""
        keys = {"accessKey": self.access_key, "secretKey": self.secret_key}
        return {"name": self.name, "credentials": [keys], "actions": list(self.actions)}


def _trust(issuer: str, subject: str, session: str) -> dict[str, object]:
    """Return SeaweedFS' configuration of roles: what AWS' IAM holds for IRSA."""
    everything = {"Effect": "Allow", "Action": ["s3:*"], "Resource": ["*"]}
    trusted = {
        "Effect": "Allow",
        "Principal": {"Federated": "cluster"},
        "Action": ["sts:AssumeRoleWithWebIdentity"],
        "Condition": {"StringEquals": {"oidc:sub": subject}},
    }
    oidc = {"issuer": issuer, "clientId": "sts.amazonaws.com", "jwksUri": f"{issuer}/keys"}
    return {
        "sts": {
            "tokenDuration": session,
            "maxSessionLength": "12h",
            "issuer": "seaweedfs-sts",
            "signingKey": base64.b64encode(secrets.token_bytes(32)).decode(),
        },
        "providers": [{"name": "cluster", "type": "oidc", "enabled": True, "config": oidc}],
        "policy": {"defaultEffect": "Deny", "storeType": "memory"},
        "policies": [
            {"name": "all", "document": {"Version": "2012-10-17", "Statement": [everything]}}
        ],
        "roles": [
            {
                "roleName": ROLE.rpartition("/")[2],
                "roleArn": ROLE,
                "trustPolicy": {"Version": "2012-10-17", "Statement": [trusted]},
                "attachedPolicies": ["all"],
            }
        ],
    }


class SeaweedFS(Part):
    """`async with SeaweedFS(directory, tls=True) as s3:` an S3 endpoint that checks keys.

    `admin` may do everything, `reader` only list and get. Data, open uploads included, survive
    `kill()` and `restart()`. With `trusts`, an OIDC issuer's URL and the subject of its tokens,
    such a token gives the role `ROLE` for `session` (Go's notation).
    """

    def __init__(
        self,
        directory: Path,
        *,
        tls: bool = False,
        trusts: tuple[str, str] | None = None,
        session: str = "1h",
    ) -> None:
        super().__init__(directory)
        self.admin = Identity("admin", ("Admin", "Read", "List", "Tagging", "Write"))
        self.reader = Identity("reader", ("Read", "List"))
        self.region = REGION
        self.ca_file: Path | None = None
        self.endpoint_url = ""
        self.port = 0
        """The S3 port, for a proxy in front of it."""
        self.server: Server
        self._tls = tls
        self._trusts = trusts
        self._session = session

    @property
    def access_key(self) -> str:
        """The admin's key."""
        return self.admin.access_key

    @property
    def secret_key(self) -> str:
        """The admin's secret."""
        return self.admin.secret_key

    def environment(self, identity: Identity | None = None) -> dict[str, str]:
        """Return the variables that boto3, and so etcd-steward, finds its credentials by."""
        who = identity or self.admin
        return {"AWS_ACCESS_KEY_ID": who.access_key, "AWS_SECRET_ACCESS_KEY": who.secret_key}

    async def _start(self) -> None:
        self.server = await self._make_server()
        await self._stack.enter_async_context(self.server)

    async def _make_server(self) -> Server:
        data = self.directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        ports = dict(
            zip(_PORTS, self._stack.enter_context(reserved_ports(len(_PORTS))), strict=True)
        )
        identities = {
            "identities": [i.as_config() for i in (self.admin, self.reader)],
            "kms": {"default_provider": "local", "providers": {"local": {"type": "local"}}},
        }
        config = write_private(
            self.directory / "identities.json", json.dumps(identities, indent=1).encode()
        )
        flags: dict[str, object] = {
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "dir": data,
            "s3.config": config,
            "s3.domainName": DOMAIN,
            "s3.autoCreateBucket": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "webdav": "false",
            "admin.ui": "false",
            "master.telemetry": "false",
            "filer.localSocket": self.directory / "filer.sock",
            "s3.localSocket": self.directory / "s3.sock",
        }
        if self._trusts is not None:
            flags["s3.iam.config"] = write_private(
                self.directory / "iam.json",
                json.dumps(_trust(*self._trusts, self._session)).encode(),
            )
        scheme, self.port = "http", ports["s3.port"]
        if self._tls:
            authority = Authority.create(self.directory / "pki")
            pair = authority.issue("s3-server")
            flags |= {"s3.cert.file": pair.cert, "s3.key.file": pair.key}
            self.ca_file = authority.ca_file
            scheme, self.port = "https", ports["s3.port.https"]
        else:
            del ports["s3.port.https"]
        self.endpoint_url = f"{scheme}://127.0.0.1:{self.port}"
        arguments = [f"-{name}={value}" for name, value in (flags | ports).items()]
        return Server(
            "seaweedfs",
            [await binary("weed"), f"-logdir={self.directory}", "mini", *arguments],
            directory=self.directory,
            ready=self._writable,
            grace=SHUTDOWN_GRACE,
        )

    async def _writable(self) -> bool:
        """Ready means that an object can be stored: S3 answers before the volumes are there."""
        return await asyncio.to_thread(self._try_to_write)

    def _try_to_write(self) -> bool:
        from botocore.exceptions import (  # type: ignore[import-untyped]  # noqa: PLC0415
            BotoCoreError,
            ClientError,
        )

        bucket = "testbed-ready"
        client = self.client(attempts=1)
        try:
            if bucket not in [b["Name"] for b in client.list_buckets()["Buckets"]]:
                client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key="probe", Body=b"ready")
        except (BotoCoreError, ClientError):
            return False
        return True

    def client(
        self,
        identity: Identity | None = None,
        *,
        endpoint_url: str | None = None,
        attempts: int = 3,
    ) -> "S3Client":
        """Return a boto3 client, as admin unless told otherwise. Its calls block."""
        # Imported late: half a second, which most tests need not spend.
        import boto3  # type: ignore[import-untyped]  # noqa: PLC0415
        from botocore.config import Config  # type: ignore[import-untyped]  # noqa: PLC0415

        who = identity or self.admin
        client: S3Client = boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint_url or self.endpoint_url,
            region_name=REGION,
            aws_access_key_id=who.access_key,
            aws_secret_access_key=who.secret_key,
            verify=str(self.ca_file) if self.ca_file else None,
            config=Config(
                retries={"total_max_attempts": attempts, "mode": "standard"},
                connect_timeout=5,
                read_timeout=30,
                proxies={},
                s3={"addressing_style": "path"},
            ),
        )
        return client

    async def create_bucket(self, name: str) -> str:
        """Create a bucket and return its name."""
        client = self.client()
        await asyncio.to_thread(client.create_bucket, Bucket=name)
        return name

    async def delete_bucket(self, name: str) -> None:
        """Delete a bucket with all that is in it (SeaweedFS does; AWS would refuse)."""
        client = self.client()
        await asyncio.to_thread(client.delete_bucket, Bucket=name)

    async def objects(self, bucket: str, prefix: str = "") -> dict[str, int]:
        """Return every object's size by key."""

        def listed() -> dict[str, int]:
            pages = self.client().get_paginator("list_objects_v2")
            found: dict[str, int] = {}
            for page in pages.paginate(Bucket=bucket, Prefix=prefix):
                found |= {entry["Key"]: entry["Size"] for entry in page.get("Contents", [])}
            return found

        return await asyncio.to_thread(listed)

    async def open_uploads(self, bucket: str, prefix: str = "") -> dict[str, str]:
        """Return the keys of unfinished multipart uploads by upload ID."""

        def listed() -> dict[str, str]:
            pages = self.client().get_paginator("list_multipart_uploads")
            found: dict[str, str] = {}
            for page in pages.paginate(Bucket=bucket, Prefix=prefix):
                found |= {entry["UploadId"]: entry["Key"] for entry in page.get("Uploads", [])}
            return found

        return await asyncio.to_thread(listed)

    async def read(self, bucket: str, key: str) -> bytes:
        """Return a whole object."""

        def whole() -> bytes:
            return bytes(self.client().get_object(Bucket=bucket, Key=key)["Body"].read())

        return await asyncio.to_thread(whole)

    async def write(self, bucket: str, key: str, data: bytes) -> None:
        """Store an object."""
        await asyncio.to_thread(lambda: self.client().put_object(Bucket=bucket, Key=key, Body=data))
