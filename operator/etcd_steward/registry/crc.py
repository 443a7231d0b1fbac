"""CRC-32C of a whole from those of its parts, which may be computed in any order.

A CRC is a remainder modulo a polynomial over GF(2), so appending n bytes multiplies what stands
before by x**8n; zlib's `crc32_combine` does that for one pair, and google-crc32c has nothing like
it. Here it is done for a million pieces at once, pair by pair.
"""

from functools import cache
from typing import Final

import numpy as np

from etcd_steward.registry.lanes import Offsets, Shorts

_POLYNOMIAL: Final = 0x82F63B78
"""Castagnoli's, its bits reversed."""
_BITS: Final = 48
"""Of a length in bytes."""


def combine(crcs: Shorts, lengths: Offsets) -> int:
    """The CRC-32C of pieces laid end to end, given each piece's own and its length in bytes."""
    while len(crcs) > 1:
        if len(crcs) % 2:
            crcs, lengths = np.append(crcs, np.uint32(0)), np.append(lengths, 0)
        crcs = _shifted(crcs[0::2], lengths[1::2]) ^ crcs[1::2]
        lengths = lengths[0::2] + lengths[1::2]
    return int(crcs[0]) if len(crcs) else 0


def _shifted(crcs: Shorts, lengths: Offsets) -> Shorts:
    """Each CRC as it stands before so many bytes."""
    for bit in range(int(lengths.max()).bit_length()):
        tables = _tables()[bit]
        moved = tables[0].take(crcs & 0xFF)
        for octet in range(1, 4):
            moved ^= tables[octet].take((crcs >> np.uint32(8 * octet)) & 0xFF)
        crcs = np.where((lengths >> bit) & 1, moved, crcs)
    return crcs


@cache
def _tables() -> "np.ndarray[tuple[int, int, int], np.dtype[np.uint32]]":
    """For each power of two, what so many bytes of zeros make of each octet of a CRC."""
    # What one bit of zero makes of each bit of a CRC; squared three times, a byte.
    columns = [_POLYNOMIAL, *(1 << bit for bit in range(31))]
    for _ in range(3):
        columns = [_times(columns, column) for column in columns]
    tables = np.zeros((_BITS, 4, 256), dtype=np.uint32)
    for power in range(_BITS):
        for octet in range(4):
            for bit in range(8):
                some = tables[power, octet]
                some[1 << bit : 2 << bit] = some[: 1 << bit] ^ np.uint32(columns[8 * octet + bit])
        columns = [_times(columns, column) for column in columns]
    return tables


def _times(columns: list[int], vector: int) -> int:
    product = 0
    for column in columns:
        if vector & 1:
            product ^= column
        vector >>= 1
    return product
