"""Cutting a stream into parts, with the checksums of each part and of everything so far."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Final

import google_crc32c

from etcd_steward.models.ports import StoredPart

MIB: Final = 1024 * 1024
PART_SIZE: Final = 8 * MIB
"""A run holds about six parts at its peak; larger ones cost memory, smaller ones requests."""
PARTS_IN_FLIGHT: Final = 3
"""As many as hide the latency of a store across a region."""
MAX_PARTS: Final = 10_000
"""S3 takes no more parts than this in one upload."""


@dataclass(frozen=True, slots=True)
class Part:
    """A run of bytes of one object."""

    number: int
    """Counted from 1, as S3 does."""
    offset: int
    data: bytes = field(repr=False)
    crc32c: int
    crc32c_so_far: int
    """Of the object from its first byte to the end of this part."""

    @property
    def stored(self) -> StoredPart:
        """The part as it is remembered once its bytes are gone."""
        return StoredPart(self.offset, len(self.data), self.crc32c)


def part_size_for(size_hint: int, at_least: int) -> int:
    """The part size in bytes: `at_least`, or as many MiB as it takes to keep to `MAX_PARTS`."""
    needed = -(-size_hint // MAX_PARTS)
    return at_least if needed <= at_least else -(-needed // MIB) * MIB


async def cut(chunks: AsyncIterator[bytes], size: int) -> AsyncGenerator[Part]:
    """Parts of exactly `size` bytes, the last one shorter; an empty stream gives one empty part.

    One buffer is filled over and over, so that a million tiny chunks cost no more memory than one
    large one. Copying out and checksums happen in a thread.
    """
    buffer = bytearray(size)
    held = offset = so_far = 0
    number = 1
    async for chunk in chunks:
        rest = memoryview(chunk)
        while held + len(rest) >= size:
            room = size - held
            buffer[held:] = rest[:room]
            rest = rest[room:]
            part = await asyncio.to_thread(_seal, buffer, number, offset, so_far)
            yield part
            held, offset, number, so_far = 0, offset + size, number + 1, part.crc32c_so_far
            del part
        buffer[held : held + len(rest)] = rest
        held += len(rest)
    if held or number == 1:
        last = memoryview(buffer)[:held]
        yield await asyncio.to_thread(_seal, last, number, offset, so_far)


def _seal(data: bytearray | memoryview, number: int, offset: int, so_far: int) -> Part:
    whole = bytes(data)
    crc32c = google_crc32c.value(whole)
    return Part(number, offset, whole, crc32c, google_crc32c.extend(so_far, whole))
