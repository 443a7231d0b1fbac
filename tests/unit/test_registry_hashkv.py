"""HashKV of files, against etcd's own few lines of it (`server/storage/mvcc/hash.go`)."""

import contextlib
import random
from functools import cache

import google_crc32c
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etcd_steward.errors import Compacted, IntegrityError, InvalidInput
from etcd_steward.models.registry import Record
from etcd_steward.registry import hashkv, liveness, mvcc, walk
from etcd_steward.registry.crc import combine
from etcd_steward.registry.hashkv import KeysHash, hash_kv
from tests.boltfile import BoltFile, BytesFile, content, rev, shape
from tests.unit.test_registry_history import TXN, Model, built, read_all


def keep(model: Model, at: int) -> set[bytes]:
    """`treeIndex.Keep`: of each key the newest record that is there, unless a deletion."""
    newest: dict[bytes, bytes] = {}
    for record in sorted(model.records):
        if int.from_bytes(record[:8], "big") <= at:
            newest[model.user_key(record) if model.records[record] else b""] = record
    return {record for record in newest.values() if not record.endswith(b"t")}


def plain_hash(model: Model, at: int) -> KeysHash:
    compacted, kept = model.compacted or -1, keep(model, at)
    crc = google_crc32c.value(b"key")
    for record, value in sorted(model.records.items()):
        main = int.from_bytes(record[:8], "big")
        if main > at or (main <= compacted and kept and record not in kept):
            continue
        if main == compacted and record.endswith(b"t"):
            continue
        crc = google_crc32c.extend(crc, record + value)
    return KeysHash(crc, at, compacted)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few pages and records at a time, so that small files take every way."""
    for where, name, value in (
        (walk, "_WINDOW", 4096), (walk, "_BATCH", 5), (mvcc, "PIECE", 64), (hashkv, "PIECE", 50),
        (liveness, "_PART", 16),
    ):  # fmt: skip
        monkeypatch.setattr(where, name, value)


@given(st.lists(TXN, max_size=25), st.data())
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("small")
def test_any_history_at_any_revision(
    txns: list[list[tuple[bytes, bytes | None]]], data: st.DataObject
) -> None:
    model = Model()
    for txn in txns:
        model.txn(*txn)
    if data.draw(st.booleans()):
        model.compact(
            data.draw(st.integers(1, model.revision)),
            keep_tombstones=data.draw(st.booleans()),
            stop_after=data.draw(st.one_of(st.none(), st.integers(0, 5))),
        )
    made = BoltFile(data.draw(st.sampled_from([1024, 4096])), data.draw(st.integers(1, 8)), 3)
    made.shuffle = random.Random(5) if data.draw(st.booleans()) else None  # noqa: S311
    file = BytesFile(made.build(model.buckets()))
    assert hash_kv(file) == plain_hash(model, model.revision)
    for at in range(max(1, model.compacted), model.revision + 1):
        assert hash_kv(file, at) == plain_hash(model, at)


@pytest.mark.parametrize("window", [4096, 8 << 20])
def test_large_keys_and_values(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "_WINDOW", window)
    monkeypatch.setattr(hashkv, "PIECE", 1000)
    model = Model()
    model.txn((b"/k" * 5000, b"small"), (b"/v", b"V" * 90_000))
    model.txn((b"/k" * 5000, b"K" * 20_000), (b"/w", b"w"), (b"/v", b""))
    model.txn((b"/k" * 5000, None), (b"/x", b"X" * 50_000))
    model.compact(3, keep_tombstones=True, stop_after=0)
    file = BytesFile(BoltFile().build(model.buckets()))
    for at in (3, 4):
        assert hash_kv(file, at) == plain_hash(model, at)


def test_a_bump_is_the_record_of_an_empty_key() -> None:
    model = Model()
    model.txn((b"/a", b"1"), (b"/b", b"2"))
    for bumped in (1_000, 2_000):
        model.records[rev(bumped)] = b""
        model.compacted = bumped
        file = BytesFile(BoltFile().build(model.buckets()))
        assert hash_kv(file) == plain_hash(model, bumped)


def test_what_a_revision_may_be() -> None:
    model = Model()
    for number in range(9):
        model.txn((b"/a", b"%d" % number))
    model.compact(5, keep_tombstones=True)
    file = BytesFile(BoltFile().build(model.buckets()))
    with pytest.raises(Compacted, match="up to 5"):
        hash_kv(file, 4)
    with pytest.raises(InvalidInput, match="ends at 10"):
        hash_kv(file, 11)
    assert hash_kv(file, 10) == hash_kv(file)


@given(st.lists(st.binary(max_size=40), max_size=60))
@settings(max_examples=60)
def test_the_hash_of_a_whole_from_those_of_its_parts(parts: list[bytes]) -> None:
    crcs = np.array([google_crc32c.value(part) for part in parts], dtype=np.uint32)
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    assert combine(crcs, lengths) == google_crc32c.value(b"".join(parts))


def test_long_parts() -> None:
    parts = [b"a" * 3_000_017, b"b" * 70_000, b"", b"c" * (1 << 21)]
    crcs = np.array([google_crc32c.value(part) for part in parts], dtype=np.uint32)
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    assert combine(crcs, lengths) == google_crc32c.value(b"".join(parts))


@cache
def hashed() -> tuple[bytes, BoltFile, KeysHash, list[Record]]:
    whole, made = built(freelist=False)
    return whole, made, hash_kv(BytesFile(whole)), read_all(whole)


@given(st.data())
@settings(max_examples=120, print_blob=True)
def test_the_same_hash_means_the_same_data(data: st.DataObject) -> None:
    """Whatever is flipped: an error, another hash, or the very same records."""
    whole, made, sound, records = hashed()
    where, length, _ = data.draw(st.sampled_from([*made.fields, (0, len(whole), "anywhere")]))
    damaged = bytearray(whole)
    damaged[where + data.draw(st.integers(0, length - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(IntegrityError):
        if hash_kv(BytesFile(bytes(damaged))) == sound:
            assert read_all(bytes(damaged)) == records


def test_truncated_files() -> None:
    whole = shape(freelist=False).build(content())
    for size in (0, 1, 1024, len(whole) // 2, len(whole) - 1, len(whole) - 1024):
        with pytest.raises(IntegrityError):
            hash_kv(BytesFile(whole[:size]), size=size)
