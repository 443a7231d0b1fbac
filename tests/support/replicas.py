"""Several operators beside each other, each a process with its own spool, as a Pod would be."""

import asyncio
import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.users import (
    HastySteward,
    Object,
    User,
    backup,
    condition,
    port_of,
    s3_store,
    secret,
)
from tests.testbed import ControlPlane, Direction, EtcdCluster, FaultProxy, SeaweedFS, wait_until
from tests.testbed.steward import NAMESPACE, install

UPLOADED = 2_000_000
"""Bytes that a run has sent to the store when it is held."""
SLOW = 2_000_000
"""Bytes per second of each connection to the store."""


def leads(replica: HastySteward) -> bool:
    """What its gauge says; one that does not answer does not lead."""
    url = f"http://127.0.0.1:{replica.metrics_port}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return b"etcd_steward_leader 1.0" in answer.read()
    except (OSError, urllib.error.URLError):
        return False


async def leading(replicas: Iterable[HastySteward]) -> list[HastySteward]:
    """Those that lead."""
    replicas = list(replicas)
    said = await asyncio.gather(*(asyncio.to_thread(leads, one) for one in replicas))
    return [one for one, does in zip(replicas, said, strict=True) if does]


@dataclass(kw_only=True)
class Replicas:
    """Some of them, on one API server."""

    user: User
    directory: Path
    stack: contextlib.AsyncExitStack
    replicas: list[HastySteward] = field(default_factory=list)

    async def start(self, count: int, timing: dict[str, object], **flags: str) -> None:
        """Start so many replicas, side by side."""
        for _ in range(count):
            directory = self.directory / str(len(self.replicas))
            replica = HastySteward(directory, self.user.plane, flags=flags)
            replica.directory.mkdir()
            replica.timing = timing
            self.replicas.append(replica)
        async with asyncio.TaskGroup() as group:
            for replica in self.replicas[-count:]:
                group.create_task(replica.__aenter__())
        for replica in self.replicas[-count:]:
            self.stack.push_async_exit(replica)

    async def leader(self, others_than: HastySteward | None = None) -> HastySteward:
        """The one that leads, once there is one."""
        found: list[HastySteward] = []

        async def one() -> bool:
            found[:] = await leading(self.replicas)
            return len(found) == 1 and found[0] is not others_than

        await wait_until(one, "one replica leads", timeout=60)
        return found[0]

    async def lease(self) -> Object:
        """The Lease's spec."""
        words = ("get", "lease", "etcd-steward", f"--namespace={NAMESPACE}", "-o", "json")
        spec: Object = json.loads(await self.user.plane.kubectl(*words))["spec"]
        return spec

    async def said(self, name: str, reason: str) -> int:
        """How often something was said of an object."""
        return sum(event[1] == reason for event in await self.user.events(name))


@dataclass(kw_only=True)
class Cast(Replicas):
    """Replicas that back up, and a store that can be held."""

    loaded: EtcdCluster
    s3: SeaweedFS
    bucket: str
    store: FaultProxy

    async def declare(self, name: str, **spec: object) -> str:
        """Declare a backup of the loaded etcd; returns its run, once it has begun."""
        store = s3_store(self.s3, self.bucket, endpoint=self.store.address())
        etcd = {"endpoints": self.loaded.endpoints}
        await self.user.apply(backup(name, {"etcd": etcd, "store": store, **spec}))
        names: list[str] = []

        async def there() -> bool:
            runs = await self.user.all("esnap")
            names[:] = [
                one["metadata"]["name"] for one in runs if one["spec"]["backupName"] == name
            ]
            return bool(names)

        await wait_until(there, f"a run of {name}", timeout=60)
        return names[0]

    async def hold_upload(self) -> None:
        """Let the store take so much, then nothing more."""
        await self.store.forwarded(Direction.TO_SERVER, self.store.to_server.total + UPLOADED)
        self.store.to_server.stall()

    async def once(self, *names: str) -> None:
        """Each of these runs, and nothing else, lies complete in the bucket, once."""
        runs = [await self.user.ended(name) for name in names]
        for one in runs:
            assert condition(one, "Complete")["status"] == "True", one["status"]
        prefix = f"s3://{self.bucket}/"
        folders = sorted(one["status"]["artifact"]["url"].removeprefix(prefix) for one in runs)
        stored = await self.s3.objects(self.bucket, "")
        assert sorted(key for key in stored if key.endswith("/manifest.json")) == [
            f"{folder}/manifest.json" for folder in folders
        ]
        for key in stored:
            known = {*folders, *(folder.rsplit("/", 1)[0] for folder in folders)}
            assert key.rsplit("/proofs/")[0].rsplit("/", 1)[0] in known
        assert not await self.s3.open_uploads(self.bucket)
        assert sorted(names) == sorted(
            one["metadata"]["name"] for one in await self.user.all("esnap")
        )


async def a_cast(
    plane: ControlPlane,
    loaded: EtcdCluster,
    s3: SeaweedFS,
    bucket: str,
    directory: Path,
) -> AsyncIterator[Cast]:
    """A cast without replicas yet."""
    await install(plane)
    user = User(plane)
    await user.apply(secret("s3", s3.environment()))
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(FaultProxy(port_of(s3.endpoint_url)))
        store.to_server.bytes_per_second = SLOW  # or a run may have ended before it is held
        yield Cast(
            user=user,
            loaded=loaded,
            s3=s3,
            bucket=bucket,
            store=store,
            directory=directory,
            stack=stack,
        )
        store.to_server.resume()
        await plane.kubectl("delete", "ebk,esnap", "--all", f"--namespace={NAMESPACE}", timeout=90)


def log_of(replica: HastySteward) -> str:
    """What a replica has logged."""
    return replica.server.log_file.read_text()
