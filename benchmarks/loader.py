"""Time the test bed's bulk loader: `python -m benchmarks.loader [KEYS]`.

The issue asks for a million keys of 1 kB in less than a minute, in transactions of 100.
"""

import asyncio
import json
import sys
import tempfile
from pathlib import Path

from tests.testbed import EtcdCluster
from tests.testbed.bulk import load


async def main(keys: int) -> None:
    """Load into a fresh single member and print one line of JSON."""
    with tempfile.TemporaryDirectory(prefix="etcd-steward-loader-") as directory:
        flags = {"quota-backend-bytes": str(8 * 1024**3)}
        async with EtcdCluster(Path(directory) / "etcd", flags=flags) as etcd:
            loaded = await load(etcd, keys)
            status = json.loads(await etcd.etcdctl("endpoint", "status", "-w", "json"))
            figures = {
                "keys": loaded.keys,
                "seconds": round(loaded.seconds, 1),
                "keys_per_second": round(loaded.keys / loaded.seconds),
                "database_bytes": status[0]["Status"]["dbSize"],
            }
            print(json.dumps(figures))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
