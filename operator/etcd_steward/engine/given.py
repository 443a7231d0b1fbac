"""Files that somebody hands over: on this host, through a pipe, or in a bucket.

All are read once, from the beginning, in a worker thread that can be told to stop.
"""

import errno
import fcntl
import hashlib
import os
import select
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Protocol

from etcd_steward.errors import InvalidInput, NotFound, Refused, Unauthorized, Unavailable
from etcd_steward.models.ports import ReadAt, Store

STDIN = "-"
_CHUNK = 1 << 20
_OBJECT_CHUNK = 8 << 20
_LOOK = 200
"""Milliseconds between two looks at whether to stop, while a pipe says nothing."""


class Stopped(Exception):
    """Whoever waits for the reader has given up."""


class _Bytes(Protocol):
    def __call__(self, stop: threading.Event) -> Iterator[bytes]: ...


@dataclass(slots=True)
class Given:
    """One file to be read, and what is known of it before."""

    name: str
    """Its own name, without directories where it is a file."""
    size: int | None
    """Bytes; None where only its end will tell."""
    modified: datetime | None
    _bytes: _Bytes = field(repr=False)
    taken: int = 0
    """Bytes read so far."""
    stop: threading.Event = field(default_factory=threading.Event, repr=False)
    """Set to end the reading with `Stopped`."""
    _sha256: "hashlib._Hash" = field(default_factory=hashlib.sha256, repr=False)

    @property
    def sha256(self) -> str:
        """Of all bytes that were read."""
        return self._sha256.hexdigest()

    def chunks(self) -> Iterator[bytes]:
        """All of it; blocking, once. Raises `Stopped`, `Unavailable`, or what its store raises."""
        for chunk in self._bytes(self.stop):
            if self.stop.is_set():
                raise Stopped
            self.taken += len(chunk)
            self._sha256.update(chunk)
            yield chunk


@contextmanager
def open_local(path: str) -> Iterator[Given]:
    """A file, a pipe that has a name, or standard input (`-`).

    Raises `NotFound`, `Unauthorized`, `InvalidInput` for a directory, and `Refused` for the
    database of an etcd that is running.
    """
    fd = os.dup(0) if path == STDIN else _open(path)
    try:
        found = os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):
            raise InvalidInput(
                f"{path} is a directory",
                hint="name the snapshot file in it, such as snapshot_<time>.db",
            )
        regular = stat.S_ISREG(found.st_mode)
        if regular:
            _refuse_running(fd, path)
        yield Given(
            name=PurePosixPath(path).name if regular and path != STDIN else _pipe_name(path),
            size=found.st_size - os.lseek(fd, 0, os.SEEK_CUR) if regular else None,
            modified=datetime.fromtimestamp(found.st_mtime, UTC) if regular else None,
            _bytes=_File(fd, path, found) if regular else _Pipe(fd, path),
        )
    finally:
        os.close(fd)


def _pipe_name(path: str) -> str:
    return "standard input" if path == STDIN else path


def _open(path: str) -> int:
    try:
        # Without blocking: a named pipe may have no writer yet, and we may be told to stop.
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}", hint="check the path") from error
    except PermissionError as error:
        raise Unauthorized(
            f"{path} can't be read: {error.strerror}",
            hint="snapshots are readable for their owner only: run this as that user",
        ) from error
    except OSError as error:
        raise InvalidInput(
            f"{path} can't be read: {error.strerror}", hint="check the path and where it leads"
        ) from error


def _refuse_running(fd: int, path: str) -> None:
    """Whoever opens a bbolt database to write holds an exclusive lock on it (bolt_unix.go)."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_UN)
    except BlockingIOError as error:
        raise Refused(
            f"{path} is the database of an etcd that is running: a copy of it may be half written",
            hint="take a snapshot of that etcd with `etcd-steward snapshot save`",
        ) from error
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP):  # no locks there
            raise


@dataclass(frozen=True, slots=True)
class _File:
    fd: int
    path: str
    found: os.stat_result

    def __call__(self, stop: threading.Event) -> Iterator[bytes]:  # noqa: ARG002  # never waits
        with _reading(self.path):
            while data := os.read(self.fd, _CHUNK):
                yield data
            now = os.fstat(self.fd)
        if (now.st_size, now.st_mtime_ns) != (self.found.st_size, self.found.st_mtime_ns):
            raise Refused(
                f"{self.path} changed while it was read",
                hint="wait until whoever writes it is done, and try again",
            )


@dataclass(frozen=True, slots=True)
class _Pipe:
    fd: int
    path: str

    def __call__(self, stop: threading.Event) -> Iterator[bytes]:
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        with _reading(self.path):
            while not stop.is_set():
                if not poll.poll(_LOOK):
                    continue
                data = os.read(self.fd, _CHUNK)
                if not data:
                    return
                yield data
        raise Stopped


@contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"{path} can't be read: {error.strerror}", hint="look at the disk that it lies on"
        ) from error


async def find_object(store: Store, key: str) -> Given:
    """An object of a bucket. Raises `NotFound`."""
    info = await store.find(key)
    if info is None:
        raise NotFound(
            f"there is no object {store.url}/{key}", hint="list the bucket to see what there is"
        )
    return Given(
        name=PurePosixPath(key).name,
        size=info.size,
        modified=info.modified,
        _bytes=_Object(await store.open(key)),
    )


@dataclass(frozen=True, slots=True)
class _Object:
    file: ReadAt

    def __call__(self, stop: threading.Event) -> Iterator[bytes]:  # noqa: ARG002  # never waits long
        for offset in range(0, self.file.size, _OBJECT_CHUNK):
            yield self.file.read_at(offset, min(_OBJECT_CHUNK, self.file.size - offset))
