"""One file in the spool: written once from its beginning, read behind the writer, and vouched for.

What goes to the store is read back from this file, after the stream's own digest was compared in
memory. So each span's checksum is kept as it is written, and whoever compresses it compares: a disk
or a page cache that alters a bit can't slip between the digest and the store.
"""

import asyncio
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import google_crc32c

from etcd_steward.errors import IntegrityError, OutOfSpace, Unavailable

SPAN = 16 << 20
"""Bytes that have one checksum."""
_PIECE = 1 << 20
_IOV_MAX = 1024
"""Buffers that Linux takes in one call."""


def too_small(root: Path, what: str) -> OutOfSpace:
    """The error for a spool that can't hold a snapshot, and what to do about it."""
    error = OutOfSpace(
        f"the spool {root} is too small: {what}",
        hint="give it more room (--spool-dir, --spool-limit): it must hold one whole snapshot, "
        "which is as large as etcd's database file",
    )
    error.side = "host"
    return error


class SpoolFile:
    """A file that one thread appends to while others read what is there already."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = 0
        self._crc32c: list[int] = []
        self._ended = False
        self._grown = asyncio.Condition()
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._explained(error) from error

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
            raise self._explained(error) from error

    def _explained(self, error: OSError) -> OutOfSpace | Unavailable:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return too_small(self.path.parent.parent, "the disk ran full")
        failed = Unavailable(f"the spool {self.path} can't be written: {error.strerror}")
        failed.side = "host"
        return failed

    def _write(self, blobs: Sequence[bytes]) -> None:
        wanted = sum(map(len, blobs))
        written = os.writev(self._fd, blobs)
        if written < wanted:
            rest = memoryview(b"".join(blobs))
            while written < wanted:
                written += os.write(self._fd, rest[written:])
        at = self._size
        for blob in blobs:
            self._checksum(at, blob)
            at += len(blob)
        self._size = at

    def _checksum(self, at: int, blob: bytes) -> None:
        while blob:
            span, used = divmod(at, SPAN)
            if span == len(self._crc32c):
                self._crc32c.append(0)
            part = blob[: SPAN - used]
            self._crc32c[span] = google_crc32c.extend(self._crc32c[span], part)
            blob, at = blob[len(part) :], at + len(part)

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

    def read_span(self, offset: int, length: int) -> Iterator[bytes]:
        """The whole span that begins at `offset`, in pieces, its checksum compared at the end.

        Raises `IntegrityError` if the disk gives back something else than was written.
        """
        crc32c = 0
        for at in range(offset, offset + length, _PIECE):
            piece = self.read_at(at, min(_PIECE, offset + length - at))
            crc32c = google_crc32c.extend(crc32c, piece)
            yield piece
        if crc32c != self._crc32c[offset // SPAN]:
            error = IntegrityError(
                f"the spool {self.path} gives back other bytes than were written to it",
                hint="this host's disk or memory alters data: have it checked, and spool elsewhere",
            )
            error.side = "host"
            raise error

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes from `offset`; short only at the end."""
        data = os.pread(self._fd, length, offset)
        if len(data) == length or not data:
            return data
        return data + self.read_at(offset + len(data), length - len(data))

    def close(self) -> None:
        """Close the descriptor; the file goes with its directory."""
        os.close(self._fd)
