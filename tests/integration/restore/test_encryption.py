"""Encryption at rest by a real API server: a value comes back while its key is in use, never after.

One value that the API server can't decrypt makes the whole type unreadable, for everybody.
"""

import base64
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.support.cli import Said, steward
from tests.testbed import ControlPlane, EtcdCluster

PASSWORD = "hunter2-hunter2"  # of the Secret that is made here


@dataclass(frozen=True, slots=True)
class Encrypted:
    """A control plane whose Secrets are encrypted at rest, and a backup of it."""

    plane: ControlPlane
    configuration: Path
    directory: Path

    async def use(self, keys: dict[str, str]) -> None:
        """Have the API server write with the first of these keys, and read with all of them."""
        write(self.configuration, keys)
        await self.plane.api_server.restart()

    async def restore(self, *words: str) -> Said:
        """`restore object` of the Secret from the backup."""
        return await steward(
            "restore", "object", "secret/default/db", f"--from=file://{self.directory}/store",
            f"--kubeconfig={self.plane.kubeconfig}", f"--spool-dir={self.directory}/spool",
            "--no-second-look", "-o=json", *words, *self.plane.etcd.connection_flags(),
        )  # fmt: skip

    async def password(self) -> str:
        """What the API server says is in the Secret."""
        words = ("secret", "db", "--output=jsonpath={.data.password}")
        return base64.b64decode(await self.plane.kubectl("get", *words)).decode()


def write(configuration: Path, keys: dict[str, str]) -> None:
    """An EncryptionConfiguration; without a key of its own it has none to fall back to."""
    named = [{"name": name, "secret": secret} for name, secret in keys.items()]
    resources = [{"resources": ["secrets"], "providers": [{"aescbc": {"keys": named}}]}]
    configuration.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "apiserver.config.k8s.io/v1",
                "kind": "EncryptionConfiguration",
                "resources": resources,
            }
        )
    )


def new_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


@pytest.fixture
async def encrypted(tmp_path: Path) -> AsyncIterator[tuple[Encrypted, dict[str, str]]]:
    configuration, keys = tmp_path / "encryption.yaml", {"first": new_key()}
    write(configuration, keys)
    flags = {"encryption-provider-config": str(configuration)}
    async with (
        EtcdCluster(tmp_path / "etcd") as etcd,
        ControlPlane(tmp_path / "plane", etcd, controllers=False, flags=flags) as plane,
    ):
        for name in ("db", "other"):
            await plane.kubectl(
                "create", "secret", "generic", name, f"--from-literal=password={PASSWORD}"
            )
        store = f"--store=file://{tmp_path}/store"
        saved = await steward("snapshot", "save", store, *etcd.connection_flags())
        assert saved.code == 0, saved.err
        await plane.kubectl("delete", "secret", "db")
        yield Encrypted(plane, configuration, tmp_path), keys


async def test_a_secret_comes_back_while_its_key_is_in_use(
    encrypted: tuple[Encrypted, dict[str, str]],
) -> None:
    cluster, _ = encrypted
    done = await cluster.restore("--apply")
    assert done.code == 0, done.err
    assert await cluster.password() == PASSWORD
    assert PASSWORD not in done.out + done.err


async def test_a_secret_whose_key_was_rotated_away_is_blocked(
    encrypted: tuple[Encrypted, dict[str, str]],
) -> None:
    cluster, keys = encrypted
    newer = {"second": new_key()}
    await cluster.use(newer | keys)
    everything = await cluster.plane.kubectl("get", "secrets", "-A", "--output=json")
    await cluster.plane.kubectl("replace", "--filename=-", stdin=everything.encode())
    await cluster.use(newer)

    for words, reason in (((), "KeyNotInUse"), (("--via=api",), "Encrypted")):
        said = await cluster.restore("--apply", *words)
        assert said.code != 0
        (item,) = [one for one in json.loads(said.out)["plan"]["items"] if one["name"] == "db"]
        assert (item["verdict"], item["reason"]) == ("blocked", reason)
    secret = await cluster.plane.kubectl("get", "secrets", "--output=name")
    assert secret.split() == ["secret/other"], "all others can still be read"
