"""An API server whose etcd nobody compacts but us, and what its clients see of that."""

import asyncio
import json
import os
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import aiohttp

from etcd_steward.app import open_etcd
from etcd_steward.engine.maintenance.compaction import compact
from etcd_steward.models.maintenance import CompactionReport
from etcd_steward.models.maintenance_run import Sighting
from tests.support.informer import Informer, following
from tests.support.maintenance import compaction_request, retain
from tests.support.runs import connection
from tests.testbed import ControlPlane, EtcdCluster

RETAINED = float(os.environ.get("RETAINED_FOR", "120"))
"""Seconds of history that stay."""
GONE = 410
NAMES = 10
"""ConfigMaps that are written again and again."""


@dataclass
class Retaining:
    """It goes on for as long as it is open."""

    plane: ControlPlane
    informer: Informer
    written: dict[str, list[str]] = field(default_factory=dict)
    """Each ConfigMap's values, in order."""
    seen: dict[str, list[str]] = field(default_factory=dict)
    """The same as a watcher that never relists saw them."""
    pages: list[tuple[float, str]] = field(default_factory=list)
    """When a list was begun, and how it goes on."""
    reports: list[CompactionReport] = field(default_factory=list)
    sightings: list[Sighting] = field(default_factory=list)
    watching: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"{self.plane.url}/api/v1/namespaces/default"

    @asynccontextmanager
    async def session(self) -> AsyncIterator[aiohttp.ClientSession]:
        trust = ssl.create_default_context(cafile=str(self.plane.ca_file))
        headers = {"Authorization": f"Bearer {self.plane.token}"}
        connector = aiohttp.TCPConnector(ssl=trust)
        unlimited = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(
            headers=headers, connector=connector, timeout=unlimited
        ) as session:
            yield session

    async def write(self) -> None:
        """Write ConfigMaps and Secrets, some a second."""
        number = 0
        await self.watching.wait()
        async with self.session() as session:
            while True:
                name, value = f"retained-{number % NAMES}", str(number)
                body = _object(name, value)
                where = f"{self.url}/configmaps"
                if number < NAMES:
                    answer = await session.post(where, json=body)
                else:
                    answer = await session.put(f"{where}/{name}", json=body)
                answer.raise_for_status()
                self.written.setdefault(name, []).append(value)
                if number < NAMES:
                    secret = _object(name, value) | {"kind": "Secret", "data": {}}
                    (await session.post(f"{self.url}/secrets", json=secret)).raise_for_status()
                number += 1
                await asyncio.sleep(0.1)

    async def watch(self) -> None:
        """See every change from the first on, in one watch."""
        async with self.session() as session:
            where = {"watch": "1", "labelSelector": "informer", "timeoutSeconds": "36000"}
            async with session.get(f"{self.url}/configmaps", params=where) as answer:
                answer.raise_for_status()
                self.watching.set()
                async for line in answer.content:
                    event = json.loads(line)
                    assert event["type"] in {"ADDED", "MODIFIED"}, event
                    one = event["object"]
                    values = self.seen.setdefault(one["metadata"]["name"], [])
                    values.append(one["data"]["value"])

    async def page(self) -> None:
        """Begin a list again and again, without reading on."""
        async with self.session() as session:
            while True:
                await asyncio.sleep(RETAINED / 20)
                at = time.monotonic()
                params = {"limit": "2"}
                async with session.get(f"{self.url}/secrets", params=params) as answer:
                    found = await answer.json()
                if found["metadata"].get("continue"):
                    self.pages.append((at, found["metadata"]["continue"]))

    async def go_on(self, page: str) -> int:
        """The status of the next page."""
        async with self.session() as session:
            params = {"limit": "2", "continue": page}
            async with session.get(f"{self.url}/secrets", params=params) as answer:
                return answer.status

    async def compact(self) -> None:
        """Look and compact, as the operator does."""
        etcd = self.plane.etcd
        options = retain(retain_seconds=RETAINED)
        async with open_etcd(connection(etcd)) as client:
            while True:
                revision = (await client.range(b"\0", count_only=True)).header.revision
                self.sightings.append(Sighting(time=datetime.now(UTC), revision=revision))
                asked = compaction_request(etcd, options=options, sightings=tuple(self.sightings))
                self.reports.append(await compact(client, asked))
                await asyncio.sleep(RETAINED / 24)


def _object(name: str, value: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"informer": "yes"}},
        "data": {"value": value},
    }


@asynccontextmanager
async def retained(directory: Path) -> AsyncIterator[Retaining]:
    """Start it all; writers, watchers and the compaction run beside whatever the body does."""
    # Without a watch cache every page of Secrets is read from etcd.
    flags = {"etcd-compaction-interval": "0", "watch-cache-sizes": "secrets#0"}
    async with (
        EtcdCluster(directory / "etcd") as etcd,
        ControlPlane(directory / "plane", etcd, controllers=False, flags=flags) as plane,
        following(plane, "default") as informer,
        asyncio.TaskGroup() as group,
    ):
        found = Retaining(plane, informer)
        tasks = [
            group.create_task(work)
            for work in (found.write(), found.watch(), found.page(), found.compact())
        ]
        yield found
        for task in tasks:
            task.cancel()
