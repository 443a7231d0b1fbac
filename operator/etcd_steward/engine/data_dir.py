"""The data directory of an etcd member that does not exist yet.

What is made here is made in a folder inside it, under a name that etcd does not look at, and moved
to its place when all of it is right: whoever is interrupted leaves nothing that looks complete.
Inside, and not beside, because a data directory is often a disk of its own.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from etcd_steward.errors import InvalidInput, OutOfSpace, Refused
from etcd_steward.store.local_files import translated
from etcd_steward.units import size

MEMBER = "member"
"""All that etcd keeps in its data directory (etcd server/storage/datadir)."""
_WORK = ".etcd-steward-restore"
_LOCK = "lock"
_IGNORED = frozenset({_WORK, "lost+found"})


class Workplace:
    """A folder within a directory that is to be filled."""

    def __init__(self, target: Path, lock: int) -> None:
        self.target = target
        self.path = target / _WORK
        self.lock = lock
        """A descriptor: as long as somebody holds it, the workplace is in use."""

    def must_hold(self, needed: int) -> None:
        """Raise `OutOfSpace` unless `needed` more bytes fit on its disk."""
        free = shutil.disk_usage(self.path).free
        if needed > free:
            raise self.too_small(f"{size(needed)} are needed and {size(free)} are free")

    def too_small(self, what: str) -> OutOfSpace:
        """The error for a disk that can't hold what is made here."""
        return OutOfSpace(
            f"the disk of {self.target} is too small: {what}",
            hint="the snapshot and what is made of it lie there side by side until the end",
        )

    def place(self, source: Path) -> None:
        """Move what lies in `source` to its place, and see to it that it is on disk."""
        for path in sorted(source.iterdir()):
            path.rename(self.target / path.name)
        descriptor = os.open(self.target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def must_be_empty(directory: Path, flag: str) -> None:
    """Raise `Refused` if anything lies in `directory`, `InvalidInput` if it can't be one.

    What a killed restore left is no hindrance: it has a name of our own.
    """
    if not directory.parent.is_dir():
        raise InvalidInput(
            f"{flag}: there is no {directory.parent}", hint="is its disk mounted? Else make it"
        )
    if directory.exists() and not directory.is_dir():
        raise InvalidInput(f"{flag}: {directory} is no directory")
    with translated(f"Looking into {directory}"), suppress(FileNotFoundError):
        found = sorted(path.name for path in directory.iterdir() if path.name not in _IGNORED)
        if found:
            raise Refused(
                f"{flag}: {directory} is not empty: it holds {found[0]}",
                hint=f"nothing is deleted here. Stop etcd, and move the old data away: mv "
                f"{directory} {directory}.before-restore",
            )


@contextmanager
def workplace(directory: Path) -> Iterator[Workplace]:
    """A folder to work in; it is gone afterwards, and so is `directory` if it is still empty.

    Raises `Refused` if somebody works there already.
    """
    made = not directory.exists()
    path = directory / _WORK
    with translated(f"Writing to {directory}"):
        path.mkdir(mode=0o700, parents=made, exist_ok=True)
        if made:
            directory.chmod(0o700)  # as etcd would have made it
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Refused(
                f"another restore into {directory} is under way",
                hint=f"wait for its end; `fuser {path / _LOCK}` says who it is",
            ) from error
        with translated(f"Removing what a killed restore left in {path}"):
            _clear(path)
        try:
            yield Workplace(directory, lock)
        finally:
            _clear(path)
            (path / _LOCK).unlink()
            path.rmdir()
            if made:
                with suppress(OSError):  # not empty: the restore has succeeded
                    directory.rmdir()
    finally:
        os.close(lock)


def _clear(path: Path) -> None:
    for entry in path.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != _LOCK:
            entry.unlink()
