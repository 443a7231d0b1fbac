r"""What a value of the Kubernetes registry says about itself, whatever its type.

A stored object is protobuf behind the four bytes `k8s\0` (apimachinery's `runtime.Unknown`), JSON
for custom resources, CBOR (RFC 8949) where that feature gate is on, or ciphertext behind
`k8s:enc:` where encryption at rest is on.
"""

import re
from dataclasses import dataclass
from typing import Final

from etcd_steward.errors import Undecodable
from etcd_steward.models.registry import Encoding
from etcd_steward.registry.documents import CBOR, document_of
from etcd_steward.registry.wire import BYTES, Malformed, fields_of

PROTOBUF: Final = b"k8s\x00"
ENCRYPTED: Final = b"k8s:enc:"
TYPE_META: Final = 1
"""`runtime.Unknown.typeMeta`"""
RAW: Final = 2
"""`runtime.Unknown.raw`"""
METADATA: Final = 1
"""Every Kubernetes object's `metadata`."""
_UID: Final = 5
"""`ObjectMeta.uid`"""
_KINDS_REMEMBERED: Final = 4096

Header = tuple[Encoding, str | None, str | None, str | None]
"""encoding, apiVersion, kind and uid; a plain tuple, since a million of them are made."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A value's outermost layer."""

    encoding: Encoding
    api_version: str | None
    kind: str | None
    body: bytes
    """The type's own message for protobuf, what is encrypted for ciphertext; else all of it."""
    provider: str | None = None
    """Who encrypted it, as the value says: `aescbc:v1`, `kms:v2`."""
    key_name: str | None = None
    """The key that it is encrypted with."""


def open_envelope(value: bytes) -> Envelope:
    """Look at a value's outermost layer. Never raises: what is of no known form is `other`."""
    if value.startswith(PROTOBUF):
        return _open_protobuf(value)
    if value.startswith(ENCRYPTED):
        return _open_encrypted(value)
    if value.startswith((b"{", CBOR)):
        document = document_of(value)
        if document is not None:
            encoding: Encoding = "json" if value.startswith(b"{") else "cbor"
            return Envelope(
                encoding, _text(document.get("apiVersion")), _text(document.get("kind")), value
            )
    return Envelope("other", None, None, value)


def header(value: bytes) -> Header:
    """`open_envelope` and `uid_of` in one, in about a microsecond for what API servers write.

    It reads no further than it must, so that it may find a uid in a value that is damaged behind
    it. Never raises.
    """
    if value.startswith(b"k8s\x00\n"):
        found = _protobuf_header(value)
    elif value.startswith(b"{"):
        found = _json_header(value)
    else:
        found = None
    if found is not None:
        return found
    envelope = open_envelope(value)
    if envelope.encoding == "protobuf":
        _remember(value)
    return envelope.encoding, envelope.api_version, envelope.kind, uid_of(value)


def uid_of(value: bytes) -> str | None:
    """The `metadata.uid` of a stored object; None if encrypted or not a Kubernetes object."""
    if value.startswith(PROTOBUF):
        return _decoded(submessage(value[len(PROTOBUF) :], RAW, METADATA, _UID))
    if value.startswith((b"{", CBOR)):
        metadata = (document_of(value) or {}).get("metadata")
        return _text(metadata.get("uid")) if isinstance(metadata, dict) else None
    return None


def submessage(message: bytes, *numbers: int) -> bytes | None:
    """The last field of that number, and in it that of the next; None if absent or malformed."""
    part: bytes | None = message
    for wanted in numbers:
        whole, part = part or b"", None
        try:
            for number, kind, at, length in fields_of(whole):
                if number == wanted and kind == BYTES:
                    part = whole[at : at + length]
        except Malformed:
            return None
    return part


def no_object(envelope: Envelope) -> Undecodable:
    """The error for a value in which no object can be read."""
    if envelope.encoding == "encrypted":
        return Undecodable(
            f"the value is encrypted at rest, by {envelope.provider or 'an unknown provider'} "
            f"with the key {envelope.key_name or '?'!r}",
            hint="Only an API server with that key in its EncryptionConfiguration can read it",
        )
    if envelope.body.startswith(PROTOBUF):
        return Undecodable(
            "the value begins as a Kubernetes object and is damaged",
            hint="Look at the same object in an older backup",
        )
    return Undecodable(
        "the value is no Kubernetes object", hint="Take it raw: it may be another program's"
    )


