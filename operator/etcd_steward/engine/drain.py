"""Draining etcd's snapshot stream into the spool, as fast as the disk takes it.

The server closes its stream after the digest of what it sent: 32 bytes of SHA-256 in a message of
their own, after `remaining_bytes` has reached 0 (etcd server/etcdserver/api/v3rpc/maintenance.go).
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from etcd_steward.engine.report import Tracker
from etcd_steward.engine.spool import Spool, SpoolFile
from etcd_steward.errors import IntegrityError, TimedOut, Unavailable

_DIGEST = hashlib.sha256().digest_size
_BATCH = 2 << 20
"""Bytes handed to the writing thread at once: etcd sends 32 KiB messages, one hop each is slow."""
_STALL = 60.0
"""Seconds without a byte after which a member counts as gone."""


class Chunk(Protocol):
    """One message of the stream."""

    @property
    def blob(self) -> bytes:
        """Data, or the digest in the last message."""
        ...

    @property
    def remaining_bytes(self) -> int:
        """Data that is still to come."""
        ...

    @property
    def version(self) -> str:
        """Storage version; empty before etcd 3.6."""
        ...


@dataclass(frozen=True, slots=True)
class Drained:
    """A whole snapshot in the spool, its digest compared."""

    size: int
    """Bytes, with the 32 of the digest."""
    sha256: str
    """Of the whole file, digest included."""
    storage_version: str
    seconds: float
    """From the first request to the last byte: how long etcd's read transaction was open."""

    @property
    def data_size(self) -> int:
        """Bytes of the database, without the digest."""
        return self.size - _DIGEST


class _Sink:
    """Hashes and writes batches, one at a time, in a worker thread."""

    def __init__(self, file: SpoolFile, data_size: int) -> None:
        self._file = file
        self._data_left = data_size
        self._data = hashlib.sha256()
        self._tail = b""

    def write(self, batch: list[bytes]) -> None:
        for blob in batch:
            if self._data_left >= len(blob):
                self._data.update(blob)
                self._data_left -= len(blob)
            else:
                self._data.update(blob[: self._data_left])
                self._tail += blob[self._data_left :]
                self._data_left = 0
        self._file.append(batch)

    def verify(self, member: str, size: int) -> str:
        """Compare length and digest; SHA-256 of data and digest together."""
        if self._data_left > 0 or len(self._tail) < _DIGEST:
            raise Unavailable(
                f"the snapshot of member {member} broke off after {size} bytes, "
                f"{self._data_left + _DIGEST - len(self._tail)} before its end",
                hint="the member may have been stopped; it is tried again",
            )
        if self._tail != self._data.digest() or size % 512 != _DIGEST:
            raise IntegrityError(
                f"the snapshot of member {member} does not have the digest that etcd sent",
                hint="memory, disk or network of that member or of this host alter data: "
                "take the backup from another member and have the hardware checked",
            )
        whole = self._data.copy()
        whole.update(self._tail)
        return whole.hexdigest()


async def drain(
    stream: AsyncIterator[Chunk], member: str, spool: Spool, file: SpoolFile, tracker: Tracker
) -> Drained:
    """Read the whole stream of `member` into `file` and compare the digest that etcd sent.

    Raises `Unavailable` if the stream ends early, `TimedOut` if it stands still, `OutOfSpace` if
    the spool is too small for what etcd announces or runs full, `IntegrityError` if the digest
    differs. Readers that wait for the file are woken in each case.
    """
    started = time.monotonic()
    first = await _first(stream, member)
    data_size = tracker.total = first.remaining_bytes + len(first.blob)
    spool.reserve(data_size + _DIGEST)
    sink = _Sink(file, data_size)
    writing = asyncio.create_task(asyncio.to_thread(sink.write, []))
    try:
        async for batch in _batches(first, stream, member):
            await writing
            tracker.raw = file.size
            await file.publish()
            writing = asyncio.create_task(asyncio.to_thread(sink.write, batch))
    finally:
        await asyncio.wait({writing})
    await writing
    tracker.raw = file.size
    sha256 = sink.verify(member, file.size)
    return Drained(file.size, sha256, first.version, time.monotonic() - started)


async def _first(stream: AsyncIterator[Chunk], member: str) -> Chunk:
    try:
        async with asyncio.timeout(_STALL):
            return await anext(stream)
    except TimeoutError as error:
        raise _silent(member) from error
    except StopAsyncIteration as error:
        raise Unavailable(f"member {member} ended its snapshot before the first byte") from error


async def _batches(
    first: Chunk, stream: AsyncIterator[Chunk], member: str
) -> AsyncIterator[list[bytes]]:
    """Blobs in batches, as long as the member makes progress.

    A server whose copy fails half-way goes on for ever with empty messages (etcd
    server/etcdserver/api/v3rpc/maintenance.go: the send loop takes EOF for no error), so the
    remaining bytes must fall with each message until nothing but the digest is left.
    """
    batch, length, remaining = [first.blob], len(first.blob), first.remaining_bytes
    loop = asyncio.get_running_loop()
    timeout = asyncio.timeout(_STALL)
    try:
        async with timeout:
            async for chunk in stream:
                if chunk.remaining_bytes >= remaining > 0:
                    raise Unavailable(
                        f"member {member} stopped sending with {remaining} bytes to go",
                        hint="its log says why: look for errors of the backend or the disk",
                    )
                remaining = chunk.remaining_bytes
                batch.append(chunk.blob)
                length += len(chunk.blob)
                if length >= _BATCH:
                    yield batch
                    batch, length = [], 0
                    timeout.reschedule(loop.time() + _STALL)
    except TimeoutError as error:
        if not timeout.expired():
            raise
        raise _silent(member) from error
    if batch:
        yield batch


def _silent(member: str) -> TimedOut:
    return TimedOut(f"member {member} sent nothing for {_STALL:.0f} s")
