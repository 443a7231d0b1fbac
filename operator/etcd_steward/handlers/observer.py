"""What is known of each etcd that is looked at, and the process that looks.

One child process looks at all of them (`etcd_steward.runner`, job `observe`): gRPC stays out of the
operator, and a hundred thousand leases don't stop its event loop. It has no state of its own: what
must be remembered from one look to the next, such as when the history was last compacted, is
remembered here, so that a child that dies costs one look. There is no child while there is nothing
to look at.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

from pydantic import ValidationError

from etcd_steward.engine.observe.moves import Moves
from etcd_steward.handlers.child import LINE_LIMIT, RUNNER
from etcd_steward.handlers.figures import figures
from etcd_steward.handlers.sightings import Sightings
from etcd_steward.metrics import Board
from etcd_steward.models.jobs import EVENT
from etcd_steward.models.maintenance_run import Sighting
from etcd_steward.models.observation import (
    Observation,
    ObservationPace,
    ObserveRequest,
    Tallied,
    WatchedCluster,
)
from etcd_steward.models.run import CatalogueEntry, Failure, Warned

log = logging.getLogger(__name__)

_AGAIN: Final = (1.0, 5.0, 30.0)
"""Seconds before a child that has died is started again; the last one repeats."""
_GRACE: Final = 5.0
"""Seconds that a child gets to end by itself."""
_PATIENCE: Final = 4
"""Looks that may be missed before the child counts as hung."""
_LOOK_TAKES: Final = 30.0
"""Seconds that one look may take."""

_WEIGHED: Final = 1000
"""Etcds whose bytes per resource are remembered, whether somebody looks at them or not."""

Told = Callable[[str, Observation], None]
"""Called with the cluster's name and what was seen. Must not block."""


class _Identity(NamedTuple):
    """Which etcd a backup is of, and which one answers: an uid alone would be its clones' too."""

    kube_system_uid: str | None
    cluster_id: str | None


@dataclass(slots=True)
class _Cluster:
    """One etcd under one name."""

    wanted: WatchedCluster
    moves: Moves = field(default_factory=Moves)
    sightings: Sightings = field(default_factory=Sightings)
    latest: Observation | None = None
    cluster_id: str | None = None
    """The last that was known: a look that fails does not make it another etcd."""

    def take(self, seen: Observation, sizes: Tallied | None) -> Observation:
        if seen.reachable and seen.cluster_id is not None:
            if self.cluster_id not in (None, seen.cluster_id):
                self.moves, self.sightings = Moves(), Sightings()  # another etcd answers there now
            self.cluster_id = seen.cluster_id
        if seen.revision is not None:
            self.sightings.add(seen.revision, seen.compact_revision)
        noted = self.moves.note(seen)
        self.latest = noted.model_copy(update={"cluster": self.wanted.name, "sizes": sizes})
        return self.latest


