"""What looking at many etcds costs, and how long a scrape of all figures takes.

    python -m benchmarks.observing [--clusters 50] [--backups 500] [--seconds 330] [--leases 300000]

One cluster of three members with mutual TLS stands for all: it is looked at under fifty names, each
with connections and looks of its own, at the pace of an installation. Measured are the processor
time of the process that looks and of the operator's part in it, the time that a scrape takes beside
so many EtcdBackups, and what a look takes where there are many leases.
"""

import argparse
import asyncio
import os
import resource
import statistics
import tempfile
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry

from benchmarks.operator import cpu_seconds, peak_rss, rss
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.handlers.exposition import serving_metrics
from etcd_steward.handlers.figures import figures as figures_of
from etcd_steward.handlers.observer import Observer
from etcd_steward.metrics import BackupFigures, BackupMetrics, Board
from etcd_steward.models.observation import (
    Observation,
    ObservationPace,
    Tallied,
    WatchedCluster,
)
from tests.integration.etcd_connections import connection_to
from tests.testbed import EtcdCluster, wait_until
from tests.testbed.bulk import load
from tests.testbed.ports import reserved_ports

SCRAPES = 20
GRANTERS = 256


class Apart(Observer):
    """Takes every name for an etcd of its own."""

    def _same(self) -> dict[str, str]:
        return {}


def name_of(number: int) -> str:
    """What a cluster is called."""
    return f"etcd-steward/cluster-{number:02}"


def children() -> list[int]:
    """This process' own children that run our program."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            command = (path.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and b"etcd_steward.runner" in command:
            found.append(int(path.parent.name))
    return found


async def looks(etcd: EtcdCluster, clusters: int, seconds: float) -> tuple[str, Observation]:
    """Look at so many for so long; the figures, and one observation."""
    board = Board(CollectorRegistry())
    observer = Apart(lambda: datetime.now(UTC), board)
    connection = connection_to(etcd)
    names = [name_of(number) for number in range(clusters)]
    observer.watch([WatchedCluster(name=name, etcd=connection) for name in names])
    running = asyncio.create_task(observer.run())

    async def settled() -> bool:
        seen = [observer.latest(name) for name in names]
        return all(one is not None and one.namespace_keys is not None for one in seen)

    await wait_until(settled, "all were looked at, and their keys counted", timeout=300)
    (child,) = children()
    began, before, own = time.monotonic(), cpu_seconds(child), cpu()
    looked = sum(len(observer.sightings(name)) for name in names)
    await asyncio.sleep(seconds)
    took = time.monotonic() - began
    theirs, ours = cpu_seconds(child) - before, cpu() - own
    looked = sum(len(observer.sightings(name)) for name in names) - looked
    row = (
        f"| {clusters} clusters of 3 members, {looked / took:.1f} looks a second "
        f"| 3 % | {theirs / took * 100:.1f} % | {ours / took * 100:.1f} % | {rss(child):.0f} MB "
        f"| {peak_rss(child):.0f} MB |"
    )
    running.cancel()
    await asyncio.wait({running})
    seen = observer.latest(names[0])
    assert seen is not None
    return row, seen


def cpu() -> float:
    """Processor time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def scrapes(seen: Observation, clusters: int, backups: int) -> str:
    """Scrape as many figures as there may be."""
    board = Board(CollectorRegistry())
    metrics = BackupMetrics(board)
    for number in range(backups):
        figures = BackupFigures(
            created=1.8e9,
            last_success=1.8e9,
            last_verified=1.8e9,
            interval=86400.0,
            duration=95.0,
            raw_bytes=10**9,
            stored_bytes=10**8,
            kept=14,
            store_available=True,
        )
        metrics.show(("etcd-steward", f"backup-{number:04}"), str(number), figures)
    tallied = Tallied.of({f"resource-{n}.example.com": n for n in range(40)}, seen.at)
    whole = {"keys": tallied, "namespace_keys": tallied, "sizes": tallied}
    for number in range(clusters):
        told = seen.model_copy(update={**whole, "cluster": name_of(number)})
        board.show(("etcd", name_of(number)), figures_of(told))
    with reserved_ports(1) as (port,):
        pass
    took = []
    async with serving_metrics(board, port):
        for _ in range(SCRAPES):
            began = time.monotonic()
            page = await asyncio.to_thread(_get, f"http://127.0.0.1:{port}/metrics")
            took.append(time.monotonic() - began)
    samples = sum(not line.startswith(b"#") for line in page.splitlines())
    return (
        f"| a scrape: {backups} EtcdBackups, {clusters} clusters, {samples:,} samples | 100 ms "
        f"| {statistics.median(took) * 1000:.0f} ms (slowest {max(took) * 1000:.0f} ms) |"
    )


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:  # noqa: S310  # loopback
        return bytes(answer.read())


async def leases(etcd: EtcdCluster, count: int) -> str:
    """What a look takes where there are many leases, and how often it is taken."""
    numbers = iter(range(count))

    async def worker(client: EtcdClient) -> None:
        for _ in numbers:
            await client.grant_lease(36000)

    async with EtcdClient.connect(connection_to(etcd)) as client, asyncio.TaskGroup() as group:
        for _ in range(GRANTERS):
            group.create_task(worker(client))
    observer = Observer(lambda: datetime.now(UTC), Board(CollectorRegistry()))
    observer.pace = ObservationPace(status=1.0)
    observer.watch([WatchedCluster(name="etcd", etcd=connection_to(etcd))])
    running = asyncio.create_task(observer.run())

    async def counted() -> bool:
        seen = observer.latest("etcd")
        return seen is not None and seen.leases == count

    await wait_until(counted, "all leases are counted", timeout=60)
    seen = observer.latest("etcd")
    took = seen.seconds if seen is not None else 0.0
    (child,) = children()
    peak = peak_rss(child)
    running.cancel()
    await asyncio.wait({running})
    return f"| a look that counts {count:,} leases | | {took:.2f} s, at most {peak:.0f} MB |"


async def measure(options: argparse.Namespace, directory: Path) -> None:
    """Start what is needed, and print the tables."""
    async with EtcdCluster(directory / "etcd", members=3, mtls=True) as etcd:
        await load(etcd, options.keys, namespaces=50)
        row, seen = await looks(etcd, options.clusters, options.seconds)
        print("| looking | goal | the process that looks | the operator | memory | at its peak |")
        print("|---|---|---|---|---|---|")
        print(row, flush=True)
        print("\n| | goal | measured |\n|---|---|---|")
        print(await scrapes(seen, options.clusters, options.backups), flush=True)
    if options.leases:
        async with EtcdCluster(directory / "leases") as lone:
            print(await leases(lone, options.leases))


async def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--clusters", type=int, default=50)
    parser.add_argument("--backups", type=int, default=500)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--leases", type=int, default=300_000)
    parser.add_argument("--seconds", type=float, default=330)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="etcd-steward-benchmark-") as scratch:
        await measure(options, Path(scratch))


if __name__ == "__main__":
    asyncio.run(main())
