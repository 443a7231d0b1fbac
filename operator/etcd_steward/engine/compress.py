"""Compression in independent frames, in order, by as many threads as there are cores.

Each 16 MiB of the snapshot become one zstd frame with its own checksum, so that plain `zstd -d`
opens the file, several cores can write it, and a reader can start at any frame.
"""

import asyncio
import hashlib
import os
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from etcd_steward.engine.spoolfile import SPAN, SpoolFile
from etcd_steward.errors import IntegrityError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FRAME = SPAN
"""Uncompressed bytes in a frame: what the spool vouches for as one."""
_LEVEL = 1
_PIECE = 4 << 20
_OPTIONS: dict[int, int] = {
    zstd.CompressionParameter.compression_level: _LEVEL,
    zstd.CompressionParameter.checksum_flag: 1,
}


def bound(size: int) -> int:
    """An upper bound in bytes of `size` bytes compressed (ZSTD_COMPRESSBOUND, plus headers)."""
    return size + (size >> 8) + 1024 * (1 + size // FRAME)


@contextmanager
def _workers() -> Iterator[tuple[ThreadPoolExecutor, int]]:
    count = min(4, len(os.sched_getaffinity(0)))
    executor = ThreadPoolExecutor(count, thread_name_prefix="zstd")
    try:
        yield executor, count
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


class Compressed:
    """The compressed bytes of a spool file, and their SHA-256 once all have been read."""

    def __init__(self, file: SpoolFile, *, behind: bool) -> None:
        """`behind`: follow the writer; else wait for the file's end before the first byte."""
        self._file = file
        self._behind = behind
        self._sha256 = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of all frames that were yielded so far."""
        return self._sha256.hexdigest()

    def _frame(self, offset: int, length: int) -> bytes:
        compressor = zstd.ZstdCompressor(options=_OPTIONS)
        compressor.set_pledged_input_size(length)
        pieces = [compressor.compress(raw) for raw in self._file.read_span(offset, length)]
        return b"".join([*pieces, compressor.flush()])

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """Frames in order; a few are in memory at a time."""
        loop = asyncio.get_running_loop()
        with _workers() as (executor, count):
            pending: deque[asyncio.Future[bytes]] = deque()
            async for offset, length in self._spans():
                pending.append(loop.run_in_executor(executor, self._frame, offset, length))
                if len(pending) > count:
                    yield await self._next(pending)
            while pending:
                yield await self._next(pending)

    async def _next(self, pending: deque[asyncio.Future[bytes]]) -> bytes:
        frame = await pending.popleft()
        await asyncio.to_thread(self._sha256.update, frame)
        return frame

    async def _spans(self) -> AsyncIterator[tuple[int, int]]:
        if not self._behind:
            await self._file.ended()
        offset = 0
        while True:
            there = await self._file.wait(offset + FRAME)
            length = min(FRAME, there - offset)
            if length <= 0:
                return
            yield offset, length
            offset += length


class Decompressor:
    """The bytes that a stored file holds, as its own bytes are fed in order."""

    def __init__(self) -> None:
        self._frame = zstd.ZstdDecompressor()
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Pieces of a few megabytes. Raises `IntegrityError` where a frame is damaged."""
        while data or (self._begun and not self._frame.needs_input):
            self._begun = True
            try:
                piece = self._frame.decompress(data, max_length=_PIECE)
            except zstd.ZstdError as error:
                raise _damaged(str(error)) from error
            data = b""
            if piece:
                yield piece
            if self._frame.eof:
                data = self._frame.unused_data
                self._frame = zstd.ZstdDecompressor()
                self._begun = False

    def close(self) -> None:
        """Nothing follows. Raises `IntegrityError` in the middle of a frame."""
        if self._begun:
            raise _damaged("it ends in the middle of a frame")


def _damaged(what: str) -> IntegrityError:
    return IntegrityError(
        f"the stored file is damaged: {what}",
        hint="use another backup, and find out what changed this one",
    )
