"""How many user keys live, counted in eight bytes per record.

2 M records with keys of 60 bytes would need hundreds of megabytes as a Python set (etcdutl holds
every key in memory). Instead each key becomes a 63-bit hash, keyed at random in every process, and
the records of one hash are compared by age.

Two keys that differ in one aligned word of eight bytes alone, or only in length, never collide;
any other pair does with probability 2**-63, as far as such mixing can be trusted: among 10 M keys
the chance that the count is one too low is about 1 in 180,000. Nobody can choose keys to collide,
since the hash's secret is not in the file.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from etcd_steward.registry.lanes import (
    Mask,
    Offsets,
    Shorts,
    Words,
    load64,
    starts_of,
    within,
)

_PART: Final = 1 << 19
"""Records that are sorted at once: about 20 MB."""
_KEEP: Final = ((1 << np.arange(0, 64, 8, dtype=np.uint64)) - np.uint64(1)).astype(np.uint64)
"""By a key's length modulo 8, which bits of its last word belong to it."""
_KEEP[0] = np.uint64(0xFFFFFFFFFFFFFFFF)
_TOMBSTONE: Final = np.uint64(1)


class KeyHash:
    """A random hash of byte strings that lie in a window of words."""

    def __init__(self) -> None:
        generator = np.random.default_rng()
        odd = generator.integers(0, 1 << 64, size=5, dtype=np.uint64) | np.uint64(1)
        self._one, self._two, self._three, self._four, self._five = odd
        self._seed = generator.integers(0, 1 << 64, dtype=np.uint64)
        self._table = self._secrets(0, 64)

    def __call__(self, words: Words, offset: Offsets, length: Offsets) -> Words:
        """The hash of each string; its lowest bit is 0. No string may be empty."""
        counts = (length + 7) >> 3
        starts = starts_of(counts)
        word = within(counts, starts)
        longest = int(counts.max(initial=0))
        if longest > len(self._table):
            self._table = self._secrets(0, longest)
        text = load64(words, np.repeat(offset, counts) + (word << 3))
        text[starts + counts - 1] &= _KEEP.take(length & 7)
        return self._finish(
            np.add.reduceat(self._mix(text, self._table.take(word)), starts), length
        )

    def of_chunks(self, chunks: Iterable[bytes]) -> int:
        """The hash of one string given in pieces, each but the last a multiple of 8 bytes."""
        total, length = np.zeros(1, dtype=np.uint64), 0
        for chunk in chunks:
            text = np.frombuffer(chunk + bytes(-len(chunk) % 8), dtype="<u8")
            total += self._mix(text, self._secrets(length >> 3, len(text))).sum(dtype=np.uint64)
            length += len(chunk)
        return int(self._finish(total, np.array([length]))[0])

    def _secrets(self, first: int, count: int) -> Words:
        """One secret per word of a string (splitmix64), so that words can't change places."""
        x: Words = np.arange(first, first + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x += self._seed
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
        return x

    def _mix(self, text: Words, secrets: Words) -> Words:
        # All of splitmix64's steps: without its last ones the words' sum is a linear function, and
        # keys that differ in one bit of two words, once up and once down, collide far too often.
        mixed: Words = (text ^ secrets) * self._one
        mixed ^= mixed >> np.uint64(30)
        mixed *= self._two
        mixed ^= mixed >> np.uint64(27)
        mixed *= self._five
        mixed ^= mixed >> np.uint64(31)
        return mixed

    def _finish(self, total: Words, length: Offsets) -> Words:
        mixed: Words = total + length.view(np.uint64) * self._three
        mixed ^= mixed >> np.uint64(32)
        mixed *= self._four
        mixed ^= mixed >> np.uint64(29)
        mixed &= ~_TOMBSTONE
        return mixed


@dataclass(slots=True)
class LiveKeys:
    """Collects records page by page, in any order of pages, and counts the keys that live."""

    _hashes: list[Words] = field(default_factory=list)
    _counts: list[NDArray[np.uint16]] = field(default_factory=list)
    _mains: list[Offsets] = field(default_factory=list)
    _subs: list[Shorts] = field(default_factory=list)

    def add(
        self, hashes: Words, tombstone: Mask, counts: Offsets, main: Offsets, sub: Shorts
    ) -> None:
        """Records of some leaf pages.

        `counts`, `main` and `sub` are per page: how many of the records are its own, and the
        revision of its first one, which puts the page in its place among all pages.
        """
        self._hashes.append(hashes | tombstone)
        self._counts.append(counts.astype(np.uint16))
        self._mains.append(main)
        self._subs.append(sub)

    def count(self) -> int:
        """Keys whose newest record is not a tombstone."""
        total = sum(len(part) for part in self._hashes)
        if not total:
            return 0
        ranks = self._ranks()
        bits = max(0, (total // _PART).bit_length())
        live = 0
        for part in range(1 << bits):
            live += _count_live(*self._part(part, bits, ranks))
        return live

    def _ranks(self) -> Offsets:
        """Each page's place in the order of revisions."""
        order = np.lexsort((np.concatenate(self._subs), np.concatenate(self._mains)))
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(len(order), dtype=np.int64)
        return ranks

    def _part(self, part: int, bits: int, ranks: Offsets) -> tuple[Words, Offsets]:
        """The records whose hash begins with these bits, and their age."""
        hashes: list[Words] = []
        ages: list[Offsets] = []
        page = 0
        for chunk, packed in zip(self._hashes, self._counts, strict=True):
            counts = packed.astype(np.int64)
            starts = starts_of(counts)
            age = np.repeat((ranks[page : page + len(counts)] << 16) - starts, counts)
            age += np.arange(len(age), dtype=np.int64)
            page += len(counts)
            if bits:
                mine = np.flatnonzero((chunk >> np.uint64(64 - bits)) == part)
                hashes.append(chunk[mine])
                ages.append(age[mine])
            else:
                hashes.append(chunk)
                ages.append(age)
        return np.concatenate(hashes), np.concatenate(ages)


def _count_live(hashes: Words, age: Offsets) -> int:
    if not len(hashes):
        return 0
    order = np.argsort(hashes >> _TOMBSTONE)
    hashes = hashes[order]
    key = hashes >> _TOMBSTONE
    starts = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))
    # The tombstone's bit travels below the age, so that the newest record carries its own.
    newest = np.maximum.reduceat(age[order] * 2 + (hashes & _TOMBSTONE).view(np.int64), starts)
    return int(np.count_nonzero((newest & 1) == 0))
