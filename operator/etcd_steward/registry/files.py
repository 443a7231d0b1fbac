"""Files as Arrow wants them, over what we have: handed on as they are written, fetched in ranges.

Arrow reads a file a column chunk at a time, waiting for each. From a store that would be a dozen
requests per row group, one after the other; so the ranges that are going to be read are told
beforehand, joined where they are near each other, and fetched ahead, several at a time.
"""

import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Self

from etcd_steward.models.ports import ReadAt

_BLOCK: Final = 1 << 20
"""Bytes that are handed on at once."""
_PIECE: Final = 4 << 20
"""Bytes of one read, but that one range may have more."""
_HOLE: Final = 128 << 10
"""Bytes that nobody asked for are read along rather than ask a store once more."""
_LOAD: Final = 8 << 20
"""Bytes that are fetched together, while those before are being decoded."""
_AT_ONCE: Final = 4
"""Reads under way at a time."""

Span = tuple[int, int]
"""First byte, and the one behind the last."""


class Sink(io.RawIOBase):
    """A file that is handed on to `out` as it is written, in pieces of a megabyte."""

    def __init__(self, out: Callable[[bytes], object]) -> None:
        self._out = out
        self._held = bytearray()
        self._sha256 = hashlib.sha256()
        self._footer: bytearray | None = None
        self._abandoned = False
        self.size = 0
        """Bytes written."""

    @property
    def sha256(self) -> str:
        """Of all that was handed on."""
        return self._sha256.hexdigest()

    @property
    def footer(self) -> bytes:
        """What was written since `begin_footer`."""
        return bytes(self._footer or b"")

    def writable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Bytes written."""
        return self.size

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        """Take a few bytes, from whatever thread writes."""
        if not self._abandoned:
            self.size += len(data)
            self._held += data
            if self._footer is not None:
                self._footer += data
            if len(self._held) >= _BLOCK:
                self.end()
        return len(data)

    def end(self) -> None:
        """Hand on what is held."""
        block = bytes(self._held)
        self._held.clear()
        self._sha256.update(block)
        self._out(block)

    def begin_footer(self) -> None:
        """What follows is the footer."""
        self._footer = bytearray()

    def abandon(self) -> None:
        """Hand on nothing more."""
        self._abandoned = True


class Fetched(io.RawIOBase):
    """A file of which some ranges are there, or on their way; others are fetched when read."""

    def __init__(self, file: ReadAt, reads: Sequence[tuple[int, Future[bytes]]]) -> None:
        self._file = file
        self._at = 0
        self._reads = reads

    def wait(self) -> None:
        """Wait for what is on its way. Raises what the file raises."""
        for _, read in self._reads:
            read.result()

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a place, as files do."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        """Read from the present place on."""
        at = self._at
        length = max(0, self._file.size - at) if size < 0 else size
        found = bytes(self.peek(at, at + length))
        self._at += len(found)
        return found

    def peek(self, low: int, high: int) -> memoryview:
        """Some bytes, and nothing moves."""
        for begin, read in self._reads:
            data = read.result()
            if begin <= low and high <= begin + len(data):
                return memoryview(data)[low - begin : high - begin]
        return memoryview(self._file.read_at(low, high - low))


class Fetching:
    """Fetches ranges of a file ahead, item by item: a few ranges in ascending order each."""

    def __init__(self, file: ReadAt, items: Sequence[Sequence[Span]]) -> None:
        self._file = file
        self._left = 0
        self._loads = _loads(items)
        self._reads: list[tuple[int, Future[bytes]]] = []
        self._under_way = deque[tuple[int, list[tuple[int, Future[bytes]]]]]()
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="registry")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def next(self) -> Fetched:
        """The next item, which need not be there yet."""
        if not self._left:
            while len(self._under_way) < 2 and (load := next(self._loads, None)) is not None:
                count, spans = load
                reads = [(low, self._begin(low, high)) for low, high in spans]
                self._under_way.append((count, reads))
            self._left, self._reads = self._under_way.popleft()
        self._left -= 1
        return Fetched(self._file, self._reads)

    def _begin(self, low: int, high: int) -> Future[bytes]:
        return self._threads.submit(self._file.read_at, low, high - low)


def _loads(items: Sequence[Sequence[Span]]) -> Iterator[tuple[int, list[Span]]]:
    """How many items are fetched together, and by which reads."""
    count = used = 0
    spans: list[Span] = []
    for item in items:
        size = sum(high - low for low, high in item)
        if count and used + size > _LOAD:
            yield count, spans
            count, used, spans = 0, 0, []
        count, used = count + 1, used + size
        for low, high in item:
            before = spans[-1] if spans else None
            if before and 0 <= low - before[1] <= _HOLE and high - before[0] <= _PIECE:
                spans[-1] = before[0], high
            else:
                spans.append((low, high))
    if count:
        yield count, spans
