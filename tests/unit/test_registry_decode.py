"""Objects in full; the proofs on Kubernetes' own data are in tests/integration."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcd_steward.errors import Undecodable
from etcd_steward.registry.decode import decode
from tests.support.values import field, protobuf, serialised, varint

SECRET = "c2VjcmV0"
CRD = {"apiVersion": "apiextensions.k8s.io/v1beta1", "kind": "CustomResourceDefinition"}


def test_an_object_of_a_custom_resource_in_json_and_cbor() -> None:
    document = {
        "apiVersion": "a.b/v1",
        "kind": "W",
        "metadata": {"name": "x"},
        "spec": {"f": 1.5, "n": None, "l": [{}, "ü"], "i": -(2**63)},
    }
    for value in (json.dumps(document).encode(), b"\xd9\xd9\xf7" + serialised(document)):
        assert decode(value).object == document
        assert decode(value).notes == ()


def test_numbers_are_printed_as_go_prints_them() -> None:
    value = b'{"apiVersion":"a.b/v1","kind":"W","spec":[1.0,1e3,2.5,1e30,-0.5]}'
    assert json.dumps(decode(value).object["spec"]) == "[1, 1000, 2.5, 1e+30, -0.5]"


def test_fields_of_a_newer_kubernetes_are_said() -> None:
    container = field(1, b"app") + field(4242, b"newer") + field(8, field(4243, b"newer"))
    spec = field(2, container) + varint(900 << 3) + b"\x07"
    value = protobuf("v1", "Pod", field(2, spec), name="web")
    decoded = decode(value)
    assert decoded.object["spec"]["containers"][0]["name"] == "app"
    assert [note.partition(" is newer")[0] for note in decoded.notes] == [
        "field 900 of spec",
        "field 4242 of spec.containers[0]",
        "field 4243 of spec.containers[0].resources",
    ]
    assert "Kubernetes 1.35" in decoded.notes[0]


def test_what_is_absent_is_printed_as_go_prints_it() -> None:
    """Written by a version that had no such fields: structs are there, lists are null."""
    decoded = decode(protobuf("rbac.authorization.k8s.io/v1", "Role", name="r"))
    assert decoded.object == {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "r"},
        "rules": None,
    }
    assert decode(protobuf("v1", "Namespace")).object["status"] == {"phase": "Active"}
    event = decode(protobuf("v1", "Event")).object
    assert (event["eventTime"], event["firstTimestamp"], event["source"]) == (None, None, {})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"k8s:enc:aescbc:v1:key1:\0", "encrypted at rest, by aescbc:v1 with the key 'key1'"),
        (b"k8s:enc:", "encrypted at rest, by an unknown provider"),
        (b"", "no Kubernetes object"),
        (b"{}", "no Kubernetes object"),
        (b"text", "no Kubernetes object"),
        (b"k8s\0\xff", "damaged"),
        (protobuf("new.k8s.io/v1", "Thing"), "1.35 has no Thing of new.k8s.io/v1"),
        (protobuf("v1", "Pod", field(2, b"\xff")), "Pod of v1 is damaged"),
        (protobuf("v1", "Pod", name="x")[:30], "begins as a Kubernetes object and is damaged"),
        (protobuf("v1", "ConfigMap", field(2, field(1, b"\xff"))), "ConfigMap of v1 is damaged"),
        (protobuf("v1", "ConfigMap", field(2, field(2, b"\xff"))), "ConfigMap of v1 is damaged"),
        (protobuf("v1", "Pod", field(2, field(3, b"\xff"))), "a text is not UTF-8"),
        (protobuf("v1", "Pod", creationTimestamp={"seconds": 2**62}), "has no date"),
        (
            protobuf("v1", "Pod", managedFields=[{"fieldsV1": {"Raw": b"{"}}]),
            "Pod of v1 is damaged",
        ),
        (
            json.dumps({**CRD, "spec": [1]}).encode(),
            "CustomResourceDefinition of apiextensions.k8s.io/v1beta1 is damaged",
        ),
    ],
)
def test_what_can_not_be_decoded_is_said(value: bytes, words: str) -> None:
    with pytest.raises(Undecodable, match=words) as caught:
        decode(value)
    assert caught.value.hint


@given(cut=st.integers(0, 200), flip=st.integers(0, 199), bit=st.integers(0, 7))
def test_damage_is_an_error_or_another_object_and_never_shows_a_secret(
    cut: int, flip: int, bit: int
) -> None:
    data = field(2, field(1, b"token") + field(2, SECRET.encode()))
    value = bytearray(protobuf("v1", "Secret", data, name="s", labels={"a": "b"}))
    value[flip % len(value)] ^= 1 << bit
    for damaged in (bytes(value), bytes(value[:cut])):
        assert SECRET not in said_of(damaged)


def said_of(value: bytes) -> str:
    """What the error says, if there is one."""
    try:
        decode(value)
    except Undecodable as error:
        return f"{error} {error.__cause__}"
    return ""


def old_definition(**spec: Any) -> dict[str, Any]:  # noqa: ANN401
    names = {"kind": "W", "plural": "ws"}
    stored = {
        **CRD,
        "metadata": {"name": "ws.a.b"},
        "spec": {"group": "a.b", "names": names, **spec},
    }
    decoded = decode(json.dumps(stored).encode()).object
    assert decoded["apiVersion"] == "apiextensions.k8s.io/v1"
    found: dict[str, Any] = decoded["spec"]
    assert (found.pop("group"), found.pop("names")) == ("a.b", names)
    return found


def test_a_definition_is_shown_in_the_version_that_can_be_applied() -> None:
    columns = [{"name": "A", "JSONPath": ".a"}]
    found = old_definition(
        version="v1",
        validation={"openAPIV3Schema": {"type": "object"}},
        subresources={"status": {}},
        additionalPrinterColumns=columns,
        scope="Cluster",
        preserveUnknownFields=False,
    )
    assert found == {
        "scope": "Cluster",
        "conversion": {"strategy": "None"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object"}},
                "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "A", "jsonPath": ".a"}],
            }
        ],
    }


def test_a_definition_of_kubernetes_1_15() -> None:
    version = {"name": "v1", "served": True, "storage": True}
    found = old_definition(
        versions=[{**version, "additionalPrinterColumns": [{"JSONPath": ".b"}]}],
        conversion={
            "strategy": "Webhook",
            "webhookClientConfig": {"service": {"name": "s", "namespace": "n"}},
        },
    )
    assert found == {
        "scope": "Namespaced",
        "preserveUnknownFields": True,
        "versions": [{**version, "additionalPrinterColumns": [{"jsonPath": ".b"}]}],
        "conversion": {
            "strategy": "Webhook",
            "webhook": {
                "clientConfig": {"service": {"name": "s", "namespace": "n", "port": 443}},
                "conversionReviewVersions": ["v1beta1"],
            },
        },
    }
