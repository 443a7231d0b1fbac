"""What a large `get --prefix` takes: ours beside etcdctl.

    python -m benchmarks.get [--keys 1000000] [--bytes 1000] [--runs 3]

A fresh etcd gets so many keys. Then etcdctl and `etcd-steward get --prefix` read them all, in turn,
each as a process whose standard output is a pipe that is read as fast as it comes. Both must print
the same bytes. etcd works on the same cores.
"""

import argparse
import asyncio
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.testbed import EtcdCluster
from tests.testbed.binaries import binary
from tests.testbed.bulk import load
from tests.testbed.process import clean_environment

PIECE = 1 << 20


@dataclass
class Figures:
    """What one program took, run by run."""

    seconds: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    rss: list[float] = field(default_factory=list)
    digest: str = ""

    def row(self, name: str) -> str:
        """One line of the table."""
        return (
            f"| {name} | {statistics.median(self.seconds):.1f} | {max(self.seconds):.1f} "
            f"| {statistics.median(self.first):.2f} | {statistics.median(self.cpu):.1f} "
            f"| {max(self.rss):.0f} |"
        )


def run(command: Sequence[str | Path], figures: Figures) -> None:
    """Run a program once, and read what it prints."""
    environment = clean_environment() | {"PYTHONDONTWRITEBYTECODE": ""}
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    digest = hashlib.sha256(first := os.read(pipe, PIECE))
    figures.first.append(time.perf_counter() - started)
    assert first, "nothing was printed"
    while piece := os.read(pipe, PIECE):
        digest.update(piece)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode:
        raise SystemExit(f"{command[0]} left with {process.returncode}")
    figures.seconds.append(time.perf_counter() - started)
    figures.cpu.append(usage.ru_utime + usage.ru_stime)
    figures.rss.append(usage.ru_maxrss / 1024)
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
    programs: dict[str, Sequence[str | Path]] = {
        "etcdctl 3.7": (await binary("etcdctl", "3.7"), *words),
        "etcd-steward": (sys.executable, "-m", "etcd_steward", *words),
    }
    figures = {name: Figures() for name in programs}
    for _ in range(runs):
        for name, command in programs.items():
            await asyncio.to_thread(run, command, figures[name])
    for name, found in figures.items():
        print(found.row(name), flush=True)
    theirs, ours = figures.values()
    if theirs.digest != ours.digest:
        raise SystemExit("they have not printed the same")
    ratio = statistics.median(ours.seconds) / statistics.median(theirs.seconds)
    print(f"{ratio:.2f} x etcdctl's time", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
