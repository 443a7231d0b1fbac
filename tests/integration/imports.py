"""What the tests of `snapshot import` share: snapshots of real etcds, and a place to put them."""

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyrage

from etcd_steward.app import Source, import_file
from etcd_steward.engine.importing import Wanted
from etcd_steward.models.connection import LocalSettings
from etcd_steward.models.manifest import BackupRef, Manifest
from etcd_steward.models.run import SpoolSettings
from tests.support.cli import Said, files, steward
from tests.support.runs import Heard
from tests.testbed import EtcdCluster

UID = "1f0c9a3e-7b54-4b38-9c34-0d4be1a6f1b2"
KUBE_SYSTEM = json.dumps({"kind": "Namespace", "metadata": {"name": "kube-system", "uid": UID}})
IDENTITY = pyrage.x25519.Identity.generate()
AT = 1_700_000_000
TICK = "20231114T221320Z"


@dataclass(frozen=True)
class Taken:
    """A snapshot that etcdctl took, and the etcd that it is of."""

    etcd: EtcdCluster
    path: Path
    revision: int

    @property
    def data(self) -> bytes:
        return self.path.read_bytes()


async def take(etcd: EtcdCluster, path: Path, prefix: str = "/registry") -> Taken:
    await etcd.etcdctl("put", f"{prefix}/namespaces/kube-system", KUBE_SYSTEM)
    for number in range(30):
        await etcd.etcdctl("put", f"/k/{number % 20}", secrets.token_hex(300))
    await etcd.etcdctl("del", "/k/3")
    await etcd.etcdctl("snapshot", "save", path)
    return Taken(etcd, path, await etcd.revision())


def aged(data: bytes) -> bytes:
    return bytes(pyrage.encrypt(data, [IDENTITY.to_public()]))


@dataclass(frozen=True)
class Place:
    """A store and a spool in the test's directory."""

    directory: Path

    @property
    def store(self) -> Path:
        return self.directory / "store"

    @property
    def spool(self) -> Path:
        return self.directory / "spool"

    @property
    def flags(self) -> list[str]:
        return [f"--store=file://{self.store}", f"--spool-dir={self.spool}"]

    async def take_in(self, *words: str | Path) -> Said:
        return await steward("snapshot", "import", *words, *self.flags, "--no-progress")

    async def adopt(self, path: Path, **wanted: Any) -> Manifest:  # noqa: ANN401  # of any field
        """The same without a process of its own, which takes a second or more to start."""
        limit, timeout = wanted.pop("limit", None), wanted.pop("timeout", 60)
        _, imported = await import_file(
            Source(str(path)),
            LocalSettings(path=self.store),
            SpoolSettings(directory=self.spool, limit=limit),
            Wanted(BackupRef(namespace="_cli", name="imported"), secrets.token_hex(4), **wanted),
            Heard(),
            timeout=timeout,
        )
        return imported.manifest

    async def manifest(self, *words: str | Path) -> Manifest:
        said = await self.take_in(*words, "-ojson")
        assert said.code == 0, said.err
        return Manifest.model_validate(said.json())

    def left(self) -> list[str]:
        """What lies in the store and in the spool."""
        return [*(files(self.store) if self.store.exists() else []), *files(self.spool)]
