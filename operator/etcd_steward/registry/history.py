"""What an etcd database holds, at its own revision or any older one: keys, numbers, values.

One pass over the file makes an index of every record: its user key (each kept once), its numbers,
and where its value lies. Values stay in the file and are read when they are asked for, those that
lie near each other together. A million keys of 60 bytes take about 120 MB, and twice that while the
index is made.

The file's numbers are etcd's own, with its rules: the records of one transaction share a revision
and differ in a sub revision; a deletion is a record that has nothing but a key; what was compacted
is not shown, even where it is still there (a compaction was scheduled and not finished); etcd 3.6
keeps the deletions at the compact revision, etcd 3.5 does not; `snapshot restore --bump-revision`
leaves a record of no key at all, which no client can see either.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from etcd_steward.errors import Compacted
from etcd_steward.models.ports import ReadAt
from etcd_steward.models.registry import Record
from etcd_steward.registry.lanes import Mask, Octets, Offsets, Shorts, Words
from etcd_steward.registry.liveness import KeyHash
from etcd_steward.registry.mvcc import Database, hash_single, open_database
from etcd_steward.registry.strings import Joiner, Strings, joined
from etcd_steward.registry.walk import Leaves, Single, leaves

BATCH: Final = 16 << 20
"""Bytes of keys and values that are read together, but that one record may have more."""
_READ: Final = 4 << 20
"""Bytes of one read, but that one value may have more."""
_GAP: Final = 8 << 10
"""Bytes that nobody asked for are read along rather than begin another read."""
_PENDING: Final = 64 << 20
"""Bytes of keys that are collected before those that were known already are dropped."""
_PAGE: Final = 1 << 15
_OVERHEAD: Final = 200
"""Bytes of Python's own that a record takes."""


class _Collision(Exception):
    """Two keys have one hash: never seen, and one in ten million for a million keys."""


class _Keys:
    """Collects the user keys of all records, and knows each once."""

    def __init__(self) -> None:
        self._hashes: list[Words] = []
        self._sizes: list[Offsets] = []
        self._data = Joiner()
        self._limit = _PENDING

    def add(self, hashes: Words, sizes: Offsets, data: bytes) -> None:
        """Keys of some records, end to end in `data`. Raises `_Collision`."""
        self._hashes.append(hashes)
        self._sizes.append(sizes)
        if self._data.write(data) and self._data.tell() > self._limit:
            hashes, strings = self.distinct()
            self._hashes, self._sizes = [hashes], [strings.sizes]
            self._data.write(strings.joined)
            self._limit = self._data.tell() + max(self._data.tell(), _PENDING)

    def distinct(self) -> tuple[Words, Strings]:
        """Each key once, and its hash; nothing is left here. Raises `_Collision`."""
        hashes, sizes = _emptied(self._hashes, np.uint64), _emptied(self._sizes, np.int64)
        strings, self._data = self._data.end(sizes), Joiner()
        order = hashes.argsort()
        first = _changes(hashes[order])
        if first.all():
            return hashes, strings
        heads = order[first][np.cumsum(first) - 1]
        if not strings.same(order[~first], heads[~first]):
            raise _Collision
        kept = np.sort(order[first])
        return hashes[kept], strings.take(kept)


@dataclass(slots=True)
class Columns:
    """The numbers of some records, an array entry each."""

    main: Offsets
    rest: Shorts
    create: Offsets
    version: Offsets
    lease: Offsets
    value_at: Offsets
    """In the file."""
    value_size: Shorts


@dataclass(slots=True)
class Index:
    """All records by key, and by age where the key is the same."""

    keys: Strings
    """Ascending."""
    starts: Offsets
    """Per key, its first record; and how many there are in all."""
    columns: Columns
    newest: int
    """Main revision of the last record; 0 if there is none."""


