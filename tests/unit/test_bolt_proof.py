"""What the proof says of sound files: every shape, page size and window gives the same answer."""

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etcd_steward.errors import IntegrityError
from etcd_steward.registry import mvcc, walk
from etcd_steward.registry.proof import KUBE_SYSTEM, Alarm, Member, prove_structure
from tests.boltfile import BoltFile, BytesFile, History, Items, key_value, rev, varint

KEYS = st.sampled_from([b"/a", b"/b", b"/c\x00", b"/c", b"/\xff" * 9, b"/long" * 20, KUBE_SYSTEM])
OPERATION = st.tuples(KEYS, st.one_of(st.none(), st.binary(max_size=60)))
HISTORIES = st.lists(
    st.lists(OPERATION, min_size=1, max_size=6, unique_by=lambda pair: pair[0]), max_size=40
)


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few pages at a time, so that small files take every way through the reader."""
    monkeypatch.setattr(walk, "_WINDOW", 4096)
    monkeypatch.setattr(walk, "_GAP", 2)
    monkeypatch.setattr(walk, "_BATCH", 5)
    monkeypatch.setattr(walk, "_BRANCHES", 2)
    monkeypatch.setattr(mvcc, "PIECE", 64)


@given(
    HISTORIES,
    st.sampled_from([(1024, 4096), (1024, 1 << 20), (4096, 8192), (16384, 8 << 20)]),
    st.integers(1, 8),
    st.integers(2, 5),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_any_history_in_any_shape(
    operations: list[list[tuple[bytes, bytes | None]]],
    sizes: tuple[int, int],
    per_leaf: int,
    per_branch: int,
    freelist: bool,
    shuffled: bool,
) -> None:
    history = History()
    for txn in operations:
        history.txn(*txn, lease=0x7000_0000_0000_0001 if len(txn) % 2 else 0)
    shape = BoltFile(
        sizes[0],
        per_leaf,
        per_branch,
        freelist=freelist and not shuffled,
        shuffle=random.Random(1) if shuffled else None,  # noqa: S311
    )
    data = shape.build(history.buckets())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "_WINDOW", sizes[1])
        patch.setattr(walk, "_BATCH", 7)
        patch.setattr(walk, "_BRANCHES", per_branch)
        report = prove_structure(BytesFile(data))
    assert report.live_keys == len(history.live)
    assert report.records == len(history.records)
    assert report.tombstones == sum(key.endswith(b"t") for key in history.records)
    assert report.revision == history.revision
    assert report.page_size == sizes[0]
    assert report.pages * sizes[0] == len(data)
    assert report.reachable_pages + report.free_pages == report.pages
    assert report.valid_metas == 2
    assert report.buckets == ("key", "lease", "meta")


@pytest.mark.parametrize("page_size", [1024, 4096, 16384, 65536])
def test_the_digest_behind_the_file_is_told_by_its_size(page_size: int) -> None:
    history = History()
    history.txn((b"/a", b"1"))
    data = BoltFile(page_size).build(history.buckets())
    plain = prove_structure(BytesFile(data))
    assert prove_structure(BytesFile(data + bytes(32))) == plain
    assert prove_structure(BytesFile(data + bytes(32)), size=len(data)) == plain


def test_all_that_the_small_buckets_say() -> None:
    history = History(compacted=9)
    history.txn((b"/a", b"1"), (b"/b", b"2"))
    buckets = history.buckets(
        alarm={b"\x08" + varint(0xFEDCBA9876543210) + b"\x10\x01": b"", b"\x08\x05\x10\x02": b""},
        members={
            b"8e9e05c52164694d": json.dumps({"id": 1, "name": "etcd0"}).encode(),
            b"f0": b"{}",
        },
        cluster={b"clusterVersion": b"3.6.0"},
        auth={b"authEnabled": b"\x01"},
        nested={b"deep": {b"deeper": {b"key": b"v" * 5000, b"more": b"w"}}},
    )
    meta = {**history.meta(), b"storageVersion": b"3.6.0", b"scheduledCompactRev": rev(12)}
    report = prove_structure(BytesFile(BoltFile().build({**buckets, b"meta": meta})))
    assert report.alarms == (Alarm(5, "CORRUPT"), Alarm(0xFEDCBA9876543210, "NOSPACE"))
    assert report.members == (Member(0x8E9E05C52164694D, "etcd0"), Member(0xF0, ""))
    assert (report.cluster_version, report.storage_version) == ("3.6.0", "3.6.0")
    assert (report.consistent_index, report.term) == (77, 3)
    assert (report.revision, report.compact_revision) == (12, 12)
    assert report.buckets == (
        "alarm",
        "auth",
        "cluster",
        "key",
        "lease",
        "members",
        "meta",
        "nested",
    )


def test_a_bumped_file_has_an_empty_record_that_is_no_key() -> None:
    history = History()
    history.txn((b"/a", b"1"), (b"/b", b"2"))
    history.records[rev(1_000_000_002)] = b""
    history.revision = 1_000_000_002
    for later in (False, True):
        if later:  # etcd keeps the record for good
            history.txn((b"/c", b"3"))
        for per_leaf in (1, 1000):
            data = BoltFile(per_leaf=per_leaf, per_branch=2).build(history.buckets())
            report = prove_structure(BytesFile(data))
            assert report.bump_revision == 1_000_000_002
            assert report.live_keys == len(history.live)
            assert report.records == len(history.records)
            assert report.revision == history.revision


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.usefixtures("small_windows")
def test_values_and_keys_larger_than_a_window(inline: bool) -> None:
    history = History()
    for number in range(12):
        history.txn((b"/big/%d" % number, b"v" * (2500 * number)), (b"/s", b"1"))
        history.txn((b"K" * (3000 * number + 1), b"w"), (KUBE_SYSTEM, None))
    history.txn((b"K" * 3001, None))
    history.txn((KUBE_SYSTEM, json.dumps({"metadata": {"uid": "u-1"}, "x": "y" * 9000}).encode()))
    data = BoltFile(1024, per_leaf=2, per_branch=3, inline=inline).build(history.buckets())
    report = prove_structure(BytesFile(data))
    assert report.live_keys == len(history.live)
    assert report.records == len(history.records)
    assert report.kube_system_uid == "u-1"


def test_the_namespace_is_the_one_that_lives() -> None:
    history = History()
    told: list[str | None] = []
    for value in (
        b'{"metadata": {"uid": "old"}}',
        b'{"metadata": {"uid": "new"}}',
        None,
        b"k8s:enc:",
    ):
        history.txn((KUBE_SYSTEM, value), (KUBE_SYSTEM + b"2", b'{"metadata": {"uid": "other"}}'))
        file = BytesFile(BoltFile(per_leaf=1, inline=False).build(history.buckets()))
        told.append(prove_structure(file).kube_system_uid)
        assert prove_structure(file, namespace_key=KUBE_SYSTEM + b"2").kube_system_uid == "other"
        assert prove_structure(file, namespace_key=None).kube_system_uid is None
    assert told == ["old", "new", None, None]


def test_fields_in_another_order_are_read_too() -> None:
    value = key_value(b"", 2, 2, 1, b"v", 7) + b"\x0a\x02/a" + b"\x3a\x01x"
    made = BoltFile(inline=False).build({b"key": {rev(2): value}, b"meta": {}})
    assert prove_structure(BytesFile(made)).live_keys == 1


def test_revisions_of_any_size_are_read() -> None:
    records = {
        rev(main): key_value(b"/%d" % main, main, main, 1, b"v", lease)
        for main, lease in (
            (2, 0),
            (1 << 48, (1 << 63) - 1),
            ((1 << 49) + 1, 1),
            (1 << 62, 1 << 55),
        )
    }
    made = BoltFile(inline=False).build({b"key": records, b"meta": {}})
    report = prove_structure(BytesFile(made))
    assert (report.live_keys, report.revision) == (4, 1 << 62)


def test_one_meta_is_enough_as_it_is_for_bbolt() -> None:
    history = History()
    history.txn((b"/a", b"1"))
    for page_size in (1024, 4096, 65536):
        whole = BoltFile(page_size).build(history.buckets())
        report = prove_structure(BytesFile(whole))
        for page in (0, 1):
            data = bytearray(whole)
            data[page * page_size + 60] ^= 1
            assert prove_structure(BytesFile(bytes(data))) == replace(report, valid_metas=1)


def test_pages_behind_the_high_water_mark_do_not_matter() -> None:
    history = History()
    history.txn((b"/a", b"1"))
    data = BoltFile().build(history.buckets())
    assert prove_structure(BytesFile(data + b"\xff" * 8192)) == prove_structure(BytesFile(data))


def test_progress_is_told_and_may_end_the_proof() -> None:
    history = History()
    for number in range(40):
        history.txn((b"/%d" % number, b"v" * 500_000))
    file = BytesFile(BoltFile().build(history.buckets()))
    told: list[int] = []
    prove_structure(file, progress=told.append)
    assert told == sorted(told)
    assert len(told) >= 2
    assert told[-1] <= file.reads

    class Stop(Exception):
        pass

    def stop(_: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        prove_structure(file, progress=stop)


def test_a_file_of_something_else_is_refused() -> None:
    for data in (b"", b"PK\x03\x04", bytes(8192), b"SQLite format 3\0" * 1024):
        with pytest.raises(IntegrityError, match="is damaged"):
            prove_structure(BytesFile(data))
    several: list[Items] = [{}, {b"key": {}}, {b"meta": {}}, {b"key": {}, b"other": {}}]
    for buckets in several:
        with pytest.raises(IntegrityError, match=r"not etcd's|has 0 elements"):
            prove_structure(BytesFile(BoltFile().build(buckets)))
