"""Reading keys out of a live etcd into the spool: the values in a file, all else in memory."""

import asyncio
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any, Final

import numpy as np

from etcd_steward.engine.report import Tracker
from etcd_steward.engine.spoolfile import SpoolFile
from etcd_steward.etcd.keys import EVERYTHING, KeyRange
from etcd_steward.etcd.paging import Page, Range, pages
from etcd_steward.registry import paths
from etcd_steward.registry.lanes import Offsets, starts_of
from etcd_steward.registry.paths import root_of
from etcd_steward.registry.selection import Chosen
from etcd_steward.registry.table import Rows

OWN: Final = KeyRange.prefix(b"/etcdsteward.io/")
"""Our own locks and announcements: of this moment, and wrong in any other."""
_NUMBERS: Final = ("create_revision", "mod_revision", "version", "lease")
_RECORD: Final = attrgetter("key", "value", *_NUMBERS)


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
    _keys: bytearray = field(default_factory=bytearray)
    _key_sizes: "array[int]" = field(default_factory=lambda: array("q"))
    _value_sizes: "array[int]" = field(default_factory=lambda: array("q"))
    _numbers: "tuple[array[int], ...]" = field(
        default_factory=lambda: tuple(array("q") for _ in _NUMBERS)
    )

    def take(self, page: Page) -> None:
        """Take in one page; blocking."""
        records: Iterable[tuple[Any, ...]] = map(_RECORD, page.kvs)
        if self.chosen is not None:
            chosen = self.chosen
            records = filter(lambda record: self._wants(chosen, record), records)
        columns = list(zip(*records, strict=True))
        if not columns:
            return
        keys, values, *numbers = columns
        if not self.registry:
            root = root_of(self.prefix)
            first = bisect_left(keys, root)
            self.registry = first < len(keys) and keys[first].startswith(root)
        self.file.append([b"".join(values)])
        self._keys += b"".join(keys)
        self._key_sizes.extend(map(len, keys))
        self._value_sizes.extend(map(len, values))
        for column, more in zip(self._numbers, numbers, strict=True):
            column.extend(more)

    def _wants(self, chosen: Chosen, record: tuple[Any, ...]) -> bool:
        key, value, *_ = record
        path = paths.parse(key, self.prefix)
        if not chosen.wants(path, key, partial(_labels, value)):
            return False
        if path is not None and path.namespace is not None:
            self.namespaces.add(path.namespace)
        return True

    def __len__(self) -> int:
        return len(self._value_sizes)

    def rows(self) -> Rows:
        """The index of all that was taken in; nothing can be taken in afterwards."""
        create, mod, version, lease = map(_offsets, self._numbers)
        key_at = np.concatenate(([0], np.cumsum(_offsets(self._key_sizes))))
        self._key_sizes = array("q")
        sizes = _offsets(self._value_sizes)
        return Rows(
            keys=np.frombuffer(self._keys, dtype=np.uint8),
            key_at=key_at,
            create_revision=create,
            mod_revision=mod,
            version=version,
            lease=lease,
            value_at=starts_of(sizes),
            value_size=sizes,
        )


def _offsets(column: "array[int]") -> Offsets:
    return np.frombuffer(column, dtype=np.int64)


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
    for part in wanted:
        async with aclosing(pages(read, part, revision=paged.revision)) as found:
            async for page in found:
                await asyncio.to_thread(paged.take, page)
                tracker.raw = paged.file.size


def ranges_of(chosen: Chosen | None) -> list[KeyRange]:
    """Which ranges must be read for what is chosen, sorted and apart, our own keys left out."""
    ranges = chosen.ranges() if chosen is not None else None
    found: list[KeyRange] = []
    for start, end in ranges if ranges is not None else [(EVERYTHING, EVERYTHING)]:
        found += _without_own(KeyRange(start, end))
    return found


def _without_own(wanted: KeyRange) -> list[KeyRange]:
    before = KeyRange(wanted.start, _lower(wanted.end, OWN.start))
    behind = KeyRange(max(wanted.start, OWN.end), wanted.end)
    return [part for part in (before, behind) if part.end == EVERYTHING or part.start < part.end]


def _lower(one: bytes, other: bytes) -> bytes:
    return other if one == EVERYTHING else min(one, other)
