"""How long `snapshot list` takes on a bucket with thousands of snapshots.

    python -m benchmarks.listing [--snapshots 5000] [--runs 3]

A fresh SeaweedFS gets so many backups: a real manifest, its first proof and a little snapshot each,
of ten EtcdBackups. Then `etcd-steward snapshot list` is timed as a user runs it, process start
included: cold (no cache), and with the cache that a run before has left. SeaweedFS works on the
same cores: its own CPU time is what would remain if ours were nothing.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import rmtree

from benchmarks.snapshot import BUCKET
from benchmarks.timing import Figures, environment, timed
from etcd_steward.models.layout import Folder
from tests.support.backups import DATA, made
from tests.testbed import SeaweedFS

BACKUPS = 10
WRITERS = 8
START = datetime(2020, 1, 1, 2, 17, tzinfo=UTC)


@dataclass
class Listed(Figures):
    """What one way of listing took."""

    server: list[float] = field(default_factory=list)
    """Processor seconds of SeaweedFS."""

    def row(self, name: str) -> str:
        """One line of the table."""
        return (
            f"| {name} | {self.median:.1f} | {max(self.seconds):.1f} "
            f"| {statistics.median(self.server):.1f} | {self.used}"
        )


def fill(s3: SeaweedFS, snapshots: int) -> None:
    """Write the backups, several at a time, without the reading back that a run does."""
    client = s3.client()

    def write(number: int) -> None:
        tick = START + timedelta(hours=number // BACKUPS)
        manifest = made(number, backup=f"team.backup-{number % BACKUPS}", tick=tick)
        assert manifest.proof is not None
        folder = Folder.parse(manifest.folder)
        for key, data in (
            (folder.snapshot, DATA),
            (folder.manifest, manifest.model_dump_json(by_alias=True, indent=2).encode()),
            (
                folder.proof(manifest.proof.at),
                manifest.proof.model_dump_json(by_alias=True).encode(),
            ),
        ):
            client.put_object(Bucket=BUCKET, Key=f"prod/{key}", Body=data)

    with ThreadPoolExecutor(WRITERS) as threads:
        for _ in threads.map(write, range(snapshots)):
            pass


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def listed(s3: SeaweedFS, cache: Path, figures: Listed, snapshots: int) -> None:
    """Run the verb once."""
    command = [
        sys.executable, "-m", "etcd_steward", "snapshot", "list", "--store", f"s3://{BUCKET}/prod",
        "--s3-endpoint", s3.endpoint_url, "--s3-path-style",
    ]  # fmt: skip
    server = cpu_seconds(s3.server.pid)
    variables = environment(s3) | {"XDG_CACHE_HOME": str(cache)}
    lines = timed(command, variables, figures).decode().count("Structure")
    if lines != snapshots:
        raise SystemExit(f"{lines} of {snapshots} snapshots listed")
    figures.server.append(cpu_seconds(s3.server.pid) - server)


async def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--snapshots", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    cold, warm = Listed(), Listed()
    with tempfile.TemporaryDirectory(prefix="etcd-steward-benchmark-") as scratch:
        directory = Path(scratch)
        async with SeaweedFS(directory / "s3") as s3:
            await s3.create_bucket(BUCKET)
            await asyncio.to_thread(fill, s3, options.snapshots)
            print(f"{options.snapshots:,} snapshots written", flush=True)
            cache = directory / "cache"
            await asyncio.to_thread(listed, s3, cache, Listed(), options.snapshots)
            for _ in range(options.runs):
                rmtree(cache, ignore_errors=True)
                await asyncio.to_thread(listed, s3, cache, cold, options.snapshots)
                await asyncio.to_thread(listed, s3, cache, warm, options.snapshots)
    print("| `snapshot list` | seconds | slowest | SeaweedFS' cpu s | cpu s | peak RSS MB |")
    print("|---|---|---|---|---|---|")
    print(cold.row("cold"))
    print(warm.row("with the cache"))


if __name__ == "__main__":
    asyncio.run(main())
