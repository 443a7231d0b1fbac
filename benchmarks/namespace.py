"""How long it takes to read one namespace out of a backup in S3, beside what people do today.

    python -m benchmarks.namespace [--keys 1000000,4000000] [--runs 3]

For each size a fresh etcd gets so many keys of 1 kB, 10,000 in each namespace, over 60 resource
types, and a fresh SeaweedFS gets its snapshot by both ways. Each round runs, in turning order and
each when the machine has come to rest:

- ours: a process that finds the newest verified backup, and reads every key of one namespace with
  its value out of the sidecar in S3; the reading itself (from the index to the last value) is timed
  within it too, and its requests and bytes are counted
- theirs: `aws s3 cp` of the snapshot, `etcdutl snapshot restore`, an etcd that boots from it, and
  `etcdctl get --prefix` for each of the 60 types

Both must find the same number of keys. The reading of theirs are the 60 gets alone.
"""

import argparse
import asyncio
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.snapshot import BUCKET, aws
from benchmarks.timing import Command, Figures, environment, settled, timed
from tests.support.cli import s3_flags
from tests.testbed import EtcdCluster, SeaweedFS, binary
from tests.testbed.bulk import RESOURCES, load
from tests.testbed.ports import reserved_ports

PER_NAMESPACE = 10_000
TYPES = (
    *RESOURCES,
    *((f"bench.example.com/things{n:02}", "bench.example.com/v1", "Thing") for n in range(52)),
)


@dataclass
class Ways:
    """What both ways took, round by round."""

    ours: Figures = field(default_factory=Figures)
    theirs: Figures = field(default_factory=Figures)
    our_reading: list[float] = field(default_factory=list)
    their_reading: list[float] = field(default_factory=list)
    said: dict[str, int] = field(default_factory=dict)


