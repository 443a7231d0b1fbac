"""Reading keys out of a live etcd into the spool: the values in a file, all else in memory."""

import asyncio
import string
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from itertools import compress, pairwise
from typing import Final

import numpy as np

from etcd_steward.engine.report import Tracker
from etcd_steward.engine.spoolfile import SpoolFile
from etcd_steward.errors import Unavailable
from etcd_steward.etcd.answers import KeyValues
from etcd_steward.etcd.keys import EVERYTHING, KeyRange
from etcd_steward.etcd.paging import Page, Range, pages_of
from etcd_steward.registry import paths
from etcd_steward.registry.columns import ends_of
from etcd_steward.registry.lanes import Mask, Offsets, starts_of
from etcd_steward.registry.paths import root_of
from etcd_steward.registry.records import read_live, read_record
from etcd_steward.registry.selection import Chosen
from etcd_steward.registry.table import Rows
from etcd_steward.registry.wire import Malformed

OWN: Final = KeyRange.prefix(b"/etcdsteward.io/")
"""Our own locks and announcements: of this moment, and wrong in any other."""


@dataclass(slots=True)
class Paged:
    """What was read, in ascending order of the keys; values end to end in `file`."""

    file: SpoolFile
    revision: int
    chosen: Chosen | None
    """None: all keys."""
    prefix: str
    namespaces: set[str] = field(default_factory=set)
    """Those in which something was chosen, where a selection had to be made."""
    registry: bool = False
    """Whether there is a key below the API server's prefix."""
    _count: int = 0
    _keys: bytearray = field(default_factory=bytearray)
    _columns: list[list[Offsets]] = field(default_factory=lambda: [[] for _ in range(6)])
    """Sizes of keys and of values, create revision, mod revision, version, lease; page by page."""

    def take(self, page: Page) -> None:
        """Take in one page; blocking."""
        if not page.kvs:
            return
        found = _read(KeyValues.of(page.kvs))
        keys = found.keys()
        if not self.registry:
            root = root_of(self.prefix)
            first = bisect_left(keys, root)
            self.registry = first < len(keys) and keys[first].startswith(root)
        if self.chosen is not None:
            chosen = self.chosen
            values = found.values()
            kept = np.array([self._wants(chosen, *one) for one in zip(keys, values, strict=True)])
            keys, found = list(compress(keys, kept)), found.some(kept)
        if not keys:
            return
        self.file.append([b"".join(found.values())])
        self._count += len(keys)
        self._keys += b"".join(keys)
        for column, more in zip(self._columns, found.columns, strict=True):
            column.append(more)

    def _wants(self, chosen: Chosen, key: bytes, value: bytes) -> bool:
        path = paths.parse(key, self.prefix)
        if not chosen.wants(path, key, partial(_labels, value)):
            return False
        if path is not None and path.namespace is not None:
            self.namespaces.add(path.namespace)
        return True

    def __len__(self) -> int:
        return self._count

    def rows(self) -> Rows:
        """The index of all that was taken in; nothing can be taken in afterwards."""
        key_size, value_size, create, mod, version, lease = map(_joined, self._columns)
        return Rows(
            keys=np.frombuffer(self._keys, dtype=np.uint8),
            key_at=ends_of(key_size),
            create_revision=create,
            mod_revision=mod,
            version=version,
            lease=lease,
            value_at=starts_of(value_size),
            value_size=value_size,
        )


def _joined(parts: list[Offsets]) -> Offsets:
    joined = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    parts.clear()
    return joined


@dataclass(frozen=True, slots=True)
class _Found:
    """The records of one page."""

    data: bytes
    key_at: Offsets
    value_at: Offsets
    columns: tuple[Offsets, ...]
    """Those of `Paged`."""

    def some(self, kept: Mask) -> "_Found":
        """Those of them."""
        columns = tuple(column[kept] for column in self.columns)
        return _Found(self.data, self.key_at[kept], self.value_at[kept], columns)

    def keys(self) -> list[bytes]:
        """The key of each."""
        return _cut(self.data, self.key_at, self.columns[0])

    def values(self) -> list[bytes]:
        """The value of each."""
        return _cut(self.data, self.value_at, self.columns[1])


def _cut(data: bytes, at: Offsets, sizes: Offsets) -> list[bytes]:
    spans = zip(at.tolist(), (at + sizes).tolist(), strict=True)
    return [data[one:other] for one, other in spans]


def _read(kvs: KeyValues) -> _Found:
    """All records of a page at once; one by one those that etcd would have written otherwise."""
    data = kvs.data
    padded = data + bytes(-len(data) % 8)
    at, ends = np.array(kvs.at, dtype=np.int64), np.array(kvs.ends, dtype=np.int64)
    words, octets = np.frombuffer(padded, dtype="<u8"), np.frombuffer(padded, dtype=np.uint8)
    fields, mod = read_live(words, octets, at, ends - at)
    for odd in np.flatnonzero(~fields.good).tolist():
        try:
            record = read_record(
                lambda one, size: data[one : one + size], kvs.at[odd], kvs.ends[odd] - kvs.at[odd]
            )
        except Malformed as error:
            raise Unavailable(f"etcd sent a key that can't be understood: {error}") from error
        fields.put(odd, record)
        mod[odd] = record.mod
    numbers = (fields.create, mod, fields.version, fields.lease)
    columns = (fields.key_size, fields.value_size, *numbers)
    return _Found(data, fields.key_at, fields.value_at, columns)


def _labels(value: bytes) -> Mapping[str, str] | None:
    # It brings the descriptors of all built-in types, and few selections ask for labels.
    from etcd_steward.registry import objectmeta  # noqa: PLC0415

    return objectmeta.labels(value)


async def read_pages(
    read: Range, paged: Paged, wanted: Sequence[KeyRange], tracker: Tracker
) -> None:
    """Read all of these ranges at `paged.revision`.

    The next page is fetched while one is written. Raises `Compacted` if the revision goes
    meanwhile.
    """
    async with aclosing(pages_of(read, wanted, revision=paged.revision)) as found:
        async for page in found:
            await asyncio.to_thread(paged.take, page)
            tracker.raw = paged.file.size


def ranges_of(chosen: Chosen | None, prefix: str = "/registry") -> list[KeyRange]:
    """Which ranges must be read for what is chosen, sorted and apart, our own keys left out.

    What lies below the API server's `prefix` is cut by its first letter: etcd counts what is left
    of a range wherever a new resource begins.
    """
    ranges = chosen.ranges() if chosen is not None else None
    found: list[KeyRange] = []
    for start, end in ranges if ranges is not None else [(EVERYTHING, EVERYTHING)]:
        for part in _without_own(KeyRange(start, end)):
            found += _by_letter(part, root_of(prefix))
    return found


def _by_letter(wanted: KeyRange, root: bytes) -> list[KeyRange]:
    cuts = [root + letter.encode() for letter in string.ascii_lowercase]
    inside = [cut for cut in cuts if cut != wanted.start and wanted.contains(cut)]
    bounds = [wanted.start, *inside, wanted.end]
    return [KeyRange(start, end) for start, end in pairwise(bounds)]


def _without_own(wanted: KeyRange) -> list[KeyRange]:
    before = KeyRange(wanted.start, _lower(wanted.end, OWN.start))
    behind = KeyRange(max(wanted.start, OWN.end), wanted.end)
    return [part for part in (before, behind) if part.end == EVERYTHING or part.start < part.end]


def _lower(one: bytes, other: bytes) -> bytes:
    return other if one == EVERYTHING else min(one, other)
