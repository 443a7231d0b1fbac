"""Removes a node's cgroups and data once whoever started it is gone, killed or not.

A program of its own (`python -I -S janitor.py CGROUP DIRECTORY…`): its standard input is a pipe
that the test bed holds open. At its end, which the kernel sees to even after kill -9, it takes away
what no namespace takes along. It can do so only when the node's processes have ended, so it tries
for a while.
"""

import contextlib
import shutil
import signal
import sys
import time
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
PATIENCE = 30  # seconds; processes of a killed namespace are gone within one


def remove_groups(name: str) -> bool:
    """Remove the cgroups of this name with all below; False if processes are still in them."""
    for top in CGROUPS.glob(f"*/{name}"):
        folders = [path for path in top.rglob("*") if path.is_dir() and not path.is_symlink()]
        for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()
        with contextlib.suppress(OSError):
            top.rmdir()
    return not list(CGROUPS.glob(f"*/{name}"))


def main() -> int:
    """Wait for the end, then clean up."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is meant for everybody is not for it
    name, directories = sys.argv[1], sys.argv[2:]
    sys.stdin.buffer.read()
    deadline = time.monotonic() + PATIENCE
    while not remove_groups(name) and time.monotonic() < deadline:
        time.sleep(0.1)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)
    left = [str(path) for path in CGROUPS.glob(f"*/{name}")]
    left += [directory for directory in directories if Path(directory).exists()]
    if left:
        print(f"left behind: {' '.join(left)}", file=sys.stderr)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