def _open_protobuf(value: bytes) -> Envelope:
    unknown = value[len(PROTOBUF) :]
    types = submessage(unknown, TYPE_META)
    if types is None:
        return Envelope("other", None, None, value)
    return Envelope(
        "protobuf",
        _decoded(submessage(types, 1)),
        _decoded(submessage(types, 2)),
        submessage(unknown, RAW) or b"",
    )


def _open_encrypted(value: bytes) -> Envelope:
    """`k8s:enc:<provider>:<version>:<key name>:<ciphertext>` (`encryptionconfig/config.go`)."""
    parts = value[len(ENCRYPTED) :].split(b":", 3)
    if len(parts) < 4:
        return Envelope("encrypted", None, None, b"")
    provider, version, key_name = (part.decode(errors="replace") for part in parts[:3])
    return Envelope("encrypted", None, None, parts[3], f"{provider}:{version}", key_name)


def _decoded(part: bytes | None) -> str | None:
    try:
        return part.decode() or None if part else None
    except UnicodeDecodeError:
        return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


# Protobuf, in a hurry ---------------------------------------------------------------------------

_kinds: dict[bytes, tuple[str, str]] = {}
"""What a TypeMeta's bytes say; there are as many as kinds in a registry."""


def _remember(value: bytes) -> None:
    types = submessage(value[len(PROTOBUF) :], TYPE_META)
    if types is None or not value.startswith(types, 6):
        return
    api_version, kind = _decoded(submessage(types, 1)), _decoded(submessage(types, 2))
    if api_version and kind:
        if len(_kinds) >= _KINDS_REMEMBERED:
            _kinds.clear()
        _kinds[types] = api_version, kind


def _protobuf_header(value: bytes) -> Header | None:
    """The header of a value whose fields stand as gogo-protobuf writes them, by number.

    None for any other: texts of 128 bytes and more, an unusual uid, a kind not yet seen.
    """
    try:
        at = 6 + value[5]
        known = _kinds.get(value[6:at])
        if known is None or value[at] != 0x12:
            return None
        at += 1
        while value[at] >= 0x80:
            at += 1
        if value[at + 1] != 0x0A:
            return None
        at += 2
        while value[at] >= 0x80:
            at += 1
        name = at + 1
        generate_name = name + 2 + (first := value[name + 1])
        namespace = generate_name + 2 + (second := value[generate_name + 1])
        self_link = namespace + 2 + (third := value[namespace + 1])
        if (
            value[name] == 0x0A
            and value[generate_name] == 0x12
            and value[namespace] == 0x1A
            and value[self_link : self_link + 4] == b"\x22\x00\x2a\x24"  # empty; 36 bytes of uid
            and first | second | third < 0x80
        ):
            return "protobuf", known[0], known[1], value[self_link + 4 : self_link + 40].decode()
    except (IndexError, UnicodeDecodeError):
        pass
    return None


# JSON, in a hurry -------------------------------------------------------------------------------

_STRING: Final = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_DEPTH: Final = 12


def _nested(depth: int) -> str:
    """A pattern for arrays and objects of at most `depth` levels."""
    inner = f"|{_nested(depth - 1)}" if depth > 1 else ""
    return rf'[\[{{][^"\[\]{{}}]*+(?:(?:{_STRING}{inner})[^"\[\]{{}}]*+)*+[\]}}]'


_JSON: Final = re.compile(
    (
        r'\{(?:"apiVersion":"([^"\\]++)","kind":"([^"\\]++)"'
        r'|"kind":"([^"\\]++)","apiVersion":"([^"\\]++)"),"metadata":\{'
        rf'(?:"(?!uid")[^"\\]*+":(?:{_STRING}|[^"\[\]{{}},]++|{_nested(_DEPTH)}),)*+'
        r'"uid":"([^"\\]++)"'
    ).encode(),
    re.DOTALL,
)
"""The beginning of an object as API servers write it: no white space, metadata third. Whatever it
does not match is parsed in full."""


def _json_header(value: bytes) -> Header | None:
    match = _JSON.match(value)
    if match is None:
        return None
    api_version, kind, kind_first, version_second, uid = match.groups()
    try:
        return (
            "json",
            (api_version or version_second).decode(),
            (kind or kind_first).decode(),
            uid.decode(),
        )
    except UnicodeDecodeError:
        return None
