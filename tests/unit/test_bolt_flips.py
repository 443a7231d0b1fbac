"""What the proof finds of random damage: every structural field changed by one bit, and fuzzing.

`BytesFile` fails the test if the reader ever asks for a byte outside the file.
"""

import os
import random
import struct
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etcd_steward.errors import IntegrityError
from tests.boltfile import PAGE, BoltFile, found, leaf, prove, sound

ALL_BITS = bool(os.environ.get("STEWARD_ALL_BITS"))


@pytest.mark.parametrize("freelist", [False, True])
def test_a_flipped_bit_of_a_structural_field_is_found(freelist: bool) -> None:
    """Page headers, element tables, bucket roots and the freelist; see `harmless` for the rest.

    Every third byte, each time others at another bit; `STEWARD_ALL_BITS=1` takes all (minutes).
    """
    data, made, _ = sound(freelist=freelist)
    damaged = bytearray(data)
    for offset, length, what in made.fields:
        first, step = (0, 1) if ALL_BITS else (random.randrange(3), 3)  # noqa: S311
        for at in range(offset + first, offset + length, step):
            for bit in range(8) if ALL_BITS else (random.randrange(8),):  # noqa: S311
                damaged[at] ^= 1 << bit
                if not found(damaged):
                    assert harmless(made, (offset, length, what), at, bit), (at, bit, what)
                damaged[at] ^= 1 << bit


def harmless(made: BoltFile, field: tuple[int, int, str], at: int, bit: int) -> bool:
    """What nothing in the file contradicts (`registry/proof.py` lists it).

    Outside bucket `key` the sizes of a page's last element; and, while no freelist says that the
    other pages are not free, a bucket whose root has become a page under its own, and a bucket in
    a bucket that is marked as one no more.
    """
    offset, length, what = field
    page = made.pages[offset // PAGE]
    if what == "bucket root" and not made.freelist:
        root = int.from_bytes(page[offset % PAGE :][:8], "little")
        return root ^ (1 << (bit + 8 * (at - offset))) in below(made, root)
    if what == "leaf elements" and (at - offset) % 16 == bit == 0 and not made.freelist:
        return page[at % PAGE] == 1
    if what != "leaf elements" or at < offset + length - 8:
        return False
    first = page[16 + length :]
    return not (len(first) > 8 and first[8:9] == b"_" and first[:4] == bytes(4))


def below(made: BoltFile, page: int) -> set[int]:
    """The pages under one, those of buckets in its bucket included."""
    run = made.pages[page]
    _, flags, count, _ = struct.unpack_from("<QHHI", run)
    pages = set()
    for at in range(16, 16 + 16 * count, 16):
        if flags == 1:
            pages.add(int(struct.unpack_from("<Q", run, at + 8)[0]))
        else:
            kind, position, ksize, _ = struct.unpack_from("<IIII", run, at)
            if kind:
                pages.add(int(struct.unpack_from("<Q", run, at + position + ksize)[0]))
    pages.discard(0)
    return pages.union(*(below(made, one) for one in pages))


@pytest.mark.parametrize("page", [0, 1])
def test_every_flipped_bit_of_a_meta_is_found_or_reported(page: int) -> None:
    data, _, report = sound(freelist=False)
    for at in range(80):
        for bit in range(at % 3, 8, 3):
            damaged = bytearray(data)
            damaged[page * PAGE + at] ^= 1 << bit
            if 10 <= at < 16:  # count and overflow of a meta page mean nothing, to bbolt either
                assert prove(damaged) == report
            elif at < 16:
                assert found(damaged)
            else:
                assert prove(damaged).valid_metas == 1


@pytest.mark.parametrize("freelist", [False, True])
def test_every_flip_anywhere_ends_in_a_report_or_an_error(freelist: bool) -> None:
    data, _, report = sound(freelist=freelist)
    rng = random.Random(7)  # noqa: S311
    outcomes = {True: 0, False: 0}
    for _ in range(150):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            outcomes[prove(damaged).records == report.records] += 1
        except IntegrityError:
            outcomes[False] += 1
    assert min(outcomes.values()) > 5


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_damage_ends_in_a_report_or_an_error(data: st.DataObject) -> None:
    whole, _, _ = sound(freelist=data.draw(st.booleans()))
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(whole) - 1))
        patch = data.draw(
            st.one_of(st.binary(min_size=1, max_size=40), st.just(whole[PAGE * 4 :][:PAGE]))
        )
        damaged[at : at + len(patch)] = patch[: len(whole) - at]
    started = time.monotonic()
    found(damaged)
    assert time.monotonic() - started < 10


def test_truncated_files_are_refused() -> None:
    data, _, _ = sound(freelist=False)
    for size in (*range(0, len(data), PAGE), *range(1, len(data), 997), len(data) - 1):
        assert found(data[:size]), size


def inline_bucket(change: Callable[[bytearray], None]) -> bytes:
    """A file whose bucket `lease` is inline and changed."""
    body = bytearray(bytes(16) + leaf(0, [(0, b"a", b"1"), (0, b"b", b"2")]))
    change(body)
    made = BoltFile()
    items = [(1, b"lease", bytes(body)), *made.bucket_items({b"key": {}, b"meta": {}})]
    return made.build_items(items)


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit_of_an_inline_bucket_is_found(bit: int) -> None:
    prove(inline_bucket(lambda _: None))
    for at in (*range(8), *range(16, 64)):  # root; header and elements; not the sequence

        def flip(body: bytearray, at: int = at) -> None:
            body[at] ^= 1 << bit

        assert found(inline_bucket(flip)), at


@pytest.mark.parametrize("cut", range(1, 52))
def test_an_inline_bucket_cut_short_is_found(cut: int) -> None:
    def shorten(body: bytearray) -> None:
        del body[-cut:]

    assert found(inline_bucket(shorten))
