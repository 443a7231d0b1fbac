"""Keys of a registry as columns: where they lie in a file, and in which order they are stored.

A snapshot keeps its values in the order of their revisions, an export in that of its pages. Both
are told here by one index, `Rows`, and come out in row groups that are sorted by namespace and key,
cluster-scoped ones first: so a namespace lies in one piece. Memory is bounded by the keys; values
are read a window at a time.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple, Self

import numpy as np

from etcd_steward.errors import IntegrityError
from etcd_steward.models.ports import ReadAt
from etcd_steward.models.registry import KeyPath
from etcd_steward.registry import history, paths
from etcd_steward.registry.columns import Columns, Group, Texts, ends_of, padded
from etcd_steward.registry.lanes import KEEP, Mask, Octets, Offsets, load64

GROUP_ROWS: Final = 4096
"""Rows in a group, at most."""
GROUP_BYTES: Final = 4 << 20
"""Bytes of keys and values in a group, but that one row may have more."""
_SMALL: Final = 4
"""A group that is filled to this part of its limits ends where its namespace does, so that whoever
reads one namespace reads little of its neighbours."""
_WINDOW: Final = 16 << 20
"""Bytes of values that are read at once: what lies side by side there is read in one piece."""
_GAP: Final = 16 << 10
"""Bytes between two values that are read along rather than begin another read."""
_READ: Final = 4 << 20
"""Bytes of one read, but that its last piece may go beyond that."""
_LONG: Final = 32 << 10
"""Pieces of so many bytes are not copied before they are put end to end."""
_CHUNK: Final = 1 << 16
"""Keys that are compared with their neighbours at once."""
_STRANGE: Final = np.array([one >= 0x80 or one < 0x20 or chr(one) in '%"\\' for one in range(256)])


@dataclass(frozen=True, slots=True)
class Rows:
    """Keys in ascending order, each once, and where their values lie in some file."""

    keys: Octets
    """All keys, end to end."""
    key_at: Offsets
    """Where each begins, and as one entry more, where the last one ends."""
    create_revision: Offsets
    mod_revision: Offsets
    version: Offsets
    lease: Offsets
    value_at: Offsets
    value_size: Offsets

    def __len__(self) -> int:
        return len(self.key_at) - 1

    @classmethod
    def of(cls, live: history.Rows) -> Self:
        """The keys that an etcd database holds; their values lie in its file."""
        return cls(
            *live.joined_keys(),
            live.create_revision,
            live.mod_revision,
            live.version,
            live.lease,
            live.value_at,
            live.value_size,
        )

    def key(self, row: int) -> bytes:
        """One key."""
        return self.keys[self.key_at[row] : self.key_at[row + 1]].tobytes()

    def __contains__(self, key: bytes) -> bool:
        row = bisect_left(range(len(self)), key, key=self.key)
        return row < len(self) and self.key(row) == key


@dataclass(slots=True)
class RowsWriter:
    """Collects `Rows` one by one, in ascending order of their keys."""

    _keys: bytearray = field(default_factory=bytearray)
    _key_at: "array[int]" = field(default_factory=lambda: array("q", [0]))
    _numbers: "tuple[array[int], ...]" = field(
        default_factory=lambda: tuple(array("q") for _ in range(6))
    )

    def __len__(self) -> int:
        return len(self._key_at) - 1

    def add(
        self,
        key: bytes,
        create_revision: int,
        mod_revision: int,
        version: int,
        lease: int,
        value_at: int,
        value_size: int,
    ) -> None:
        """One more key, whose value was put at `value_at`."""
        self._keys += key
        self._key_at.append(len(self._keys))
        row = create_revision, mod_revision, version, lease, value_at, value_size
        for numbers, number in zip(self._numbers, row, strict=True):
            numbers.append(number)

    def rows(self) -> Rows:
        """All of them; nothing can be added afterwards."""
        return Rows(
            np.frombuffer(self._keys, dtype=np.uint8),
            np.frombuffer(self._key_at, dtype=np.int64),
            *(np.frombuffer(numbers, dtype=np.int64) for numbers in self._numbers),
        )


class Entry(NamedTuple):
    """What a registry file says of a key, but for its value."""

    key: bytes
    path: KeyPath | None
    """None: it is the key of no API object."""
    create_revision: int
    mod_revision: int
    version: int
    lease: int
    api_version: str | None
    kind: str | None
    uid: str | None
    encoding: str
    """One of `models.registry.Encoding`."""
    size: int | None
    """Bytes of the value, where they were asked for: values must be read for that."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbouring keys that differ in their last segment only."""

    first: int
    end: int
    directory: int
    """Bytes up to the last slash, and with it."""
    path: KeyPath | None
    """Of the first key."""

    def __len__(self) -> int:
        return self.end - self.first


