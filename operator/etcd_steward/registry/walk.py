"""The leaf pages of etcd's `key` bucket, the history of all user keys: read once, window by window.

The bucket is nearly the whole file, so its tree is read level by level, many branches at a time,
the pages of a level in the order of the file, and a window of many pages at once; Python runs per
window, numpy per record. A page's bounds come with it from the branch above: keys that keep to them
are in order across pages, in whatever order the pages are read.

What the leaves hold is for others to say: `mvcc` proves it, `history` keeps an index of it,
`hashkv` hashes it.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Final, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from etcd_steward.errors import IntegrityError
from etcd_steward.registry.bolt import BRANCH, LEAF, Bolt, Headers, Table, damaged
from etcd_steward.registry.buckets import MAX_DEPTH, Bucket, Entry, page_entries
from etcd_steward.registry.lanes import Mask, Octets, Offsets, Shorts, Words, first_true
from etcd_steward.registry.records import (
    Fields,
    Record,
    Revisions,
    checked_record,
    read_fields,
    revision,
    revisions,
)

_WINDOW: Final = 8 << 20
"""Bytes read at once. Temporary arrays take up to ten times as much."""
_GAP: Final = 8
"""So many pages that nobody asked for are read along rather than begin another read."""
_BATCH: Final = 1 << 15
_BRANCHES: Final = 1 << 11
"""So many branches are followed at once: to some 200,000 leaves, 7 MB of bounds."""
_LAST: Final = (1 << 63) - 1
_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True)
class _Level:
    """Pages of one level of the tree, and the bounds `[low, high)` of the keys under each."""

    ids: Offsets
    low: Revisions
    high: Revisions

    def __getitem__(self, index: Offsets | Mask | slice) -> Self:
        low = Revisions(self.low.main[index], self.low.rest[index])
        high = Revisions(self.high.main[index], self.high.rest[index])
        return type(self)(self.ids[index], low, high)


@dataclass(slots=True)
class _Below:
    """The level below, as it comes together from the branches of one level."""

    ids: list[Offsets] = field(default_factory=list)
    mains: tuple[list[Offsets], list[Offsets]] = field(default_factory=lambda: ([], []))
    rests: tuple[list[Shorts], list[Shorts]] = field(default_factory=lambda: ([], []))

    def add(self, ids: Offsets, low: Revisions, high: Revisions) -> None:
        self.ids.append(ids)
        for side, bound in enumerate((low, high)):
            self.mains[side].append(bound.main)
            self.rests[side].append(bound.rest)

    def level(self) -> _Level | None:
        """All of it, ordered by page; None if there is none. The parts are gone afterwards."""
        if not self.ids:
            return None
        ids = _emptied(self.ids)
        order = ids.argsort()
        low, high = (
            Revisions(_emptied(main)[order], _emptied(rest)[order])
            for main, rest in zip(self.mains, self.rests, strict=True)
        )
        return _Level(ids[order], low, high)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Some pages of a level that are read together."""

    level: _Level
    at: Offsets
    """Where each begins in the buffer, in bytes."""
    room: Offsets
    """How many pages from there on are its own."""
    runs: list[tuple[int, int]]
    """First page and number of pages of each read."""


@dataclass(frozen=True, slots=True)
class _Window:
    """A plan carried out."""

    level: _Level
    at: Offsets
    room: Offsets
    buffer: bytes
    words: Words
    octets: Octets


