"""The process that looks, real ones: what is remembered of it, and what becomes of each end."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from etcd_steward.handlers.observer import Observer
from etcd_steward.metrics import Board
from etcd_steward.models.connection import EtcdConnection
from etcd_steward.models.observation import Observation, ObservationPace, WatchedCluster
from etcd_steward.models.run import CatalogueEntry
from tests.support.backups import made
from tests.testbed import wait_until

SCRIPT = """
import json, os, sys, time
def told(name, **more):
    print(json.dumps({{"event": "observation", "cluster": name, "at": "2026-11-23T08:00:00Z",
        "seconds": 0.1, "reachable": True, "clusterID": "cafe", **more}}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    open({asked!r}, "a").write(line)
    names = [cluster["name"] for cluster in request["clusters"]]
    {body}
"""


def cluster(name: str, *endpoints: str, user: str | None = None) -> WatchedCluster:
    etcd = EtcdConnection(endpoints=endpoints or (f"http://{name}:2379",), user=user)
    return WatchedCluster(name=name, etcd=etcd)


class Bed:
    """An observer, and what its children were asked."""

    def __init__(self, directory: Path, body: str) -> None:
        self._asked = directory / "asked"
        self.registry = CollectorRegistry()
        self.told: list[tuple[str, Observation]] = []
        script = SCRIPT.format(asked=str(self._asked), body=body)
        self.observer = Observer(
            lambda: datetime.now(UTC),
            Board(self.registry),
            (sys.executable, "-c", script),
            ObservationPace(status=0.01),
        )
        self.observer.listeners.append(lambda name, seen: self.told.append((name, seen)))

    @property
    def asked(self) -> list[list[str]]:
        """The clusters of each request so far."""
        if not self._asked.exists():
            return []
        lines = self._asked.read_text().splitlines()
        requests: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return [[one["name"] for one in request["clusters"]] for request in requests]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.observer.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def until_asked(self, *names: str) -> None:
        async def so() -> bool:
            return bool(self.asked) and self.asked[-1] == list(names)

        await wait_until(so, f"the child is asked for {names}, and not {self.asked}")

    async def until_looked(self, name: str, times: int) -> None:
        async def so() -> bool:
            return len(self.observer.sightings(name)) >= times

        await wait_until(so, f"{name} was looked at {times} times")

    async def until_known(self, *names: str) -> None:
        async def so() -> bool:
            return all(self.observer.latest(name) is not None for name in names)

        await wait_until(so, f"{names} were seen")


TELL = "[told(name, revision=7, compactRevision=3) for name in names]"


async def test_a_child_looks_while_there_is_something_to_look_at(tmp_path: Path) -> None:
    bed = Bed(tmp_path, TELL)
    async with bed.running():
        await asyncio.sleep(0)
        assert bed.asked == []
        bed.observer.watch([cluster("a")])
        await bed.until_known("a")
        bed.observer.watch([cluster("a"), cluster("b")])
        await bed.until_known("a", "b")
        assert bed.asked == [["a"], ["a", "b"]]  # the same child
        assert 'etcd_revision{etcd_cluster="b"} 7' in generate_latest(bed.registry).decode()
        assert [one.revision for one in bed.observer.sightings("b")] == [7]
        bed.observer.watch([cluster("b")])
        await bed.until_asked("b")
        assert bed.observer.latest("a") is None
        assert bed.observer.sightings("a") == ()
        assert 'etcd_cluster="a"' not in generate_latest(bed.registry).decode()
        bed.observer.watch([])
        bed.observer.watch([cluster("c")])
        await bed.until_known("c")
    assert {name for name, _ in bed.told} == {"a", "b", "c"}


async def test_a_child_that_dies_costs_a_look_and_no_memory(tmp_path: Path) -> None:
    bed = Bed(tmp_path, f"{TELL}; os._exit(3)")
    bed.observer.watch([cluster("a")])
    async with bed.running():
        await bed.until_looked("a", 2)
    assert len(bed.asked) > 1
    ((_, first),) = bed.told  # its health is the same
    second = bed.observer.latest("a")
    assert second is not None
    assert second.compact_revision_since == first.compact_revision_since


async def test_listeners_hear_of_a_change_of_health(tmp_path: Path) -> None:
    bed = Bed(
        tmp_path,
        "[told('a', revision=n, leader='x' if n < 5 else None) for n in range(1, 9)]",
    )
    bed.observer.watch([cluster("a")])
    async with bed.running():
        await bed.until_looked("a", 8)
    assert [(seen.revision, seen.leader) for _, seen in bed.told] == [(1, "x"), (5, None)]


async def test_a_child_that_is_silent_or_talks_nonsense_is_replaced(tmp_path: Path) -> None:
    bed = Bed(tmp_path, "print('what', flush=True)")
    bed.observer.watch([cluster("a")])
    async with bed.running():

        async def again() -> bool:
            return len(bed.asked) > 1

        await wait_until(again, "a second child is asked")


async def test_names_with_one_connection_are_one_etcd(tmp_path: Path) -> None:
    bed = Bed(tmp_path, TELL)
    here = "http://10.0.0.1:2379"
    bed.observer.watch([cluster("a", here), cluster("b", here), cluster("c", "http://x:2379")])
    async with bed.running():
        await bed.until_known("a", "b", "c")
    assert bed.asked == [["a", "c"]]
    assert bed.observer.same_as("b") == "a"
    assert bed.observer.same_as("c") is None
    seen = bed.observer.latest("b")
    assert seen is not None
    assert seen.cluster == "b"


async def test_a_common_endpoint_counts_once_both_have_reached_the_same_etcd(
    tmp_path: Path,
) -> None:
    bed = Bed(tmp_path, TELL)
    one, two = "http://10.0.0.1:2379", "http://10.0.0.2:2379"
    bed.observer.watch([cluster("a", one, two), cluster("b", two, user="tenant")])
    assert bed.observer.same_as("b") is None
    async with bed.running():
        await bed.until_known("a", "b")
        await bed.until_asked("a")
    assert bed.asked[0] == ["a", "b"]
    assert bed.observer.same_as("b") == "a"


async def test_one_that_can_not_be_reached_stands_in_for_nobody(tmp_path: Path) -> None:
    bed = Bed(tmp_path, "[told(name, reachable=name != 'a') for name in names]")
    here = "http://10.0.0.1:2379"
    bed.observer.watch([cluster("a", here, user="mistyped"), cluster("b", here)])
    async with bed.running():
        await bed.until_known("a", "b")
    assert bed.observer.same_as("b") is None


def see(observer: Observer, name: str, cluster_id: str | None, revision: int = 7) -> None:
    """A look as the child would tell it; without a cluster ID it is one that has failed."""
    up = cluster_id is not None
    observer._take(
        Observation(
            cluster=name,
            at=datetime.now(UTC),
            seconds=0.1,
            reachable=up,
            cluster_id=cluster_id,
            revision=revision if up else None,
            compact_revision=3 if up else None,
        )
    )


def polled(observer: Observer) -> list[str]:
    return [one.name for one in observer._request().clusters]


def test_a_look_that_fails_costs_no_memory(tmp_path: Path) -> None:
    observer = Bed(tmp_path, TELL).observer
    observer.watch([cluster("a")])
    see(observer, "a", None)
    see(observer, "a", "cafe", 7)
    first = observer.latest("a")
    see(observer, "a", None)
    see(observer, "a", None)
    see(observer, "a", "cafe", 8)
    again = observer.latest("a")
    assert first is not None
    assert again is not None
    assert again.compact_revision_since == first.compact_revision_since
    assert [one.revision for one in observer.sightings("a")] == [7, 8]


def test_another_etcd_has_a_memory_of_its_own(tmp_path: Path) -> None:
    observer = Bed(tmp_path, TELL).observer
    observer.watch([cluster("a")])
    see(observer, "a", "cafe", 7)
    first = observer.latest("a")
    see(observer, "a", None)
    see(observer, "a", "beef", 9)
    other = observer.latest("a")
    assert first is not None
    assert other is not None
    assert other.compact_revision_since != first.compact_revision_since
    assert [one.revision for one in observer.sightings("a")] == [9]


def test_names_of_one_etcd_stay_so_while_it_can_not_be_reached(tmp_path: Path) -> None:
    observer = Bed(tmp_path, TELL).observer
    one, two = "http://10.0.0.1:2379", "http://10.0.0.2:2379"
    elder, younger = cluster("a", one, two), cluster("b", two, user="tenant")
    observer.watch([elder, younger])
    see(observer, "a", None)
    see(observer, "b", "cafe")
    assert polled(observer) == ["a", "b"]  # the elder was never reached
    see(observer, "b", None)
    see(observer, "a", "cafe")
    assert observer.same_as("b") == "a"
    for cluster_id in (None, None, "cafe", None):
        see(observer, "a", cluster_id)
        latest = observer.latest("b")
        assert latest is not None
        assert latest.cluster_id == cluster_id
        assert polled(observer) == ["a"]
    observer.watch([elder, cluster("b", two, user="renamed")])
    assert polled(observer) == ["a"]  # how it is reached has changed, not what
    see(observer, "a", "beef")  # restored: another etcd, for both
    assert polled(observer) == ["a"]
    observer.watch([cluster("a", one), younger])
    assert polled(observer) == ["a", "b"]


def test_etcds_that_differ_are_two_whichever_fails(tmp_path: Path) -> None:
    observer = Bed(tmp_path, TELL).observer
    here = "http://10.0.0.1:2379"  # a name that leads elsewhere from time to time
    observer.watch([cluster("a", here), cluster("b", here, user="tenant")])
    for name, cluster_id in (("a", "cafe"), ("b", "beef"), ("a", None), ("b", None), ("a", "cafe")):
        see(observer, name, cluster_id)
        assert polled(observer) == ["a", "b"]
    see(observer, "b", "cafe")
    assert polled(observer) == ["a"]


async def test_bytes_come_from_the_newest_backup_of_that_very_etcd(tmp_path: Path) -> None:
    def backup(number: int, cluster_id: str, **resource_bytes: int) -> CatalogueEntry:
        manifest = made(number, tick=datetime(2026, 11, 20 + number, tzinfo=UTC)).model_copy(
            update={
                "cluster_id": cluster_id,
                "kube_system_uid": None,
                "started_at": datetime(2026, 11, 20 + number, tzinfo=UTC),
            }
        )
        return CatalogueEntry(
            manifest=manifest,
            url="file:///x",
            level=None,
            verified_at=None,
            ours=True,
            kept=(),
            resource_bytes=resource_bytes or None,
        )

    bed = Bed(tmp_path, TELL)
    for one in (
        backup(2, "cafe", pods=7, other=2),
        backup(1, "cafe", pods=5),
        backup(3, "beef", pods=1),
        backup(4, "cafe"),
    ):
        bed.observer.weigh(one)
    bed.observer.watch([cluster("a")])
    async with bed.running():
        await bed.until_known("a")
    seen = bed.observer.latest("a")
    assert seen is not None
    assert seen.sizes is not None
    assert (seen.sizes.largest, seen.sizes.other) == ({"pods": 7}, 2)
    page = generate_latest(bed.registry).decode()
    assert 'registry_bytes{etcd_cluster="a",resource="pods"} 7.0' in page
