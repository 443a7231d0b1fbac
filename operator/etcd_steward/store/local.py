"""The local store: a directory, with the guarantees that S3 gives."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from etcd_steward.errors import AlreadyExists, IntegrityError, NoSuchStore
from etcd_steward.models.connection import LocalSettings
from etcd_steward.models.ports import (
    ObjectInfo,
    OpenUpload,
    Outcome,
    ReadAt,
    Sent,
    Started,
    StoredPart,
    Written,
)
from etcd_steward.store.keys import PARTIAL, check_key, check_prefix
from etcd_steward.store.local_files import (
    LocalReadAt,
    PartialFile,
    find,
    folders,
    partial_key,
    remove,
    sync_folder,
    translated,
    walk,
)
from etcd_steward.store.outcome import outcome
from etcd_steward.store.parts import cut
from etcd_steward.store.threads import settled

T = TypeVar("T")

_PAGE: Final = 500
"""Objects fetched from a thread at a time by a listing."""


class LocalStore:
    """See `models.ports.Store`. Made by `open_store`; a key is a path below the directory.

    An object is written under a name of its own in `.partial/`, synced, and then moved to its
    place, so that it is there whole or not at all, also after a power cut. `confirmed` is False:
    nobody but us computed a checksum, so the caller reads back what the disk holds.

    Writing creates the directory; to read from one that does not exist is `NoSuchStore`, because a
    disk that is not mounted must not look like a store without backups.
    """

    def __init__(self, settings: LocalSettings, *, part_size: int) -> None:
        self._root = settings.path.absolute()
        self._url = settings.url
        self._part_size = part_size

    @property
    def url(self) -> str:
        """`file:///path`."""
        return self._url

    @property
    def identity(self) -> str:
        """The URL: there is no endpoint."""
        return self.url

    @property
    def notes(self) -> tuple[str, ...]:
        """Nothing: what a file system can do is known."""
        return ()

    def _path(self, key: str) -> Path:
        check_key(key)
        return self._root / key

    async def put_new(self, key: str, data: bytes) -> None:
        """Write a small object if there is none of that name; see the port."""
        path = self._path(key)
        partial = PartialFile(self._root, key)

        def put() -> None:
            try:
                partial.begin()
                partial.append(data)
                partial.link_into_place()
            finally:
                partial.discard()

        await settled(asyncio.to_thread(put))
        if await self._get(path, len(data)) != data:
            raise AlreadyExists(f"{path} is there already, with other content")

    async def write(
        self,
        key: str,
        chunks: AsyncIterator[bytes],
        *,
        size_hint: int,  # noqa: ARG002  # a file has no parts to count
        started: Started,
        sent: Sent,
    ) -> Written:
        """Write a large object from a stream; see the port."""
        check_key(key)
        partial = PartialFile(self._root, key)
        parts: list[StoredPart] = []
        size = crc32c = 0
        try:
            await settled(asyncio.to_thread(partial.begin))
            await started(OpenUpload(key, partial.upload_id))
            async with contextlib.aclosing(cut(chunks, self._part_size)) as pieces:
                async for part in pieces:
                    await settled(asyncio.to_thread(partial.append, part.data))
                    parts.append(part.stored)
                    size, crc32c = part.offset + len(part.data), part.crc32c_so_far
                    sent(size)
            await settled(asyncio.to_thread(partial.move_into_place))
        except BaseException:
            await settled(asyncio.to_thread(partial.discard))
            raise
        return Written(key, size, crc32c, confirmed=False, parts=tuple(parts))

    async def read(self, key: str, *, limit: int) -> bytes:
        """A small object whole; see the port."""
        path = self._path(key)
        data = await self._get(path, limit)
        if len(data) > limit:
            raise IntegrityError(f"{path} is larger than {limit} bytes")
        return data

    async def read_many(self, keys: Sequence[str], *, limit: int) -> list[Outcome]:
        """Small objects, one after the other; see the port."""
        return [await outcome(self.read(key, limit=limit)) for key in keys]

    async def _get(self, path: Path, limit: int) -> bytes:
        """The object, or its first `limit` + 1 bytes."""
        return await self._existing(
            f"Reading {path}", lambda: LocalReadAt(path).read_at(0, limit + 1)
        )

    async def open(self, key: str) -> ReadAt:
        """Random access to a large object; see the port."""
        path = self._path(key)
        return await self._existing(f"Opening {path}", lambda: LocalReadAt(path))

    async def find(self, key: str) -> ObjectInfo | None:
        """What the directory holds of one object; see the port."""
        path = self._path(key)
        return await self._existing(f"Looking at {path}", lambda: find(path, key))

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """All objects under `prefix`; see the port."""
        check_prefix(prefix)
        found = walk(self._root / prefix, prefix)
        async for info in self._paged(f"Listing {self._root / prefix}", found):
            yield info

    async def folders(self, prefix: str) -> tuple[str, ...]:
        """The directories in a directory; see the port."""
        check_prefix(prefix)
        folder = self._root / prefix
        return await self._existing(f"Listing {folder}", lambda: folders(folder, prefix))

    async def delete(self, key: str) -> None:
        """Delete one object; see the port."""
        path = self._path(key)
        await settled(self._existing(f"Deleting {path}", lambda: remove(self._root, path)))

    async def uploads(self, prefix: str) -> AsyncIterator[OpenUpload]:
        """Files that were begun and never moved into place; see the port."""
        check_prefix(prefix)
        found = walk(self._root / PARTIAL, f"{PARTIAL}/")
        async for info in self._paged(f"Listing {self._root / PARTIAL}", found):
            upload_id = info.key.removeprefix(f"{PARTIAL}/")
            key = partial_key(upload_id)
            if key.startswith(prefix):
                yield OpenUpload(key, upload_id, info.modified)

    async def abort(self, upload: OpenUpload) -> None:
        """Remove an unfinished file; see the port."""
        check_key(upload.key)
        if "/" in upload.upload_id or partial_key(upload.upload_id) != upload.key:
            return  # no upload that could be here

        def abort() -> None:
            folder = self._root / PARTIAL
            (folder / upload.upload_id).unlink(missing_ok=True)
            if folder.is_dir():
                sync_folder(folder)

        await settled(self._existing(f"Aborting the write of {upload.key}", abort))

    async def aclose(self) -> None:
        """Nothing is kept open."""

    async def _paged(self, doing: str, found: Iterator[T]) -> AsyncIterator[T]:
        while page := await self._existing(doing, lambda: list(islice(found, _PAGE))):
            for item in page:
                yield item

    async def _existing(self, doing: str, work: Callable[[], T]) -> T:
        """Run `work` in a thread, provided that the store's directory is there."""

        def checked() -> T:
            with translated(doing):
                if not self._root.is_dir():
                    raise NoSuchStore(
                        f"{doing} failed: the store's directory {self._root} does not exist",
                        hint="Create or mount it, or correct the store's path",
                    )
                return work()

        return await asyncio.to_thread(checked)
