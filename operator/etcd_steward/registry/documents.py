"""Objects written as JSON or CBOR: what they hold, and new members in an unchanged surrounding.

The API server writes custom resources as JSON, and as CBOR (RFC 8949) where the feature gate
CBORServingAndStorage is on. No JSON or CBOR library rewrites a part and leaves the other bytes as
they are, so the places of an object's members are found here.
"""

import base64
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import cbor2

CBOR: Final = b"\xd9\xd9\xf7"
"""The tag "self-described CBOR", which the API server writes in front (`cbor.go`)."""
ABSENT: Final = object()
"""Instead of a member's new value: the member goes."""
_MOST: Final = 64
"""Levels in CBOR, as the API server allows (`modes/decode.go`)."""
_INT64: Final = 1 << 63
_BREAK: Final = 0xFF


def document_of(value: bytes) -> dict[str, Any] | None:
    """The object that JSON or CBOR holds, as `kubectl -o json` has it; None if it holds none."""
    try:
        document = from_cbor(value) if value.startswith(CBOR) else from_json(value)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


# JSON -------------------------------------------------------------------------------------------


def _number(text: str) -> float:
    return as_number(float(text))


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_float=_number, parse_constant=_no_number)


def from_json(data: bytes) -> Any:  # noqa: ANN401  # JSON holds anything
    """What JSON says. Raises ValueError where it is none, RecursionError where it is too deep."""
    return _DECODER.decode(data.decode())


def as_number(number: float) -> float:
    """A number as Go prints it in JSON: 1.0 as `1`. Raises ValueError for infinity and NaN."""
    if not math.isfinite(number):
        raise ValueError(f"{number} is not JSON")
    return int(number) if number.is_integer() and abs(number) < 1e21 else number


# CBOR -------------------------------------------------------------------------------------------


def from_cbor(data: bytes) -> Any:  # noqa: ANN401  # CBOR holds anything
    """What CBOR says, in JSON's terms. Raises ValueError where it is none or has no such terms."""
    # Before a library believes a length: every item that is announced must be there.
    if _skip(data, 0) != len(data):
        raise ValueError("bytes after the end of the CBOR")
    try:
        return _plain(cbor2.loads(data, tag_hook=_untagged))
    except cbor2.CBORDecodeError as error:
        raise ValueError(str(error)) from error


_TEXT_OF_BYTES: Final[Mapping[int, Callable[[bytes], bytes]]] = {
    21: lambda data: base64.urlsafe_b64encode(data).rstrip(b"="),
    22: base64.b64encode,
    23: base64.b16encode,
}
"""By RFC 8949's "expected later encoding" tags; the API server writes `[]byte` with 22."""


def _untagged(tag: cbor2.CBORTag, _immutable: bool) -> object:
    encode = _TEXT_OF_BYTES.get(tag.tag)
    if encode is not None and isinstance(tag.value, bytes):
        return encode(tag.value).decode()
    return tag.value


