"""etcd's HashKV, from a file: what `Maintenance.HashKV` answers of a live member.

It is the CRC-32C over the name of bucket `key` and all of its keys and values in their order, up to
a revision, but for those that a compaction has taken or will take (etcd
`server/storage/mvcc/hash.go`, alike in 3.5, 3.6 and 3.7). Two hashes may be compared if both their
revisions are equal: then they differ if, and but for one chance in four billion only if, the data
do.

bolt lays the keys and values of a page end to end, so a page is hashed in one piece, in whatever
order pages come, and the pieces' hashes are combined. Which old records a compaction will take,
because a newer one of the same key is there, is known at the end only: the pages of those are then
read again. `etcdutl hashkv` holds every key in memory, and compacts the file that it is given.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import google_crc32c
import numpy as np

from etcd_steward.models.ports import ReadAt
from etcd_steward.registry.crc import combine
from etcd_steward.registry.lanes import Mask, Offsets, Shorts
from etcd_steward.registry.liveness import KeyHash, LiveKeys
from etcd_steward.registry.mvcc import PIECE, Database, hash_single, open_database
from etcd_steward.registry.records import read_keys
from etcd_steward.registry.walk import Leaves, Single, again, leaves

_NAME: Final = b"key"
_LAST: Final = (1 << 63) - 1
_NO_KEY: Final = 0
"""Stands for the hash of the empty key that a bump leaves."""


@dataclass(frozen=True, slots=True)
class KeysHash:
    """A hash of all keys up to a revision, as etcd's HashKVResponse has it."""

    hash: int
    hash_revision: int
    compact_revision: int
    """-1 if etcd never compacted, as a live member says."""


