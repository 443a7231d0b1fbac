"""What the proof says of each kind of damage: what is wrong, and where.

`BytesFile` fails the test if the reader ever asks for a byte outside the file.
"""

import struct
import tracemalloc
from collections.abc import Callable

import pytest

from etcd_steward.errors import IntegrityError
from etcd_steward.registry import buckets as buckets_module
from etcd_steward.registry import walk
from etcd_steward.registry.proof import prove_structure
from tests.boltfile import (
    PAGE,
    BoltFile,
    BytesFile,
    Items,
    content,
    key_value,
    meta_page,
    prove,
    rev,
    sound,
    varint,
)


def put(data: bytearray, at: int, form: str, *values: int) -> None:
    struct.pack_into("<" + form, data, at, *values)


def remake_metas(data: bytearray, page_size: int = PAGE, **changes: int) -> None:
    old = struct.unpack_from("<IIIIQQQQQ", data, 16)
    said = {"root": old[4], "freelist": old[6], "pages": old[7], "page_size": page_size, **changes}
    for page in (0, 1):
        data[page * PAGE : (page + 1) * PAGE] = meta_page(
            said["page_size"], page, said["root"], said["freelist"], said["pages"], 9 - page
        )[:PAGE].ljust(PAGE, b"\0")


def branch_of_keys(made: BoltFile) -> int:
    """The root page of bucket `key` in `sound`: the branch with the smallest first revision."""
    branches = [offset // PAGE for offset, _, what in made.fields if what == "branch elements"]
    firsts = {page: made.pages[page] for page in branches}
    keyed = [page for page, run in firsts.items() if rev(2) in run or b"\0\0\0_" in run]
    return max(keyed)


def child(made: BoltFile, page: int, index: int) -> int:
    return int(struct.unpack_from("<Q", made.pages[page], 16 + 16 * index + 8)[0])


Damage = Callable[[bytearray, BoltFile], None]


def two_references(data: bytearray, made: BoltFile) -> None:
    page = branch_of_keys(made)
    put(data, page * PAGE + 16 + 16 + 8, "Q", child(made, page, 0))


def cycle(data: bytearray, made: BoltFile) -> None:
    page = branch_of_keys(made)
    put(data, page * PAGE + 16 + 8, "Q", page)


def out_of_the_file(data: bytearray, made: BoltFile) -> None:
    put(data, branch_of_keys(made) * PAGE + 16 + 8, "Q", 1 << 63)


def to_a_meta(data: bytearray, made: BoltFile) -> None:
    put(data, branch_of_keys(made) * PAGE + 16 + 8, "Q", 1)


def wrong_identity(data: bytearray, made: BoltFile) -> None:
    put(data, child(made, branch_of_keys(made), 0) * PAGE, "Q", 4711)


def wrong_type(data: bytearray, made: BoltFile) -> None:
    put(data, child(made, branch_of_keys(made), 1) * PAGE + 8, "H", 0x10)


def many_elements(data: bytearray, made: BoltFile) -> None:
    put(data, child(made, branch_of_keys(made), 1) * PAGE + 10, "H", 0xFFFF)


def empty_page(data: bytearray, made: BoltFile) -> None:
    put(data, child(made, branch_of_keys(made), 1) * PAGE + 10, "H", 0)


def overflow_past_the_end(data: bytearray, made: BoltFile) -> None:
    put(data, child(made, branch_of_keys(made), 1) * PAGE + 12, "I", 0xFFFFFFFF)


def overflow_into_another(data: bytearray, made: BoltFile) -> None:
    put(data, child(made, branch_of_keys(made), 0) * PAGE + 12, "I", 3)


def key_out_of_the_page(data: bytearray, made: BoltFile) -> None:
    put(data, first_leaf(made) * PAGE + 16 + 4, "I", 0xFFFFFFF0)


def key_too_long(data: bytearray, made: BoltFile) -> None:
    put(data, first_leaf(made) * PAGE + 16 + 8, "I", 0xFFFFFFF0)


def value_too_long(data: bytearray, made: BoltFile) -> None:
    put(data, first_leaf(made) * PAGE + 16 + 12, "I", 0xFFFFFFF0)


def unknown_flag(data: bytearray, made: BoltFile) -> None:
    put(data, first_leaf(made) * PAGE + 16, "I", 2)


def first_leaf(made: BoltFile) -> int:
    page = branch_of_keys(made)
    while struct.unpack_from("<H", made.pages[page], 8)[0] == 1:
        page = child(made, page, 0)
    return page


def first_key(data: bytearray, page: int) -> int:
    return page * PAGE + 16 + int(struct.unpack_from("<I", data, page * PAGE + 16 + 4)[0])


def key_out_of_order(data: bytearray, made: BoltFile) -> None:
    put(data, first_key(data, first_leaf(made)) + 6, "H", 0x1111)


def key_below_its_branch(data: bytearray, made: BoltFile) -> None:
    branch = branch_of_keys(made)
    page = child(made, branch, 1)
    while struct.unpack_from("<H", made.pages[page], 8)[0] == 1:
        page = child(made, page, 0)
    at = first_key(data, page)
    data[at : at + 8] = (1).to_bytes(8, "big")


def key_no_revision(data: bytearray, made: BoltFile) -> None:
    data[first_key(data, first_leaf(made)) + 8] = ord("-")


def reference_to_a_grandchild(data: bytearray, made: BoltFile) -> None:
    """Its keys are within bounds, and what it hides looks free: bbolt finds nothing."""
    page = branch_of_keys(made)
    put(data, page * PAGE + 16 + 8, "Q", child(made, child(made, page, 0), 0))


def value_no_message(data: bytearray, made: BoltFile) -> None:
    data[first_key(data, first_leaf(made)) + 17] = 0xFF


def huge_root(data: bytearray, _: BoltFile) -> None:
    remake_metas(data, root=1 << 62)


def huge_size(data: bytearray, _: BoltFile) -> None:
    remake_metas(data, pages=1 << 60)


def small_size(data: bytearray, _: BoltFile) -> None:
    remake_metas(data, pages=5)


def odd_page_size(data: bytearray, _: BoltFile) -> None:
    remake_metas(data, page_size=1000)


def no_page_size(data: bytearray, _: BoltFile) -> None:
    remake_metas(data, page_size=0)


def two_page_sizes(data: bytearray, made: BoltFile) -> None:
    other = meta_page(2 * PAGE, 1, 3, 4, made.next, 10)
    data[PAGE : 2 * PAGE] = other[:PAGE]


def freelist_far_away(data: bytearray, made: BoltFile) -> None:
    remake_metas(data, freelist=made.next)


def freelist_is_a_leaf(data: bytearray, made: BoltFile) -> None:
    remake_metas(data, freelist=first_leaf(made))


def both_metas(data: bytearray, _: BoltFile) -> None:
    data[60] ^= 1
    data[PAGE + 60] ^= 1


def swapped_metas(data: bytearray, _: BoltFile) -> None:
    data[:PAGE], data[PAGE : 2 * PAGE] = data[PAGE : 2 * PAGE], data[:PAGE]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (two_references, r"page \d+ is referenced twice \(by pages (\d+) and \1\)"),
        (cycle, r"page (\d+) is referenced twice \(by pages \d+ and \1\)"),
        (out_of_the_file, rf"page \d+ refers to page {1 << 63}, but its pages are 2 to \d+"),
        (to_a_meta, r"page \d+ refers to page 1, but"),
        (wrong_identity, r"page \d+ \(which page \d+ refers to\) calls itself page 4711"),
        (wrong_type, r"page \d+ has flags 0x10: neither branch nor leaf"),
        (many_elements, r"page \d+ of 1024 bytes says it has 65535 elements"),
        (empty_page, r"page \d+ of 1024 bytes says it has 0 elements"),
        (overflow_past_the_end, r"page \d+ has 4294967295 overflow pages, past the end"),
        (overflow_into_another, r"runs into page|is referenced twice|overflow pages, but its"),
        (key_out_of_the_page, r"element 0: its key of 17 bytes lies at byte 4294967296 of"),
        (key_too_long, r"element 0: its key of 4294967280 bytes"),
        (value_too_long, r"element 1: its key of \d+ bytes lies at byte \d+ of the page, not at"),
        (unknown_flag, r"bucket key, page \d+, element 0 has flags 0x2"),
        (key_out_of_order, r"bucket key, page \d+: the key of element 1 \(revision \d+\) is not"),
        (key_below_its_branch, r"bucket key, page \d+: the key of element 0 \(revision 1\) is not"),
        (reference_to_a_grandchild, r"bucket key: the leaves of its tree lie at different depths"),
        (key_no_revision, r"bucket key, page \d+, element 0: its key is not a revision"),
        (value_no_message, r"bucket key, page \d+, element 0: its value is no KeyValue"),
        (huge_root, rf"page 0 refers to page {1 << 62}"),
        (huge_size, rf"its meta page counts {1 << 60} pages, but it has"),
        (small_size, r"refers to page \d+, but its pages are 2 to 4"),
        (odd_page_size, r"its meta page says that pages have 1000 bytes"),
        (no_page_size, r"its meta page says that pages have 0 bytes"),
        (two_page_sizes, r"its two meta pages differ in page size"),
        (freelist_far_away, r"its freelist is at page \d+, but its pages are 2 to"),
        (freelist_is_a_leaf, r"its freelist page \d+ calls itself \d+ with flags 0x2"),
        (both_metas, r"neither of its two meta pages is valid"),
        (swapped_metas, r"page 0 calls itself page 1 with flags 0x4"),
    ],
)
def test_damage_is_named(damage: Damage, message: str) -> None:
    data, made, _ = sound(freelist=False)
    damaged = bytearray(data)
    damage(damaged, made)
    with pytest.raises(IntegrityError, match=message) as caught:
        prove(damaged)
    assert "take a new snapshot" in str(caught.value)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], r"page \d+ is neither in use nor on the freelist"),
        (["spare", "spare", "spare"], r"page \d+ is on the freelist twice"),
        (["used"], r"page \d+ is on the freelist, but page \d+ refers to it"),
        (["far"], r"the freelist refers to page \d+, but its pages are"),
        (["negative"], rf"the freelist refers to page {(1 << 64) - 1}, but"),
    ],
)
def test_a_wrong_freelist_is_named(entries: list[str], message: str) -> None:
    data, made, _ = sound(freelist=True)
    damaged = bytearray(data)
    page = made.next - 1
    meanings = {
        "spare": page - 1,
        "used": first_leaf(made),
        "far": made.next,
        "negative": (1 << 64) - 1,
    }
    ids = [meanings[entry] for entry in entries]
    put(damaged, page * PAGE + 10, "H", len(ids))
    put(damaged, page * PAGE + 16, f"{len(ids)}Q", *ids)
    with pytest.raises(IntegrityError, match=message):
        prove(damaged)