def _plain(value: object) -> Any:  # noqa: ANN401
    """The API server writes text and names as byte strings (`modes/encode.go`)."""
    match value:
        case bytes():
            return value.decode()
        case Mapping():
            return {_name(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case bool() | str() | None:
            return value
        case int() if -_INT64 <= value < _INT64:
            return value
        case float():
            return as_number(value)
        case _:
            raise ValueError(f"JSON has nothing like a {type(value).__name__} in CBOR")


def _name(key: object) -> str:
    name = _plain(key)
    if not isinstance(name, str):
        raise ValueError("the name of a member is not a text")  # noqa: TRY004  # bad data, no bug
    return name


def _head(data: bytes, at: int) -> tuple[int, int | None, int]:
    """Major type, argument (None: of indefinite length) and where the content begins."""
    if at >= len(data):
        raise ValueError("the CBOR ends too early")
    major, info = data[at] >> 5, data[at] & 31
    if info < 24:
        return major, info, at + 1
    if info == 31:
        return major, None, at + 1
    width = 1 << (info - 24)
    if info > 27 or at + 1 + width > len(data):
        raise ValueError(f"bad CBOR at byte {at}")
    return major, int.from_bytes(data[at + 1 : at + 1 + width]), at + 1 + width


def _skip(data: bytes, at: int, depth: int = 0) -> int:
    """Where the item ends that begins here. Raises ValueError where it is not whole."""
    if depth > _MOST:
        raise ValueError(f"CBOR of more than {_MOST} levels")
    major, argument, at = _head(data, at)
    if major in {2, 3} and argument is not None:
        at += argument
        if at > len(data):
            raise ValueError("the CBOR ends too early")
    elif 2 <= major <= 5 and argument is None:
        while data[at : at + 1] != bytes([_BREAK]):
            at = _skip(data, at, depth + 1)
        at += 1
    elif 4 <= major <= 6 and argument is not None:
        for _ in range(argument * (2 if major == 5 else 1) if major < 6 else 1):
            at = _skip(data, at, depth + 1)
    elif argument is None:
        raise ValueError(f"bad CBOR at byte {at - 1}")
    return at


# New members ------------------------------------------------------------------------------------


class _Member(NamedTuple):
    """Where a member of an object stands: its name from `start`, its value from `value`."""

    name: str
    start: int
    value: int
    end: int


def with_members(document: bytes, of: str, changes: Mapping[str, object]) -> bytes:
    """A JSON or CBOR object whose member `of`, an object too, has other members.

    `changes` gives each one its value, or `ABSENT`; new ones come last, and every other byte stays
    as it is. Raises ValueError where `document` is no such object.
    """
    if document.startswith(CBOR):
        return _with_cbor_members(document, of, changes)
    return _with_json_members(document.decode(), of, changes).encode()


def _value_of(members: list[_Member], name: str) -> int:
    places = [member.value for member in members if member.name == name]
    if not places:
        raise ValueError(f"it has no {name}")
    return places[-1]  # of several, Go and Python both take the last


def _with_json_members(text: str, of: str, changes: Mapping[str, object]) -> str:
    top, _ = _json_members(text, _after_space(text, 0))
    begin = _value_of(top, of)
    members, close = _json_members(text, begin)
    out = [text[:begin], text[begin : members[0].start if members else close]]
    kept = 0
    for index, member in enumerate(members):
        new = changes.get(member.name, member)
        if new is ABSENT:
            continue
        if kept:
            out.append(text[members[index - 1].end : member.start])
        kept += 1
        out.append(text[member.start : member.end if new is member else member.value])
        if new is not member:
            out.append(_as_json(new))
    for name in _added(members, changes):
        out.append(f"{',' if kept else ''}{_as_json(name)}:{_as_json(changes[name])}")
        kept += 1
    return "".join((*out, text[members[-1].end if members else close :]))


def _json_members(text: str, at: int) -> tuple[list[_Member], int]:
    """The members of the object that begins here, and where its `}` is."""
    members: list[_Member] = []
    if text[at : at + 1] != "{":
        raise ValueError("not a JSON object")
    at = _after_space(text, at + 1)
    while text[at : at + 1] == '"':
        start = at
        name, at = _DECODER.raw_decode(text, at)
        begin = _after_space(text, _after_space(text, at) + 1)  # the colon
        _, at = _DECODER.raw_decode(text, begin)
        members.append(_Member(name, start, begin, at))
        at = _after_space(text, at)
        if text[at : at + 1] != ",":
            break
        at = _after_space(text, at + 1)
    if text[at : at + 1] != "}":
        raise ValueError("not a JSON object")
    return members, at


def _after_space(text: str, at: int) -> int:
    while text[at : at + 1] in {" ", "\t", "\n", "\r"}:
        at += 1
    return at


def _as_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _with_cbor_members(data: bytes, of: str, changes: Mapping[str, object]) -> bytes:
    begin = _value_of(_cbor_members(data, len(CBOR)), of)
    members = _cbor_members(data, begin)
    added = _added(members, changes)
    out: list[bytes] = []
    count = len(added)
    for member in members:
        new = changes.get(member.name, member)
        if new is ABSENT:
            continue
        count += 1
        out.append(data[member.start : member.end if new is member else member.value])
        if new is not member:
            out.append(_as_cbor(new))
    out += [_as_cbor(name) + _as_cbor(changes[name]) for name in added]
    _, argument, first = _head(data, begin)
    head = data[begin:first] if argument in {None, count} else _cbor_map_head(count)
    rest = members[-1].end if members else first
    return b"".join((data[:begin], head, *out, data[rest:]))


def _cbor_members(data: bytes, at: int) -> list[_Member]:
    major, argument, at = _head(data, at)
    if major != 5:
        raise ValueError("not a CBOR map")
    members: list[_Member] = []
    while (argument is None and data[at] != _BREAK) or (
        argument is not None and len(members) < argument
    ):
        begin = _skip(data, at)
        end = _skip(data, begin)
        members.append(_Member(_name(cbor2.loads(data[at:begin])), at, begin, end))
        at = end
    return members


def _cbor_map_head(count: int) -> bytes:
    if count < 24:
        return bytes([0xA0 | count])
    return bytes([0xB8, count]) if count < 256 else b"\xb9" + count.to_bytes(2)


def _as_cbor(value: object) -> bytes:
    return cbor2.dumps(_as_bytes(value))


def _as_bytes(value: object) -> object:
    match value:
        case str():
            return value.encode()
        case dict():
            return {_as_bytes(key): _as_bytes(item) for key, item in value.items()}
        case list():
            return [_as_bytes(item) for item in value]
        case _:
            return value


def _added(members: list[_Member], changes: Mapping[str, object]) -> list[str]:
    there = {member.name for member in members}
    return [name for name, new in changes.items() if new is not ABSENT and name not in there]
