"""Stored values as an API server writes them, made without one."""

from typing import Any

import cbor2

from etcd_steward.registry import builtin


def field(number: int, payload: bytes) -> bytes:
    """A protobuf field of bytes."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def protobuf(api_version: str, kind: str, body: bytes = b"", **metadata: Any) -> bytes:  # noqa: ANN401
    """An object with this metadata (as protobuf names its fields); `body` is what follows it."""
    meta_type = builtin.type_of("v1", "ObjectMeta")
    assert meta_type is not None
    empty = {"name": "", "generateName": "", "namespace": "", "selfLink": "", "uid": ""}
    meta = meta_type(**{**empty, "creationTimestamp": {}, **metadata})
    raw = field(1, meta.SerializeToString(deterministic=True)) + body
    types = field(1, api_version.encode()) + field(2, kind.encode())
    return b"k8s\0" + field(1, types) + field(2, raw) + b"\x1a\x00\x22\x00"


def serialised(document: Any) -> bytes:  # noqa: ANN401
    """CBOR with text as byte strings, the way the API server writes it."""
    return cbor2.dumps(_as_bytes(document))


def _as_bytes(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict):
        return {_as_bytes(key): _as_bytes(item) for key, item in value.items()}
    return [_as_bytes(item) for item in value] if isinstance(value, list) else value