def test_a_freelist_longer_than_16_bits_is_read() -> None:
    made = BoltFile(PAGE, spare=70_000)
    data = bytearray(made.build(content()))
    page = made.next
    run = -(-(16 + 8 * 70_001) // PAGE)
    data += struct.pack("<QHHI", page, 0x10, 0xFFFF, run - 1)
    free = range(page - 70_000, page)
    data += struct.pack("<70001Q", 70_000, *free).ljust(run * PAGE - 16, b"\0")
    remake_metas(data, pages=page + run, freelist=page)
    assert prove(data).free_pages == 70_000
    for count in (70_000 * 9, 1 << 62, (1 << 64) - 1):
        put(data, page * PAGE + 16, "Q", count)
        with pytest.raises(IntegrityError, match=r"its freelist page \d+ has no room for"):
            prove(data)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {rev(5): key_value(b"/a", 5, 6, 1)},
            "lies at revision 5, but says that it was modified at 6",
        ),
        ({rev(5): key_value(b"/a", 6, 5, 1)}, "created at revision 6, modified at 5"),
        ({rev(5): key_value(b"/a", 0, 5, 1)}, "created at revision 0"),
        ({rev(5): key_value(b"/a", 5, 5, 0)}, "it has version 0"),
        ({rev(5): key_value(b"", 5, 5, 1)}, "it has no user key"),
        ({rev(5): key_value(b"/a", 5, 5, 1, b"v")[:-1]}, "its value is no KeyValue"),
        ({rev(5): key_value(b"/a", 5, 5, 1, b"v") + b"\x00"}, "its value is no KeyValue"),
        ({rev(5): b"\x0a\x7f/a"}, "its value is no KeyValue"),
        ({rev(5): b"\x08\x01"}, "its value is no KeyValue"),
        ({rev(5, 0, b"t"): b""}, "it has no user key"),
        ({rev(5, 0, b"t"): key_value(b"/a", 5, 5, 1)}, "it is a tombstone, but has more"),
        ({rev(5, 1): b""}, "it has no user key"),
        ({rev(5, 0, b"x"): key_value(b"/a", 5, 5, 1)}, "is not a revision|is no record"),
        ({rev(0): key_value(b"/a", 5, 5, 1)}, "is not a revision|is no record"),
        ({b"short": key_value(b"/a", 5, 5, 1)}, "is not a revision|is no record"),
        ({rev(5): {b"nested": b"bucket"}}, "has flags 0x1|is no record"),
    ],
)
@pytest.mark.parametrize("inline", [True, False])
def test_a_wrong_record_is_named(record: Items, message: str, inline: bool) -> None:
    others = {
        rev(3): key_value(b"/b", 3, 3, 1),
        rev(1 << 40): key_value(b"/c", 1 << 40, 1 << 40, 1),
    }
    made = BoltFile(inline=inline).build({b"key": {**others, **record}, b"meta": {}})
    with pytest.raises(IntegrityError, match=message):
        prove(made)


