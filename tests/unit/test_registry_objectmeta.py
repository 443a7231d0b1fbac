"""Metadata read from values of every encoding, and rewritten with all other bytes as they were."""

import dataclasses
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etcd_steward.errors import Undecodable
from etcd_steward.registry import objectmeta
from etcd_steward.registry.documents import document_of
from etcd_steward.registry.objectmeta import ObjectMeta, OwnerReference
from tests.support.values import field, protobuf, serialised

CBOR = b"\xd9\xd9\xf7"
Json = dict[str, Any]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
MOMENT = st.integers(1, 4_000_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
OWNERS = st.builds(
    OwnerReference,
    *(TEXT, TEXT, TEXT, TEXT),
    controller=st.none() | st.booleans(),
    block_owner_deletion=st.none() | st.booleans(),
)
METADATA = st.builds(
    ObjectMeta,
    name=TEXT,
    namespace=TEXT,
    uid=TEXT,
    generation=st.integers(0, 2**63 - 1),
    creation_timestamp=MOMENT,
    deletion_timestamp=st.none() | MOMENT,
    deletion_grace_period_seconds=st.none() | st.integers(0, 2**40),
    labels=st.dictionaries(TEXT, TEXT, max_size=3),
    annotations=st.dictionaries(TEXT, TEXT, max_size=3),
    owner_references=st.lists(OWNERS, max_size=3).map(tuple),
    finalizers=st.lists(TEXT, max_size=3).map(tuple),
)
MANAGED = [{"manager": "kubectl", "operation": "Apply", "time": "2026-11-22T02:17:00Z"}]


def as_json(meta: ObjectMeta) -> Json:
    """What the API server prints of it."""
    found = {
        "name": meta.name,
        "namespace": meta.namespace,
        "uid": meta.uid,
        "generation": meta.generation,
        "creationTimestamp": rfc3339(meta.creation_timestamp),
        "deletionTimestamp": rfc3339(meta.deletion_timestamp),
        "deletionGracePeriodSeconds": meta.deletion_grace_period_seconds,
        "labels": dict(meta.labels),
        "annotations": dict(meta.annotations),
        "ownerReferences": [owner_json(owner) for owner in meta.owner_references],
        "finalizers": list(meta.finalizers),
    }
    return {name: value for name, value in found.items() if value or value == 0}


def owner_json(owner: OwnerReference) -> Json:
    names = ("apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion")
    members = zip(names, dataclasses.astuple(owner), strict=True)
    return {name: value for name, value in members if value is not None}


def rfc3339(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def as_protobuf(meta: ObjectMeta) -> Json:
    """Arguments for `protobuf`: as Go writes it, every text and plain number is there."""
    found = as_json(meta)
    for name in ("creationTimestamp", "deletionTimestamp"):
        moment = datetime.fromisoformat(found[name]) if name in found else None
        if moment is not None:
            found[name] = {"seconds": int(moment.timestamp()), "nanos": 0}
    for name in ("name", "namespace", "uid"):
        if not found.get(name):  # an empty text is written, too, but not when we rewrite it
            found.pop(name, None)
    return found


@settings(max_examples=30)
@given(before=METADATA, after=METADATA, body=st.binary(max_size=20))
def test_protobuf_is_rewritten_to_what_go_would_write(
    before: ObjectMeta, after: ObjectMeta, body: bytes
) -> None:
    """Field for field the same bytes, with fields behind it that nobody here knows."""
    newer = field(3, body) + b"\x78\x05"
    value = protobuf("new.k8s.io/v9", "Thing", newer, **as_protobuf(before))
    assert objectmeta.read(value) == before
    assert objectmeta.labels(value) == before.labels
    changed = objectmeta.rewrite(value, lambda _: after)
    assert objectmeta.read(changed) == after
    back = objectmeta.rewrite(changed, lambda _: before)
    if all((before.name, before.namespace, before.uid, after.name, after.namespace, after.uid)):
        assert changed == protobuf("new.k8s.io/v9", "Thing", newer, **as_protobuf(after))
        assert back == value
    assert objectmeta.read(back) == before
    assert objectmeta.rewrite(value, lambda meta: meta) is value


def test_fields_that_a_newer_kubernetes_has_in_metadata_are_kept() -> None:
    owner = field(1, b"kind") + field(3, b"one") + field(4, b"u1") + field(5, b"v1")
    newer_owner = owner + field(99, b"newer")
    meta = field(1, b"web") + field(13, newer_owner) + field(13, owner) + field(98, b"newest")
    value = b"k8s\0" + field(1, field(1, b"v1")) + field(2, field(1, meta) + field(2, b"spec"))
    newer, plain = objectmeta.read(value).owner_references
    assert newer == plain
    changed = objectmeta.rewrite(
        value,
        lambda meta: dataclasses.replace(
            meta,
            finalizers=("f",),
            owner_references=(dataclasses.replace(plain, name="two"), newer),
        ),
    )
    assert field(98, b"newest") in changed
    assert field(13, newer_owner) in changed or field(13, owner) in changed
    assert objectmeta.read(changed).owner_references[0].name == "two"
    assert changed.endswith(field(2, b"spec"))


SPACES = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n\t", "\r :  ")])


@settings(max_examples=30)
@given(before=METADATA, after=METADATA, separators=SPACES, first=st.booleans())
def test_json_keeps_every_other_byte(
    before: ObjectMeta, after: ObjectMeta, separators: tuple[str, str], first: bool
) -> None:
    stored = {"z": 1, **as_json(before), "managedFields": MANAGED, "é": [{"finalizers": 1}]}
    inside = json.dumps(stored, separators=separators).replace('"z"', '"z" ').replace("1", "1.0", 1)
    head = '{ "metadata":1, "spec": {"metadata": 1e2, "a":"}"},"kind":"W","apiVersion" : "a.b/v1"'
    prefix, suffix = head + ',"metadata":', '\n, "status":{}}'
    if first:
        prefix, suffix = '{"metadata" :', "," + head[1:].replace('"metadata":1,', "") + "}"
    value = (prefix + inside + suffix).encode()
    expected = dataclasses.replace(before, managers=objectmeta.read(value).managers)
    assert objectmeta.read(value) == expected
    assert [manager.name for manager in expected.managers] == ["kubectl"]
    wanted = dataclasses.replace(after, managers=expected.managers)
    changed = objectmeta.rewrite(value, lambda _: wanted)
    assert objectmeta.read(changed) == wanted
    assert changed.startswith(prefix.encode())
    assert changed.endswith(suffix.encode())
    assert f'"z" {separators[1]}1.0'.encode() in changed
    assert json.dumps(MANAGED, separators=separators).encode() in changed
    document = document_of(changed)
    assert document is not None
    kept = {name: stored[name] for name in ("z", "managedFields", "é")}
    assert document["metadata"] == kept | as_json(wanted)


@settings(max_examples=30)
@given(before=METADATA, after=METADATA, many=st.sampled_from([0, 30, 300]), endless=st.booleans())
def test_cbor_keeps_every_other_byte(
    before: ObjectMeta, after: ObjectMeta, many: int, endless: bool
) -> None:
    stored = {f"x{index}": index for index in range(many)} | as_json(before)
    inside = serialised(stored)
    if endless:
        inside = b"\xbf" + b"".join(
            serialised(name) + serialised(item) for name, item in stored.items()
        ) + b"\xff"  # fmt: skip
    prefix = CBOR + b"\xa4" + serialised("kind") + b"\x61W" + serialised("metadata")
    suffix = serialised("apiVersion") + serialised("v1") + serialised("spec") + b"\xf9\x3c\x00"
    value = prefix + inside + suffix
    assert objectmeta.read(value) == before
    changed = objectmeta.rewrite(value, lambda _: after)
    assert objectmeta.read(changed) == after
    assert changed.startswith(prefix)
    assert changed.endswith(suffix)
    document = document_of(changed)
    assert document is not None
    others = {name: item for name, item in stored.items() if name.startswith("x")}
    assert document["metadata"] == others | as_json(after)


def test_members_of_an_owner_that_stays_are_kept_in_json() -> None:
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "1", "newer": True}
    stored = {"name": "x", "ownerReferences": [{**owner, "name": "gone"}, owner]}
    document = {"apiVersion": "a.b/v1", "kind": "W", "metadata": stored}
    for value in (json.dumps(document).encode(), CBOR + serialised(document)):
        changed = objectmeta.rewrite(
            value,
            lambda meta: dataclasses.replace(meta, owner_references=meta.owner_references[1:]),
        )
        found = document_of(changed)
        assert found is not None
        assert found["metadata"]["ownerReferences"] == [owner]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"k8s:enc:kms:v2:prod-key:\x00", "encrypted at rest, by kms:v2 with the key 'prod-key'"),
        (b"text", "no Kubernetes object"),
        (b'{"kind": "W"}', "no Kubernetes object"),
        (b'{"metadata": []}', "no Kubernetes object"),
        (b'{"metadata": {"labels": {"a": 1}}}', "labels"),
        (b'{"metadata": {"generation": true}}', "generation"),
        (b'{"metadata": {"finalizers": [1]}}', "finalizers"),
        (b'{"metadata": {"creationTimestamp": "yesterday"}}', "yesterday"),
        (b'{"metadata": {"creationTimestamp": "2026-11-22T02:17:00"}}', "no time zone"),
        (b"k8s\0" + field(1, b""), "damaged"),
        (b"k8s\0" + field(1, b"") + field(2, field(1, b"\xff")), "damaged"),
        (b"k8s\0" + field(1, b"") + field(2, field(1, field(1, b"\xff"))), "damaged"),
    ],
)
def test_what_can_not_be_read_is_said(value: bytes, words: str) -> None:
    with pytest.raises(Undecodable, match=words):
        objectmeta.read(value)
    with pytest.raises(Undecodable, match=words):
        objectmeta.rewrite(value, lambda meta: meta)


@pytest.mark.parametrize(
    "value", [b"k8s:enc:kms:v2:key:\0", b"text", b"k8s\0\xff", b'{"metadata": {"labels": [1]}}']
)
def test_labels_that_can_not_be_read_are_none(value: bytes) -> None:
    assert objectmeta.labels(value) is None


def test_managers_are_only_read() -> None:
    value = json.dumps({"metadata": {"managedFields": MANAGED}}).encode()
    with pytest.raises(ValueError, match="managers"):
        objectmeta.rewrite(value, lambda meta: dataclasses.replace(meta, managers=()))