def hash_kv(
    file: ReadAt,
    at: int = 0,
    *,
    size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> KeysHash:
    """Hash a file up to revision `at` (0 = the newest); blocking, for a worker thread.

    `size` and `progress` are those of `prove_structure`. Raises `Compacted` or `InvalidInput` for a
    revision that the file can't show, `IntegrityError` for a damaged one, and what `file` raises.
    """
    database = open_database(file, size, progress)
    hasher = _Hasher(database, at)
    found = hasher.read()
    if found is None:  # rare: not one key lives at that revision
        hasher = _Hasher(open_database(file, size, progress), at, nothing_lives=True)
        found = hasher.read()
    revision = database.revision_at(at, hasher.newest)
    return KeysHash(found or 0, revision, database.compact_revision or -1)


@dataclass(slots=True)
class _Pieces:
    """Runs of records that lie end to end on a page, and are hashed together."""

    main: list[Offsets] = field(default_factory=list)
    """Of the first record of each, as `rest`: what puts them in order."""
    rest: list[Shorts] = field(default_factory=list)
    crc: list[Shorts] = field(default_factory=list)
    length: list[Offsets] = field(default_factory=list)
    """Bytes."""
    page: list[Offsets] = field(default_factory=list)
    """By order of reading."""

    def hash(self, without: Offsets, more: "_Pieces") -> int:
        """The hash of all pieces, but those of some pages, and of `more`."""
        page = np.concatenate([np.zeros(0, dtype=np.int64), *self.page])
        kept = np.flatnonzero(~np.isin(page, without)) if len(without) else np.arange(len(page))
        main, rest, crc, length = (
            np.concatenate([np.concatenate([np.zeros(0, dtype=kind), *mine])[kept], *theirs])
            for mine, theirs, kind in (
                (self.main, more.main, np.int64),
                (self.rest, more.rest, np.uint32),
                (self.crc, more.crc, np.uint32),
                (self.length, more.length, np.int64),
            )
        )
        order = np.lexsort((rest, main))
        name = np.array([google_crc32c.value(_NAME)], dtype=np.uint32)
        crcs = np.concatenate([name, crc[order]])
        return combine(crcs, np.concatenate([[len(_NAME)], length[order]]))


class _Hasher:
    def __init__(self, database: Database, at: int, *, nothing_lives: bool = False) -> None:
        self.newest = 0
        self._database = database
        self._upto = at or _LAST
        self._compacted = database.compact_revision
        self._all = nothing_lives
        """Then etcd leaves out nothing ("don't skip if there isn't one")."""
        self._track = self._compacted > 0 and not nothing_lives
        self._pieces = _Pieces()
        self._live = LiveKeys()
        self._hash = KeyHash()
        self._ids: list[Offsets] = []
        self._sizes: list[Offsets] = []
        """Of each page, in pages; 0 for what did not come in a window."""
        self._pages = 0

    def read(self) -> int | None:
        """The hash; None if nothing lives, and another one is needed that minds that."""
        if self._upto < self._compacted:
            self._database.revision_at(self._upto, _LAST)
        for part in leaves(self._database.bolt, self._database.keys):
            if isinstance(part, Single):
                self._single(part)
            else:
                self._leaves(part)
            del part  # or it would stay while the next one is being read
        if not self._track:
            return self._pieces.hash(np.zeros(0, dtype=np.int64), _Pieces())
        live, page, number = self._live.stale(self._compacted)
        if not live:
            return None
        return self._pieces.hash(np.unique(page), self._again(page, number))

    def _wanted(self, main: Offsets, rest: Shorts) -> Mask:
        """Which records are hashed, as far as they tell by themselves."""
        wanted: Mask = main <= self._upto
        if self._compacted:
            tombstone = (rest & 1).astype(np.bool_)
            gone = main == self._compacted if self._all else main <= self._compacted
            wanted &= ~(tombstone & gone)
        return wanted

    def _leaves(self, part: Leaves) -> None:
        keys, table = part.keys, part.table
        self.newest = max(self.newest, int(keys.main[table.last].max()))
        numbers = np.arange(self._pages, self._pages + len(part.ids))
        self._pages += len(part.ids)
        _add(self._pieces, part, self._wanted(keys.main, keys.rest), numbers)
        if not self._track:
            return
        self._ids.append(part.ids)
        self._sizes.append(part.sizes)
        known = np.flatnonzero(keys.main <= self._upto)
        hashes = self._key_hashes(part)[known]
        counts = np.bincount(table.owner[known], minlength=len(part.ids))
        first = table.first
        tombstone = keys.tombstone[known]
        self._live.add(hashes, tombstone, counts, keys.main[first], keys.rest[first])

    def _key_hashes(self, part: Leaves) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
        at, size, good = read_keys(part.words, part.table.value, part.table.vsize)
        bumps = part.bumps()
        for odd in np.flatnonzero(~(good | bumps)).tolist():
            record = part.record(odd)
            at[odd], size[odd] = record.key_at, record.key_size
        hashes = np.full(len(at), _NO_KEY, dtype=np.uint64)
        kept = np.flatnonzero(~bumps)
        if len(kept):
            hashes[kept] = self._hash(part.words, at[kept], size[kept])
        return hashes

    def _single(self, part: Single) -> None:
        at, entry, bolt = part.at, part.entry, self._database.bolt
        self.newest = max(self.newest, at[0])
        number, self._pages = self._pages, self._pages + 1
        main, rest = np.array([at[0]]), np.array([at[1]], dtype=np.uint32)
        if self._wanted(main, rest).all():
            crc, end = google_crc32c.value(entry.key), entry.value_at + entry.value_size
            for begin in range(entry.value_at, end, PIECE):
                crc = google_crc32c.extend(crc, bolt.bytes_at(begin, min(PIECE, end - begin)))
            self._pieces.main.append(main)
            self._pieces.rest.append(rest)
            self._pieces.crc.append(np.array([crc], dtype=np.uint32))
            self._pieces.length.append(np.array([len(entry.key) + entry.value_size]))
            self._pieces.page.append(np.array([number]))
        if not self._track:
            return
        self._ids.append(np.array([entry.page]))
        self._sizes.append(np.array([0]))
        known = at[0] <= self._upto
        key = _NO_KEY if part.bump else hash_single(self._hash, bolt.bytes_at, part.record())
        hashes = np.array([key] * known, dtype=np.uint64)
        tombstone = np.array([bool(at[1] & 1)] * known, dtype=np.bool_)
        self._live.add(hashes, tombstone, np.array([int(known)]), main, rest)

    def _again(self, page: Offsets, number: Offsets) -> _Pieces:
        """The pages that hold superseded records, without these."""
        pieces = _Pieces()
        if not len(page):
            return pieces
        ids, sizes = np.concatenate(self._ids), np.concatenate(self._sizes)
        some = np.unique(page)
        some = some[sizes[some] > 0]
        some = some[ids[some].argsort()]
        order = ids[page].argsort()
        stale, number = ids[page][order], number[order]
        for part in again(self._database.bolt, ids[some], sizes[some]):
            wanted = self._wanted(part.keys.main, part.keys.rest)
            first, last = np.searchsorted(stale, part.ids[0]), part.ids[-1]
            mine = slice(first, np.searchsorted(stale, last, side="right"))
            on = part.table.first[np.searchsorted(part.ids, stale[mine])] + number[mine]
            wanted[on[part.keys.main[on] <= self._compacted]] = False
            _add(pieces, part, wanted, part.ids)
        return pieces


def _add(pieces: _Pieces, part: Leaves, wanted: Mask, pages: Offsets) -> None:
    """Hash the runs of wanted records on some pages."""
    table, buffer = part.table, part.buffer
    begins, ends = wanted.copy(), wanted.copy()
    begins[1:] &= ~wanted[:-1]
    ends[:-1] &= ~wanted[1:]
    begins[table.first], ends[table.last] = wanted[table.first], wanted[table.last]
    first, last = np.flatnonzero(begins), np.flatnonzero(ends)
    start, end = table.key[first], (table.value + table.vsize)[last]
    extend = google_crc32c.extend
    spans = zip(start.tolist(), end.tolist(), strict=True)
    pieces.crc.append(np.array([extend(0, buffer[a:b]) for a, b in spans], dtype=np.uint32))
    pieces.length.append(end - start)
    pieces.main.append(part.keys.main[first])
    pieces.rest.append(part.keys.rest[first])
    pieces.page.append(pages[table.owner[first]])
