"""How long the hash of a database file takes beside `etcdutl hashkv`, and in how much memory.

    python -m benchmarks.hashkv [--keys 1000000] [--runs 3]

A fresh etcd is filled with keys of 1 kB. A snapshot is taken as it is then, and another one after a
fifth of the keys was written anew, a compaction, and a few more writes. Each is hashed by whole
processes, in turning order:

- ours: `etcd-steward hashkv FILE`
- theirs: `etcdutl hashkv COPY`, of a copy, since it rewrites the file that it is given; copying is
  not timed

Medians are printed; the hashes must be equal, and equal the member's own.
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.proof import warm
from benchmarks.timing import Command, Figures, environment, timed
from tests.testbed import EtcdCluster, binary
from tests.testbed.bulk import load


def row(name: str, figures: Figures, base: Figures) -> str:
    """One line of the table."""
    seconds = figures.median
    return f"| {name} | {seconds:.2f} | {base.median / seconds:.1f} | {figures.used}"


def run(command: Command, figures: Figures) -> Any:  # noqa: ANN401  # JSON
    """Run a command once, and return the JSON that it prints."""
    return json.loads(timed(command, environment(), figures))


def compare(name: str, file: Path, runs: int, etcdutl: Path, expected: int) -> None:
    """Hash one file both ways, and print a table."""
    ours, theirs = Figures(), Figures()
    copy = file.with_suffix(".copy")
    warm(file)
    for turn in range(runs):
        for mine in (True, False) if turn % 2 else (False, True):
            if mine:
                ours_is = [sys.executable, "-m", "etcd_steward", "hashkv", str(file), "-o", "json"]
                found = run(ours_is, ours)["hashes"][0]["hash"]
            else:
                shutil.copyfile(file, copy)
                found = run([etcdutl, "hashkv", copy, "-w", "json"], theirs)["hash"]
            if found != expected:
                raise SystemExit(f"{'ours' if mine else 'theirs'}: {found}, not {expected}")
    copy.unlink()
    print(f"\n{name}, {file.stat().st_size / 1e9:.2f} GB, {runs} rounds:\n")
    print("| way | seconds | times as fast | cpu s | peak RSS MB |")
    print("|---|---|---|---|---|")
    print(row("`etcdutl hashkv`", theirs, theirs))
    print(row("**`etcd-steward hashkv`**", ours, theirs), flush=True)


async def hashed(etcd: EtcdCluster) -> int:
    """The member's own hash of what it holds now."""
    said = await etcd.etcdctl("--command-timeout=300s", "endpoint", "hashkv", "-w", "json")
    return int(json.loads(said)[0]["HashKV"]["hash"])


async def main() -> None:
    """Make both files, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    keys = options.keys
    etcdutl = await binary("etcdutl")
    with tempfile.TemporaryDirectory(prefix="etcd-steward-hashkv-") as scratch:
        plain, compacted = Path(scratch, "plain.db"), Path(scratch, "compacted.db")
        quota = {"quota-backend-bytes": str(8 << 30)}
        async with EtcdCluster(Path(scratch) / "etcd", flags=quota) as etcd:
            await load(etcd, keys, namespaces=100, seed=1)
            await etcd.etcdctl("snapshot", "save", plain)
            before = await hashed(etcd)
            await load(etcd, keys // 5, namespaces=100, seed=2)
            revision = str(await etcd.revision())
            await etcd.etcdctl("--command-timeout=300s", "compact", revision, "--physical")
            await load(etcd, keys // 50, namespaces=100, seed=3)
            await etcd.etcdctl("snapshot", "save", compacted)
            after = await hashed(etcd)
        compare(f"{keys:,} keys of 1 kB", plain, options.runs, etcdutl, before)
        compare("The same, compacted", compacted, options.runs, etcdutl, after)


if __name__ == "__main__":
    asyncio.run(main())
