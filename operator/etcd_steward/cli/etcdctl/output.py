"""Standard output as bytes: keys and values are no text."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from etcd_steward.cli.etcdctl.errors import EtcdctlError


def write(data: bytes) -> None:
    """Print. Raises `EtcdctlError` where that can't be."""
    with _told():
        stream().write(data)


def flush() -> None:
    """Let a reader behind a pipe see what was printed. Raises `EtcdctlError` as well."""
    with _told():
        stream().flush()


def stream() -> BinaryIO:
    """Standard output. Raises `EtcdctlError` where there is none, as after `>&-`."""
    if sys.stdout is None:
        raise EtcdctlError("standard output: it is closed")
    return sys.stdout.buffer


def forget() -> None:
    """Print nothing any more: Python would try once more at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # the reader has gone, which is no error: see `live.run`
        raise
    except OSError as error:
        forget()
        raise EtcdctlError(f"standard output: {(error.strerror or str(error)).lower()}") from error
