"""How long the sidecar of a snapshot takes, and in how much memory.

    python -m benchmarks.sidecar [--keys 1000000] [--runs 3]

A fresh etcd gets so many keys of 1 kB in 100 namespaces; its snapshot is put into a fresh SeaweedFS
by `snapshot save`. Then, from the snapshot in a file as it lies in a run's spool, the sidecar is
made by a process of its own: `registry.parquet` written to S3 and read back, and `index.json`.
Timed is that whole process, imports included; beside it the whole of `snapshot index`, which also
downloads the snapshot.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from etcd_steward.engine.report import Tracker
from etcd_steward.engine.sidecar import make_sidecar
from etcd_steward.engine.spool import Spool
from etcd_steward.memory import return_freed_memory
from etcd_steward.models.connection import S3Settings
from etcd_steward.models.manifest import Manifest
from etcd_steward.models.run import SpoolSettings
from etcd_steward.store import open_store
from etcd_steward.store.local_files import LocalReadAt
from tests.support.cli import s3_flags
from tests.support.runs import Heard
from tests.testbed import EtcdCluster, SeaweedFS
from tests.testbed.bulk import load
from tests.testbed.process import clean_environment

BUCKET = "benchmark"


@dataclass
class Figures:
    """What one way of doing it took, run by run."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    rss: list[float] = field(default_factory=list)

    def row(self, name: str) -> str:
        """One line of the table."""
        return (
            f"| {name} | {statistics.median(self.seconds):.1f} | {max(self.seconds):.1f} "
            f"| {statistics.median(self.cpu):.1f} | {max(self.rss):.0f} |"
        )


def timed(command: Sequence[str | Path], environment: Mapping[str, str], into: Figures) -> bytes:
    """Run a command to its end; what it printed."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode:
        raise SystemExit(f"{command} failed with {process.returncode}")
    into.seconds.append(time.perf_counter() - started)
    into.cpu.append(usage.ru_utime + usage.ru_stime)
    into.rss.append(usage.ru_maxrss / 1024)
    return said


async def one(endpoint: str, snapshot: Path, manifest: Manifest, spool: Path) -> None:
    """Make the sidecar of `snapshot`: what a run's process does once its manifest is written."""
    return_freed_memory()
    settings = S3Settings(
        bucket=BUCKET, prefix="prod", endpoint=endpoint, force_path_style=True, region="us-east-1"
    )
    async with (
        open_store(settings) as store,
        Spool.open(SpoolSettings(directory=spool), "bench") as room,
    ):
        file = LocalReadAt(snapshot)
        index = await make_sidecar(store, room, manifest, file, ("/registry",), Tracker(Heard()))
    print(index.model_dump_json())


async def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    alone, whole = Figures(), Figures()
    with tempfile.TemporaryDirectory(prefix="etcd-steward-benchmark-") as scratch:
        directory = Path(scratch)
        async with SeaweedFS(directory / "s3") as s3:
            await s3.create_bucket(BUCKET)
            flags = [*s3_flags(s3, BUCKET), f"--spool-dir={directory / 'spool'}", "--no-progress"]
            environment = clean_environment(s3.environment()) | {
                "AWS_EC2_METADATA_DISABLED": "true"
            }
            program = [sys.executable, "-m", "etcd_steward", "snapshot"]
            quota = {"quota-backend-bytes": str(16 << 30)}
            async with EtcdCluster(directory / "etcd", flags=quota) as etcd:
                await load(etcd, options.keys, namespaces=100, seed=1)
                save = [*program, "save", *etcd.connection_flags(), *flags, "-ojson"]
                said = await asyncio.to_thread(timed, save, environment, Figures())
            manifest, snapshot = directory / "manifest.json", directory / "snapshot.db"
            manifest.write_bytes(said)
            fetch = [*program, "fetch", f"s3://{BUCKET}/prod", snapshot, *flags[1:-2]]
            await asyncio.to_thread(timed, [*fetch, "--no-progress"], environment, Figures())
            size = json.loads(said)["rawSize"] / 1e9
            print(f"{options.keys:,} keys, a snapshot of {size:.2f} GB", flush=True)
            child = [sys.executable, "-m", "benchmarks.sidecar", "--one", s3.endpoint_url]
            child += [str(snapshot), str(manifest), str(directory / "spool")]
            for run in range(options.runs + 1):
                into = (alone, whole) if run else (Figures(), Figures())  # the first one warms up
                said = await asyncio.to_thread(timed, child, environment, into[0])
                index = [*program, "index", "--force", *flags]
                await asyncio.to_thread(timed, index, environment, into[1])
            stored = json.loads(said)["file"]["size"] / 1e6
    print(f"registry.parquet: {stored:.0f} MB")
    print("| | seconds | slowest | cpu s | peak RSS MB |")
    print("|---|---|---|---|---|")
    print(alone.row("sidecar, from the spool into S3"))
    print(whole.row("`snapshot index`, from S3 into S3"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        url, file, known, spool = sys.argv[2:]
        found = Manifest.model_validate_json(Path(known).read_bytes())
        asyncio.run(one(url, Path(file), found, Path(spool)))
    else:
        asyncio.run(main())