@dataclass
class Bench:
    """One S3 that holds both backups, and how to get at them."""

    s3: SeaweedFS
    directory: Path
    variables: Mapping[str, str]
    programs: Mapping[str, Path]
    keys: int

    @property
    def namespaces(self) -> int:
        """How many there are."""
        return max(1, self.keys // PER_NAMESPACE)

    @property
    def namespace(self) -> str:
        """One in the middle."""
        return f"team-{self.namespaces // 2:04}"

    def ours(self, into: Ways) -> None:
        """Read it out of the sidecar."""
        reader = [sys.executable, "-m", "benchmarks.namespace_reader"]
        command = [*reader, self.s3.endpoint_url, BUCKET, self.namespace]
        into.said = json.loads(timed(command, self.variables, into.ours))
        into.our_reading.append(into.said["microseconds"] / 1e6)

    def theirs(self, into: Ways) -> None:
        """Download, restore, boot, get."""
        began, parts = time.perf_counter(), Figures()
        work = self.directory / "theirs"
        work.mkdir()
        file, data = work / "snapshot.db", work / "data"
        copy: Command = [aws(), "--endpoint-url", self.s3.endpoint_url, "s3", "cp", "--quiet"]
        timed([*copy, f"s3://{BUCKET}/theirs/snapshot.db", file], self.variables, parts)
        restore: Command = [self.programs["etcdutl"], "snapshot", "restore", file]
        timed([*restore, "--data-dir", data], self.variables, parts)
        with contextlib.ExitStack() as stack:
            endpoint = self._boot(data, stack)
            reading = time.perf_counter()
            keys = sum(self._get(endpoint, path, parts) for path, _, _ in TYPES)
            into.their_reading.append(time.perf_counter() - reading)
        into.theirs.add_up(parts, time.perf_counter() - began)
        shutil.rmtree(work)
        if keys != into.said.get("keys", keys):
            raise SystemExit(f"they found {keys} keys, we {into.said['keys']}")

    def _boot(self, data: Path, stack: contextlib.ExitStack) -> str:
        client, peer = stack.enter_context(reserved_ports(2))
        url = f"http://127.0.0.1:{client}"
        etcd = subprocess.Popen(
            [
                self.programs["etcd"], "--data-dir", data, "--listen-client-urls", url,
                "--advertise-client-urls", url, "--listen-peer-urls", f"http://127.0.0.1:{peer}",
                "--quota-backend-bytes", str(16 << 30),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self.variables,
        )  # fmt: skip
        stack.callback(etcd.wait)
        stack.callback(etcd.kill)
        health: Command = [self.programs["etcdctl"], "--endpoints", url, "endpoint", "health"]
        self._until(lambda: subprocess.run(health, capture_output=True, check=False).returncode)
        return url

    def _until(self, failing: Callable[[], int]) -> None:
        deadline = time.monotonic() + 600
        while failing():
            if time.monotonic() > deadline:
                raise SystemExit("etcd does not boot")
            time.sleep(0.05)

    def _get(self, endpoint: str, path: str, parts: Figures) -> int:
        prefix = f"/registry/{path}/{self.namespace}/"
        get: Command = [
            self.programs["etcdctl"],
            "--endpoints",
            endpoint,
            "get",
            "--prefix",
            prefix,
        ]
        said = timed([*get, "-w", "json"], self.variables, parts)
        return int(json.loads(said).get("count", 0))


async def fill(bench: Bench) -> None:
    """Put both backups into S3: ours with its sidecar, theirs as `etcdctl` writes it."""
    quota = {"quota-backend-bytes": str(16 << 30)}
    file = bench.directory / "snapshot.db"
    async with EtcdCluster(bench.directory / "etcd", flags=quota) as etcd:
        await load(etcd, bench.keys, namespaces=bench.namespaces, seed=1, resources=TYPES)
        program = [sys.executable, "-m", "etcd_steward", "snapshot", "save", "--no-progress"]
        flags = [*s3_flags(bench.s3, BUCKET), f"--spool-dir={bench.directory / 'spool'}"]
        commands: list[Command] = [
            [*program, *etcd.connection_flags(), *flags],
            [bench.programs["etcdctl"], *etcd.connection_flags(), "snapshot", "save", file],
        ]
        for command in commands:
            await asyncio.to_thread(timed, command, bench.variables, Figures())
    shutil.rmtree(bench.directory / "etcd")
    upload: Command = [aws(), "--endpoint-url", bench.s3.endpoint_url, "s3", "cp", "--quiet", file]
    target = f"s3://{BUCKET}/theirs/snapshot.db"
    await asyncio.to_thread(timed, [*upload, target], bench.variables, Figures())
    file.unlink()


async def measure(keys: int, runs: int) -> Ways:
    """`runs` rounds over one size, after one that warms the caches."""
    with tempfile.TemporaryDirectory(prefix="etcd-steward-benchmark-") as scratch:
        async with SeaweedFS(Path(scratch) / "s3") as s3:
            await s3.create_bucket(BUCKET)
            variables = environment(s3) | {"XDG_CACHE_HOME": f"{scratch}/cache"}
            names = ("etcd", "etcdctl", "etcdutl")
            programs = {name: await binary(name) for name in names}
            bench = Bench(s3, Path(scratch), variables, programs, keys)
            await fill(bench)
            found = Ways()
            for turn in range(runs + 1):
                into = found if turn else Ways()
                for way in (bench.ours, bench.theirs)[:: 1 if turn % 2 else -1]:
                    await asyncio.to_thread(settled)
                    await asyncio.to_thread(way, into)
    return found


def report(keys: int, found: Ways) -> None:
    """One table."""
    ours, theirs = found.ours, found.theirs
    rows = (
        ("`aws s3 cp`, `etcdutl snapshot restore`, etcd, 60 gets", theirs, found.their_reading),
        ("**etcd-steward**", ours, found.our_reading),
    )
    print(f"\n{keys:,} keys, {found.said['keys']:,} of them in the namespace")
    print("| way | seconds | times as fast | reading itself s | cpu s | peak RSS MB |")
    print("|---|---|---|---|---|---|")
    base = theirs.median
    for name, one_way, reading in rows:
        seconds = one_way.median
        print(
            f"| {name} | {seconds:.2f} | {base / seconds:.1f} | {statistics.median(reading):.3f} "
            f"| {one_way.used}"
        )
    whole = base / statistics.median(found.our_reading)
    said = found.said
    print(
        f"{said['requests']} requests, {said['bytes'] / 1e6:.1f} of {said['size'] / 1e6:.0f} MB "
        f"({100 * said['bytes'] / said['size']:.1f} %); all of theirs takes {whole:.0f} times "
        "as long as our reading itself",
        flush=True,
    )


async def main() -> None:
    """Measure all sizes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--keys", default="1000000,4000000", help="how many, by commas")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    for keys in map(int, options.keys.split(",")):
        report(keys, await measure(keys, options.runs))


if __name__ == "__main__":
    asyncio.run(main())