@dataclass(frozen=True, slots=True)
class Leaves:
    """Leaf pages that were read together, each whole and in its place among all pages."""

    bolt: Bolt
    ids: Offsets
    """Of the pages, ascending."""
    at: Offsets
    """Where each page begins in the buffer, in bytes."""
    sizes: Offsets
    """Of the pages, in pages of the file."""
    table: Table
    """Offsets count from the buffer's beginning."""
    keys: Revisions
    buffer: bytes
    words: Words
    octets: Octets

    def peek(self, at: int, length: int) -> bytes:
        """Bytes of the buffer."""
        return self.buffer[at : at + length]

    def place(self, element: int) -> str:
        """Where an element lies, for people."""
        page = self.table.owner[element]
        return f"bucket key, page {self.ids[page]}, element {element - self.table.first[page]}"

    def in_file(self, at: Offsets) -> Offsets:
        """Where in the file lies what begins at `at` in the buffer, an entry per element."""
        shift = self.ids * self.bolt.page_size - self.at
        return at + shift.take(self.table.owner)

    def bumps(self) -> Mask:
        """Which elements are the empty ones of `etcdutl snapshot restore --bump-revision`."""
        mask: Mask = (self.table.vsize == 0) & (self.keys.rest == 0)
        return mask

    def fields(self, bumps: Mask) -> Fields:
        """The records, of which nothing but the bumps is empty.

        Raises `IntegrityError` for one that etcd would never write.
        """
        table = self.table
        fields = read_fields(self.words, self.octets, table.value, table.vsize, self.keys)
        for odd in np.flatnonzero(~(fields.good | bumps)).tolist():
            fields.put(odd, self.record(odd))
        return fields

    def record(self, element: int) -> Record:
        """One record by itself."""
        span = (int(self.table.value[element]), int(self.table.vsize[element]))
        at = (int(self.keys.main[element]), int(self.keys.rest[element]))
        return checked_record(self.peek, span, at, lambda: self.place(element))


@dataclass(frozen=True, slots=True)
class Single:
    """An element that did not come in a window; its value stays in the file."""

    entry: Entry
    at: tuple[int, int]
    """Its revision, as `Revisions` has it."""

    @property
    def bump(self) -> bool:
        """True for the empty one of `etcdutl snapshot restore --bump-revision`."""
        return not self.entry.value_size and not self.at[1]

    def record(self) -> Record:
        """Offsets are the file's. Raises `IntegrityError` for what etcd would never write."""
        entry = self.entry
        return checked_record(
            entry.bolt.bytes_at,
            (entry.value_at, entry.value_size),
            self.at,
            lambda: f"bucket key, page {entry.page}, revision {self.at[0]}",
        )


def leaves(bolt: Bolt, bucket: Bucket) -> Iterator[Leaves | Single]:
    """All leaves of bucket `key`, each page once, in no particular order.

    Raises `IntegrityError` for pages and keys that are not as etcd writes them.
    """
    if bucket.root == 0:
        yield from map(_single, bucket.entries())
        return
    bolt.claim(np.array([bucket.root]), np.array([bucket.entry.page]))
    yield from _Walk(bolt).down(_Level(np.array([bucket.root]), _bound(0), _bound(_LAST)))


def again(bolt: Bolt, ids: Offsets, sizes: Offsets) -> Iterator[Leaves]:
    """Leaf pages that `leaves` gave before, which ascend, `sizes` pages from each of `ids` on."""
    walk = _Walk(bolt)
    bound = Revisions(np.zeros_like(ids), np.zeros(len(ids), dtype=np.uint32))
    for plan in walk.plans(_Level(ids, bound, bound), sizes):
        window = walk.load(plan)
        headers = bolt.headers(window.words.view(np.int64), window.at, window.level.ids)
        pages = np.arange(len(window.level.ids))
        if ((headers.overflow >= window.room) | (headers.flags != LEAF)).any():
            raise damaged("it changes while it is read")
        yield walk.read(window, pages, headers)


