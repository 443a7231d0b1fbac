"""Where a snapshot lies between etcd and the store.

etcd's read transaction stays open for as long as its stream is read, and neither a slow bucket nor
our own compression may hold it open; so the stream is drained into a file first. That file holds
every Secret of the cluster in the clear: its directory is 0700, the file 0600, and both are removed
at the end of the run, or, where the process was killed, by the next one that opens the spool.
"""

import asyncio
import errno
import fcntl
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from etcd_steward.errors import InvalidInput, OutOfSpace, Unavailable
from etcd_steward.models.run import Journal, SpoolSettings

_DISK_RESERVE = 0.05
"""Share of the disk that is left free."""
_IOV_MAX = 1024
"""Buffers that Linux takes in one call."""
_LOCK, _RESERVED, _JOURNAL = "lock", "reserved", "journal.json"
_ORPHAN = ".orphan.json"


@dataclass(frozen=True, slots=True)
class DeadRun:
    """What a run that was killed had written down."""

    store_url: str
    journal: Journal
    path: Path
    """Where that is written; to be removed once the store is clean."""

    def forget(self) -> None:
        """The store is clean: remove the note."""
        self.path.unlink(missing_ok=True)


class SpoolFile:
    """A file that is written once from its beginning, and read behind the writer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._size = 0
        self._ended = False
        self._grown = asyncio.Condition()

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    def append(self, blobs: Sequence[bytes]) -> None:
        """Append `blobs`; blocking. Raises `OutOfSpace` when the disk is full."""
        try:
            for at in range(0, len(blobs), _IOV_MAX):
                self._write(blobs[at : at + _IOV_MAX])
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise _full(self.path.parent.parent, "the disk ran full") from error
            raise Unavailable(
                f"the spool {self.path} can't be written: {error.strerror}"
            ) from error

    def _write(self, blobs: Sequence[bytes]) -> None:
        wanted = sum(map(len, blobs))
        written = os.writev(self._fd, blobs)
        if written < wanted:
            rest = memoryview(b"".join(blobs))
            while written < wanted:
                written += os.write(self._fd, rest[written:])
        self._size += wanted

    async def publish(self, *, ended: bool = False) -> None:
        """Wake readers: more bytes are there, or no more will come."""
        async with self._grown:
            self._ended = self._ended or ended
            self._grown.notify_all()

    async def wait(self, size: int) -> int:
        """Wait until `size` bytes are there or the file has ended; the bytes that are there."""
        async with self._grown:
            await self._grown.wait_for(lambda: self._ended or self._size >= size)
            return self._size

    async def ended(self) -> int:
        """Wait for the end; the file's size."""
        async with self._grown:
            await self._grown.wait_for(lambda: self._ended)
            return self._size

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`; how many bytes there were, fewer only at the end."""
        filled = 0
        while filled < len(buffer):
            count = os.preadv(self._fd, [buffer[filled:]], offset + filled)
            if count == 0:
                break
            filled += count
        return filled

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes from `offset`; short only at the end."""
        data = os.pread(self._fd, length, offset)
        if len(data) == length or not data:
            return data
        return data + self.read_at(offset + len(data), length - len(data))

    def close(self) -> None:
        """Close the descriptor; the file goes with its directory."""
        os.close(self._fd)


class Spool:
    """One run's directory in the spool."""

    def __init__(self, settings: SpoolSettings, directory: Path) -> None:
        self._settings = settings
        self.directory = directory
        self.dead: tuple[DeadRun, ...] = ()
        """Runs that were killed here, found when this spool was opened."""

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: SpoolSettings, run: str) -> AsyncIterator["Spool"]:
        """A directory of the run's own; whatever dead runs left is removed first.

        Raises `InvalidInput` if the spool's directory can't be made or written.
        """
        directory = settings.directory / f"{run}-{os.getpid()}"
        try:
            settings.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(settings.directory / f".{_LOCK}"):
                _sweep(settings.directory)
                dead = tuple(_orphans(settings.directory))
                directory.mkdir(mode=0o700)
                lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise InvalidInput(
                f"the spool directory {settings.directory} can't be used: {error.strerror}",
                hint="name a directory that this user can write to, by --spool-dir",
            ) from error
        spool = cls(settings, directory)
        spool.dead = dead
        try:
            yield spool
        finally:
            _remove(directory)
            os.close(lock)

    def reserve(self, size: int) -> None:
        """Make sure that `size` bytes fit, beside what other runs have reserved.

        Raises `OutOfSpace` saying how much there is and how much it takes.
        """
        root = self._settings.directory
        with _locked(root / f".{_LOCK}"):
            promised = used = 0
            for other in _runs(root):
                if other != self.directory:
                    promised += _reserved(other)
                    used += _used(other)
            disk = os.statvfs(root)
            free = int(
                disk.f_bavail * disk.f_frsize - _DISK_RESERVE * disk.f_blocks * disk.f_frsize
            )
            room = free - max(0, promised - used) + _used(self.directory)
            if self._settings.limit is not None:
                room = min(room, self._settings.limit - promised)
            if size > room:
                raise _full(root, f"{_mib(size)} are needed and {_mib(max(0, room))} are free")
            (self.directory / _RESERVED).write_text(str(size), encoding="ascii")

    def create(self, name: str) -> SpoolFile:
        """A new, empty file."""
        return SpoolFile(self.directory / name)

    def write_journal(self, store_url: str, journal: Journal) -> None:
        """Keep what the next run must clean up if this process is killed; on disk on return."""
        text = json.dumps({"store": store_url, "journal": journal.model_dump(by_alias=True)})
        partial = self.directory / f"{_JOURNAL}.part"
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self.directory / _JOURNAL)

    def settled(self) -> None:
        """This run's upload has ended, one way or the other: nothing is left to clean up."""
        (self.directory / _JOURNAL).unlink(missing_ok=True)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _full(root: Path, what: str) -> OutOfSpace:
    error = OutOfSpace(
        f"the spool {root} is too small: {what}",
        hint="give it more room (--spool-dir, --spool-limit): it must hold one whole snapshot, "
        "which is as large as etcd's database file",
    )
    error.side = "host"
    return error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _runs(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if path.is_dir() and (path / _LOCK).exists()]


def _sweep(root: Path) -> None:
    """Remove directories whose owner is dead, keeping their journals; the caller holds the lock."""
    for path in _runs(root):
        fd = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            _remove(path)
        finally:
            os.close(fd)


def _remove(directory: Path) -> None:
    """Remove a run's data; a journal that is not settled stays, for the next run to act on."""
    with suppress(FileNotFoundError):
        (directory / _JOURNAL).rename(directory.parent / f"{directory.name}{_ORPHAN}")
    shutil.rmtree(directory, ignore_errors=True)


def _orphans(root: Path) -> Iterator[DeadRun]:
    for path in root.glob(f"*{_ORPHAN}"):
        entry = json.loads(path.read_text(encoding="utf-8"))
        yield DeadRun(entry["store"], Journal.model_validate(entry["journal"]), path)


def _reserved(directory: Path) -> int:
    try:
        return int((directory / _RESERVED).read_text(encoding="ascii"))
    except FileNotFoundError:
        return 0


def _used(directory: Path) -> int:
    used = 0
    for path in directory.iterdir():
        with suppress(FileNotFoundError):
            used += path.stat().st_blocks * 512
    return used
