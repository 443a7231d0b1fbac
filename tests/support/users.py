"""The operator under test: what a person does with kubectl, and what is then to be seen."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.testbed import ControlPlane, SeaweedFS, TestbedError, wait_until
from tests.testbed.process import Server
from tests.testbed.steward import NAMESPACE, Steward, install

Object = dict[str, Any]
API_VERSION = "etcdsteward.io/v1alpha1"


def backup(name: str, spec: Object, namespace: str = NAMESPACE) -> Object:
    """An EtcdBackup."""
    return {
        "apiVersion": API_VERSION,
        "kind": "EtcdBackup",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def run(name: str, backup_name: str, namespace: str = NAMESPACE) -> Object:
    """An EtcdSnapshot, as a person makes it."""
    return {
        "apiVersion": API_VERSION,
        "kind": "EtcdSnapshot",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"backupName": backup_name},
    }


def secret(name: str, data: dict[str, str], namespace: str = NAMESPACE) -> Object:
    """A Secret."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "stringData": data,
    }


def s3_store(s3: SeaweedFS, test_bucket: str, **changes: object) -> Object:
    """A store in a test-bed bucket, with the keys of Secret `s3`."""
    return {
        "s3": {
            "bucket": test_bucket,
            "prefix": "prod",
            "endpoint": s3.endpoint_url,
            "forcePathStyle": True,
            "credentialsSecretName": "s3",
            **changes,
        }
    }


def condition(thing: Object, type_: str) -> Object:
    """One condition, or an empty one."""
    conditions = thing.get("status", {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == type_), {})


@dataclass(frozen=True, slots=True)
class User:
    """Somebody with kubectl."""

    plane: ControlPlane
    namespace: str = NAMESPACE

    async def apply(self, *objects: Object) -> None:
        """`kubectl apply`, with every unknown field refused."""
        text = "\n---\n".join(json.dumps(one) for one in objects)
        await self.plane.kubectl("apply", "--validate=strict", "-f", "-", stdin=text)

    async def refused(self, *objects: Object) -> str:
        """The words with which the API server refuses these."""
        try:
            await self.apply(*objects)
        except TestbedError as error:
            return str(error)
        raise AssertionError("the API server took it")

    async def get(self, kind: str, name: str) -> Object:
        """One object."""
        words = ("get", kind, name, f"--namespace={self.namespace}", "-o", "json")
        found: Object = json.loads(await self.plane.kubectl(*words))
        return found

    async def all(self, kind: str) -> list[Object]:
        """All objects of a kind."""
        words = ("get", kind, f"--namespace={self.namespace}", "-o", "json")
        found: list[Object] = json.loads(await self.plane.kubectl(*words))["items"]
        return found

    async def run_of(self, backup_name: str) -> Object:
        """The run that the operator made of a one-shot, once it is there."""
        found: list[Object] = []

        async def there() -> bool:
            found[:] = [
                one
                for one in await self.all("esnap")
                if one["metadata"].get("labels", {}).get("etcdsteward.io/backup") == backup_name
            ]
            return bool(found)

        await wait_until(there, f"a run of {backup_name}", timeout=30)
        return found[0]

    async def ended(self, name: str, timeout: float = 90) -> Object:
        """A run, once it is Complete or Failed."""
        return await self.until(
            name, lambda one: one["status"]["phase"] in {"Complete", "Failed"}, timeout
        )

    async def until(self, name: str, holds: Any, timeout: float = 60) -> Object:  # noqa: ANN401
        """A run, once something holds of it."""
        found: Object = {}

        async def check() -> bool:
            found.clear()
            found.update(await self.get("esnap", name))
            return "status" in found and bool(holds(found))

        try:
            await wait_until(check, f"{name} is as expected", timeout=timeout)
        except TestbedError as error:
            raise AssertionError(json.dumps(found.get("status"), indent=1)) from error
        return found

    async def events(self, name: str) -> list[tuple[str, str, str]]:
        """Type, reason and message of the events of an object."""
        words = ("get", "events", f"--namespace={self.namespace}", "-o", "json")
        items = json.loads(await self.plane.kubectl(*words))["items"]
        return [
            (one["type"], one["reason"], one["message"])
            for one in items
            if one["involvedObject"]["name"] == name
        ]

    async def delete(self, kind: str, name: str, *, timeout: float = 60) -> None:
        """`kubectl delete`, which waits until the object is gone."""
        await self.plane.kubectl(
            "delete", kind, name, f"--namespace={self.namespace}", timeout=timeout
        )


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def kubeconfig_through(kubeconfig: Path, url: str, target: Path) -> Path:
    """A kubeconfig that reaches the same API server at another address."""
    config = json.loads(kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = url
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(config))
    target.chmod(0o600)
    return target


def port_of(url: str) -> int:
    """The port in a URL."""
    found = re.search(r":(\d+)$", url)
    assert found is not None
    return int(found[1])


async def installed(plane: ControlPlane, s3: SeaweedFS) -> None:
    """Install the operator, with Secret `s3` in its namespace; it does not run yet."""
    await install(plane)
    await User(plane).apply(secret("s3", s3.environment()))


class HastySteward(Steward):
    """The operator with shorter times: `timing` are fields of `Timing`, in seconds."""

    timing: dict[str, object]

    async def _make_server(self) -> Server:
        server = await super()._make_server()
        python = server.command[0]
        script = Path(__file__).with_name("hasty_operator.py")
        server.command = [python, script, json.dumps(self.timing), *server.command[3:]]
        return server
