"""An object's metadata: read from a value of any type, and rewritten in place.

A restore changes little (an ownerReference, a finalizer, a deletionTimestamp) in values whose rest
it must not touch, since nobody checks it any more on its way into etcd. So only the fields of
ObjectMeta that change are written anew; every other byte stays, also what a newer Kubernetes put
there. In protobuf every type has its ObjectMeta as field 1, so this works for types that nobody
here knows.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from etcd_steward.errors import Undecodable
from etcd_steward.registry import builtin
from etcd_steward.registry.builtin.printing import text, texts
from etcd_steward.registry.documents import ABSENT, CBOR, document_of, with_members
from etcd_steward.registry.envelope import (
    METADATA,
    PROTOBUF,
    RAW,
    no_object,
    open_envelope,
    submessage,
)
from etcd_steward.registry.wire import BYTES, Malformed, fields_of


@dataclass(frozen=True, slots=True)
class OwnerReference:
    """An object that this one goes with."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


@dataclass(frozen=True, slots=True)
class Manager:
    """Who last wrote some of the object's fields."""

    name: str
    operation: str
    subresource: str
    time: datetime | None


@dataclass(frozen=True, slots=True)
class ObjectMeta:
    """What metadata says. Empty texts and containers stand for what is not there."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    owner_references: tuple[OwnerReference, ...] = ()
    finalizers: tuple[str, ...] = ()
    managers: tuple[Manager, ...] = ()
    """Only read: they are derived from managedFields."""


def read(value: bytes) -> ObjectMeta:
    """The metadata of a stored object. Raises `Undecodable` where there is none to read."""
    with _readable():
        return _stored(value)[0]


def labels(value: bytes) -> Mapping[str, str] | None:
    """The object's labels alone, faster than `read`; None where they can't be read."""
    try:
        with _readable():
            if value.startswith(PROTOBUF):
                return texts(_message_of(value).labels)
            return _texts(_member_of(value), "labels")
    except Undecodable:
        return None


def rewrite(value: bytes, change: Callable[[ObjectMeta], ObjectMeta]) -> bytes:
    """The value with what `change` makes of its metadata, and every other byte as it was.

    `change` returns `dataclasses.replace(metadata, …)`. An owner that stays keeps its bytes (in
    JSON and CBOR: its members), too. Raises `Undecodable` as `read` does, and ValueError for other
    managers.
    """
    with _readable():
        before, stored = _stored(value)
    after = change(before)
    changed = [name for name in _MEMBERS if getattr(before, name) != getattr(after, name)]
    if before.managers != after.managers:
        raise ValueError("managers can't be changed")
    if not changed:
        return value
    with _readable():
        if value.startswith(PROTOBUF):
            return _with_fields(value, before, after, changed)
        members = {_MEMBERS[name]: _as_json(name, before, after, stored) for name in changed}
        return with_members(value, "metadata", members)


def with_body(value: bytes, body: bytes) -> bytes:
    """A protobuf value with another message of its own type in the same envelope."""
    with _readable():
        return PROTOBUF + _replaced(value[len(PROTOBUF) :], RAW, body)


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (ValueError, RecursionError, DecodeError, Malformed) as error:
        raise Undecodable(
            f"the metadata of this object is damaged: {error}",
            hint="Look at the same object in an older backup",
        ) from error


_MEMBERS: Final = {
    "name": "name",
    "namespace": "namespace",
    "uid": "uid",
    "generation": "generation",
    "creation_timestamp": "creationTimestamp",
    "deletion_timestamp": "deletionTimestamp",
    "deletion_grace_period_seconds": "deletionGracePeriodSeconds",
    "labels": "labels",
    "annotations": "annotations",
    "owner_references": "ownerReferences",
    "finalizers": "finalizers",
}
"""The members that can change, by our name for them."""

Json = dict[str, Any]


def _stored(value: bytes) -> tuple[ObjectMeta, Json]:
    """The metadata, and as it stands in JSON and CBOR."""
    if value.startswith(PROTOBUF):
        return _from_message(_message_of(value)), {}
    stored = _member_of(value)
    return _from_json(stored), stored


def _member_of(value: bytes) -> Json:
    document = document_of(value) if value.startswith((b"{", CBOR)) else None
    metadata = document.get("metadata") if document else None
    if not isinstance(metadata, dict):
        raise no_object(open_envelope(value))
    return metadata


def _from_json(stored: Json) -> ObjectMeta:
    return ObjectMeta(
        name=_get(stored, "name", str, ""),
        namespace=_get(stored, "namespace", str, ""),
        uid=_get(stored, "uid", str, ""),
        generation=_get(stored, "generation", int, 0),
        creation_timestamp=_time(stored, "creationTimestamp"),
        deletion_timestamp=_time(stored, "deletionTimestamp"),
        deletion_grace_period_seconds=_get(stored, "deletionGracePeriodSeconds", int, None),
        labels=_texts(stored, "labels"),
        annotations=_texts(stored, "annotations"),
        owner_references=tuple(map(_owner, _list(stored, "ownerReferences", dict))),
        finalizers=tuple(_list(stored, "finalizers", str)),
        managers=tuple(map(_manager, _list(stored, "managedFields", dict))),
    )


def _owner(stored: Json) -> OwnerReference:
    return OwnerReference(
        api_version=_get(stored, "apiVersion", str, ""),
        kind=_get(stored, "kind", str, ""),
        name=_get(stored, "name", str, ""),
        uid=_get(stored, "uid", str, ""),
        controller=_get(stored, "controller", bool, None),
        block_owner_deletion=_get(stored, "blockOwnerDeletion", bool, None),
    )


def _manager(stored: Json) -> Manager:
    return Manager(
        name=_get(stored, "manager", str, ""),
        operation=_get(stored, "operation", str, ""),
        subresource=_get(stored, "subresource", str, ""),
        time=_time(stored, "time"),
    )


_T = TypeVar("_T")
_D = TypeVar("_D")


def _get(stored: Json, name: str, kind: type[_T], default: _D) -> _T | _D:
    found = stored.get(name)
    if found is None:
        return default
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        raise ValueError(f"{name} is no {kind.__name__}")
    return found


def _list(stored: Json, name: str, kind: type[_T]) -> list[_T]:
    found = _get(stored, name, list, None) or []
    if not all(isinstance(item, kind) for item in found):
        raise ValueError(f"{name} is no list of {kind.__name__}")
    return found


def _texts(stored: Json, name: str) -> Mapping[str, str]:
    found = _get(stored, name, dict, None) or {}
    if not all(isinstance(item, str) for item in found.values()):
        raise ValueError(f"{name} holds more than text")
    return found


def _time(stored: Json, name: str) -> datetime | None:
    found = _get(stored, name, str, None)
    if found is None:
        return None
    moment = datetime.fromisoformat(found)
    if moment.tzinfo is None:
        raise ValueError(f"{name} has no time zone")
    return moment


# JSON and CBOR ----------------------------------------------------------------------------------


def _as_json(name: str, before: ObjectMeta, after: ObjectMeta, stored: Json) -> object:
    """A changed field as JSON has it; owners that stay are as they are stored."""
    if name == "owner_references":
        known = dict(zip(before.owner_references, stored.get("ownerReferences") or (), strict=True))
        return [
            known.get(owner) or _owner_json(owner) for owner in after.owner_references
        ] or ABSENT
    value = getattr(after, name)
    if value is None or (value != 0 and not value):
        return ABSENT
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S}Z"
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def _owner_json(owner: OwnerReference) -> Json:
    members = {
        "apiVersion": owner.api_version,
        "kind": owner.kind,
        "name": owner.name,
        "uid": owner.uid,
        "controller": owner.controller,
        "blockOwnerDeletion": owner.block_owner_deletion,
    }
    return {name: value for name, value in members.items() if value is not None}


# Protobuf ---------------------------------------------------------------------------------------


def _kind(name: str) -> type[Message]:
    found = builtin.type_of("v1", name)
    assert found is not None, name  # noqa: S101  # in our own data
    return found


def _message_of(value: bytes) -> Any:  # noqa: ANN401  # its class is made at run time
    """The ObjectMeta of an object of any type, the way the API server's metadata client does it."""
    raw = submessage(value[len(PROTOBUF) :], RAW)
    partial: Any = _kind("PartialObjectMetadata").FromString(raw or b"")
    if not partial.HasField("metadata"):
        raise ValueError("it has none")
    return partial.metadata


