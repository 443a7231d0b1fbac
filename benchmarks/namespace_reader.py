"""The process that `benchmarks.namespace` times: one namespace out of the newest verified backup.

    python -m benchmarks.namespace_reader ENDPOINT BUCKET NAMESPACE

Prints how many keys there are, what the reading itself took (from the index to the last value), and
how much it fetched for that. It imports no more than a verb of ours does.
"""

import asyncio
import json
import sys
import time
from dataclasses import dataclass

from etcd_steward.cli.snapshot_find import resolve
from etcd_steward.engine.sidecar import open_registry
from etcd_steward.models.connection import S3Settings
from etcd_steward.models.ports import ReadAt
from etcd_steward.models.registry import Filter, Selection
from etcd_steward.registry import parquet  # noqa: F401  # its import is no part of the reading
from etcd_steward.registry.selection import Chosen
from etcd_steward.store import open_store


@dataclass
class Counting:
    """A file, and what is read of it."""

    file: ReadAt
    requests: int = 0
    taken: int = 0

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.file.size

    def read_at(self, offset: int, length: int) -> bytes:
        """Read, and count."""
        self.requests, self.taken = self.requests + 1, self.taken + length
        return self.file.read_at(offset, length)


async def main(endpoint: str, bucket: str, namespace: str) -> None:
    """Read, count, print."""
    settings = S3Settings(
        bucket=bucket, prefix="prod", endpoint=endpoint, force_path_style=True, region="us-east-1"
    )
    async with open_store(settings) as store:
        counted: list[Counting] = []
        opened = store.open

        async def counting(key: str) -> ReadAt:
            counted.append(Counting(await opened(key)))
            return counted[-1]

        store.open = counting  # type: ignore[method-assign]
        manifest = (await resolve(store, None, None, None)).manifest
        chosen = Chosen(Selection(include=Filter(namespaces=(namespace,))))
        started = time.perf_counter()
        registry = await open_registry(store, manifest)
        keys = await asyncio.to_thread(lambda: sum(map(len, registry.read(chosen))))
        seconds = time.perf_counter() - started
    said = {
        "keys": keys,
        "microseconds": round(seconds * 1e6),
        "requests": sum(file.requests for file in counted),
        "bytes": sum(file.taken for file in counted),
        "size": sum(file.size for file in counted),
    }
    print(json.dumps(said))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