class _Walk:
    def __init__(self, bolt: Bolt) -> None:
        self._bolt = bolt
        self._leaves_at: int | None = None
        """How deep the leaves lie, once one was found."""

    def down(self, level: _Level, depth: int = 0) -> Iterator[Leaves | Single]:
        """All leaves below some pages.

        Of the branches only some are followed at a time: the bounds of all leaves of a large file
        would be most of what is held in memory.
        """
        if depth == MAX_DEPTH:
            raise damaged(f"bucket key: its tree has more than {MAX_DEPTH} levels")
        first = 0
        while first < len(level.ids):
            end = len(level.ids) if depth == self._leaves_at else first + _BRANCHES
            below = _Below()
            for part in self.level(level[first:end], below):
                if self._leaves_at is None:
                    self._leaves_at = depth
                if depth != self._leaves_at:
                    raise _uneven()
                yield part
                del part
            deeper = below.level()
            if deeper is not None:
                if self._leaves_at == depth:
                    raise _uneven()
                yield from self.down(deeper, depth + 1)
            first = end

    def level(self, level: _Level, below: _Below) -> Iterator[Leaves | Single]:
        """Read all pages of a level; what the branches among them refer to is the next."""
        # Nobody here keeps a window by a name while the next one is being read.
        late = []
        for plan in self.plans(level, None):
            late += [(yield from self._window(self.load(plan), below))]
        # Of a page with a long value only the first page was read.
        for longer, size in late:
            small = size * self._bolt.page_size <= _WINDOW
            for plan in self.plans(longer[small], size[small]):
                missed, _ = yield from self._window(self.load(plan), below)
                if len(missed.ids):
                    raise damaged("it changes while it is read")
            yield from self._giants(longer[~small])

    def plans(self, level: _Level, sizes: Offsets | None) -> Iterator[_Plan]:
        """How to read pages that ascend by id, `sizes` pages (else one) from each on."""
        bolt = self._bolt
        most = max(1, _WINDOW // bolt.page_size)
        for batch in range(0, len(level.ids), _BATCH):
            some = level[batch : batch + _BATCH]
            ids = some.ids
            size = np.ones_like(ids) if sizes is None else sizes[batch : batch + _BATCH]
            step = np.diff(ids, append=bolt.pages)
            joined = (step >= size) & (step - size <= _GAP)
            joined[-1] = False
            room = np.where(joined, step, size)
            ends = np.cumsum(room)
            begin, done = 0, 0
            while begin < len(ids):
                end = max(begin + 1, int(np.searchsorted(ends, done + most, side="right")))
                cuts = (begin + np.flatnonzero(~joined[begin : end - 1]) + 1).tolist()
                runs = []
                for one, other in zip((begin, *cuts), (*cuts, end), strict=True):
                    before = int(ends[one - 1]) if one else 0
                    runs.append((int(ids[one]), int(ends[other - 1]) - before))
                at = (ends[begin:end] - room[begin:end] - done) * bolt.page_size
                yield _Plan(some[begin:end], at, room[begin:end], runs)
                begin, done = end, int(ends[end - 1])

    def load(self, plan: _Plan) -> _Window:
        data = [self._bolt.read(page, count) for page, count in plan.runs]
        buffer = data[0] if len(data) == 1 else b"".join(data)
        words, octets = np.frombuffer(buffer, dtype="<u8"), np.frombuffer(buffer, dtype=np.uint8)
        return _Window(plan.level, plan.at, plan.room, buffer, words, octets)

    def _window(
        self, window: _Window, below: _Below
    ) -> Generator[Leaves, None, tuple[_Level, Offsets]]:
        """Check a window's pages, all but those that run on past what was read.

        Those are returned, with their sizes in pages, and not yet claimed.
        """
        ids = window.level.ids
        headers = self._bolt.headers(window.words.view(np.int64), window.at, ids)
        whole = headers.overflow < window.room
        self._bolt.claim_overflow(ids[whole], headers.overflow[whole])
        for flags in (LEAF, BRANCH):
            pages = np.flatnonzero(whole & (headers.flags == flags))
            if not len(pages):
                continue
            read, level = self.read(window, pages, headers), window.level[pages]
            _check_order(read.keys, read.table, level)
            if flags == LEAF:
                bad = first_true(read.table.extra != 0)
                if bad is not None:
                    raise damaged(f"{read.place(bad)} has flags {read.table.extra[bad]:#x}")
                yield read
            else:
                self._branches(level, read.table, read.keys, below)
        return window.level[~whole], headers.overflow[~whole] + 1

    def read(self, window: _Window, pages: Offsets, headers: Headers) -> Leaves:
        """Some pages of a window, all leaves or all branches; their keys may be in any order."""
        ids, at, leaf = window.level.ids[pages], window.at[pages], headers.flags[pages[0]] == LEAF
        some = Headers(headers.flags[pages], headers.count[pages], headers.overflow[pages])
        table = self._bolt.table(window.words.view(np.int64), at, ids, some, leaf=bool(leaf))
        keys = revisions(window.words, window.octets, table, ids)
        sizes = some.overflow + 1
        return Leaves(
            self._bolt, ids, at, sizes, table, keys, window.buffer, window.words, window.octets
        )

    def _branches(self, level: _Level, table: Table, keys: Revisions, below: _Below) -> None:
        self._bolt.claim(table.extra, level.ids[table.owner])
        main, rest = np.empty_like(keys.main), np.empty_like(keys.rest)
        main[:-1], rest[:-1] = keys.main[1:], keys.rest[1:]
        main[table.last], rest[table.last] = level.high.main, level.high.rest
        below.add(table.extra, keys, Revisions(main, rest))

    def _giants(self, pages: _Level) -> Iterator[Single]:
        """Leaf pages larger than a window: values of megabytes."""
        for index in range(len(pages.ids)):
            low = _encoded(int(pages.low.main[index]), int(pages.low.rest[index]))
            last = int(pages.high.main[index])
            high = None if last == _LAST else _encoded(last, int(pages.high.rest[index]))
            yield from map(_single, page_entries(self._bolt, int(pages.ids[index]), low, high))


def _uneven() -> IntegrityError:
    return damaged("bucket key: the leaves of its tree lie at different depths")


def _single(entry: Entry) -> Single:
    at = revision(entry.key)
    if at is None or entry.is_bucket:
        raise damaged(f"bucket key, page {entry.page}: the key {entry.key[:32]!r} is no record")
    return Single(entry, at)


def _emptied(parts: list[NDArray[_Scalar]]) -> NDArray[_Scalar]:
    joined = np.concatenate(parts)
    parts.clear()
    return joined


def _bound(main: int) -> Revisions:
    return Revisions(np.array([main], dtype=np.int64), np.zeros(1, dtype=np.uint32))


def _below(one: Revisions, other: Revisions) -> Mask:
    below: Mask = (one.main < other.main) | ((one.main == other.main) & (one.rest < other.rest))
    return below


def _check_order(keys: Revisions, table: Table, level: _Level) -> None:
    """Keys ascend within each page, and lie between the bounds that the branch above gives."""
    ascending = np.ones(len(keys.main), dtype=np.bool_)
    ascending[1:] = _below(
        Revisions(keys.main[:-1], keys.rest[:-1]), Revisions(keys.main[1:], keys.rest[1:])
    )
    first = Revisions(keys.main[table.first], keys.rest[table.first])
    ascending[table.first] = ~_below(first, level.low)
    bad = first_true(~ascending)
    if bad is not None:
        page = table.owner[bad]
        raise damaged(
            f"bucket key, page {level.ids[page]}: the key of element {bad - table.first[page]} "
            f"(revision {keys.main[bad]}) is not above its neighbour"
        )
    last = Revisions(keys.main[table.last], keys.rest[table.last])
    bad = first_true(~_below(last, level.high))
    if bad is not None:
        raise damaged(
            f"bucket key, page {level.ids[bad]}: its last key (revision {last.main[bad]}) "
            f"belongs on a later page (from revision {level.high.main[bad]} on)"
        )


def _encoded(main: int, rest: int) -> bytes:
    mark = b"t" if rest & 1 else b""
    return main.to_bytes(8, "big") + b"_" + (rest >> 1).to_bytes(8, "big") + mark