def _from_message(meta: Any) -> ObjectMeta:  # noqa: ANN401
    return ObjectMeta(
        name=text(meta.name),
        namespace=text(meta.namespace),
        uid=text(meta.uid),
        generation=meta.generation,
        creation_timestamp=_moment(meta.creationTimestamp),
        deletion_timestamp=_moment(meta.deletionTimestamp),
        deletion_grace_period_seconds=_optional(meta, "deletionGracePeriodSeconds"),
        labels=texts(meta.labels),
        annotations=texts(meta.annotations),
        owner_references=tuple(
            OwnerReference(
                api_version=text(owner.apiVersion),
                kind=text(owner.kind),
                name=text(owner.name),
                uid=text(owner.uid),
                controller=_optional(owner, "controller"),
                block_owner_deletion=_optional(owner, "blockOwnerDeletion"),
            )
            for owner in meta.ownerReferences
        ),
        finalizers=tuple(map(text, meta.finalizers)),
        managers=tuple(
            Manager(
                name=text(entry.manager),
                operation=text(entry.operation),
                subresource=text(entry.subresource),
                time=_moment(entry.time),
            )
            for entry in meta.managedFields
        ),
    )


def _optional(message: Message, name: str) -> Any:  # noqa: ANN401
    return getattr(message, name) if message.HasField(name) else None