def groups(rows: Rows, file: ReadAt, prefix: str = "/registry") -> Iterator[Group]:
    """All rows in the order of a registry file, in row groups; blocking.

    `prefix` is the API server's `--etcd-prefix`. Raises `IntegrityError` where the file ends before
    a value does, and what `file` raises.
    """
    for window in _windows(rows, _ordered(rows, prefix)):
        counts = [sum(map(len, group)) for group in window]
        index = np.concatenate([np.arange(one.first, one.end) for group in window for one in group])
        cuts = ends_of(np.array(counts))
        pieces, bounds = _gather(file, rows.value_at[index], rows.value_size[index], cuts[:-1])
        for number, group in enumerate(window):
            some = slice(bounds[number], bounds[number + 1])
            yield _group(rows, group, index[cuts[number] : cuts[number + 1]], pieces[some])
            pieces[some] = [b""] * (some.stop - some.start)  # used up


def _ordered(rows: Rows, prefix: str) -> list[_Run]:
    """All runs by namespace, within one by key."""
    starts, directories = _starts(rows)
    runs: list[_Run] = []
    for first, end in pairwise([*starts.tolist(), len(rows)]):
        key, directory = rows.key(first), int(directories[first])
        path = paths.parse(key, prefix)
        if path is not None and path.name.encode() != key[directory:]:
            raise IntegrityError(
                f"the key {key!r} was not understood", hint="report this: it is a bug"
            )
        runs.append(_Run(first, end, directory, path))
    return sorted(runs, key=_namespace)


def _namespace(run: _Run) -> tuple[bool, bytes]:
    namespace = None if run.path is None else run.path.namespace
    return namespace is not None, (namespace or "").encode()


def _starts(rows: Rows) -> tuple[Offsets, Offsets]:
    """Where a run begins, and for every key the length of its directory.

    Where what a key means need not follow from its neighbour's, it is a run by itself: keys that
    are no ASCII or hold a `%`, and those whose last segment is as short as `..`. So are those that
    JSON would have to write otherwise, for the sake of `columns`.
    """
    count = len(rows)
    directories = np.empty(count, dtype=np.int64)
    apart = np.zeros(count + 1, dtype=np.bool_)
    for first in range(0, count, _CHUNK):
        stop = min(first + _CHUNK, count)
        at = rows.key_at[first : stop + 1] - rows.key_at[first]
        octets = rows.keys[rows.key_at[first] : rows.key_at[stop]]
        directories[first:stop] = size = _directories(octets, at)
        strange = np.flatnonzero(_STRANGE.take(octets))
        odd = np.searchsorted(at, strange, side="right") - 1
        odd = first + np.concatenate((odd, np.flatnonzero(np.diff(at) - size <= 2)))
        apart[odd] = apart[odd + 1] = True
        apart[first:stop] |= ~_alike(rows, directories, first, stop)
    return np.flatnonzero(apart[:count]), directories


def _directories(octets: Octets, at: Offsets) -> Offsets:
    """Of each key, the bytes up to the last slash, and with it."""
    slashes = np.flatnonzero(octets == ord("/"))
    if not len(slashes):
        return np.zeros(len(at) - 1, dtype=np.int64)
    last = slashes.take(np.searchsorted(slashes, at[1:]) - 1, mode="clip")
    found: Offsets = np.maximum(last + 1 - at[:-1], 0) * (last < at[1:])
    return found


def _alike(rows: Rows, directories: Offsets, first: int, stop: int) -> Mask:
    """Which of these keys are in the directory of the key before."""
    before = max(0, first - 1)
    low = int(rows.key_at[before])
    text = rows.keys[low : rows.key_at[stop]].tobytes()
    words = np.frombuffer(text + bytes(-len(text) % 8), dtype="<u8")
    at, size = rows.key_at[before:stop] - low, directories[before:stop]
    alike = size[1:] == size[:-1]
    done = 0
    while (some := np.flatnonzero(alike & (size[1:] > done))).size:
        left = np.minimum(size[1:][some] - done, 8)
        one, other = load64(words, at[some] + done), load64(words, at[some + 1] + done)
        alike[some] = (one ^ other) & KEEP.take(left & 7) == 0
        done += 8
    return alike if first else np.concatenate(([False], alike))