@pytest.mark.parametrize(
    ("buckets", "message"),
    [
        ({b"stray": b"value"}, "is no bucket but lies among them"),
        ({b"alarm": {b"\x08": b""}}, "bucket alarm"),
        ({b"members": {b"zz": b"{}"}}, "bucket members"),
        ({b"members": {b"1f": b"{"}}, "bucket members"),
        ({b"meta": {b"scheduledCompactRev": b"12"}}, "scheduledCompactRev is no revision"),
        ({b"meta": {b"finishedCompactRev": bytes(17)}}, "finishedCompactRev is no revision"),
        ({b"key": {rev(0): b""}}, "bucket key, page 2: .* is no record"),
        ({b"meta": {b"consistent_index": b"12"}}, "consistent_index has 2 bytes"),
        ({b"b%04d" % number: {} for number in range(1100)}, "more than 1024 buckets"),
        ({b"members": {b"%x" % number: b"{}" for number in range(1100)}}, "more than 1024 members"),
        (
            {b"alarm": {b"\x08" + varint(n << 20): b"" for n in range(1, 1100)}},
            "more than 1024 alarms",
        ),
    ],
)
def test_wrong_buckets_are_named(buckets: Items, message: str) -> None:
    made = BoltFile().build({b"key": {}, b"meta": {}, **buckets})
    with pytest.raises(IntegrityError, match=message):
        prove(made)