def _moment(time: Any) -> datetime | None:  # noqa: ANN401
    """`metav1.Time`: nothing at all is Go's zero time."""
    if not time.ByteSize():
        return None
    try:
        return _EPOCH + timedelta(seconds=time.seconds)
    except OverflowError:
        raise ValueError(f"a time of {time.seconds} s since 1970 has no date") from None


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class _Span(NamedTuple):
    """Where a field stands, its tag included."""

    number: int
    start: int
    end: int


def _spans(message: bytes) -> list[_Span]:
    found: list[_Span] = []
    start = 0
    for number, kind, place, length in fields_of(message):
        if kind == BYTES:
            end = place + length
        else:
            end = _after_varint(message, start)
            end = end + length if length else _after_varint(message, end)
        found.append(_Span(number, start, end))
        start = end
    return found


def _after_varint(message: bytes, at: int) -> int:
    while message[at] >= 0x80:
        at += 1
    return at + 1


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _with_fields(value: bytes, before: ObjectMeta, after: ObjectMeta, changed: list[str]) -> bytes:
    """A protobuf value with these fields of its ObjectMeta as `after` has them."""
    unknown = value[len(PROTOBUF) :]
    raw = submessage(unknown, RAW) or b""
    old = submessage(raw, METADATA) or b""
    numbers = _kind("ObjectMeta").DESCRIPTOR.fields_by_name
    spans = _spans(old)
    new = {}
    for name in changed:
        number = numbers[_MEMBERS[name]].number
        chunks = [old[span.start : span.end] for span in spans if span.number == number]
        new[number] = _encoded(name, before, after, chunks)
    out: list[bytes] = []
    waiting = sorted(new)
    for span in spans:
        while waiting and waiting[0] <= span.number:
            out.append(new[waiting.pop(0)])
        if span.number not in new:
            out.append(old[span.start : span.end])
    out += [new[number] for number in waiting]
    return PROTOBUF + _replaced(unknown, RAW, _replaced(raw, METADATA, b"".join(out)))


def _replaced(message: bytes, number: int, payload: bytes) -> bytes:
    """The message with another payload in its only field of that number."""
    (span,) = [span for span in _spans(message) if span.number == number]
    tag = message[span.start : _after_varint(message, span.start)]
    return b"".join(
        (message[: span.start], tag, _varint(len(payload)), payload, message[span.end :])
    )


def _encoded(name: str, before: ObjectMeta, after: ObjectMeta, chunks: list[bytes]) -> bytes:
    """One field as it stands in ObjectMeta; owners that stay keep the bytes in `chunks`."""
    value = getattr(after, name)
    if name == "owner_references":
        known = dict(zip(before.owner_references, chunks, strict=True))
        return b"".join(
            known.get(owner) or _serialised("ownerReferences", [_owner_json(owner)])
            for owner in value
        )
    return _serialised(_MEMBERS[name], value)


def _serialised(member: str, value: Any) -> bytes:  # noqa: ANN401
    message = _kind("ObjectMeta")()
    field = getattr(message, member)
    if value is None or value == "":
        return b""
    if isinstance(value, datetime):
        field.seconds = int(value.timestamp())
        field.nanos = 0  # Go writes it, too
    elif isinstance(value, Mapping):
        field.update(value)
    elif isinstance(value, list):
        field.add(**value[0])
    elif isinstance(value, tuple):
        field.extend(value)
    else:
        setattr(message, member, value)
    data: bytes = message.SerializeToString(deterministic=True)
    return data
