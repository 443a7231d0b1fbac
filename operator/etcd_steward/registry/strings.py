"""Millions of byte strings, end to end: sorted, compared and picked without an object for each.

A million keys of 60 bytes as Python's own objects take 100 MB, and numpy's byte strings lose the
zeros at their ends, which a key of etcd's may well have.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from etcd_steward.registry.lanes import KEEP, Offsets, Words, load64, starts_of, within

_PART: Final = 1 << 15
"""Strings that are looked at together."""
_WIDTH: Final = 128
"""Bytes behind what all strings begin with that numpy sorts by; Python sorts what is left."""
_BITS: Final = 63
"""Of a number that is not negative."""
_LONG: Final = 256
"""Bytes from which on strings are picked one by one."""


def joined(words: Words, at: Offsets, sizes: Offsets) -> bytes:
    """The strings of these sizes that begin at these bytes, end to end.

    Without a Python object for each, unless one of them is long.
    """
    pieces = []
    for first in range(0, len(at), _PART):
        begin, size = at[first : first + _PART], sizes[first : first + _PART]
        longest, shortest = int(size.max()), int(size.min())
        if not longest:
            continue
        if longest > _LONG:
            octets = words.view(np.uint8)
            ends = (begin + size).tolist()
            pieces += [octets[a:b].tobytes() for a, b in zip(begin.tolist(), ends, strict=True)]
            continue
        table = np.empty((len(begin), -(-longest // 8)), dtype=np.uint64)
        for column in range(table.shape[1]):
            table[:, column] = load64(words, begin + 8 * column)
        whole = table.view(np.uint8)[:, :longest]
        if shortest < longest:
            whole = whole[np.arange(longest) < size[:, None]]
        pieces.append(whole.tobytes())
    return b"".join(pieces)


class Joiner(BytesIO):
    """What becomes `Strings`, piece by piece: it grows in place, and is not copied at the end."""

    def end(self, sizes: Offsets) -> "Strings":
        """Strings of these sizes; nothing may be written afterwards."""
        at = np.zeros(len(sizes) + 1, dtype=np.int64)
        np.cumsum(sizes, out=at[1:])
        self.write(bytes(-int(at[-1]) % 8))
        return Strings(self.getvalue(), at)


@dataclass(frozen=True, slots=True)
class Strings:
    """Byte strings by their number; none is empty."""

    data: bytes
    """All of them, and zeros up to a multiple of eight bytes."""
    at: Offsets
    """Where each begins, and where the last ends."""

    @classmethod
    def join(cls, pieces: Iterable[bytes], sizes: Offsets) -> "Strings":
        """Strings of these sizes, which the pieces hold end to end."""
        joiner = Joiner()
        for piece in pieces:
            joiner.write(piece)
        return joiner.end(sizes)

    def __len__(self) -> int:
        return len(self.at) - 1

    def __getitem__(self, number: int) -> bytes:
        return self.data[self.at[number] : self.at[number + 1]]

    @property
    def sizes(self) -> Offsets:
        """Bytes of each."""
        return np.diff(self.at)

    @property
    def joined(self) -> memoryview:
        """All of them, end to end."""
        return memoryview(self.data)[: int(self.at[-1])]

    def some(self, numbers: Offsets) -> list[bytes]:
        """These strings."""
        data = self.data
        ends = self.at[numbers + 1].tolist()
        return [data[a:b] for a, b in zip(self.at[numbers].tolist(), ends, strict=True)]

    def take(self, numbers: Offsets) -> "Strings":
        """These strings, in this order."""
        sizes = self.sizes[numbers]
        return Strings.join([joined(self._words(), self.at[numbers], sizes)], sizes)

    def same(self, ones: Offsets, others: Offsets) -> bool:
        """Whether each of `ones` equals the one of `others` at the same place."""
        words = self._words()
        for one, other in zip(_parts(ones), _parts(others), strict=True):
            size = self.at[one + 1] - self.at[one]
            if (size != self.at[other + 1] - self.at[other]).any():
                return False
            counts = (size + 7) >> 3
            starts = starts_of(counts)
            step = within(counts, starts) << 3
            left = load64(words, np.repeat(self.at[one], counts) + step)
            left ^= load64(words, np.repeat(self.at[other], counts) + step)
            left[starts + counts - 1] &= KEEP.take(size & 7)
            if left.any():
                return False
        return True

    def find(self, string: bytes) -> int:
        """How many of the strings, which must ascend, lie below this one."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self[middle] < string:
                low = middle + 1
            else:
                high = middle
        return low

    def order(self) -> Offsets:
        """The numbers of the strings in ascending order, which must differ from each other."""
        if len(self) < 2:
            return np.arange(len(self), dtype=np.int64)
        packed = self._packed()
        order = packed.argsort(kind="stable")
        for first, last in self._ties(packed, order):
            numbers = order[first:last]
            strings = self.some(numbers)
            order[first:last] = numbers[sorted(range(len(strings)), key=strings.__getitem__)]
        return order

    def _packed(self) -> Offsets:
        """Numbers in the order of the strings, as far as some bytes of each tell it.

        Those behind what all begin with, word for word: of each word only how many lower ones there
        are, in as few bits as that takes, so that most keys' words go into one number: to sort
        those takes a third of the time that sorting strings does.
        """
        shared = self._shared()
        wide = int(np.quantile(self.sizes, 0.99)) - shared
        packed, used = np.zeros(len(self), dtype=np.int64), 0
        for column in range(-(-max(1, min(wide, _WIDTH)) // 8)):
            rank, count = _ranked(self._column(shared + 8 * column))
            bits = (count - 1).bit_length()
            if used + bits > _BITS:
                packed, many = _ranked(packed)
                used = (many - 1).bit_length()
            packed = packed << bits | rank
            used += bits
        return packed

    def _column(self, skipped: int) -> Words:
        """Of each string, the eight bytes behind the first ones; zeros where it has ended."""
        words, found = self._words(), np.empty(len(self), dtype=np.uint64)
        for first in range(0, len(self), _PART):
            at = self.at[first : first + _PART + 1]
            begin, rest = at[:-1] + skipped, np.diff(at) - skipped
            text = load64(words, begin)
            short = np.flatnonzero(rest < 8)
            text[short] &= KEEP.take(rest[short] & 7)
            text[rest <= 0] = 0
            found[first : first + len(text)] = text.byteswap()
        return found

    def _shared(self) -> int:
        """Whole words, in bytes, that all strings begin with."""
        words, first, shortest = self._words(), self[0], int(self.sizes.min())
        for shared in range(0, shortest - 7, 8):
            text = np.uint64(int.from_bytes(first[shared : shared + 8], "little"))
            for part in _parts(self.at[:-1]):
                if (load64(words, part + shared) != text).any():
                    return shared
        return shortest & ~7

    def _ties(self, packed: Offsets, order: Offsets) -> Iterator[tuple[int, int]]:
        """Runs, first and behind the last, that their numbers don't tell apart.

        Long strings alike so far, and those that differ in zeros at the end alone.
        """
        tied = []
        for first in range(0, len(order) - 1, _PART):
            part = packed[order[first : first + _PART + 1]]
            tied.append(np.flatnonzero(part[1:] == part[:-1]) + first)
        pairs = np.concatenate(tied)
        if not len(pairs):
            return
        cuts = np.flatnonzero(np.diff(pairs) > 1) + 1
        for begin, end in pairwise((0, *cuts.tolist(), len(pairs))):
            yield int(pairs[begin]), int(pairs[end - 1]) + 2

    def _words(self) -> Words:
        return np.frombuffer(self.data, dtype="<u8")


def _ranked(numbers: NDArray[Any]) -> tuple[Offsets, int]:
    """Of each number, how many different lower ones there are; and how many in all."""
    order = numbers.argsort()
    ordered = numbers[order]
    above = np.zeros(len(order), dtype=np.int64)
    np.cumsum(ordered[1:] != ordered[:-1], out=above[1:])
    rank = np.empty_like(above)
    rank[order] = above
    return rank, int(above[-1]) + 1


def _parts(numbers: Offsets) -> Iterator[Offsets]:
    for first in range(0, len(numbers), _PART):
        yield numbers[first : first + _PART]
