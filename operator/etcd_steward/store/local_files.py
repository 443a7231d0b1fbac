"""Files for the local store: whole or not at all, synced, private, and errors in words."""

import contextlib
import errno
import os
import stat
import uuid
import weakref
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from etcd_steward.errors import (
    IntegrityError,
    InvalidInput,
    NotFound,
    OutOfSpace,
    PermanentError,
    StewardError,
    Unauthorized,
    Unavailable,
    Unsupported,
)
from etcd_steward.models.ports import ObjectInfo
from etcd_steward.store.keys import PARTIAL

_KINDS: Final[tuple[tuple[set[int], type[StewardError], str], ...]] = (
    (
        {errno.ENOSPC, errno.EDQUOT, errno.EFBIG},
        OutOfSpace,
        "Free space, raise the quota, or keep fewer backups",
    ),
    (
        {errno.EACCES, errno.EPERM, errno.EROFS},
        Unauthorized,
        "Give this user the right to read and write there",
    ),
    (
        {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY},
        InvalidInput,
        "A file lies where a folder is needed, or a folder where a file is: move it away",
    ),
    ({errno.ENAMETOOLONG}, InvalidInput, "Choose a shorter name"),
    ({errno.ENOENT}, NotFound, ""),
    ({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EBUSY}, Unavailable, ""),
    ({errno.EMFILE, errno.ENFILE}, Unavailable, "Raise the limit of open files"),
)
"""What error numbers mean, and what a person can do about them."""
_PLACING_TRIES: Final = 5


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raise what the operating system says as an error of ours; `doing` names the file."""
    try:
        yield
    except OSError as error:
        raise _translate(error, doing) from error


def _translate(error: OSError, doing: str) -> StewardError:
    said = f"{doing} failed: {error.strerror or error}"
    for numbers, kind, hint in _KINDS:
        if error.errno in numbers:
            return kind(said, hint=hint)
    return PermanentError(said)


class LocalReadAt:
    """A file as it was when it was opened: moved away or deleted, it can still be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except NotADirectoryError as error:  # a file where the key has a folder: no such object
            raise NotFound(f"there is no {path}") from error
        weakref.finalize(self, os.close, self._descriptor)
        self._opened = _version(os.fstat(self._descriptor))
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            raise NotFound(f"{path} is not a file")

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._opened[0]

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`, or fewer only at the end of the file.

        Blocking and thread-safe. Raises `IntegrityError` if the file was written to meanwhile.
        """
        if offset < 0 or length < 0:
            raise InvalidInput(f"can't read {length} bytes at {offset}")
        pieces: list[bytes] = []
        end = min(offset + length, self.size)
        try:  # `translated` would cost as much as a small read itself
            while offset < end and (piece := os.pread(self._descriptor, end - offset, offset)):
                pieces.append(piece)
                offset += len(piece)
            now = _version(os.fstat(self._descriptor))
        except OSError as error:
            raise _translate(error, f"Reading {self._path}") from error
        if now != self._opened:
            raise IntegrityError(f"{self._path} was changed while it was being read")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _version(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


class PartialFile:
    """An object before it is in its place. All methods block; only one may run at a time."""

    def __init__(self, root: Path, key: str) -> None:
        self.upload_id = f"{quote(key, safe='')}.{uuid.uuid4().hex}"
        self._root = root
        self._path = root / PARTIAL / self.upload_id
        self._target = root / key
        self._descriptor = -1
        self._placed = False

    def begin(self) -> None:
        """Create the file, empty and readable by its owner alone."""
        with translated(f"Writing {self._target}"):
            make_folders(self._path.parent)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o600)

    def append(self, data: bytes) -> None:
        """Write at the end."""
        with translated(f"Writing {self._target}"):
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def move_into_place(self) -> None:
        """Make it the object, in the place of one that is there."""
        with translated(f"Writing {self._target}"):
            self._sync()
            self._place(lambda: self._path.rename(self._target))
            self._placed = True
            sync_folder(self._target.parent)
            sync_folder(self._path.parent)

    def link_into_place(self) -> bool:
        """Make it the object, unless there is one already: then False."""
        with translated(f"Writing {self._target}"):
            self._sync()
            try:
                self._place(lambda: self._target.hardlink_to(self._path))
            except FileExistsError:
                if self._target.is_dir():
                    raise
                return False
            except OSError as error:
                if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK}:
                    raise
                raise Unsupported(
                    f"the file system of {self._root} has no hard links, without which two writers"
                    " could take the same name",
                    hint="Choose a directory on another file system",
                ) from error
            sync_folder(self._target.parent)
            return True

    def _sync(self) -> None:
        os.fsync(self._descriptor)
        # Whoever reads it back shall read the disk, not what this process has just written.
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        self._close()

    def _place(self, move: Callable[[], object]) -> None:
        """Move into a folder that a deletion beside us may just be removing for being empty."""
        for _ in range(_PLACING_TRIES):
            try:
                make_folders(self._target.parent)
                move()
            except FileNotFoundError as error:
                if not self._path.exists():
                    raise Unavailable(
                        f"what was written of {self._target} has gone: somebody else aborted it",
                        hint="Try again",
                    ) from error
            else:
                return
        raise Unavailable(f"Writing {self._target} failed: its folder keeps disappearing")

    def discard(self) -> None:
        """Remove what there is of it, in its place too; without effect if there is nothing."""
        with translated(f"Removing {self._path}"):
            self._close()
            self._path.unlink(missing_ok=True)
            if self._placed:
                remove(self._root, self._target)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def partial_key(upload_id: str) -> str:
    """The key whose unfinished file is named `upload_id`."""
    return unquote(upload_id.rpartition(".")[0])


def make_folders(folder: Path) -> None:
    """Create a folder and those above it, for their owner alone, so that they survive a crash."""
    if folder.is_dir():
        return
    make_folders(folder.parent)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make what was created, moved or removed in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(root: Path, path: Path) -> None:
    """Delete a file, and the folders above it that are empty then, up to `root`."""
    if path.is_dir():
        return  # a folder is no object
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return
    with contextlib.suppress(FileNotFoundError):  # another deletion has removed it already
        sync_folder(path.parent)
    for folder in path.parents:
        if folder == root:
            return
        try:
            folder.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return  # not empty, or not ours to remove: it harms nobody


def find(path: Path, key: str) -> ObjectInfo | None:
    """What is known of one file; None if there is no such file."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _info(key, status) if stat.S_ISREG(status.st_mode) else None


def walk(folder: Path, prefix: str) -> Iterator[ObjectInfo]:
    """All files below a folder, one folder in memory at a time; `prefix` is its key with `/`."""
    for entry in _entries(folder, prefix):
        if entry.is_dir(follow_symlinks=False):
            yield from walk(folder / entry.name, f"{prefix}{entry.name}/")
        elif info := find(folder / entry.name, prefix + entry.name):
            yield info


def folders(folder: Path, prefix: str) -> tuple[str, ...]:
    """The directories in a folder that hold files, as keys with `/`; `prefix` is its own."""
    found = (one for one in _entries(folder, prefix) if one.is_dir(follow_symlinks=False))
    keys = ((one.name, f"{prefix}{one.name}/") for one in found)
    return tuple(key for name, key in keys if next(walk(folder / name, key), None) is not None)


def _entries(folder: Path, prefix: str) -> list[os.DirEntry[str]]:
    """What is directly in a folder, but for our own unfinished files; nothing if it is none."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name.encode())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return entries if prefix else [entry for entry in entries if entry.name != PARTIAL]


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    etag = f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"
    return ObjectInfo(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC), etag)
