"""How long `registry export` takes beside what people use, and in how much memory.

    python -m benchmarks.export [--keys 1000000] [--runs 3]

A fresh etcd is filled with keys of 1 kB over 100 namespaces, and a fresh SeaweedFS is started. Each
round runs the commands one after the other, in turning order, on the same data, each when the
machine has come to rest:

- ours: `etcd-steward registry export` into S3, up to the written manifest, all proof included
- theirs: `etcdctl get /registry --prefix -w json`, its output thrown away

Medians are printed.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.snapshot import BUCKET, VALUE
from benchmarks.timing import Command, Figures, environment, settled, timed
from tests.testbed import EtcdCluster, SeaweedFS, binary
from tests.testbed.bulk import load

NAMESPACES = 100


async def ways(etcd: EtcdCluster, s3: SeaweedFS, spool: Path) -> dict[str, Command]:
    """Both commands, by the name of the way."""
    return {
        "etcdctl get -w json": [
            await binary("etcdctl"), *etcd.connection_flags(), "--command-timeout=300s",
            "get", "/registry", "--prefix", "-w", "json",
        ],
        "**etcd-steward registry export**": [
            sys.executable, "-m", "etcd_steward", "registry", "export", "--no-progress",
            *etcd.connection_flags(), "--store", f"s3://{BUCKET}/ours",
            "--s3-endpoint", s3.endpoint_url, "--s3-path-style", "--spool-dir", spool,
        ],
    }  # fmt: skip


async def measure(keys: int, runs: int) -> dict[str, Figures]:
    """What each way took in `runs` rounds."""
    with tempfile.TemporaryDirectory(prefix="etcd-steward-benchmark-") as scratch:
        directory = Path(scratch)
        quota = {"quota-backend-bytes": str(8 << 30)}
        async with (
            EtcdCluster(directory / "etcd", flags=quota) as etcd,
            SeaweedFS(directory / "s3") as s3,
        ):
            await s3.create_bucket(BUCKET)
            loaded = await load(etcd, keys, value_size=VALUE, namespaces=NAMESPACES, seed=1)
            status = json.loads(await etcd.etcdctl("endpoint", "status", "-w", "json"))
            size = status[0]["Status"]["dbSize"] / 1e9
            print(f"\n{keys:,} keys loaded in {loaded.seconds:.0f} s, db {size:.2f} GB", flush=True)
            commands = await ways(etcd, s3, directory / "spool")
            figures = {name: Figures() for name in commands}
            for turn in range(runs + 1):
                for name in figures if turn % 2 else reversed(figures):
                    into = figures[name] if turn else Figures()  # the first round warms the caches
                    await asyncio.to_thread(settled)
                    await asyncio.to_thread(
                        timed, commands[name], environment(s3), into, quiet=True
                    )
    return figures


async def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    figures = await measure(options.keys, options.runs)
    base, *_ = figures.values()
    print("| way | seconds | times as fast | cpu s | peak RSS MB |")
    print("|---|---|---|---|---|")
    for name, one in figures.items():
        print(f"| {name} | {one.median:.1f} | {base.median / one.median:.1f} | {one.used}")


if __name__ == "__main__":
    asyncio.run(main())