def _windows(rows: Rows, runs: Iterable[_Run]) -> Iterator[list[list[_Run]]]:
    """Row groups whose values are read together."""
    window: list[list[_Run]] = []
    used = 0
    for group, size in _cut(rows, runs):
        if window and used + size > _WINDOW:
            yield window
            window, used = [], 0
        window.append(group)
        used += size
    if window:
        yield window


def _cut(rows: Rows, runs: Iterable[_Run]) -> Iterator[tuple[list[_Run], int]]:
    """Row groups, as pieces of runs, and their bytes."""
    weight = np.cumsum(np.diff(rows.key_at) + rows.value_size)
    group: list[_Run] = []
    count = used = 0
    for run in runs:
        first = run.first
        small = count * _SMALL < GROUP_ROWS and used * _SMALL < GROUP_BYTES
        if group and not small and _namespace(group[-1]) != _namespace(run):
            yield group, used
            group, count, used = [], 0, 0
        while first < run.end:
            before = int(weight[first - 1]) if first else 0
            fits = int(np.searchsorted(weight, before + GROUP_BYTES - used, side="right"))
            end = min(run.end, first + GROUP_ROWS - count, fits)
            if end <= first and group:
                yield group, used
                group, count, used = [], 0, 0
                continue
            end = max(end, first + 1)
            group.append(_Run(first, end, run.directory, run.path))
            count, used = count + end - first, used + int(weight[end - 1]) - before
            first = end
    if group:
        yield group, used


def _gather(
    file: ReadAt, at: Offsets, size: Offsets, groups: Offsets
) -> tuple[list[bytes | memoryview], list[int]]:
    """The values at these places in pieces, and with which one each of the groups begins.

    Read in the order of the file; what lies side by side there is one piece. `groups` are the rows
    that they begin at; the last bound is how many pieces there are.
    """
    apart = np.ones(len(at), dtype=np.bool_)
    apart[1:] = (at[1:] != at[:-1] + size[:-1]) | (at[1:] // _READ != at[:-1] // _READ)
    apart[groups] = True
    firsts = np.flatnonzero(apart)
    begin, end = at[firsts], at[firsts] + np.add.reduceat(size, firsts)
    order = begin.argsort(kind="stable")
    begin, end = begin[order], end[order]
    reach = np.maximum.accumulate(end)
    breaks = (begin[1:] - reach[:-1] > _GAP) | (begin[1:] // _READ != begin[:-1] // _READ)
    places, begins, ends, reaches = (one.tolist() for one in (order, begin, end, reach))
    pieces: list[bytes | memoryview] = [b""] * len(places)
    for first, last in pairwise([0, *(np.flatnonzero(breaks) + 1).tolist(), len(places)]):
        low, high = begins[first], reaches[last - 1]
        data = file.read_at(low, high - low)
        if len(data) != high - low:
            raise IntegrityError(
                f"the registry's values end at byte {low + len(data)}, but there must be "
                f"{high} bytes",
                hint="the file was cut short or changed while it was read: try again",
            )
        cut = memoryview(data) if high - low > (last - first) * _LONG else data
        for one in range(first, last):
            pieces[places[one]] = cut[begins[one] - low : ends[one] - low]
    return pieces, [*np.searchsorted(firsts, groups).tolist(), len(pieces)]


def _group(
    rows: Rows, runs: Sequence[_Run], index: Offsets, values: list[bytes | memoryview]
) -> Group:
    """Make a group of these rows, which are those of the runs, and their values."""
    key_at = ends_of(rows.key_at[index + 1] - rows.key_at[index])
    parts = [rows.keys[rows.key_at[run.first] : rows.key_at[run.end]].tobytes() for run in runs]
    text = padded(parts, int(key_at[-1]))
    value_at = ends_of(rows.value_size[index])
    key, value = Texts(text, key_at), Texts(padded(values, int(value_at[-1])), value_at)
    keys = [text[one:other] for one, other in pairwise(key_at.tolist())]
    columns = Columns(keys, key, value)
    for run in runs:
        columns.add(run.path, run.directory, len(run))
    return Group(
        keys,
        key,
        value,
        rows.create_revision[index],
        rows.mod_revision[index],
        rows.version[index],
        rows.lease[index],
        columns.made(),
    )
