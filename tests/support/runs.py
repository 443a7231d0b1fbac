"""Asking the engine for snapshots of test-bed clusters, and comparing what comes back."""

import asyncio
import secrets
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from etcd_steward.engine.report import Report
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.keys import KeyRange
from etcd_steward.models.connection import EtcdConnection, EtcdTLS, S3Settings, StoreSettings
from etcd_steward.models.manifest import BackupRef, RunRef
from etcd_steward.models.run import Journal, Progress, SnapshotRequest, SpoolSettings
from tests.testbed import EtcdCluster, SeaweedFS
from tests.testbed.process import check_output


@dataclass
class Heard(Report):
    """A report that remembers what it was told."""

    steps: list[Progress] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    journals: list[Journal] = field(default_factory=list)
    settlements: int = 0

    def progress(self, progress: Progress) -> None:
        self.steps.append(progress)

    def warning(self, message: str) -> None:
        self.warnings.append(message)

    async def journal(self, journal: Journal) -> None:
        self.journals.append(journal)

    def settled(self) -> None:
        self.settlements += 1


def connection(etcd: EtcdCluster, *, endpoints: tuple[str, ...] = ()) -> EtcdConnection:
    """How to reach a test-bed cluster as root."""
    address = etcd.address
    tls = None
    if address.ca_file is not None and address.client is not None:
        tls = EtcdTLS(
            ca=address.ca_file.read_text(),
            cert=address.client.cert.read_text(),
            key=SecretStr(address.client.key.read_text()),
        )
    return EtcdConnection(
        endpoints=endpoints or address.endpoints,
        tls=tls,
        user=address.user or None,
        password=SecretStr(address.password) if address.password else None,
    )


def s3_settings(s3: SeaweedFS, bucket: str, **changes: object) -> S3Settings:
    """A prefix in a test-bed bucket."""
    settings: dict[str, Any] = {
        "bucket": bucket,
        "prefix": "prod",
        "endpoint": s3.endpoint_url,
        "access_key": s3.access_key,
        "secret_key": SecretStr(s3.secret_key),
        "force_path_style": True,
        "ca": s3.ca_file.read_text() if s3.ca_file else None,
        "retry_seconds": 15.0,
    }
    return S3Settings(**(settings | changes))


def snapshot_request(
    etcd: EtcdConnection, store: StoreSettings, spool: Path, **changes: object
) -> SnapshotRequest:
    """A request as the command line makes it."""
    request: dict[str, Any] = {
        "etcd": etcd,
        "store": store,
        "spool": SpoolSettings(directory=spool),
        "backup": BackupRef(namespace="_cli", name="manual"),
        "requester": RunRef(),
        "run": secrets.token_hex(4),
        "tick": datetime.now(UTC),
        "timeout": 120.0,
    }
    return SnapshotRequest(**(request | changes))


async def unzstd(source: Path) -> Path:
    """The file under its name without `.zst`, by the plain `zstd` program."""
    program = Path(sys.executable).with_name("zstd")
    await check_output(program, "-d", "-q", source)
    return source.with_suffix("")


async def restored(snapshot: Path, directory: Path, version: str) -> EtcdCluster:
    """A cluster that will boot from `snapshot`, restored by etcdutl; enter it to start it."""
    cluster = EtcdCluster(directory, version=version)
    await asyncio.to_thread(directory.mkdir, parents=True)
    where = ("--data-dir", directory / "etcd0.etcd", "--name", "etcd0")
    peers = "http://127.0.0.1:1"
    await cluster.etcdutl(
        "snapshot", "restore", snapshot, *where,
        "--initial-cluster", f"etcd0={peers}", "--initial-advertise-peer-urls", peers,
    )  # fmt: skip
    return cluster


Key = tuple[bytes, bytes, int, int, int, int]


async def contents(etcd: EtcdCluster, revision: int = 0) -> list[Key]:
    """Every key with its value, revisions, version and lease, as of `revision`."""
    keys: list[Key] = []
    async with EtcdClient.connect(connection(etcd)) as client:
        async for page in client.pages(KeyRange.prefix(b""), revision=revision):
            keys += [
                (kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)
                for kv in page.kvs
            ]
    return keys
