"""Cutting a stream into parts."""

import asyncio
from collections.abc import AsyncIterator

import google_crc32c
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etcd_steward.store.parts import MAX_PARTS, MIB, PART_SIZE, Part, cut, part_size_for


async def parts_of(chunks: list[bytes], size: int) -> list[Part]:
    async def source() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return [part async for part in cut(source(), size)]


class TestCut:
    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.binary(max_size=40), max_size=12), st.integers(1, 17))
    def test_loses_and_moves_nothing(self, chunks: list[bytes], size: int) -> None:
        whole = b"".join(chunks)
        parts = asyncio.run(parts_of(chunks, size))
        assert b"".join(part.data for part in parts) == whole
        assert [part.number for part in parts] == list(range(1, len(parts) + 1))
        assert all(len(part.data) == size for part in parts[:-1])
        assert len(parts) == max(1, -(-len(whole) // size))
        for part in parts:
            assert whole[part.offset :].startswith(part.data)
            assert part.crc32c == google_crc32c.value(part.data)
            so_far = whole[: part.offset + len(part.data)]
            assert part.crc32c_so_far == google_crc32c.value(so_far)

    @given(st.integers(0, 50 * 1024**4))
    def test_part_size_keeps_to_the_count(self, size: int) -> None:
        part_size = part_size_for(size, PART_SIZE)
        assert part_size >= PART_SIZE
        assert part_size * MAX_PARTS >= size
        assert part_size == PART_SIZE or part_size < size / MAX_PARTS + MIB
