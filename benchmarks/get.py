"""What a large `get --prefix` takes: ours beside etcdctl.

    python -m benchmarks.get [--keys 1000000] [--bytes 1000] [--runs 3]

A fresh etcd gets so many keys. Then etcdctl and `etcd-steward get --prefix` read them all, in turn,
each as a process whose standard output is a pipe that is read as fast as it comes. Both must print
the same bytes. etcd works on the same cores.
"""

import argparse
import asyncio
import hashlib
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.timing import Command, Figures, environment, running
from tests.testbed import EtcdCluster
from tests.testbed.binaries import binary
from tests.testbed.bulk import load

PIECE = 1 << 20


@dataclass
class Got(Figures):
    """What one program took, and printed."""

    first: list[float] = field(default_factory=list)
    """Seconds until its first bytes."""
    digest: str = ""

    def row(self, name: str) -> str:
        """One line of the table."""
        return (
            f"| {name} | {self.median:.1f} | {max(self.seconds):.1f} "
            f"| {statistics.median(self.first):.2f} | {self.used}"
        )


def run(command: Command, figures: Got) -> None:
    """Run a program once, and read what it prints."""
    started = time.perf_counter()
    with running(command, environment(), figures) as process:
        assert process.stdout is not None
        with process.stdout as output:
            digest = hashlib.sha256(first := output.read(PIECE))
            figures.first.append(time.perf_counter() - started)
            if not first:
                raise SystemExit(f"{command[0]} printed nothing")
            while piece := output.read(PIECE):
                digest.update(piece)
    figures.digest = digest.hexdigest()


async def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--bytes", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    flags = {"quota-backend-bytes": str(8 * 1024**3)}
    with tempfile.TemporaryDirectory(prefix="etcd-steward-benchmark-") as scratch:
        async with EtcdCluster(Path(scratch) / "etcd", flags=flags) as etcd:
            loaded = await load(etcd, options.keys, value_size=options.bytes)
            print(f"{loaded.keys:,} keys of {options.bytes} bytes", flush=True)
            print("| `get --prefix` | seconds | slowest | first byte | cpu s | peak RSS MB |")
            print("|---|---|---|---|---|---|")
            await measure(etcd, options.runs)


async def measure(etcd: EtcdCluster, runs: int) -> None:
    """Both programs, in turn."""
    words = ["get", "--prefix", "", "--command-timeout=300s", *etcd.connection_flags()]
    programs: dict[str, Command] = {
        "etcdctl 3.7": (await binary("etcdctl", "3.7"), *words),
        "etcd-steward": (sys.executable, "-m", "etcd_steward", *words),
    }
    figures = {name: Got() for name in programs}
    for _ in range(runs):
        for name, command in programs.items():
            await asyncio.to_thread(run, command, figures[name])
    for name, found in figures.items():
        print(found.row(name), flush=True)
    theirs, ours = figures.values()
    if theirs.digest != ours.digest:
        raise SystemExit("they have not printed the same")
    ratio = ours.median / theirs.median
    print(f"{ratio:.2f} x etcdctl's time", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