@pytest.mark.parametrize("window", [1024, 8 << 20])
@pytest.mark.parametrize("size", [10, 3000, 2_000_000])
def test_a_record_cut_at_the_end_of_a_field_is_found(
    window: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its value size shrank just so that the lease is left out, and what remains reads well."""
    monkeypatch.setattr(walk, "_WINDOW", window)
    made = BoltFile(PAGE, inline=False)
    record = key_value(b"/a", 2, 2, 1, b"v" * size, 21 << 40)
    data = bytearray(made.build({b"key": {rev(2): record}, b"meta": {}}))
    assert prove(data).live_keys == 1
    page = next(at for at, run in made.pages.items() if record in run)
    put(data, page * PAGE + 16 + 12, "I", len(record) - 8)
    with pytest.raises(IntegrityError, match=f"page {page} goes on behind its last element"):
        prove(data)


@pytest.mark.parametrize("name", [b"key", b"lease"])
def test_a_tree_without_end_is_refused(name: bytes) -> None:
    """A chain of branches with one child each, which no reference counted twice would end."""
    made = BoltFile(PAGE)
    page = made.place([(0, rev(2), key_value(b"/a", 2, 2, 1))])
    for _ in range(3000):
        page = made.place([(page, rev(2), b"")], branch=True)
    others = made.bucket_items({b"key": {}, b"meta": {}})
    items = {key: (flags, key, value) for flags, key, value in others}
    items[name] = (1, name, struct.pack("<QQ", page, 0))
    with pytest.raises(IntegrityError, match="more than 64 levels"):
        prove(made.build_items(list(items.values())))


def test_buckets_in_buckets_without_end_are_refused() -> None:
    nested: Items = {b"k": b"v"}
    for _ in range(buckets_module.MAX_DEPTH + 2):
        nested = {b"b": nested}
    with pytest.raises(IntegrityError, match="more than 64 levels"):
        prove(BoltFile(PAGE).build({b"key": {}, b"meta": {}, b"other": nested}))


@pytest.mark.parametrize("bucket", [b"key", b"lease"])
def test_a_page_that_claims_the_whole_file_takes_no_memory(bucket: bytes) -> None:
    """One leaf, its last value running through 64 MiB."""
    size = 64 << 20
    made = BoltFile(4096)
    value = key_value(b"/a", 2, 2, 1, bytes(size)) if bucket == b"key" else bytes(size)
    data = BytesFile(made.build({b"key": {}, b"meta": {}, bucket: {rev(2): value}}))
    tracemalloc.start()
    try:
        prove_structure(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
    assert data.reads < 1 << 20


def test_a_user_key_of_many_megabytes_takes_no_memory() -> None:
    made = BoltFile(4096).build(
        {b"key": {rev(2): key_value(b"k" * (48 << 20), 2, 2, 1)}, b"meta": {}}
    )
    tracemalloc.start()
    try:
        assert prove_structure(BytesFile(made)).live_keys == 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20
