"""What the engine asks of a store, and what pure readers ask of a file.

Two ports only. `Store` is asynchronous and deals in whole objects; `ReadAt` is synchronous and
thread-safe, because the readers behind it (bolt, Parquet) run in worker threads.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from etcd_steward.errors import IntegrityError, NotFound


class ReadAt(Protocol):
    """Random access to bytes that no longer change."""

    @property
    def size(self) -> int:
        """Length in bytes."""
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`, or fewer only at the end of the file.

        Blocking and thread-safe. Raises `Unavailable` or another `StewardError` of its store.
        """
        ...


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as a listing shows it."""

    key: str
    """Relative to the store's own prefix."""
    size: int
    """Bytes."""
    modified: datetime
    """When the store says it was written, in UTC."""
    etag: str
    """Changes whenever the content does; opaque."""


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """A multipart upload that was begun and neither completed nor aborted."""

    key: str
    upload_id: str
    begun: datetime | None = field(default=None, compare=False)
    """When, as the store's listing tells it, in UTC; None where it does not."""


@dataclass(frozen=True, slots=True)
class StoredPart:
    """One part of a written object, so that it can be read back and compared by itself."""

    offset: int
    size: int
    crc32c: int


@dataclass(frozen=True, slots=True)
class Written:
    """An object that a store has taken whole."""

    key: str
    size: int
    crc32c: int
    """CRC-32C of the whole object, computed from the bytes that we sent."""
    confirmed: bool
    """True where the store itself computed the whole object's checksum and it equals ours."""
    parts: tuple[StoredPart, ...] = field(repr=False)


Outcome = bytes | NotFound | IntegrityError
"""A small object, or why it can't be had: that is no trouble of the store."""

Started = Callable[[OpenUpload], Awaitable[None]]
"""Called once, before the first byte is sent, so that the upload can be journalled."""

Sent = Callable[[int], None]
"""Called after each part, with the bytes that the store holds by now; it only ever grows."""


class Store(Protocol):
    """A place for backups: S3 or a local directory.

    Keys are relative to the store's prefix, never begin with `/`, and mean the same in every
    implementation. All methods raise only `StewardError`: `NotFound` (`NoSuchStore` if the bucket
    or directory itself is missing), `Unauthorized`, `Untrusted` and `OutOfSpace` are final,
    `TransientError` was already retried for as long as the store's settings say.
    """

    @property
    def url(self) -> str:
        """`s3://bucket/prefix` or `file:///path`: no credentials, no trailing slash."""
        ...

    @property
    def identity(self) -> str:
        """The URL with the endpoint: buckets of two endpoints may have the same name."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What this store turned out not to know, and what is done instead; grows with use."""
        ...

    async def put_new(self, key: str, data: bytes) -> None:
        """Write a small object if there is none of that name.

        An object there already with just these bytes counts as written: it is our own, whose
        answer was lost. Any other raises `AlreadyExists`. Read back before this returns.
        """
        ...

    async def write(
        self,
        key: str,
        chunks: AsyncIterator[bytes],
        *,
        size_hint: int,
        started: Started,
        sent: Sent,
    ) -> Written:
        """Write a large object from a stream, and compare the checksums.

        Chunks may be of any size; the store cuts them into parts (`size_hint`, an upper bound in
        bytes, tells how large parts must be to stay within the store's count). Whatever goes wrong,
        the source failing and cancellation included, what was uploaded is aborted before the error
        leaves this method; where even that fails, the error carries a note that says so. Memory is
        bounded by a few parts. An object of that name is replaced at the end.
        """
        ...

    async def read(self, key: str, *, limit: int) -> bytes:
        """A small object whole. Raises `NotFound`, or `IntegrityError` if larger than `limit`."""
        ...

    async def read_many(self, keys: Sequence[str], *, limit: int) -> list[Outcome]:
        """Small objects in this order, one after the other, where `read` costs more than it reads.

        What `read` would raise of one object comes in its place. Ask for several lots at a time.
        """
        ...

    async def open(self, key: str) -> ReadAt:
        """Random access to a large object, pinned to its present content. Raises `NotFound`."""
        ...

    async def find(self, key: str) -> ObjectInfo | None:
        """What the store knows of one object; None if, and only if, the store says it has none."""
        ...

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """All objects under `prefix`, which is empty or ends in `/`, each once.

        Those of one folder come in ascending order; folders come in the store's own (AWS sorts by
        the bytes of whole keys, SeaweedFS folder by folder), so sort what must be in order.
        """
        ...

    async def folders(self, prefix: str) -> tuple[str, ...]:
        """What is directly under `prefix` and has something under itself, each ending in `/`.

        In ascending order; what lies deeper, and how much of it, costs nothing.
        """
        ...

    async def delete(self, key: str) -> None:
        """Delete one object; deleting what is not there succeeds."""
        ...

    def uploads(self, prefix: str) -> AsyncIterator[OpenUpload]:
        """Uploads under `prefix` (empty or ending in `/`) that were begun and never ended.

        After a crash abort all of them, not only the journalled one: where the answer to the
        beginning of an upload was lost, nobody knew its ID.
        """
        ...

    async def abort(self, upload: OpenUpload) -> None:
        """Abort an upload; one that is gone already succeeds. The parts are gone afterwards."""
        ...

    async def aclose(self) -> None:
        """Close connections and threads."""
        ...
