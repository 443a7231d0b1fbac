"""What a value says about itself, found in a hurry and in full."""

import json
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcd_steward.registry.documents import from_cbor
from etcd_steward.registry.envelope import header, open_envelope, uid_of
from tests.support.values import protobuf, serialised

UID = "0b57f10c-3a4f-4e6d-8f0f-5f0f1e0c7a11"
CBOR = b"\xd9\xd9\xf7"


def in_full(value: bytes) -> tuple[str, str | None, str | None, str | None]:
    envelope = open_envelope(value)
    return envelope.encoding, envelope.api_version, envelope.kind, uid_of(value)


def test_protobuf() -> None:
    value = protobuf("apps/v1", "Deployment", name="web", namespace="shop", uid=UID)
    assert header(value) == ("protobuf", "apps/v1", "Deployment", UID)
    assert header(value) == in_full(value)  # the kind is known now
    assert open_envelope(value).body in value


def test_json_in_both_orders_and_with_spaces() -> None:
    metadata = {"labels": {"uid": "no", '"uid":"': "\\"}, "ownerReferences": [{"uid": "no"}]}
    head = {"apiVersion": "a.b/v1", "kind": "Widget"}
    tail = {"metadata": {**metadata, "uid": UID, "z": 1}, "uid": "no"}
    for document in ({**head, **tail}, {**dict(reversed(head.items())), **tail}, {**tail, **head}):
        for separators in ((",", ":"), (", ", ": ")):
            value = json.dumps(document, separators=separators).encode()
            assert header(value) == in_full(value) == ("json", "a.b/v1", "Widget", UID)


def test_cbor_with_byte_strings_as_the_api_server_writes_it() -> None:
    value = CBOR + cbor2.dumps(
        {b"apiVersion": b"a.b/v1", b"kind": "Widget", b"metadata": {b"uid": UID.encode()}}
    )
    assert header(value) == in_full(value) == ("cbor", "a.b/v1", "Widget", UID)


def test_encrypted_values_say_by_whom() -> None:
    for provider in ("aescbc:v1", "aesgcm:v1", "secretbox:v1", "kms:v1", "kms:v2"):
        value = f"k8s:enc:{provider}:key-2026:".encode() + b"\x00\xff:"
        envelope = open_envelope(value)
        assert (envelope.encoding, envelope.provider) == ("encrypted", provider)
        assert (envelope.key_name, envelope.body) == ("key-2026", b"\x00\xff:")
        assert header(value) == ("encrypted", None, None, None)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"k8s",
        b"k8s\0",
        b"k8s\0\n",
        b"k8s\0\n\xff",
        b"k8s\0\n\x7f\n\x02v1",
        b"{",
        b"{]",
        b"[]",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": "\xff"}',
        b'{"a":' * 100_000,
        CBOR,
        CBOR + b"\x80",
        CBOR + b"\xa1",
        CBOR + b"\xbf",
        CBOR + b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff",
        CBOR + b"\x81" * 100_000,
        CBOR + cbor2.dumps({"a": 1}) + b"\0",
        CBOR + cbor2.dumps({1: 1}),
        CBOR + cbor2.dumps({"a": float("nan")}),
        CBOR + cbor2.dumps({"a": 1 << 70}),
        CBOR + cbor2.dumps({"a": cbor2.CBORTag(35, "(")}),
        b"plain text",
        b"\x00" * 99,
    ],
)
def test_what_is_no_object_is_other(value: bytes) -> None:
    assert header(value) == in_full(value) == ("other", None, None, None)


def test_json_without_a_kind_is_json_of_none() -> None:
    assert header(b'{"apiVersion": 1, "kind": ""}') == ("json", None, None, None)


@given(value=st.binary(max_size=60), head=st.sampled_from([b"", b"k8s\0", b"k8s:enc:", b"{", CBOR]))
def test_no_bytes_make_it_raise(value: bytes, head: bytes) -> None:
    header(head + value)
    in_full(head + value)


@given(
    api_version=st.sampled_from(["v1", "apps/v1", "x" * 200, "ä.b/v1"]),
    texts=st.lists(st.text(max_size=300), min_size=4, max_size=4),
    uid=st.sampled_from([UID, "", "short", "ü" * 18]),
    cut=st.integers(0, 400),
)
def test_the_hurry_finds_what_is_found_in_full(
    api_version: str, texts: list[str], uid: str, cut: int
) -> None:
    name, generate_name, namespace, link = texts
    value = protobuf(
        api_version,
        "Secret",
        name=name,
        generateName=generate_name,
        namespace=namespace,
        selfLink=link,
        uid=uid,
        labels={"uid": "no"},
    )
    for _ in range(2):
        assert header(value) == in_full(value)
        assert header(value)[3] == (uid or None)
    shorter = value[: max(4, len(value) - cut)]
    assert header(shorter)[0] in {"protobuf", "other"}
    document = {
        "apiVersion": api_version,
        "kind": "Secret",
        "metadata": {"annotations": {name: link}, "name": name, "uid": uid, "x": [[{}], namespace]},
    }
    value = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    assert header(value) == in_full(value)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(document=JSON)
def test_cbor_is_read_as_the_json_it_stands_for(document: Any) -> None:  # noqa: ANN401
    assert from_cbor(CBOR + cbor2.dumps(document)) == document
    assert from_cbor(CBOR + serialised(document)) == document


def test_bytes_in_cbor_are_the_text_that_json_has_for_them() -> None:
    data = bytes(range(250, 256))
    tagged = {name: cbor2.CBORTag(tag, data) for name, tag in (("a", 21), ("b", 22), ("c", 23))}
    found = from_cbor(CBOR + cbor2.dumps(tagged))
    assert found == {"a": "-vv8_f7_", "b": "+vv8/f7/", "c": "FAFBFCFDFEFF"}