class _Builder:
    """Reads the file once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._hash = KeyHash()
        self._keys = _Keys()
        self._hashes: list[Words] = []
        self._parts: dict[str, list[NDArray[Any]]] = {one.name: [] for one in fields(Columns)}
        self._newest = 0

    def build(self) -> Index:
        """Raises `_Collision`."""
        for part in leaves(self._database.bolt, self._database.keys):
            if isinstance(part, Single):
                self._single(part)
            else:
                self._leaves(part)
            del part  # or it would stay while the next one is being read
        keys, owner = self._sorted()
        starts = np.zeros(len(keys) + 1, dtype=np.int64)
        np.cumsum(np.bincount(owner, minlength=len(keys)), out=starts[1:])
        main, rest = (
            _emptied(self._parts["main"], np.int64),
            _emptied(self._parts["rest"], np.int64),
        )
        if len(owner) == len(keys):  # one record each
            order = np.empty_like(owner)
            order[owner] = np.arange(len(owner))
        else:
            order = np.lexsort((rest, main, owner))
        self._parts["main"], self._parts["rest"] = [main], [rest]
        del owner, main, rest
        columns = {
            one.name: _emptied(self._parts[one.name], np.int64)[order] for one in fields(Columns)
        }
        return Index(keys, starts, Columns(**columns), self._newest)

    def _sorted(self) -> tuple[Strings, Offsets]:
        """The keys, ascending, and the number of each record's own."""
        hashes, keys = self._keys.distinct()
        order = keys.order()
        keys, by_hash = keys.take(order), hashes[order].argsort()
        del hashes
        every = _emptied(self._hashes, np.uint64)
        order = every.argsort()
        # Both are in the order of the hashes now, here each key as often as it has records.
        every = np.cumsum(_changes(every[order])) - 1
        owner = np.empty(len(order), dtype=np.int64)
        owner[order] = by_hash[every]
        return keys, owner

    def _leaves(self, part: Leaves) -> None:
        bumps = part.bumps()
        found = part.fields(bumps)
        self._newest = max(self._newest, int(part.keys.main[part.table.last].max()))
        kept = np.flatnonzero(~bumps)
        if not len(kept):
            return
        at, sizes = found.key_at[kept], found.key_size[kept]
        hashes = self._hash(part.words, at, sizes)
        self._hashes.append(hashes)
        self._keys.add(hashes, sizes, joined(part.words, at, sizes))
        alive = ~part.keys.tombstone[kept]
        self._add(
            part.keys.main[kept],
            part.keys.rest[kept],
            found.create[kept] * alive,
            found.version[kept] * alive,
            found.lease[kept] * alive,
            part.in_file(found.value_at)[kept] * alive,
            (found.value_size[kept] * alive).astype(np.uint32),
        )

    def _single(self, part: Single) -> None:
        main, rest = part.at
        self._newest = max(self._newest, main)
        if part.bump:
            return
        record, peek = part.record(), self._database.bolt.bytes_at
        hashes = np.array([hash_single(self._hash, peek, record)], dtype=np.uint64)
        self._hashes.append(hashes)
        key = peek(record.key_at, record.key_size)
        self._keys.add(hashes, np.array([record.key_size]), key)
        self._add(
            np.array([main]),
            np.array([rest], dtype=np.uint32),
            *(np.array([number]) for number in (record.create, record.version, record.lease)),
            np.array([record.value_at]),
            np.array([record.value_size], dtype=np.uint32),
        )

    def _add(self, *columns: NDArray[Any]) -> None:
        for parts, column in zip(self._parts.values(), columns, strict=True):
            parts.append(column)


