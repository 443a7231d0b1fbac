"""etcd's `key` bucket, the history of all user keys: checked and counted in one pass.

It is nearly the whole file, so its tree is read level by level, the pages of a level in the order
of the file, and a window of many pages at a time; Python runs per window, numpy per record. A
page's bounds come with it from the branch above: keys that keep to them are in order across pages,
in whatever order the pages are read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from etcd_steward.registry.bolt import BRANCH, LEAF, Bolt, Headers, Table, damaged
from etcd_steward.registry.buckets import MAX_DEPTH, Bucket, Entry, page_entries
from etcd_steward.registry.lanes import Mask, Octets, Offsets, Shorts, Words, first_true
from etcd_steward.registry.liveness import KeyHash, LiveKeys
from etcd_steward.registry.records import (
    Record,
    Revisions,
    fits,
    read_keys,
    read_record,
    revision,
    revisions,
)
from etcd_steward.registry.wire import Malformed, Peek

_WINDOW: Final = 8 << 20
"""Bytes read at once. Temporary arrays take up to ten times as much."""
_GAP: Final = 8
"""So many pages that nobody asked for are read along rather than begin another read."""
_BATCH: Final = 1 << 15
_PIECE: Final = 1 << 20
_LARGEST_VALUE: Final = 1 << 20
_LAST: Final = (1 << 63) - 1
_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True)
class KeyTotals:
    """What the `key` bucket holds."""

    records: int
    tombstones: int
    live_keys: int
    newest: int
    """Main revision of its last key; 0 if it is empty."""
    bumped: int | None
    """The revision to which `etcdutl snapshot restore --bump-revision` once jumped."""
    watched: bytes | None
    """The value of the key that was asked for, where that key lives."""


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
    words: Words
    octets: Octets

    def peek(self, at: int, length: int) -> bytes:
        return self.octets[at : at + length].tobytes()


class KeyBucket:
    """Reads the `key` bucket of one file; `watch` is a user key whose value is wanted."""

    def __init__(self, bolt: Bolt, watch: bytes | None) -> None:
        self._bolt = bolt
        self._hash = KeyHash()
        self._live = LiveKeys()
        self._watch = watch
        self._watch_hash = self._hash.of_chunks([watch]) if watch else None
        self._watch_at = (0, 0)
        self._watch_value: bytes | None = None
        self._newest = 0
        self._bumped: int | None = None
        self._records = 0
        self._tombstones = 0

    def read(self, bucket: Bucket) -> KeyTotals:
        """Read it through. Raises `IntegrityError` for whatever is not as etcd writes it."""
        if bucket.root == 0:
            for entry in bucket.entries():
                self._single(entry)
        else:
            bolt = self._bolt
            bolt.claim(np.array([bucket.root]), np.array([bucket.entry.page]))
            self._descend(bucket.root)
        return KeyTotals(
            records=self._records,
            tombstones=self._tombstones,
            live_keys=self._live.count(),
            newest=self._newest,
            bumped=self._bumped,
            watched=self._watch_value,
        )

    def _descend(self, root: int) -> None:
        below = _Below()
        below.add(np.array([root]), _bound(0), _bound(_LAST))
        for _ in range(MAX_DEPTH):
            level = below.level()
            if level is None:
                return
            below = self._level(level)
            if below.ids and self._records:
                raise damaged("bucket key: the leaves of its tree lie at different depths")
        raise damaged(f"bucket key: its tree has more than {MAX_DEPTH} levels")

    def _level(self, level: _Level) -> _Below:
        """Read all pages of a level; what the branches among them refer to is the next."""
        below = _Below()
        late = [self._window(self._load(plan), below) for plan in self._plans(level, None)]
        # Of a page with a long value only the first page was read.
        for again, size in late:
            small = size * self._bolt.page_size <= _WINDOW
            for plan in self._plans(again[small], size[small]):
                missed, _ = self._window(self._load(plan), below)
                if len(missed.ids):
                    raise damaged("it changes while it is read")
            self._giants(again[~small])
        return below

    def _plans(self, level: _Level, sizes: Offsets | None) -> Iterator[_Plan]:
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

    def _load(self, plan: _Plan) -> _Window:
        data = [self._bolt.read(page, count) for page, count in plan.runs]
        buffer = data[0] if len(data) == 1 else b"".join(data)
        words, octets = np.frombuffer(buffer, dtype="<u8"), np.frombuffer(buffer, dtype=np.uint8)
        return _Window(plan.level, plan.at, plan.room, words, octets)

    def _window(self, window: _Window, below: _Below) -> tuple[_Level, Offsets]:
        """Check a window's pages, all but those that run on past what was read.

        Those are returned, with their sizes in pages, and not yet claimed.
        """
        words, ids = window.words.view(np.int64), window.level.ids
        headers = self._bolt.headers(words, window.at, ids)
        whole = headers.overflow < window.room
        self._bolt.claim_overflow(ids[whole], headers.overflow[whole])
        for flags in (LEAF, BRANCH):
            pages = np.flatnonzero(whole & (headers.flags == flags))
            if not len(pages):
                continue
            some = Headers(headers.flags[pages], headers.count[pages], headers.overflow[pages])
            level = window.level[pages]
            table = self._bolt.table(words, window.at[pages], level.ids, some, leaf=flags == LEAF)
            keys = revisions(window.words, window.octets, table, level.ids)
            _check_order(keys, table, level)
            if flags == LEAF:
                self._leaves(window, level, table, keys)
            else:
                self._branches(level, table, keys, below)
        return window.level[~whole], headers.overflow[~whole] + 1

    def _branches(self, level: _Level, table: Table, keys: Revisions, below: _Below) -> None:
        self._bolt.claim(table.extra, level.ids[table.owner])
        main, rest = np.empty_like(keys.main), np.empty_like(keys.rest)
        main[:-1], rest[:-1] = keys.main[1:], keys.rest[1:]
        main[table.last], rest[table.last] = level.high.main, level.high.rest
        below.add(table.extra, keys, Revisions(main, rest))

    def _leaves(self, window: _Window, level: _Level, table: Table, keys: Revisions) -> None:
        bad = first_true(table.extra != 0)
        if bad is not None:
            raise damaged(f"{_place(level, table, bad)} has flags {table.extra[bad]:#x}")
        at, size, good = read_keys(window.words, window.octets, table.value, table.vsize, keys)
        bump = (table.vsize == 0) & (keys.rest == 0)
        for odd in np.flatnonzero(~(good | bump)).tolist():
            span, when = _span(table, odd), _when(keys, odd)
            record = self._record(window.peek, span, when, _place(level, table, odd))
            at[odd], size[odd] = record.key_at, record.key_size
        tombstone = keys.tombstone
        self._records += len(at)
        self._tombstones += int(np.count_nonzero(tombstone))
        self._newest = max(self._newest, int(keys.main[table.last].max()))
        kept = np.flatnonzero(~bump)
        if len(kept) < len(bump):
            self._bumped = max(self._bumped or 0, int(keys.main[bump].max()))
        if not len(kept):
            return
        counts = np.bincount(table.owner[kept], minlength=len(level.ids))
        hashes = self._hash(window.words, at[kept], size[kept])
        first = table.first
        self._live.add(hashes, tombstone[kept], counts, keys.main[first], keys.rest[first])
        if self._watch_hash is not None:
            for index in kept[hashes == np.uint64(self._watch_hash)].tolist():
                self._watched(window.peek, _span(table, index), _when(keys, index))

    def _record(self, peek: Peek, span: tuple[int, int], at: tuple[int, int], where: str) -> Record:
        try:
            record = read_record(peek, *span)
            wrong = fits(record, at)
        except Malformed as error:
            raise damaged(f"{where}: its value is no KeyValue: {error}") from error
        if wrong:
            raise damaged(f"{where}: {wrong}")
        return record

    def _watched(self, peek: Peek, span: tuple[int, int], at: tuple[int, int]) -> None:
        record = read_record(peek, *span)
        if at < self._watch_at or record.key_size != len(self._watch or b""):
            return
        if peek(record.key_at, record.key_size) != self._watch:
            return
        self._watch_at, self._watch_value = at, None
        if not at[1] & 1 and record.value_size <= _LARGEST_VALUE:
            self._watch_value = peek(record.value_at, record.value_size)

    # What does not come in windows --------------------------------------------------------------

    def _giants(self, pages: _Level) -> None:
        """Leaf pages larger than a window: values of megabytes."""
        for index in range(len(pages.ids)):
            low = _encoded(int(pages.low.main[index]), int(pages.low.rest[index]))
            last = int(pages.high.main[index])
            high = None if last == _LAST else _encoded(last, int(pages.high.rest[index]))
            for entry in page_entries(self._bolt, int(pages.ids[index]), low, high):
                self._single(entry)

    def _single(self, entry: Entry) -> None:
        at = revision(entry.key)
        if at is None or entry.is_bucket:
            raise damaged(f"bucket key, page {entry.page}: the key {entry.key[:32]!r} is no record")
        self._records += 1
        self._newest = max(self._newest, at[0])
        if not entry.value_size and not at[1]:
            self._bumped = max(self._bumped or 0, at[0])
            return
        peek, span = self._bolt.bytes_at, (entry.value_at, entry.value_size)
        record = self._record(peek, span, at, f"bucket key, page {entry.page}, revision {at[0]}")
        end = record.key_at + record.key_size
        number = self._hash.of_chunks(
            peek(start, min(_PIECE, end - start)) for start in range(record.key_at, end, _PIECE)
        )
        one = np.ones(1, dtype=np.int64)
        self._tombstones += at[1] & 1
        self._live.add(
            np.array([number], dtype=np.uint64),
            np.array([bool(at[1] & 1)]),
            one,
            one * at[0],
            np.array([at[1]], dtype=np.uint32),
        )
        if number == self._watch_hash:
            self._watched(peek, span, at)


def _emptied(parts: list[NDArray[_Scalar]]) -> NDArray[_Scalar]:
    joined = np.concatenate(parts)
    parts.clear()
    return joined


def _bound(main: int) -> Revisions:
    return Revisions(np.array([main], dtype=np.int64), np.zeros(1, dtype=np.uint32))


def _place(level: _Level, table: Table, element: int) -> str:
    page = table.owner[element]
    return f"bucket key, page {level.ids[page]}, element {element - table.first[page]}"


def _span(table: Table, element: int) -> tuple[int, int]:
    return int(table.value[element]), int(table.vsize[element])


def _when(keys: Revisions, element: int) -> tuple[int, int]:
    return int(keys.main[element]), int(keys.rest[element])


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
