"""Reading a stored backup back, whole and in order, with both digests compared."""

import asyncio
import hashlib
from collections.abc import Callable

from etcd_steward.engine.compress import Decompressor
from etcd_steward.engine.report import Tracker
from etcd_steward.errors import IntegrityError
from etcd_steward.models.manifest import Manifest
from etcd_steward.models.ports import ReadAt, Store

TIMEOUT = 3600.0
"""Seconds that reading a backup back may take, unless somebody says otherwise."""
_CHUNK = 16 << 20


class _Digests:
    """Hashes a stored file and what is in it, handing on the latter."""

    def __init__(self, sink: Callable[[bytes], object], *, compressed: bool) -> None:
        self._sink = sink
        self._decompressor = Decompressor() if compressed else None
        self.stored = hashlib.sha256()
        self.raw = hashlib.sha256()
        self.raw_size = 0

    def take(self, data: bytes) -> None:
        self.stored.update(data)
        for piece in (data,) if self._decompressor is None else self._decompressor.feed(data):
            self.raw.update(piece)
            self.raw_size += len(piece)
            self._sink(piece)

    def compare(self, manifest: Manifest, url: str) -> None:
        if self.stored.hexdigest() != manifest.snapshot.sha256:
            raise IntegrityError(
                f"{url} is not what its manifest says: the stored bytes differ",
                hint="it was altered in the store: use another backup",
            )
        if self._decompressor is not None:
            self._decompressor.close()
        if self.raw.hexdigest() != manifest.raw_sha256:
            raise IntegrityError(
                f"{url} does not hold what its manifest says",
                hint="use another backup, and report this: it was stored that way",
            )


async def download(
    store: Store, manifest: Manifest, sink: Callable[[bytes], object], tracker: Tracker
) -> None:
    """Hand the uncompressed snapshot, or an export, to `sink`, in order, in a worker thread.

    The next chunk is fetched while this one is decompressed. Raises `NotFound`, or
    `IntegrityError` after the last byte if a digest differs: whoever keeps the bytes must wait.
    """
    key = f"{manifest.folder}/{manifest.snapshot.name}"
    file = await store.open(key)
    tracker.total, tracker.raw = manifest.raw_size, 0
    digests = _Digests(sink, compressed=manifest.snapshot.role == "snapshot")
    fetching = _fetch(file, 0)
    try:
        for offset in range(0, file.size, _CHUNK):
            data = await fetching
            fetching = _fetch(file, offset + _CHUNK)
            await asyncio.to_thread(digests.take, data)
            tracker.raw = digests.raw_size
    finally:
        await asyncio.wait({fetching})
    digests.compare(manifest, f"{store.url}/{key}")


def _fetch(file: ReadAt, offset: int) -> asyncio.Task[bytes]:
    length = max(0, min(_CHUNK, file.size - offset))
    return asyncio.create_task(asyncio.to_thread(file.read_at, offset, length))
