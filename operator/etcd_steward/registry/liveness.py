"""How many user keys live, counted in eight bytes per record.

2 M records with keys of 60 bytes would need hundreds of megabytes as a Python set (etcdutl holds
every key in memory). Instead each key becomes a 63-bit hash, keyed at random in every process, and
the records of one hash are compared by age.

Two keys that differ in one aligned word of eight bytes alone, or only in length, never collide;
any other pair does with probability 2**-63, as far as such mixing can be trusted: among 10 M keys
the chance that the count is one too low is about 1 in 180,000. Nobody can choose keys to collide,
since the hash's secret is not in the file.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from etcd_steward.registry.lanes import (
    KEEP,
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
        text[starts + counts - 1] &= KEEP.take(length & 7)
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
        return sum(part.live for part in self._parts(self._ages()[0]))

    def stale(self, main: int) -> tuple[int, Offsets, Offsets]:
        """How many keys live, and which old records their newer ones have superseded.

        Looked at are the pages that begin at revision `main` or below. Of each record come its page
        (by order of adding) and its number there.
        """
        ranks, pages = self._ages()
        old = int(np.count_nonzero(np.concatenate(self._mains) <= main)) if len(pages) else 0
        live, found = 0, [np.zeros(0, dtype=np.int64)]
        for part in self._parts(ranks):
            live += part.live
            found.append(part.superseded(old << 16))
        ages = np.concatenate(found)
        return live, pages[ages >> 16], ages & 0xFFFF

    def _ages(self) -> tuple[Offsets, Offsets]:
        """Each page's place in the order of revisions, and the pages in that order."""
        if not self._mains:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        order = np.lexsort((np.concatenate(self._subs), np.concatenate(self._mains)))
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(len(order), dtype=np.int64)
        return ranks, order

    def _parts(self, ranks: Offsets) -> Iterator["_Ages"]:
        total = sum(len(part) for part in self._hashes)
        bits = max(0, (total // _PART).bit_length())
        for part in range(1 << bits):
            hashes, ages = self._part(part, bits, ranks)
            if len(hashes):
                yield _Ages.of(hashes, ages)

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
        if not hashes:
            return np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
        return np.concatenate(hashes), np.concatenate(ages)


@dataclass(frozen=True, slots=True)
class _Ages:
    """The records of some keys, those of one key together."""

    ages: Offsets
    """Twice the age, plus one for a tombstone."""
    starts: Offsets
    """Where each key's records begin."""
    newest: Offsets
    """Per key, the highest of its ages."""

    @classmethod
    def of(cls, hashes: Words, ages: Offsets) -> Self:
        order = np.argsort(hashes >> _TOMBSTONE)
        hashes = hashes[order]
        key = hashes >> _TOMBSTONE
        starts = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))
        ages = ages[order] * 2 + (hashes & _TOMBSTONE).view(np.int64)
        return cls(ages, starts, np.maximum.reduceat(ages, starts))

    @property
    def live(self) -> int:
        return int(np.count_nonzero((self.newest & 1) == 0))

    def superseded(self, below: int) -> Offsets:
        """The ages below a limit that are not the newest of their key."""
        counts = np.diff(self.starts, append=len(self.ages))
        ages: Offsets = self.ages[self.ages != np.repeat(self.newest, counts)] >> 1
        return ages[ages < below]
