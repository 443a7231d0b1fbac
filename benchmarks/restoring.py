"""How fast a restore writes, and what that costs those who write meanwhile.

    python -m benchmarks.restoring [--keys 10000] [--runs 3]

A fresh etcd (one member, with disk flushes) gets so many ConfigMaps of 1 kB by an apply, by turns
throttled, as by default, and unthrottled. Another process writes a small key every 10 ms: half a
minute before, while the keys are written, and half a minute afterwards, since what a disk does
drifts; its latencies are what others see. No API server is there: what it
is asked afterwards is no write.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from etcd_steward.engine.report import Tracker
from etcd_steward.engine.restore.apply import apply
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.models.connection import EtcdConnection
from tests.support.applying import a_place, config_map, made, settings
from tests.support.runs import Heard, connection
from tests.testbed import EtcdCluster

ALONE = 30.0
"""Seconds that the other client writes alone, before and again afterwards."""
EVERY = 0.01


class Timed(Tracker):
    """Remembers when each step began."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        super().__init__(Heard())

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "step":
            self.at[str(value)] = time.time()


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one apply."""

    keys_per_second: float
    alone: float
    """The other client's 99th percentile, in seconds."""
    during: float


async def other_client(endpoint: str) -> None:
    """Write until standard input ends, then print when each write began and what it took."""
    loop, said = asyncio.get_running_loop(), []
    ended = loop.run_in_executor(None, sys.stdin.read)
    async with EtcdClient.connect(EtcdConnection(endpoints=(endpoint,))) as client:
        while not ended.done():
            began, at = time.perf_counter(), time.time()
            await client.put(b"/other/client", b"x" * 200)
            said.append((at, time.perf_counter() - began))
            await asyncio.sleep(EVERY)
    print(json.dumps(said))


@asynccontextmanager
async def others(endpoint: str, into: list[tuple[float, float]]) -> AsyncIterator[None]:
    """Have another process write while the body runs; what it saw is in `into` then."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.restoring", "--client", endpoint,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield
    finally:
        out, _ = await process.communicate(b"")
        into += [(at, took) for at, took in json.loads(out)]


async def one(keys: int, directory: Path, *, unthrottled: bool) -> Figures:
    """One apply into an etcd of its own."""
    seen: list[tuple[float, float]] = []
    tracker = Timed()
    async with (
        EtcdCluster(directory / "etcd", fsync=True) as etcd,
        EtcdClient.connect(connection(etcd)) as client,
        a_place(directory) as place,
    ):
        names = [f"c{number:06}" for number in range(keys)]
        values = {f"/registry/configmaps/shop/{n}": config_map(n, "shop", "x" * 800) for n in names}
        planned = await made(client, values)
        async with others(etcd.endpoints[0], seen):
            await asyncio.sleep(ALONE)
            using = settings("/registry", unthrottled=unthrottled)
            report = await apply(planned, client, None, place, tracker, using)
            ended = time.time()
            await asyncio.sleep(ALONE)
        if report.counts != {"written": keys}:
            raise SystemExit(f"not all was written: {report.counts}")
    begin, end = tracker.at["Writing"], tracker.at["Recording"]
    return Figures(
        keys / (end - begin),
        p99([took for at, took in seen if at < tracker.at["Claiming"] or at > ended]),
        p99([took for at, took in seen if begin <= at < end]),
    )


def p99(latencies: Sequence[float]) -> float:
    """The 99th percentile."""
    return statistics.quantiles(latencies, n=100)[-1]


async def main(keys: int, runs: int) -> None:
    """Print a line for each apply."""
    for number in range(runs):
        for unthrottled in (False, True):
            with tempfile.TemporaryDirectory(prefix="restoring-") as directory:
                found = await one(keys, Path(directory), unthrottled=unthrottled)
            print(
                f"{number + 1} {'unthrottled' if unthrottled else 'throttled  '} "
                f"{found.keys_per_second:8,.0f} keys/s; others' p99 {found.alone * 1e3:6.2f} ms "
                f"alone, {found.during * 1e3:6.2f} ms meanwhile "
                f"({found.during / found.alone:.2f} times)"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--client", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.client:
        asyncio.run(other_client(given.client))
    else:
        asyncio.run(main(given.keys, given.runs))
