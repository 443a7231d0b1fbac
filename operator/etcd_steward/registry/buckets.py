"""The buckets of a bolt file entry by entry: `meta`, `alarm`, `members`, `lease` and their like.

All of etcd's buckets but `key` are small, so they are walked here one key at a time, in key order.
`walk` reads `key`; what that can't take at once (an inline bucket, a page larger than its window)
comes through here as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from etcd_steward.registry.bolt import BRANCH, HEADER, LEAF, Bolt, Headers, Table, damaged, elements
from etcd_steward.registry.lanes import Offsets

MAX_DEPTH: Final = 64
"""Of a tree and of buckets in buckets. bolt's branches have at least two children, so a tree over
2**63 pages is less deep; the limit is what ends a walk over a hand-made file."""
MANY: Final = 1024
"""More top-level buckets, alarms or members than this no etcd has."""
_SHORT: Final = 4096
_WHOLE: Final = 1 << 20
"""A leaf page run up to this size is held whole; of a larger one, the elements and single keys."""
_BUCKET: Final = 0x01
_BUCKET_HEADER: Final = 16


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a bucket; its value stays in the file."""

    bolt: Bolt
    page: int
    key: bytes
    value_at: int
    """Byte offset in the file."""
    value_size: int
    is_bucket: bool

    def value(self, limit: int) -> bytes:
        """The value, of which the file may hold at most `limit` bytes."""
        if self.value_size > limit:
            raise damaged(
                f"page {self.page}: the value of {self.key[:64]!r} has {self.value_size} bytes"
            )
        return self.bolt.bytes_at(self.value_at, self.value_size)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket as its parent's entry describes it."""

    name: str
    entry: Entry
    root: int
    """Page of its tree's root; 0 if it lies inline in the entry's value."""
    depth: int

    def entries(self) -> Iterator[Entry]:
        """Its entries in key order, every page checked as it comes."""
        bolt = self.entry.bolt
        if self.root == 0:
            return _inline(self)
        bolt.claim(np.array([self.root]), np.array([self.entry.page]))
        return _walk(bolt, self.root, (b"", None), self.depth)


def root_buckets(bolt: Bolt) -> Iterator[Bucket]:
    """The top-level buckets."""
    for number, entry in enumerate(_walk(bolt, bolt.meta.root, (b"", None), 0)):
        if number == MANY:
            raise damaged(f"it has more than {MANY} buckets")
        if not entry.is_bucket:
            raise damaged(f"page {entry.page}: {entry.key[:64]!r} is no bucket but lies among them")
        yield open_bucket(entry, 0)


def open_bucket(entry: Entry, depth: int) -> Bucket:
    """The bucket that an entry describes."""
    name = entry.key.decode(errors="backslashreplace")
    if entry.value_size < _BUCKET_HEADER:
        raise damaged(f"page {entry.page}: the header of bucket {name[:64]!r} is cut short")
    head = entry.bolt.bytes_at(entry.value_at, _BUCKET_HEADER)
    root = int.from_bytes(head[:8], "little")
    if root and entry.value_size != _BUCKET_HEADER:
        raise damaged(
            f"page {entry.page}: the header of bucket {name[:64]!r} has {entry.value_size} bytes"
        )
    if root >= 1 << 63:
        raise damaged(f"page {entry.page}: bucket {name[:64]!r} refers to page {root}")
    return Bucket(name, entry, root, depth + 1)


def check_bucket(bucket: Bucket) -> None:
    """Walk a bucket, and every bucket in it, for the sake of its structure alone."""
    for entry in bucket.entries():
        if entry.is_bucket:
            check_bucket(open_bucket(entry, bucket.depth))


def values(bucket: Bucket) -> dict[bytes, bytes]:
    """The short values of a small bucket; buckets in it are checked, and left out."""
    found: dict[bytes, bytes] = {}
    for entry in bucket.entries():
        if entry.is_bucket:
            check_bucket(open_bucket(entry, bucket.depth))
        elif entry.value_size <= _SHORT and len(found) < MANY:
            found[entry.key] = entry.value(_SHORT)
    return found


def page_entries(bolt: Bolt, page: int, low: bytes, high: bytes | None) -> Iterator[Entry]:
    """The entries of one claimed leaf page, however large, its keys in `[low, high)`."""
    loaded = _load(bolt, page)
    if loaded.headers.flags[0] != LEAF:
        raise damaged(f"page {page} is not the leaf page that it must be")
    yield from _leaf(loaded, (low, high))


@dataclass(frozen=True, slots=True)
class _Page:
    bolt: Bolt
    id: int
    headers: Headers
    table: Table
    data: bytes
    """The page run whole, or as much of it as holds the elements."""

    def keys(self) -> Iterator[bytes]:
        start = self.id * self.bolt.page_size
        for at, size in zip(self.table.key.tolist(), self.table.ksize.tolist(), strict=True):
            if at + size <= len(self.data):
                yield self.data[at : at + size]
            else:
                yield self.bolt.bytes_at(start + at, size)


