"""How long `snapshot save` takes beside what people use, and in how much memory.

    python -m benchmarks.snapshot [--sizes 0.35,1.4,2.8] [--runs 3] [--compressed]

For each size a fresh etcd is filled with keys of 1 kB and a fresh SeaweedFS is started. Each round
runs the commands one after the other, in turning order, on the same data:

- ours: `etcd-steward snapshot save --no-index` into S3, up to the written manifest, all proof
  included (what the registry file takes after that, `benchmarks.sidecar` measures)
- theirs: `etcdctl snapshot save`, then `aws s3 cp`
- with `--compressed` also: `etcdctl snapshot save`, `zstd -1 -T0`, `aws s3 cp`

Medians are printed. "drain" is how long etcd itself says that its snapshot was read
(etcd_disk_backend_snapshot_duration_seconds): for so long its read transaction is open.
"""

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.timing import Command, Figures, environment, timed
from tests.testbed import EtcdCluster, SeaweedFS, binary
from tests.testbed.binaries import cache_directory
from tests.testbed.bulk import load

AWS_CLI = "awscli==1.46.2"
VALUE = 1000
PER_KEY = 1380
"""Bytes of database per key of 1 kB."""
BUCKET = "benchmark"


@dataclass
class Saved(Figures):
    """What one way of saving took."""

    drain: list[float] = field(default_factory=list)

    def row(self, name: str, base: "Saved") -> str:
        """One line of the table."""
        drain, ratio = statistics.median(self.drain), self.median / base.median
        drained = drain / statistics.median(base.drain)
        return (
            f"| {name} | {self.median:.1f} | {ratio:.2f} | {drain:.1f} | {drained:.2f} "
            f"| {self.used}"
        )


def aws() -> Path:
    """The AWS CLI, in an environment of its own: it pins another botocore than ours."""
    home = cache_directory() / AWS_CLI.replace("==", "-")
    if not (home / "bin" / "aws").exists():
        print(f"installing {AWS_CLI} into {home}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        subprocess.run([home / "bin" / "pip", "install", "--quiet", AWS_CLI], check=True)
    return home / "bin" / "aws"


class Round:
    """One etcd and one S3, and the commands that are timed on them."""

    def __init__(self, etcd: EtcdCluster, s3: SeaweedFS, directory: Path, etcdctl: Path) -> None:
        self._etcd = etcd
        self._s3 = s3
        self._directory = directory
        self._etcdctl = etcdctl
        self._variables = environment(s3)

    def _drained(self) -> float:
        with urllib.request.urlopen(  # noqa: S310 - our own loopback server
            self._etcd.members[0].metrics_url + "/metrics"
        ) as answer:
            text = answer.read().decode()
        found = re.search(r"etcd_disk_backend_snapshot_duration_seconds_sum (\S+)", text)
        assert found is not None
        return float(found[1])

    def _time(self, figures: Saved, *commands: Command) -> None:
        drained, parts = self._drained(), Figures()
        for command in commands:
            timed(command, self._variables, parts, quiet=True)
        figures.add_up(parts)
        figures.drain.append(self._drained() - drained)

    def ours(self, figures: Saved) -> None:
        """`etcd-steward snapshot save`."""
        command: Command = [
            sys.executable, "-m", "etcd_steward", "snapshot", "save", "--no-progress", "--no-index",
            *self._etcd.connection_flags(), "--store", f"s3://{BUCKET}/ours",
            "--s3-endpoint", self._s3.endpoint_url, "--s3-path-style",
            "--spool-dir", self._directory / "spool",
        ]  # fmt: skip
        self._time(figures, command)

    def theirs(self, figures: Saved, *, compressed: bool = False) -> None:
        """Etcdctl, perhaps zstd, and the AWS CLI."""
        file = self._directory / "theirs.db"
        stored = file.with_suffix(".db.zst") if compressed else file
        zstd = Path(sys.executable).with_name("zstd")
        squeeze: Command = [zstd, "-q", "-1", "-T0", "--rm", "-f", file]
        target = f"s3://{BUCKET}/theirs/{stored.name}"
        self._time(
            figures,
            [self._etcdctl, *self._etcd.connection_flags(), "snapshot", "save", file],
            *([squeeze] if compressed else []),
            [aws(), "--endpoint-url", self._s3.endpoint_url, "s3", "cp", "--quiet", stored, target],
        )
        stored.unlink()


async def measure(gigabytes: float, runs: int, *, compressed: bool) -> dict[str, Saved]:
    """Medians of `runs` rounds over one size."""
    names = ["theirs", "ours", *(["compressed"] if compressed else [])]
    figures = {name: Saved() for name in names}
    with tempfile.TemporaryDirectory(prefix="etcd-steward-benchmark-") as scratch:
        directory = Path(scratch)
        quota = {"quota-backend-bytes": str(8 << 30)}
        async with (
            EtcdCluster(directory / "etcd", flags=quota) as etcd,
            SeaweedFS(directory / "s3") as s3,
        ):
            await s3.create_bucket(BUCKET)
            keys = int(gigabytes * 1e9 / PER_KEY)
            loaded = await load(etcd, keys, value_size=VALUE, namespaces=100, seed=1)
            status = json.loads(await etcd.etcdctl("endpoint", "status", "-w", "json"))
            size = status[0]["Status"]["dbSize"] / 1e9
            print(f"\n{keys:,} keys loaded in {loaded.seconds:.0f} s, db {size:.2f} GB", flush=True)
            bench = Round(etcd, s3, directory, await binary("etcdctl"))
            aws()
            for turn in range(runs + 1):
                for name in names if turn % 2 else reversed(names):
                    into = figures[name] if turn else Saved()  # the first round warms the caches
                    if name == "ours":
                        await asyncio.to_thread(bench.ours, into)
                    else:
                        await asyncio.to_thread(bench.theirs, into, compressed=name == "compressed")
    return figures


async def main() -> None:
    """Measure all sizes and print one table each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sizes", default="0.35,1.4,2.8", help="GB of database, by commas")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--compressed", action="store_true", help="also time etcdctl + zstd + aws")
    options = parser.parse_args()
    titles = {
        "theirs": "etcdctl + aws s3 cp",
        "ours": "**etcd-steward snapshot save**",
        "compressed": "etcdctl + zstd -1 + aws s3 cp",
    }
    for size in map(float, options.sizes.split(",")):
        figures = await measure(size, options.runs, compressed=options.compressed)
        print("| way | seconds | ratio | drain s | ratio | cpu s | peak RSS MB |")
        print("|---|---|---|---|---|---|---|")
        for name, one in figures.items():
            print(one.row(titles[name], figures["theirs"]), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
