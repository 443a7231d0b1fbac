"""Compression: independent frames in order, and a reader that finds every damage."""

import asyncio
import contextlib
import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etcd_steward.engine import compress
from etcd_steward.engine.compress import FRAME, Compressed, Decompressor, bound
from etcd_steward.engine.spoolfile import SpoolFile
from etcd_steward.errors import IntegrityError
from tests.support.runs import unzstd
from tests.support.zstd import zstd


def piecewise(stored: bytes, size: int) -> bytes:
    """What is in `stored`, fed in pieces of `size`."""
    decompressor = Decompressor()
    out = bytearray()
    for at in range(0, len(stored), size):
        for piece in decompressor.feed(stored[at : at + size]):
            out += piece
    decompressor.close()
    return bytes(out)


async def compressed(data: bytes, path: Path, *, behind: bool = False) -> tuple[bytes, list[int]]:
    """The stored bytes and the frames' lengths."""
    file = SpoolFile(path)
    source = Compressed(file, behind=behind)

    async def fill() -> None:
        for at in range(0, len(data), 3 << 20):
            await asyncio.to_thread(file.append, [data[at : at + (3 << 20)]])
            await file.publish()
        await file.publish(ended=True)

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fill())
            frames = [frame async for frame in source.frames()]
    finally:
        file.close()
    stored = b"".join(frames)
    assert source.sha256 == hashlib.sha256(stored).hexdigest()
    return stored, [len(frame) for frame in frames]


@pytest.mark.parametrize("behind", [True, False])
@pytest.mark.parametrize("size", [1, FRAME - 1, FRAME, FRAME + 1, 3 * FRAME + 17])
async def test_frames_are_independent_and_plain_zstd_opens_them(
    size: int, behind: bool, tmp_path: Path
) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]
    stored, frames = await compressed(data, tmp_path / "spool", behind=behind)
    assert len(frames) == -(-size // FRAME)
    assert len(stored) <= bound(size)
    assert piecewise(stored, 1 << 20) == data
    last = stored[-frames[-1] :]
    assert piecewise(last, 1 << 20) == data[(len(frames) - 1) * FRAME :]
    path = tmp_path / "snapshot.db.zst"
    path.write_bytes(stored)
    assert (await unzstd(path)).read_bytes() == data


async def test_a_bit_that_the_disk_flips_is_found_before_it_is_stored(tmp_path: Path) -> None:
    file = SpoolFile(tmp_path / "spool")
    file.append([b"x" * FRAME, b"y" * 1000])
    await file.publish(ended=True)
    with (tmp_path / "spool").open("r+b") as disk:
        disk.seek(FRAME + 500)
        disk.write(b"z")
    with pytest.raises(IntegrityError, match="other bytes than were written"):
        _ = [frame async for frame in Compressed(file, behind=False).frames()]
    file.close()


@given(st.binary(min_size=1, max_size=5000), st.integers(1, 300), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_any_feeding_gives_the_data(data: bytes, size: int, frames: int) -> None:
    stored = b"".join(zstd.compress(data, options=compress._OPTIONS) for _ in range(frames))
    assert piecewise(stored, size) == data * frames


@given(st.binary(min_size=200, max_size=2000), st.data())
@settings(max_examples=100, deadline=None)
def test_every_flipped_bit_and_every_cut_is_found(data: bytes, choose: st.DataObject) -> None:
    stored = zstd.compress(data, options=compress._OPTIONS)
    cut = choose.draw(st.integers(1, len(stored) - 1))
    with pytest.raises(IntegrityError, match="middle of a frame"):
        piecewise(stored[:cut], 64)
    at = choose.draw(st.integers(0, len(stored) - 1))
    bit = choose.draw(st.integers(0, 7))
    damaged = bytearray(stored)
    damaged[at] ^= 1 << bit
    with contextlib.suppress(IntegrityError):  # a bit of the header may mean nothing
        assert piecewise(bytes(damaged), 64) == data
