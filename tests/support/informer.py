"""A client that lists and watches as client-go's reflector does, and remembers what it saw."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.testbed import ControlPlane

EXPIRED = 410
LABEL = "informer"
SELECTED = {"labelSelector": LABEL}
AGAIN = 0.1  # seconds between two tries while nobody answers

Object = dict[str, Any]


@dataclass
class Informer:
    """Holds the ConfigMaps of a namespace that have its label; `following` fills it."""

    url: str
    token: str = field(repr=False)
    trust: ssl.SSLContext = field(repr=False)
    objects: dict[str, Object] = field(default_factory=dict)
    """What it would show its users, by name."""
    revision: str = ""
    """Where its watch goes on."""
    lists: int = 0
    expired: int = 0
    """How often it was told that its revision is gone."""
    broken: int = 0
    """How often a watch or a call ended otherwise."""

    @property
    def contents(self) -> dict[str, str]:
        """The one value of each ConfigMap."""
        return {name: one["data"]["value"] for name, one in self.objects.items()}

    async def _follow(self) -> None:
        headers = {"Authorization": f"Bearer {self.token}"}
        connector = aiohttp.TCPConnector(ssl=self.trust)
        async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
            while True:
                try:
                    if not self.revision:
                        await self._list(session)
                    await self._watch(session)
                except (aiohttp.ClientError, TimeoutError, json.JSONDecodeError):
                    self.broken += 1
                await asyncio.sleep(AGAIN)

    async def _list(self, session: aiohttp.ClientSession) -> None:
        async with session.get(self.url, params=SELECTED) as answer:
            answer.raise_for_status()
            found = await answer.json()
        self.objects = {one["metadata"]["name"]: one for one in found["items"]}
        self.revision = found["metadata"]["resourceVersion"]
        self.lists += 1

    async def _watch(self, session: aiohttp.ClientSession) -> None:
        where = {"watch": "1", "resourceVersion": self.revision, "allowWatchBookmarks": "true"}
        where |= SELECTED
        unlimited = aiohttp.ClientTimeout(total=None, sock_connect=5)
        async with session.get(self.url, params=where, timeout=unlimited) as answer:
            if answer.status == EXPIRED:
                self._gone()
                return
            answer.raise_for_status()
            async for line in answer.content:
                self._take(json.loads(line))
                if not self.revision:
                    return

    def _take(self, event: Object) -> None:
        one, kind = event["object"], event["type"]
        if kind == "ERROR":
            if one.get("code") == EXPIRED:
                self._gone()
            else:
                raise aiohttp.ClientError(str(one))
            return
        self.revision = one["metadata"]["resourceVersion"]
        if kind == "DELETED":
            self.objects.pop(one["metadata"]["name"], None)
        elif kind != "BOOKMARK":
            self.objects[one["metadata"]["name"]] = one

    def _gone(self) -> None:
        self.expired += 1
        self.revision = ""


@asynccontextmanager
async def following(plane: ControlPlane, namespace: str) -> AsyncIterator[Informer]:
    """An informer that runs as long as the body."""
    trust = ssl.create_default_context(cafile=str(plane.ca_file))
    url = f"{plane.url}/api/v1/namespaces/{namespace}/configmaps"
    informer = Informer(url, plane.token, trust)
    task = asyncio.create_task(informer._follow())
    try:
        yield informer
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
