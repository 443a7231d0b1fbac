"""Vectorised reads from a window of a file: unaligned words, varints, runs of indices.

A snapshot holds millions of small records, and reading each in a Python loop takes minutes. numpy
has neither unaligned loads nor protobuf's varints, so both are built here from aligned words.
Whatever the offsets, nothing is read outside the window: indices are clipped to it.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Offsets = NDArray[np.int64]
Mask = NDArray[np.bool_]
Octets = NDArray[np.uint8]
Shorts = NDArray[np.uint32]

KEEP: Final = ((1 << np.arange(0, 64, 8, dtype=np.uint64)) - np.uint64(1)).astype(np.uint64)
"""By a string's length modulo 8, which bits of its last word belong to it."""
KEEP[0] = np.uint64(0xFFFFFFFFFFFFFFFF)

_TOP: Final = np.uint64(0x8080808080808080)
_SEVEN: Final = np.uint64(0x7F7F7F7F7F7F7F7F)
_ONE: Final = np.uint64(1)


def load64(words: Words, offset: Offsets) -> Words:
    """The eight bytes at each byte offset, little-endian, whatever the alignment.

    Bytes behind the end of the window are undefined: callers compare against the record's end.
    """
    index = offset >> 3
    shift = ((offset & 7) << 3).view(np.uint64)
    low = words.take(index, mode="clip") >> shift
    # numpy defines a shift by 64 as 0, which is what an aligned offset needs here.
    return low | (words.take(index + 1, mode="clip") << (np.uint64(64) - shift))


def varint(word: Words) -> tuple[Offsets, Offsets]:
    """The varint at the low end of each word: its value, and its length in bytes.

    Of a varint of eight bytes or more come its lowest 56 bits and the length 8.
    """
    stop = ~word & _TOP
    lowest = stop & (~stop + _ONE)
    mask = lowest ^ (lowest - _ONE)
    x = word & mask & _SEVEN
    x = (x & np.uint64(0x007F007F007F007F)) | ((x & np.uint64(0x7F007F007F007F00)) >> _ONE)
    x = (x & np.uint64(0x00003FFF00003FFF)) | ((x & np.uint64(0x3FFF00003FFF0000)) >> np.uint64(2))
    x = (x & np.uint64(0x000000000FFFFFFF)) | ((x & np.uint64(0x0FFFFFFF00000000)) >> np.uint64(4))
    return x.view(np.int64), (np.bitwise_count(mask) >> 3).astype(np.int64)


def starts_of(counts: Offsets) -> Offsets:
    """Where each run begins when runs of these lengths are laid end to end."""
    starts = np.cumsum(counts)
    starts -= counts
    return starts


def within(counts: Offsets, starts: Offsets) -> Offsets:
    """0, 1, 2, … anew for each run: an element's index in its own run."""
    total = int(starts[-1] + counts[-1]) if len(counts) else 0
    index = np.arange(total, dtype=np.int64)
    index -= np.repeat(starts, counts)
    return index


def first_true(mask: Mask) -> int | None:
    """The index of the first element that is set, None if there is none."""
    if not mask.any():
        return None
    return int(mask.argmax())
