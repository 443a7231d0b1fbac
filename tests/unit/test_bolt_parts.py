"""The pieces of the snapshot proof, each against a plain Python definition of itself."""

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etcd_steward.registry import liveness
from etcd_steward.registry.envelope import uid_of
from etcd_steward.registry.lanes import load64, varint
from etcd_steward.registry.liveness import KeyHash, LiveKeys
from etcd_steward.registry.wire import Malformed, fields_of
from tests.boltfile import varint as encoded
from tests.testbed.bulk import entries


@given(st.binary(min_size=8, max_size=80))
def test_unaligned_loads_are_the_bytes_that_stand_there(data: bytes) -> None:
    data = data[: len(data) & ~7]
    words = np.frombuffer(data, dtype="<u8")
    offsets = np.arange(len(data) - 7, dtype=np.int64)
    expected = [int.from_bytes(data[at : at + 8], "little") for at in offsets]
    assert load64(words, offsets).tolist() == expected


def test_loads_far_outside_the_window_are_harmless() -> None:
    words = np.arange(4, dtype=np.uint64)
    load64(words, np.array([0, 31, 32, 1 << 40, -5, -(1 << 40)]))


@given(st.integers(0, (1 << 64) - 1), st.binary(min_size=8, max_size=8))
def test_varints(value: int, behind: bytes) -> None:
    data = (encoded(value) + behind)[:8]
    got, used = varint(np.frombuffer(data, dtype="<u8"))
    if len(encoded(value)) <= 7:
        assert (int(got[0]), int(used[0])) == (value, len(encoded(value)))
    else:
        assert used[0] == 8


@given(st.lists(st.binary(min_size=1, max_size=70), min_size=1, max_size=20))
def test_a_hash_is_the_same_wherever_the_key_lies_and_however_it_is_cut(keys: list[bytes]) -> None:
    hashed = KeyHash()
    joined = b"".join(keys)
    buffer = np.frombuffer(joined + b"\xee" * (8 + -len(joined) % 8), dtype="<u8")
    lengths = np.array([len(key) for key in keys])
    found = hashed(buffer, np.cumsum(lengths) - lengths, lengths)
    for key, value in zip(keys, found.tolist(), strict=True):
        pieces = [key[at : at + 16] for at in range(0, len(key), 16)]
        assert hashed.of_chunks(pieces) == value
        assert value & 1 == 0
    assert len(set(found.tolist())) == len(set(keys))


def test_a_million_similar_keys_do_not_collide() -> None:
    names = [f"/registry/pods/ns-{i % 97:02}/web-{i:07}".encode().ljust(40) for i in range(1 << 20)]
    buffer = np.frombuffer(b"".join(names), dtype="<u8")
    at = np.arange(len(names), dtype=np.int64) * 40
    assert len(np.unique(KeyHash()(buffer, at, np.full_like(at, 40)))) == len(names)


def test_no_secret_makes_keys_of_a_registry_collide() -> None:
    """One secret in 250 did, when words were mixed less: some keys then were not counted."""
    names = [key for batch in range(50) for key, _ in entries(batch, namespaces=10, seed=1)]
    lengths = np.array([len(name) for name in names])
    joined = b"".join(names)
    buffer = np.frombuffer(joined + bytes(8 + -len(joined) % 8), dtype="<u8")
    at = np.cumsum(lengths) - lengths
    for _ in range(1500):
        assert len(np.unique(KeyHash()(buffer, at, lengths))) == len(names)


def test_keys_that_differ_in_length_or_order_of_words_alone_differ() -> None:
    hashed = KeyHash()
    a, b = b"a" * 8, b"b" * 8
    keys = [b"x", b"x\0", b"x\0\0", a + b, b + a, a, a + a, a + a + a, b"\0", b"\0" * 8, b"\0" * 9]
    assert len({hashed.of_chunks([key]) for key in keys}) == len(keys)


@pytest.mark.parametrize("part", [1 << 19, 64])
def test_the_newest_record_decides(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "_PART", part)
    rng = random.Random(4)  # noqa: S311
    history = [(rng.randrange(400), rng.random() < 0.4) for _ in range(3000)]
    expected = dict(history)
    pages = [history[at : at + 7] for at in range(0, len(history), 7)]
    numbered = list(enumerate(pages))
    rng.shuffle(numbered)
    live = LiveKeys()
    spread = np.random.default_rng(1).integers(0, 1 << 64, 400, dtype=np.uint64) & ~np.uint64(1)
    for at in range(0, len(numbered), 5):
        some = numbered[at : at + 5]
        records = [record for _, page in some for record in page]
        live.add(
            spread[[key for key, _ in records]],
            np.array([dead for _, dead in records]),
            np.array([len(page) for _, page in some]),
            # Two pages often begin with the same revision, and differ in the sub revision.
            np.array([number // 2 for number, _ in some]),
            np.array([number % 2 for number, _ in some], dtype=np.uint32),
        )
    assert live.count() == sum(not dead for dead in expected.values())


def namespace(uid: bytes) -> bytes:
    meta = b"\x0a\x0bkube-system\x2a" + encoded(len(uid)) + uid + b"\x38\x00"
    raw = b"\x0a" + encoded(len(meta)) + meta + b"\x12\x00"
    kind = b"\x0a\x02v1\x12\x09Namespace"
    unknown = b"\x0a" + encoded(len(kind)) + kind + b"\x12" + encoded(len(raw)) + raw
    return b"k8s\x00" + unknown + b"\x1a\x00\x22\x00"


def test_uids_are_found_in_protobuf_and_json() -> None:
    uid = "0b57f10c-3a4f-4e6d-8f0f-5f0f1e0c7a11"
    assert uid_of(namespace(uid.encode())) == uid
    assert uid_of(json.dumps({"metadata": {"uid": uid}}).encode()) == uid


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"k8s:enc:aescbc:v1:key1:\x01\x02",
        b"k8s\x00",
        b"k8s\x00\x12\xff\xff",
        namespace(b""),
        namespace(b"\xff\xfe"),
        b"{",
        b"{}",
        b'{"metadata": 3}',
        b'{"metadata": {"uid": 3}}',
        b"[" * 100_000,
        b"{" + b'"a":[' * 100_000,
        b"plain",
    ],
)
def test_what_is_no_object_has_no_uid(value: bytes) -> None:
    assert uid_of(value) is None


@given(st.binary(max_size=200))
def test_any_bytes_may_be_asked_for_a_uid(value: bytes) -> None:
    uid_of(b"k8s\x00" + value)
    uid_of(b"{" + value)


@given(st.binary(max_size=100))
@settings(max_examples=300)
def test_fields_stay_inside_the_message(message: bytes) -> None:
    try:
        for number, _, value, length in fields_of(message):
            assert number > 0
            assert length <= 8 or value + length <= len(message)
    except Malformed:
        pass


@pytest.mark.parametrize(
    "message",
    [b"\x00\x01", b"\x0a\x05abc", b"\x0b", b"\x08", b"\x09\x01", b"\xff" * 11, b"\x0d\x01\x02"],
)
def test_malformed_messages_are_refused(message: bytes) -> None:
    with pytest.raises(Malformed):
        list(fields_of(message))
