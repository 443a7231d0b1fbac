"""How fast, and in how much memory, a snapshot file's structure is proven.

`python benchmarks/proof.py FILE.db…`: each file is read once to warm the page cache, then proven
in a process of its own, so that the peak memory is its own too.
"""

import resource
import subprocess
import sys
import time
from pathlib import Path

from etcd_steward.registry.proof import prove_structure


class LocalFile:
    """`ReadAt` over a file, by pread."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self.size = path.stat().st_size

    def read_at(self, offset: int, length: int) -> bytes:
        """These bytes, or fewer at the end."""
        self._file.seek(offset)
        return self._file.read(length) or b""


def prove(path: Path) -> None:
    """Prove a file and print what it took."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    file = LocalFile(path)
    started, cpu = time.perf_counter(), time.process_time()
    report = prove_structure(file)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(report)
    print(
        f"{path.name}: {file.size / 1e6:.0f} MB, {report.records} records in {seconds:.2f} s "
        f"(cpu {cpu:.2f} s, {file.size / seconds / 1e6:.0f} MB/s), "
        f"peak RSS {peak / 1024:.0f} MB, of which {before / 1024:.0f} MB before"
    )


def warm(path: Path) -> None:
    """Read a file into the page cache."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


def main() -> None:
    """Each file in a process of its own."""
    if sys.argv[1] == "--one":
        prove(Path(sys.argv[2]))
        return
    for name in sys.argv[1:]:
        warm(Path(name))
        subprocess.run([sys.executable, __file__, "--one", name], check=True)


if __name__ == "__main__":
    main()
