"""Free loopback ports that no other process of the test bed takes at the same time.

Asking the kernel for port 0 and closing the socket is a race: with several xdist workers the same
port is soon handed out twice. Here a port is *locked* (flock on a file named like it, in one
directory for all processes of this user) for as long as it is in use, and the kernel gives the lock
back even after kill -9. Ports lie below Linux' ephemeral range (32768…), so that no outgoing
connection takes one either.
"""

import contextlib
import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.testbed.process import TestbedError

FIRST, LAST = 20_000, 32_000


def _lock_directory() -> Path:
    directory = Path(tempfile.gettempdir()) / f"etcd-steward-ports-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory


def _lock(directory: Path, port: int) -> int | None:
    """Return a file descriptor that holds the port, or None if it is taken."""
    descriptor = os.open(directory / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            probe.bind(("127.0.0.1", port))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@contextlib.contextmanager
def reserved_ports(count: int) -> Iterator[list[int]]:
    """Hold `count` free TCP ports on 127.0.0.1 until the block ends."""
    directory = _lock_directory()
    held: dict[int, int] = {}
    try:
        for port in random.sample(range(FIRST, LAST), LAST - FIRST):
            if len(held) == count:
                break
            descriptor = _lock(directory, port)
            if descriptor is not None:
                held[port] = descriptor
        if len(held) < count:
            raise TestbedError(f"no {count} free ports between {FIRST} and {LAST} on 127.0.0.1")
        yield list(held)
    finally:
        for descriptor in held.values():
            os.close(descriptor)
