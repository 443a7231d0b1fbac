"""EtcdMaintenances beside a running operator, and etcds that are worth maintaining."""

import json
import re
from collections.abc import Callable
from typing import Any

from etcd_steward.engine.maintenance.lock import KEY
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.member import MemberStatus
from tests.support.runs import connection
from tests.support.users import API_VERSION, Object, User, condition
from tests.testbed import EtcdCluster, TestbedError, wait_until
from tests.testbed.bulk import load
from tests.testbed.process import check_output
from tests.testbed.steward import NAMESPACE

GARBAGE = 12_000
"""Keys of 1 kB: 17 MB of database."""
DEFRAGMENTATIONS = "etcd_disk_backend_defrag_duration_seconds_count"


def maintenance(name: str, spec: Object, namespace: str = NAMESPACE) -> Object:
    """An EtcdMaintenance."""
    return {
        "apiVersion": API_VERSION,
        "kind": "EtcdMaintenance",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def doing(step: str) -> Callable[[Object], bool]:
    """Whether a status says that this is being done."""
    return lambda status: bool(status.get("progress", {}).get("step") == step)


def says(type_: str, reason: str) -> Callable[[Object], bool]:
    """Whether a condition in a status has this reason."""
    return lambda status: bool(condition({"status": status}, type_).get("reason") == reason)


def outcomes(ended: Object) -> list[str]:
    """What became of each member in a round."""
    return [one["outcome"] for one in ended["members"]]


class Maintainer(User):
    """Somebody who looks after etcds."""

    async def shown(self, kind: str, name: str, holds: Any, timeout: float = 90) -> Object:  # noqa: ANN401
        """An object, once something holds of its status."""
        found: Object = {}

        async def check() -> bool:
            found.clear()
            found.update(await self.get(kind, name))
            return bool(holds(found.get("status", {})))

        try:
            await wait_until(check, f"{name} is as expected", timeout=timeout)
        except TestbedError as error:
            raise AssertionError(json.dumps(found.get("status"), indent=1)) from error
        return found

    async def once(self, name: str, holds: Any, timeout: float = 90) -> Object:  # noqa: ANN401
        """An EtcdMaintenance, once something holds of its status."""
        return await self.shown("emaint", name, holds, timeout)

    async def ask(self, name: str, value: str) -> None:
        """Ask for a round."""
        words = ("annotate", "--overwrite", "emaint", name, f"etcdsteward.io/requestedAt={value}")
        await self.plane.kubectl(*words, f"--namespace={self.namespace}")

    @staticmethod
    def ready(status: Object) -> Object:
        """Its condition Ready, or an empty one."""
        return condition({"status": status}, "Ready")

    async def row(self, name: str, *flags: str) -> dict[str, str]:
        """What `kubectl get` shows of an EtcdMaintenance, by column."""
        words = ("get", "emaint", name, f"--namespace={self.namespace}", *flags)
        head, line = (await self.plane.kubectl(*words)).splitlines()
        starts = [head.index(word) for word in head.split()]
        ends = [*starts[1:], None]
        return {
            head[start:end].strip(): line[start:end].strip()
            for start, end in zip(starts, ends, strict=True)
        }

    async def told(self, name: str, reasons: set[str]) -> None:
        """Wait until events with these reasons were posted about an object."""
        missing: set[str] = set(reasons)

        async def all_there() -> bool:
            missing.clear()
            missing.update(reasons - {reason for _, reason, _ in await self.events(name)})
            return not missing

        await wait_until(all_there, f"events of {name}: {missing} are missing", timeout=60)

    async def sizes(self) -> list[int]:
        """Of each member's file."""
        return [one.db_size for one in await members(self.plane.etcd)]


async def members(etcd: EtcdCluster) -> list[MemberStatus]:
    """The status of each member."""
    async with EtcdClient.connect(connection(etcd)) as client:
        found = await client.members()
        return sorted(
            (one for one in found if isinstance(one, MemberStatus)), key=lambda one: one.name
        )


async def unlocked(etcd: EtcdCluster) -> bool:
    """Whether nobody holds an etcd's maintenance lock."""
    async with EtcdClient.connect(connection(etcd)) as client:
        return await client.get(KEY) is None


async def defragmentations(etcd: EtcdCluster) -> list[int]:
    """How many each member has made since it was started, as it says itself."""
    counts = []
    for member in etcd.members:
        page = await check_output("curl", "-s", member.metrics_url + "/metrics")
        found = re.search(rf"^{DEFRAGMENTATIONS} (\d+)$", page, re.MULTILINE)
        assert found is not None
        counts.append(int(found[1]))
    return counts


async def fragment(etcd: EtcdCluster) -> None:
    """Write much where no API server looks, and have all members forget it."""
    await load(etcd, GARBAGE, value_size=1000, namespaces=5, seed=9, root="/garbage")
    async with EtcdClient.connect(connection(etcd)) as client:
        await client.delete(b"/garbage/", b"/garbage0")
        revision = (await client.put(b"/last", b"")).header.revision
        await client.put(b"/last", b"")
        await client.compact(revision)

        async def free() -> bool:
            await client.put(b"/last", b"")  # pages are free after the next commits
            found = [one for one in await client.members() if isinstance(one, MemberStatus)]
            return len(found) == len(etcd.members) and all(
                one.db_size - one.db_size_in_use > 8_000_000 for one in found
            )

        await wait_until(free, "pages are free on all members")
