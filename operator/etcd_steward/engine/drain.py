"""Draining etcd's snapshot stream into the spool, as fast as the disk takes it.

The server closes its stream after the digest of what it sent: 32 bytes of SHA-256 in a message of
their own, after `remaining_bytes` has reached 0 (etcd server/etcdserver/api/v3rpc/maintenance.go).
"""

import asyncio
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from etcd_steward.engine.report import Tracker
from etcd_steward.engine.spool import Spool
from etcd_steward.engine.spoolfile import SpoolFile
from etcd_steward.errors import IntegrityError, TimedOut, Unavailable

_DIGEST = hashlib.sha256().digest_size
_BATCH = 2 << 20
"""Bytes written at once: etcd sends 32 KiB messages, one call each is slow."""
_STALL = 60.0
"""Seconds without progress after which a member counts as gone."""
_LOOK = 0.1
"""Seconds between two looks at the thread that reads."""


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


class Stream(Protocol):
    """A snapshot stream that one thread reads."""

    def __iter__(self) -> Iterator[Chunk]:
        """The messages; blocking."""
        ...

    def cancel(self) -> None:
        """End it, from any thread."""
        ...


@dataclass(frozen=True, slots=True)
class Drained:
    """A whole snapshot in the spool, its digest compared."""

    size: int
    """Bytes, with the 32 of the digest."""
    sha256: str
    """Of the whole file, digest included."""
    storage_version: str


async def drain(
    stream: Stream, member: str, spool: Spool, file: SpoolFile, tracker: Tracker
) -> Drained:
    """Read the whole stream of `member` into `file` and compare the digest that etcd sent.

    Reading, hashing and writing happen in one thread: on few cores, handing each message to
    another one cost a third of the time. Raises `Unavailable` if the stream ends early, `TimedOut`
    if it stands still, `OutOfSpace` if the spool is too small for what etcd announces or runs full,
    `IntegrityError` if the digest differs, and what the stream raises.
    """
    intake = _Intake(stream, member, spool, file, tracker)
    reading = asyncio.get_running_loop().run_in_executor(None, intake.read)
    try:
        await _watch(reading, intake, file, tracker)
    except BaseException:
        stream.cancel()
        await asyncio.wait({reading})
        reading.exception()  # an echo of the cancellation
        raise
    sha256 = reading.result()
    tracker.raw = file.size
    return Drained(file.size, sha256, intake.version)


async def _watch(
    reading: asyncio.Future[str], intake: "_Intake", file: SpoolFile, tracker: Tracker
) -> None:
    """Tell how far the thread is, until it ends; `TimedOut` if it gets nowhere."""
    seen, since = -1, time.monotonic()
    while not reading.done():
        if intake.received != seen:
            seen, since = intake.received, time.monotonic()
        elif time.monotonic() - since > _STALL:
            raise TimedOut(
                f"the snapshot of member {intake.member} made no progress for {_STALL:.0f} s",
                hint="the member, the network or the spool's disk stands still; it is tried again",
            )
        await asyncio.wait({reading}, timeout=_LOOK)
        tracker.raw = file.size
        await file.publish()


class _Intake:
    """Reads, hashes and writes; in one thread, from the first message to the last."""

    def __init__(
        self, stream: Stream, member: str, spool: Spool, file: SpoolFile, tracker: Tracker
    ) -> None:
        self.member = member
        self.received = 0
        self.version = ""
        self._stream = stream
        self._spool = spool
        self._file = file
        self._tracker = tracker
        self._data_size = 0
        self._sha256 = hashlib.sha256()
        self._tail = b""

    def read(self) -> str:
        """Take it all; SHA-256 of the whole file."""
        batch: list[bytes] = []
        held, remaining = 0, -1
        for chunk in self._stream:
            if remaining < 0:
                self._begin(chunk)
            elif chunk.remaining_bytes >= remaining > 0:
                raise self._stuck(remaining)
            remaining = chunk.remaining_bytes
            self._take(chunk.blob)
            batch.append(chunk.blob)
            held += len(chunk.blob)
            if held >= _BATCH:
                self._file.append(batch)
                batch, held = [], 0
        self._file.append(batch)
        return self._verified()

    def _begin(self, first: Chunk) -> None:
        self._data_size = self._tracker.total = first.remaining_bytes + len(first.blob)
        self.version = first.version
        self._spool.reserve(self._data_size + _DIGEST)

    def _take(self, blob: bytes) -> None:
        """Hash the data, keep the digest behind it."""
        data = blob[: self._data_size - self.received] if self.received < self._data_size else b""
        self._sha256.update(data)
        self._tail += blob[len(data) :]
        self.received += len(blob)
        if len(self._tail) > _DIGEST:
            raise IntegrityError(
                f"member {self.member} sent more than the {self._data_size} bytes it announced",
                hint="this is no healthy etcd: take the backup from another member",
            )

    def _stuck(self, remaining: int) -> Unavailable:
        """A server whose copy fails half-way goes on for ever with empty messages.

        (etcd server/etcdserver/api/v3rpc/maintenance.go: the send loop takes EOF for no error.) So
        the remaining bytes must fall with each message until nothing but the digest is left.
        """
        return Unavailable(
            f"member {self.member} stopped sending with {remaining} bytes to go",
            hint="its log says why: look for errors of the backend or the disk",
        )

    def _verified(self) -> str:
        missing = self._data_size + _DIGEST - self.received
        if self.received == 0 or missing > 0:
            raise Unavailable(
                f"the snapshot of member {self.member} broke off after {self.received} bytes",
                hint="the member may have been stopped; it is tried again",
            )
        if self._tail != self._sha256.digest() or self.received % 512 != _DIGEST:
            raise IntegrityError(
                f"the snapshot of member {self.member} does not have the digest that etcd sent",
                hint="memory, disk or network of that member or of this host alter data: "
                "take the backup from another member and have the hardware checked",
            )
        whole = self._sha256.copy()
        whole.update(self._tail)
        return whole.hexdigest()