def _load(bolt: Bolt, page: int) -> _Page:
    ids, at = np.array([page]), np.zeros(1, dtype=np.int64)
    data = bolt.read(page, 1)
    headers = bolt.headers(_words(data), at, ids)
    bolt.claim_overflow(ids, headers.overflow)
    run = int(headers.overflow[0]) + 1
    if run > 1:
        size = bolt.page_size
        need = -(-(HEADER + 16 * int(headers.count[0])) // size)
        data = bolt.read(page, run if run * size <= _WHOLE else need)
    leaf = bool(headers.flags[0] == LEAF)
    table = bolt.table(_words(data), at, ids, headers, leaf=leaf)
    end = int(table.value[-1] + table.vsize[-1])
    if end >= len(data) and end % bolt.page_size:
        bolt.check_rest(page, end, bolt.bytes_at(page * bolt.page_size + end, 1)[0])
    return _Page(bolt, page, headers, table, data)


def _walk(bolt: Bolt, page: int, bounds: tuple[bytes, bytes | None], depth: int) -> Iterator[Entry]:
    if depth > MAX_DEPTH:
        raise damaged(f"page {page} lies more than {MAX_DEPTH} levels deep")
    loaded = _load(bolt, page)
    if loaded.headers.flags[0] != BRANCH:
        yield from _leaf(loaded, bounds)
        return
    children = loaded.table.extra
    bolt.claim(children, np.full(len(children), page, dtype=np.int64))
    keys = list(_ordered(loaded, bounds))
    for child, low, high in zip(children.tolist(), keys, (*keys[1:], bounds[1]), strict=True):
        yield from _walk(bolt, child, (low, high), depth + 1)


def _leaf(loaded: _Page, bounds: tuple[bytes, bytes | None]) -> Iterator[Entry]:
    table, start = loaded.table, loaded.id * loaded.bolt.page_size
    for index, key in enumerate(_ordered(loaded, bounds)):
        yield _entry(loaded.bolt, loaded.id, start, table, index, key)


def _entry(bolt: Bolt, page: int, start: int, table: Table, index: int, key: bytes) -> Entry:
    flags = int(table.extra[index])
    if flags not in {0, _BUCKET}:
        raise damaged(f"page {page}, element {index} has flags {flags:#x}")
    at, size = start + int(table.value[index]), int(table.vsize[index])
    return Entry(bolt, page, key, at, size, is_bucket=flags == _BUCKET)


def _ordered(loaded: _Page, bounds: tuple[bytes, bytes | None]) -> Iterator[bytes]:
    """The page's keys, which must ascend and lie between the bounds that the branch above sets."""
    low, high = bounds
    previous = None
    for index, key in enumerate(loaded.keys()):
        if key < low or (previous is not None and key <= previous):
            raise damaged(
                f"page {loaded.id}: the key of element {index} is not above its neighbour"
            )
        if high is not None and key >= high:
            raise damaged(f"page {loaded.id}: the key of element {index} belongs on a later page")
        previous = key
        yield key


def _inline(bucket: Bucket) -> Iterator[Entry]:
    """The entries of a bucket small enough to lie in its parent's value (`Bucket.inlineable`)."""
    entry, bolt = bucket.entry, bucket.entry.bolt
    where = f"page {entry.page}: inline bucket {bucket.name[:64]!r}"
    # At most a quarter page when bolt wrote it.
    data = entry.value(bolt.page_size)[_BUCKET_HEADER:]
    if len(data) < HEADER:
        raise damaged(f"{where} is cut short")
    words = _words(data + bytes(-len(data) % 8))
    identity, packed = int(words[0]), int(words[1])
    flags, count, overflow = packed & 0xFFFF, packed >> 16 & 0xFFFF, packed >> 32
    if identity or flags != LEAF or overflow or HEADER + 16 * count > len(data):
        raise damaged(f"{where} has a header that bolt does not write")
    table = elements(words, np.zeros(1, dtype=np.int64), np.array([count]), leaf=True)
    start, end = entry.value_at + _BUCKET_HEADER, HEADER + 16 * count
    previous = b""
    for index in range(count):
        at, size = int(table.key[index]), int(table.ksize[index])
        key = data[at : at + size]
        if at != end or size < 1 or key <= previous:
            raise damaged(f"{where}: element {index} is out of place or order")
        previous, end = key, int(table.value[index] + table.vsize[index])
        if end > len(data):
            raise damaged(f"{where}: element {index} runs over its end")
        found = _entry(bolt, entry.page, start, table, index, key)
        if found.is_bucket:
            raise damaged(f"{where} holds a bucket, which bolt never writes")
        yield found
    if end != len(data):
        raise damaged(f"{where} has {len(data) - end} bytes too many")


def _words(data: bytes) -> Offsets:
    return np.frombuffer(data, dtype="<i8")