@dataclass(slots=True)
class Observer:
    """Everything that is known of the etcds that somebody has asked to look at."""

    clock: Callable[[], datetime]
    board: Board
    """Where the figures of each look are shown."""
    command: Sequence[str] = RUNNER
    pace: ObservationPace = field(default_factory=ObservationPace)
    listeners: list[Told] = field(default_factory=list)
    """Told of the first look, and whenever the health has changed: figures change at each."""
    _clusters: dict[str, _Cluster] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _sizes: dict["_Identity", Tallied] = field(default_factory=dict)

    def watch(self, clusters: Sequence[WatchedCluster]) -> None:
        """Look at these from now on, and at no others.

        Call it again whenever one comes, goes or has new credentials: what stays the same is not
        disturbed. Of several names for one etcd the first is polled, and all are told.
        """
        known = self._clusters
        self._clusters = {}
        for wanted in clusters:
            held = known.get(wanted.name)
            if held is None or set(held.wanted.etcd.endpoints).isdisjoint(wanted.etcd.endpoints):
                self._clusters[wanted.name] = _Cluster(wanted)
            else:
                self._clusters[wanted.name] = held
                held.wanted = wanted
        for gone in known.keys() - self._clusters.keys():
            self.board.forget(_owner(gone))
        self._changed.set()

    def latest(self, cluster: str) -> Observation | None:
        """The last look; None if there was none yet. It may be old: see its `at`."""
        held = self._clusters.get(cluster)
        return held.latest if held is not None else None

    def sightings(self, cluster: str) -> tuple[Sighting, ...]:
        """Which revision it had when, oldest first."""
        held = self._clusters.get(cluster)
        return held.sightings.told(self.clock()) if held is not None else ()

    def same_as(self, cluster: str) -> str | None:
        """The earlier name that this one is another word for; None if it is the first.

        Two names are one etcd if they are reached in the same way, or by a common endpoint that has
        answered both with the same cluster ID. (IDs alone collide: two etcds with default flags
        have the same.) That holds while either can't be reached: else the younger would act beside
        the elder at each look that fails.
        """
        return self._same().get(cluster)

    def weigh(self, backup: CatalogueEntry) -> None:
        """Note what a registry file says of bytes per resource, if it is the newest of its etcd."""
        manifest, figures = backup.manifest, backup.resource_bytes
        if figures is None:
            return
        known = _Identity(manifest.kube_system_uid, manifest.cluster_id)
        sizes, before = Tallied.of(figures, manifest.started_at), self._sizes.get(known)
        if before is not None and before.at >= sizes.at:
            return
        self._sizes[known] = sizes
        while len(self._sizes) > _WEIGHED:
            del self._sizes[min(self._sizes, key=lambda one: self._sizes[one].at)]

    async def run(self) -> None:
        """Keep a child looking, for ever; cancelled, it takes the child with it."""
        failed = 0
        while True:
            self._changed.clear()
            request = self._request()
            if not request.clusters:
                await self._changed.wait()
                continue
            began = asyncio.get_running_loop().time()
            lasted = await self._look(request)
            if not lasted:
                continue
            if asyncio.get_running_loop().time() - began > max(_AGAIN) * 2:
                failed = 0
            pause = _AGAIN[min(failed, len(_AGAIN) - 1)]
            failed += 1
            log.warning("the process that looks at etcd %s; the next begins in %g s", lasted, pause)
            await asyncio.sleep(pause)

    async def _look(self, request: ObserveRequest) -> str:
        """Run one child until there is nothing to look at (""), or say what became of it."""
        process = await asyncio.create_subprocess_exec(
            *self.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
            start_new_session=True,
        )
        telling = asyncio.create_task(self._keep_told(process, request), name="tell the observer")
        try:
            return await self._listen(process)
        finally:
            telling.cancel()
            await _end(process)

    async def _listen(self, process: asyncio.subprocess.Process) -> str:
        silence = _PATIENCE * self.pace.status + _LOOK_TAKES
        while process.stdout is not None:
            try:
                async with asyncio.timeout(silence):
                    line = await process.stdout.readline()
            except TimeoutError:
                return f"said nothing for {silence:.0f} s"
            except ValueError:  # StreamReader's word for a line beyond its limit
                return "said more in one line than it may"
            if not line:
                break
            if (failure := self._hear(line)) is not None:
                return failure
        return "" if not self._clusters else f"ended with code {await process.wait()}"

    def _hear(self, line: bytes) -> str | None:
        try:
            event = EVENT.validate_json(line)
        except ValidationError:
            return f"said something that is no event ({len(line)} bytes)"
        match event:
            case Observation():
                self._take(event)
            case Warned():
                log.warning("%s", event.message)
            case Failure():
                return f"has failed: {event.text}"
            case _:
                return f"said {event.event}, which is not its job"
        return None

    def _take(self, seen: Observation) -> None:
        """Note what was seen, under every name that this etcd has."""
        before = self._same()
        sizes = self._sizes.get(_Identity(seen.kube_system_uid, seen.cluster_id))
        names = [seen.cluster, *(name for name, first in before.items() if first == seen.cluster)]
        for name in names:
            if (held := self._clusters.get(name)) is not None:
                self._tell(name, held.latest, held.take(seen, sizes))
        if self._same() != before:
            self._changed.set()

    def _tell(self, cluster: str, was: Observation | None, observation: Observation) -> None:
        self.board.show(_owner(cluster), figures(observation))
        if was is None or _health(was) != _health(observation):
            for listener in self.listeners:
                listener(cluster, observation)

    async def _keep_told(
        self, process: asyncio.subprocess.Process, request: ObserveRequest
    ) -> None:
        """Tell the child what to look at, now and on every change; close it at nothing."""
        stdin = process.stdin
        if stdin is None:
            return
        with contextlib.suppress(ConnectionError):  # it is gone: its end is noticed by who listens
            while request.clusters:
                stdin.write(request.model_dump_json(by_alias=True).encode() + b"\n")
                await stdin.drain()
                asked = request
                while request == asked:
                    await self._changed.wait()
                    self._changed.clear()
                    request = self._request()
            stdin.close()

    def _request(self) -> ObserveRequest:
        same = self._same()
        wanted = [held.wanted for name, held in self._clusters.items() if name not in same]
        return ObserveRequest(clusters=tuple(wanted), pace=self.pace)

    def _same(self) -> dict[str, str]:
        """Names that are other words for an earlier one."""
        same: dict[str, str] = {}
        firsts: list[_Cluster] = []
        for name, held in self._clusters.items():
            first = next((one for one in firsts if _one_etcd(one, held)), None)
            if first is None:
                firsts.append(held)
            else:
                same[name] = first.wanted.name
        return same


def _owner(cluster: str) -> tuple[str, str]:
    return ("etcd", cluster)


def _health(seen: Observation) -> tuple[object, ...]:
    """What somebody may have to do something about."""
    members = tuple((one.name, one.up, one.has_leader, one.learner) for one in seen.members)
    return seen.reachable, seen.error, seen.cluster_id, seen.leader, seen.alarms, members


def _one_etcd(first: _Cluster, other: _Cluster) -> bool:
    one, two = first.wanted, other.wanted
    if one.etcd == two.etcd:
        return True
    if set(one.etcd.endpoints).isdisjoint(two.etcd.endpoints):
        return False
    return first.cluster_id is not None and first.cluster_id == other.cluster_id


async def _end(process: asyncio.subprocess.Process) -> None:
    """Close the child's lifeline, and kill one that does not mind."""
    if process.stdin is not None:
        process.stdin.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_GRACE):
            await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
