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
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from etcd_steward.engine.spoolfile import SpoolFile, too_small
from etcd_steward.errors import InvalidInput, OutOfSpace, Unavailable
from etcd_steward.models.ports import ReadAt
from etcd_steward.models.run import Journal, SpoolSettings
from etcd_steward.store.local_files import LocalReadAt

log = logging.getLogger(__name__)

SPOOLED = "snapshot.db"
"""Name of a snapshot in a run's directory."""
_DISK_RESERVE = 0.05
"""Share of the disk that is left free."""
_LOOK_AGAIN = 1.0
"""Seconds until a run that waits for room looks again."""
_LOCK, _RESERVED, _JOURNAL = "lock", "reserved", "journal.json"
_ORPHAN = ".orphan.json"


@dataclass(frozen=True, slots=True)
class DeadRun:
    """What a run that was killed had written down."""

    store: str
    """The store's identity: its URL and endpoint."""
    journal: Journal
    path: Path
    """Where that is written; to be removed once the store is clean."""

    def forget(self) -> None:
        """The store is clean: remove the note."""
        self.path.unlink(missing_ok=True)


class Spool:
    """One run's directory in the spool."""

    def __init__(self, settings: SpoolSettings, directory: Path) -> None:
        self._settings = settings
        self.directory = directory
        self.dead: tuple[DeadRun, ...] = ()
        """Runs that were killed here, found when this spool was opened."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: SpoolSettings, run: str, warn: Callable[[str], object] = log.warning
    ) -> AsyncIterator["Spool"]:
        """A directory of the run's own; whatever dead runs left is removed first.

        `warn` is told what could not be removed or read. Raises `InvalidInput` if the spool's
        directory can't be made or written.
        """
        directory = settings.directory / f"{run}-{os.getpid()}"
        try:
            settings.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(settings.directory / f".{_LOCK}"):
                _sweep(settings.directory, warn)
                dead = tuple(_orphans(settings.directory, warn))
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
            # Under the lock, so that nobody who adds up or sweeps sees half a directory.
            with _locked(settings.directory / f".{_LOCK}"):
                _remove(directory, warn)
            os.close(lock)

    def reserve(self, size: int) -> None:
        """Make sure that `size` bytes fit, beside what other runs have reserved.

        Raises `OutOfSpace` saying how much there is and how much it takes.
        """
        root = self._settings.directory
        with _spooling(root), _locked(root / f".{_LOCK}"):
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
                raise too_small(root, f"{_mib(size)} are needed and {_mib(max(0, room))} are free")
            (self.directory / _RESERVED).write_text(str(size), encoding="ascii")

    async def wait_for_room(self, size: int, waiting: Callable[[], object]) -> None:
        """Reserve `size` bytes, once the runs that are under way have left enough.

        `waiting` is called if that takes time. Raises `OutOfSpace` if it would not fit even alone.
        """
        while True:
            try:
                self.reserve(size)
            except OutOfSpace:
                limit = self._settings.limit
                if (limit is not None and size > limit) or not self._others_reserve():
                    raise
            else:
                return
            waiting()
            await asyncio.sleep(_LOOK_AGAIN)

    def _others_reserve(self) -> bool:
        root = self._settings.directory
        with _spooling(root), _locked(root / f".{_LOCK}"):
            return any(_reserved(other) for other in _runs(root) if other != self.directory)

    def create(self, name: str) -> SpoolFile:
        """A new, empty file."""
        return SpoolFile(self.directory / name)

    def reopen(self, name: str) -> ReadAt | None:
        """A file that was written here and closed; None if there is none of that name."""
        path = self.directory / name
        return LocalReadAt(path) if path.exists() else None

    def write_journal(self, store: str, journal: Journal) -> None:
        """Keep what the next run must clean up if this process is killed; on disk on return."""
        text = json.dumps({"store": store, "journal": journal.model_dump(by_alias=True)})
        partial = self.directory / f"{_JOURNAL}.part"
        with _spooling(self._settings.directory):
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


@contextmanager
def _spooling(root: Path) -> Iterator[None]:
    """Raise what the operating system says as an error of ours."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise too_small(root, "the disk ran full") from error
        failed = Unavailable(f"the spool {root} can't be used: {error.strerror}")
        failed.side = "host"
        raise failed from error


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


def _sweep(root: Path, warn: Callable[[str], object]) -> None:
    """Remove directories whose owner is dead, keeping their journals; the caller holds the lock."""
    for path in _runs(root):
        fd = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            _remove(path, warn)
        finally:
            os.close(fd)


def _remove(directory: Path, warn: Callable[[str], object]) -> None:
    """Remove a run's data; a journal that is not settled stays, for the next run to act on.

    The lock goes last: without it nobody would know the directory for a run's.
    """
    try:
        with suppress(FileNotFoundError):
            (directory / _JOURNAL).rename(directory.parent / f"{directory.name}{_ORPHAN}")
        for path in sorted(directory.iterdir(), key=lambda path: path.name == _LOCK):
            path.unlink()
        directory.rmdir()
    except OSError as error:
        warn(
            f"{directory} can't be removed: {error.strerror}. It may hold a whole snapshot, with "
            "every Secret in the clear: remove it by hand"
        )


def _orphans(root: Path, warn: Callable[[str], object]) -> Iterator[DeadRun]:
    for path in sorted(root.glob(f"*{_ORPHAN}")):
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            yield DeadRun(str(entry["store"]), Journal.model_validate(entry["journal"]), path)
        except (ValueError, TypeError, KeyError):  # of another version, or damaged
            aside = path.with_name(f"{path.name}.unreadable")
            path.rename(aside)
            warn(f"what a killed run has written down can't be read, and was set aside as {aside}")


def _reserved(directory: Path) -> int:
    try:
        return int((directory / _RESERVED).read_text(encoding="ascii"))
    except FileNotFoundError:
        return 0


def _used(directory: Path) -> int:
    used = 0
    with suppress(FileNotFoundError):  # removed meanwhile
        for path in directory.iterdir():
            used += path.stat().st_blocks * 512
    return used
