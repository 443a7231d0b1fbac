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
import sys
import tempfile
from pathlib import Path

from benchmarks.snapshot import BUCKET
from benchmarks.timing import Command, Figures, environment, timed
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


def row(name: str, figures: Figures) -> str:
    """One line of the table."""
    return f"| {name} | {figures.median:.1f} | {max(figures.seconds):.1f} | {figures.used}"


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
            variables = environment(s3)
            program = [sys.executable, "-m", "etcd_steward", "snapshot"]
            quota = {"quota-backend-bytes": str(16 << 30)}
            async with EtcdCluster(directory / "etcd", flags=quota) as etcd:
                await load(etcd, options.keys, namespaces=100, seed=1)
                save = [*program, "save", *etcd.connection_flags(), *flags, "-ojson"]
                said = await asyncio.to_thread(timed, save, variables, Figures())
            manifest, snapshot = directory / "manifest.json", directory / "snapshot.db"
            manifest.write_bytes(said)
            fetch: Command = [*program, "fetch", f"s3://{BUCKET}/prod", snapshot, *flags[1:-2]]
            await asyncio.to_thread(timed, [*fetch, "--no-progress"], variables, Figures())
            size = json.loads(said)["rawSize"] / 1e9
            print(f"{options.keys:,} keys, a snapshot of {size:.2f} GB", flush=True)
            child = [sys.executable, "-m", "benchmarks.sidecar", "--one", s3.endpoint_url]
            child += [str(snapshot), str(manifest), str(directory / "spool")]
            for run in range(options.runs + 1):
                into = (alone, whole) if run else (Figures(), Figures())  # the first one warms up
                said = await asyncio.to_thread(timed, child, variables, into[0])
                index = [*program, "index", "--force", *flags]
                await asyncio.to_thread(timed, index, variables, into[1])
            stored = json.loads(said)["file"]["size"] / 1e6
    print(f"registry.parquet: {stored:.0f} MB")
    print("| | seconds | slowest | cpu s | peak RSS MB |")
    print("|---|---|---|---|---|")
    print(row("sidecar, from the spool into S3", alone))
    print(row("`snapshot index`, from S3 into S3", whole))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        url, file, known, spool = sys.argv[2:]
        found = Manifest.model_validate_json(Path(known).read_bytes())
        asyncio.run(one(url, Path(file), found, Path(spool)))
    else:
        asyncio.run(main())
