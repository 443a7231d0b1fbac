"""Run a command and say what it took: `stopwatch.py DESCRIPTOR PROGRAM [ARGUMENT …]`.

A process of its own, for a child is born with its parent's peak memory (`ru_maxrss` outlives exec):
the benchmarks hold much, and this holds nothing. JSON is written to the descriptor.
"""

import json
import os
import resource
import subprocess
import sys
import time


def main() -> None:
    """Run it to its end; this ends as it did."""
    descriptor, command = int(sys.argv[1]), sys.argv[2:]
    started = time.perf_counter()
    status = subprocess.call(command)  # which gets all but the descriptor
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = {
        "status": status,
        "seconds": seconds,
        "cpu": used.ru_utime + used.ru_stime,
        "rss": used.ru_maxrss / 1024,
    }
    os.write(descriptor, json.dumps(took).encode())


if __name__ == "__main__":
    main()
