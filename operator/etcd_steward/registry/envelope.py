r"""The envelope in which Kubernetes keeps an object in etcd, as far as its uid.

kube-apiserver writes protobuf behind the four bytes `k8s\0` (apimachinery's `runtime.Unknown`),
or JSON for custom resources, or ciphertext behind `k8s:enc:` where encryption at rest is on.
"""

import json
from typing import Final

from etcd_steward.registry.wire import BYTES, Malformed, fields_of

_MAGIC: Final = b"k8s\x00"
_RAW: Final = 2
"""`runtime.Unknown.raw`"""
_METADATA: Final = 1
"""Every Kubernetes object's `metadata`."""
_UID: Final = 5
"""`ObjectMeta.uid`"""


def uid_of(value: bytes) -> str | None:
    """The `metadata.uid` of a stored object; None if encrypted or not a Kubernetes object."""
    if value.startswith(_MAGIC):
        return _protobuf_uid(value[len(_MAGIC) :])
    if value.startswith(b"{"):
        return _json_uid(value)
    return None


def _protobuf_uid(unknown: bytes) -> str | None:
    part: bytes | None = unknown
    for number in (_RAW, _METADATA, _UID):
        part = _submessage(part, number) if part is not None else None
    if not part:
        return None
    try:
        return part.decode()
    except UnicodeDecodeError:
        return None


def _submessage(message: bytes, wanted: int) -> bytes | None:
    found = None
    try:
        for number, kind, at, length in fields_of(message):
            if number == wanted and kind == BYTES:
                found = message[at : at + length]
    except Malformed:
        return None
    return found


def _json_uid(value: bytes) -> str | None:
    try:
        document = json.loads(value)
    except (ValueError, RecursionError):
        return None
    metadata = document.get("metadata") if isinstance(document, dict) else None
    uid = metadata.get("uid") if isinstance(metadata, dict) else None
    return uid if isinstance(uid, str) and uid else None