def _changes(ordered: Words) -> Mask:
    """Where another value begins."""
    first = np.ones(len(ordered), dtype=np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    return first


def _emptied(parts: list[NDArray[Any]], kind: type[np.generic]) -> NDArray[Any]:
    joined = np.concatenate(parts) if parts else np.zeros(0, dtype=kind)
    parts.clear()
    return joined


class History:
    """The keys of one file. Everything blocks: for worker threads, of which one at a time.

    Raises `IntegrityError` naming the damage for a file that is not as etcd writes it, now or where
    values are read, and whatever `file` raises.
    """

    def __init__(
        self,
        file: ReadAt,
        *,
        size: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Read the file once; `size` and `progress` are those of `prove_structure`."""
        while True:
            self._database = open_database(file, size, progress)
            try:
                self._index = _Builder(self._database).build()
            except _Collision:
                continue
            break

    @property
    def revision(self) -> int:
        """The revision at which etcd starts from this file."""
        return self._database.revision(self._index.newest)

    @property
    def compact_revision(self) -> int:
        """What lies below this is not shown; 0 if etcd never compacted."""
        return self._database.compact_revision

    def live(self, at: int = 0) -> "Rows":
        """The keys that lived at a revision (0 = the newest), ascending.

        Raises `Compacted` or `InvalidInput` for a revision that the file can't show.
        """
        at = self._database.revision_at(at, self._index.newest)
        columns, starts = self._index.columns, self._index.starts
        if at >= self._index.newest:
            index = starts[1:] - 1
        elif not len(columns.main):
            index = starts[:0]
        else:
            known = np.add.reduceat(columns.main <= at, starts[:-1], dtype=np.int64)
            index = (starts[:-1] + known - 1)[known > 0]
        return Rows(self._index, self._database.bolt, index[columns.rest[index] & 1 == 0])

    def revisions(self, key: bytes) -> "Rows":
        """All that is known of one key, deletions too, oldest first."""
        keys, starts = self._index.keys, self._index.starts
        number = keys.find(key)
        if number == len(keys) or keys[number] != key:
            return self._rows(np.zeros(0, dtype=np.int64))
        return self._rows(np.arange(starts[number], starts[number + 1], dtype=np.int64))

    def changes(self, after: int | None = None, upto: int = 0) -> "Rows":
        """All changes, deletions too, after one revision up to another (0 = the newest), in order.

        With `after` none is missing, or else `Compacted` is raised. Without it come all that the
        file holds: below the compact revision, those that are still what their key has.
        """
        upto = self._database.revision_at(upto, self._index.newest)
        if after is not None and 0 <= after < self.compact_revision:
            raise Compacted(
                f"not every change after revision {after} is in the file: etcd has compacted its "
                f"history up to {self.compact_revision}",
                hint=f"ask for changes after {self.compact_revision} or later; an older snapshot "
                "may hold more",
            )
        columns = self._index.columns
        index = np.flatnonzero((columns.main > (after or 0)) & (columns.main <= upto))
        order = np.lexsort((columns.rest[index], columns.main[index]))
        return self._rows(index[order])

    def _rows(self, index: Offsets) -> "Rows":
        return Rows(self._index, self._database.bolt, index)


class Values(Protocol):
    """Where values lie: a `Bolt`, or any other file of them."""

    def bytes_at(self, offset: int, length: int, /) -> bytes:
        """Exactly these bytes."""
        ...


class Rows:
    """Some records of a file, in some order, without their values.

    A deletion has no value, and 0 for all numbers but its own revision.
    """

    def __init__(self, index: Index, values: Values, chosen: Offsets) -> None:
        self._index = index
        self._values = values
        self._chosen = chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, which: "slice | Offsets | Mask") -> "Rows":
        """Some of them, in the order that `which` gives."""
        return Rows(self._index, self._values, self._chosen[which])

    @property
    def mod_revision(self) -> Offsets:
        """Of each, the revision that wrote it."""
        return self._index.columns.main[self._chosen]

    @property
    def create_revision(self) -> Offsets:
        """Of each, the revision that created its key."""
        return self._index.columns.create[self._chosen]

    @property
    def version(self) -> Offsets:
        """Of each, how often its key was written since it was created."""
        return self._index.columns.version[self._chosen]

    @property
    def lease(self) -> Offsets:
        """Of each, its lease, 0 for none."""
        return self._index.columns.lease[self._chosen]

    @property
    def value_at(self) -> Offsets:
        """Of each, where in the file its value begins."""
        return self._index.columns.value_at[self._chosen]

    @property
    def value_size(self) -> Offsets:
        """Of each, the bytes of its value."""
        return self._index.columns.value_size[self._chosen].astype(np.int64)

    @property
    def deleted(self) -> Mask:
        """Which of them are deletions."""
        return (self._index.columns.rest[self._chosen] & 1).astype(np.bool_)

    def keys(self) -> Iterator[bytes]:
        """The key of each."""
        for first in range(0, len(self), _PAGE):
            yield from self._index.keys.some(self._owner(self._chosen[first : first + _PAGE]))

    def joined_keys(self) -> tuple[Octets, Offsets]:
        """All keys, end to end; where each begins, and where the last ends."""
        owner = self._owner(self._chosen)
        strings = self._index.keys
        if len(owner) != len(strings) or (np.diff(owner) != 1).any():
            strings = strings.take(owner)
        return np.frombuffer(strings.joined, dtype=np.uint8), strings.at

    def between(self, low: bytes, high: bytes | None) -> "Rows":
        """Those of them whose key lies in `[low, high)`; None: any key from `low` on."""
        keys, starts = self._index.keys, self._index.starts
        first = starts[keys.find(low)]
        last = starts[len(keys) if high is None else keys.find(high)]
        return self[(self._chosen >= first) & (self._chosen < last)]

    def records(self, batch: int = BATCH) -> Iterator[list[Record]]:
        """All of them with their values, in order, about `batch` bytes at a time."""
        ends = np.cumsum(self.value_size + _OVERHEAD)
        begin, done = 0, 0
        while begin < len(self):
            end = max(begin + 1, int(np.searchsorted(ends, done + batch, side="right")))
            yield self[begin:end].read()
            begin, done = end, int(ends[end - 1])

    def values(self) -> list[bytes]:
        """The value of each, all at once: for so many as memory can hold."""
        at, sizes = self.value_at, self.value_size
        if not len(at):
            return []
        order = at.argsort(kind="stable")
        begin = at[order]
        end = begin + sizes[order]
        firsts = _runs(begin, end)
        lasts = np.append(firsts[1:], len(order))
        numbers, starts, ends = order.tolist(), begin.tolist(), end.tolist()
        values = [b""] * len(numbers)
        read = self._values.bytes_at
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
            origin = starts[first]
            data = read(origin, ends[last - 1] - origin)
            if last - first == 1:
                values[numbers[first]] = data
                continue
            for place in range(first, last):
                values[numbers[place]] = data[starts[place] - origin : ends[place] - origin]
        return values

    def read(self) -> list[Record]:
        """All of them with their values at once: for so many as memory can hold."""
        keys = self._index.keys.some(self._owner(self._chosen))
        numbers = (self.create_revision, self.mod_revision, self.version, self.lease)
        columns = [column.tolist() for column in numbers]
        return list(map(Record._make, zip(keys, self.values(), *columns, strict=True)))

    def _owner(self, chosen: Offsets) -> Offsets:
        """The number of each one's key."""
        return np.searchsorted(self._index.starts, chosen, side="right") - 1


def _runs(begin: Offsets, end: Offsets) -> Offsets:
    """Which of these spans, which ascend, begin a read: after a gap, or where one is long enough.

    No two overlap, but that the same one may come twice.
    """
    cut = np.ones(len(begin), dtype=np.bool_)
    cut[1:] = begin[1:] - end[:-1] > _GAP
    firsts = np.flatnonzero(cut)
    lasts = np.append(firsts[1:], len(begin))
    for run in np.flatnonzero(end[lasts - 1] - begin[firsts] > _READ).tolist():
        at, last = int(firsts[run]), int(lasts[run])
        while at < last:
            cut[at] = True
            held = np.searchsorted(end[at:last], begin[at] + _READ, side="right")
            at += max(1, int(held))
    return np.flatnonzero(cut)
