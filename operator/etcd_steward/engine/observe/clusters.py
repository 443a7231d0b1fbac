"""Looking at all clusters that were asked for, each in a task of its own, until told otherwise."""

import asyncio
import logging
import time
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NoReturn

from etcd_steward.engine.members import choose
from etcd_steward.engine.observe.counting import Counting
from etcd_steward.engine.observe.identity import identify
from etcd_steward.engine.observe.poll import Pacer, Poller
from etcd_steward.errors import StewardError
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.models.observation import (
    Observation,
    ObservationPace,
    ObserveRequest,
    Tallied,
    WatchedCluster,
)

log = logging.getLogger(__name__)

Tell = Callable[[Observation], None]


async def observe(
    request: ObserveRequest, changes: AsyncIterator[ObserveRequest], tell: Tell
) -> NoReturn:
    """Look at the clusters of `request`, then at those of each of `changes` instead, for ever.

    A cluster that stays in the list as it was is not disturbed.
    """
    async with asyncio.TaskGroup() as group:
        looking: dict[str, tuple[WatchedCluster, asyncio.Task[None]]] = {}
        counter = asyncio.Semaphore(1)
        while True:
            wanted = {cluster.name: cluster for cluster in request.clusters}
            for name, (cluster, task) in list(looking.items()):
                if wanted.get(name) != cluster:
                    task.cancel()
                    del looking[name]
            for name, cluster in wanted.items():
                if name not in looking:
                    watched = Watched(cluster, request.pace, tell, counter)
                    looking[name] = cluster, group.create_task(watched.run(), name=name)
            request = await anext(changes)


@dataclass(slots=True)
class Watched:
    """One cluster that is looked at."""

    wanted: WatchedCluster
    pace: ObservationPace
    tell: Tell
    counter: asyncio.Semaphore
    """Keys are counted in one cluster at a time."""
    keys: Tallied | None = None
    namespace_keys: Tallied | None = None
    uncounted: str = ""
    """Why keys could not be counted."""
    _folders: list[bytes] = field(default_factory=list)

    async def run(self) -> None:
        """Look for ever, at moments of its own: not all clusters at once."""
        phase = zlib.crc32(self.wanted.name.encode()) / 2**32 * self.pace.status
        while True:
            try:
                async with EtcdClient.connect(self.wanted.etcd) as client:
                    await self._follow(client, phase)
            except StewardError as error:  # certificates that can't be read: perhaps they change
                self.tell(_unreachable(self.wanted.name, str(error)))
            except Exception as error:
                # So broad since a bug that one cluster brings out must not end the looks at others.
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    # Of both, Python before 3.13 lets a group raise only what failed meanwhile.
                    raise asyncio.CancelledError from error
                log.exception("looking at %s has failed", self.wanted.name)
                why = f"looking at it has failed unexpectedly ({_kinds(error)}): see the log"
                self.tell(_unreachable(self.wanted.name, why))
            await asyncio.sleep(_until_next(self.pace.status, phase))

    async def _follow(self, client: EtcdClient, phase: float) -> NoReturn:
        poller = Poller(self.wanted, client, self.pace)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._identify(poller), name="identity")
            group.create_task(self._count(client), name="keys")
            while True:
                seen = await poller.look()
                self.tell(self._with_keys(seen))
                await asyncio.sleep(_until_next(self.pace.status, phase))

    def _with_keys(self, seen: Observation) -> Observation:
        errors = (seen.error, self.uncounted if seen.reachable else "")
        return seen.model_copy(
            update={
                "keys": self.keys,
                "namespace_keys": self.namespace_keys,
                "error": "; ".join(filter(None, errors)),
            }
        )

    async def _identify(self, poller: Poller) -> None:
        while True:
            poller.identity = await identify(self.wanted, poller.client)
            whole = not poller.identity.warnings
            await asyncio.sleep(self.pace.identity if whole else self.pace.keys)

    async def _count(self, client: EtcdClient) -> None:
        """Count keys from time to time; what fails is tried again the next time."""
        keys = Pacer(self.pace.keys, self.pace.share)
        namespaces = Pacer(self.pace.namespaces, self.pace.share)
        while True:
            try:
                async with self.counter:
                    if namespaces.due():
                        await self._count_namespaces(client, namespaces)
                    if keys.due():
                        await self._count_keys(client, keys)
                self.uncounted = ""
            except StewardError as error:
                self.uncounted = f"keys could not be counted: {error}"
            await asyncio.sleep(self.pace.keys)

    async def _count_namespaces(self, client: EtcdClient, pacer: Pacer) -> None:
        began = time.monotonic()
        counting = await self._counting(client)
        self._folders = await counting.folders()
        self.namespace_keys = _tallied(await counting.namespaces(self._folders))
        pacer.took(time.monotonic() - began)

    async def _count_keys(self, client: EtcdClient, pacer: Pacer) -> None:
        began = time.monotonic()
        counting = await self._counting(client)
        self.keys = _tallied(await counting.resources(self._folders))
        pacer.took(time.monotonic() - began)

    async def _counting(self, client: EtcdClient) -> Counting:
        status = choose(await client.members(), emergency=True).status
        return Counting(client.member(status), self.wanted.registry_prefix)


def _tallied(counted: dict[str, int]) -> Tallied:
    return Tallied.of(dict(counted), datetime.now(UTC))


def _unreachable(cluster: str, why: str) -> Observation:
    return Observation(
        cluster=cluster, at=datetime.now(UTC), seconds=0.0, reachable=False, error=why
    )


def _kinds(error: BaseException) -> str:
    """What an error is, or the ones in a group are; their own words may hold a secret."""
    if isinstance(error, BaseExceptionGroup):
        return ", ".join(sorted({_kinds(one) for one in error.exceptions}))
    return type(error).__name__


def _until_next(every: float, phase: float) -> float:
    """Seconds until the next of this cluster's own moments."""
    return every - (time.monotonic() - phase) % every
