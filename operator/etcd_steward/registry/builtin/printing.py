"""A message of a built-in type as the JSON that the API server prints of it.

This is Go's `encoding/json` over the types of Kubernetes, replayed: what is left out when empty,
what is `null`, and the types that write their own JSON.
"""

import base64
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final, NamedTuple, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from etcd_steward.registry.documents import CBOR, from_cbor, from_json

Print = Callable[[Any], Any]
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ZERO_TIME: Final = -62135596800
"""Go's `time.Time{}` in seconds since 1970."""


class _Field(NamedTuple):
    """One field: its name in JSON, and what it is in a message (`_OMITTED`: not printed)."""

    json: str
    inline: bool
    read: Callable[[Message], Any]


_OMITTED: Final = object()


def printed(message: Message) -> dict[str, Any]:
    """The message as JSON. Raises ValueError for what the API server could not print either."""
    out: dict[str, Any] = {}
    for json, inline, read in _fields(message.DESCRIPTOR):
        value = read(message)
        if inline:
            out.update(value)
        elif value is not _OMITTED:
            out[json] = value
    return out


def unknown_fields(message: Message, path: str = "") -> Iterator[str]:
    """Where a newer Kubernetes wrote fields that nobody here can name: "field 42 of spec"."""
    unknown = UnknownFieldSet(message)
    for index in range(len(unknown)):
        yield f"field {unknown[index].field_number} of {path or 'the object'}"
    for field, value in message.ListFields():
        below = f"{path}.{field.name}" if path else field.name
        kind = field.message_type
        if kind is None:
            continue
        if kind.GetOptions().map_entry:
            if kind.fields_by_name["value"].message_type is not None:
                for key, item in value.items():
                    yield from unknown_fields(item, f"{below}[{key!r}]")
        elif field.is_repeated:
            for index, item in enumerate(value):
                yield from unknown_fields(item, f"{below}[{index}]")
        else:
            yield from unknown_fields(value, below)


@cache
def _fields(descriptor: Descriptor) -> tuple[_Field, ...]:
    return tuple(_field(field) for field in descriptor.fields)


def _field(field: FieldDescriptor) -> _Field:
    json, _, flags = field.json_name.partition(",")
    return _Field(json, "i" in flags, _reader(field, flags))


def _reader(field: FieldDescriptor, flags: str) -> Callable[[Message], Any]:
    """How to get at a field, after Go's kinds: map, slice, pointer, struct, and plain values."""
    name, kind = field.name, field.message_type
    empty = _OMITTED if "o" in flags else None
    if kind is not None and kind.GetOptions().map_entry:
        item = _printer(kind.fields_by_name["value"])
        return lambda message: (
            {key: item(value) for key, value in getattr(message, name).items()} or empty
        )
    print_ = _printer(field)
    if field.is_repeated:
        return lambda message: [print_(value) for value in getattr(message, name)] or empty
    if "p" in flags:
        return lambda message: print_(getattr(message, name)) if message.HasField(name) else empty
    if kind is not None:  # a struct: it is there even when it is absent
        null = _OMITTED if "z" in flags or (_is_list(kind) and "o" in flags) else None
        return lambda message: null if (value := print_(getattr(message, name))) is None else value
    return _plain_reader(field, print_, empty)


def _plain_reader(field: FieldDescriptor, print_: Print, empty: object) -> Callable[[Message], Any]:
    name = field.name
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda message: (
            print_(value)
            if (value := getattr(message, name)) or (empty is None and message.HasField(name))
            else empty
        )
    if empty is _OMITTED:
        return lambda message: print_(value) if (value := getattr(message, name)) else _OMITTED
    return lambda message: print_(getattr(message, name))


def _printer(field: FieldDescriptor) -> Print:
    if field.message_type is not None:
        if _is_list(field.message_type):
            return _list
        return _OWN_JSON.get(field.message_type.full_name, printed)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda value: base64.b64encode(value).decode()
    if field.type == FieldDescriptor.TYPE_STRING:
        return text
    return lambda value: value


def text(value: str | bytes) -> str:
    """A text of a message. Raises ValueError where it is not UTF-8: protobuf hands out bytes."""
    if isinstance(value, bytes):
        raise ValueError("a text is not UTF-8")  # noqa: TRY004  # bad data, no bug
    return value


def texts(value: Mapping[str, str | bytes]) -> dict[str, str]:
    """A map of texts, in the same way."""
    return {key: text(item) for key, item in value.items()}


def _is_list(descriptor: Descriptor | None) -> bool:
    return descriptor is not None and [field.json_name for field in descriptor.fields] == ["[]"]


def _list(message: Any) -> Any:  # noqa: ANN401
    return [text(item) for item in message.items] or None


# Types that write their own JSON ----------------------------------------------------------------


def _time(message: Any) -> str | None:  # noqa: ANN401
    """`metav1.Time`, which reads no fractions of a second (`time_proto.go`)."""
    if not message.ByteSize() or message.seconds == _ZERO_TIME:
        return None
    return f"{_moment(message.seconds):%Y-%m-%dT%H:%M:%S}Z"


def _micro_time(message: Any) -> str | None:  # noqa: ANN401
    if not message.ByteSize() or message.seconds == _ZERO_TIME:
        return None
    return f"{_moment(message.seconds, message.nanos // 1000):%Y-%m-%dT%H:%M:%S.%f}Z"


def _moment(seconds: int, microseconds: int = 0) -> datetime:
    try:
        return _EPOCH + timedelta(seconds=seconds, microseconds=microseconds)
    except OverflowError:
        raise ValueError(f"a time of {seconds} s since 1970 has no date") from None


def _int_or_string(message: Any) -> int | str:  # noqa: ANN401
    if message.type not in {0, 1}:
        raise ValueError(f"an IntOrString of type {message.type}")
    return text(message.strVal) if message.type else cast("int", message.intVal)


def _quantity(message: Any) -> str:  # noqa: ANN401
    """Stored in canonical form already (`quantity_proto.go`)."""
    return text(message.string) or "0"


def _raw(message: Any) -> Any:  # noqa: ANN401
    """What is JSON or CBOR inside: RawExtension, FieldsV1, the JSON of a CRD's schema."""
    raw: bytes = message.raw if hasattr(message, "raw") else message.Raw
    if not raw:
        return None
    return from_cbor(raw) if raw.startswith(CBOR) else from_json(raw)


def _props_or_bool(message: Any) -> Any:  # noqa: ANN401
    return printed(message.schema) if message.HasField("schema") else message.allows


def _props_or_array(message: Any) -> Any:  # noqa: ANN401
    if message.jSONSchemas:
        return [printed(item) for item in message.jSONSchemas]
    return printed(message.schema) if message.HasField("schema") else None


def _props_or_strings(message: Any) -> Any:  # noqa: ANN401
    if message.property:
        return [text(item) for item in message.property]
    return printed(message.schema) if message.HasField("schema") else None


_MACHINERY: Final = "k8s.io.apimachinery.pkg"
_EXTENSIONS: Final = "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions"
_OWN_JSON: Final[dict[str, Print]] = {
    f"{_MACHINERY}.api.resource.Quantity": _quantity,
    f"{_MACHINERY}.apis.meta.v1.FieldsV1": _raw,
    f"{_MACHINERY}.apis.meta.v1.MicroTime": _micro_time,
    f"{_MACHINERY}.apis.meta.v1.Time": _time,
    f"{_MACHINERY}.runtime.RawExtension": _raw,
    f"{_MACHINERY}.util.intstr.IntOrString": _int_or_string,
} | {
    f"{_EXTENSIONS}.{version}.{name}": function
    for version in ("v1", "v1beta1")
    for name, function in (
        ("JSON", _raw),
        ("JSONSchemaPropsOrArray", _props_or_array),
        ("JSONSchemaPropsOrBool", _props_or_bool),
        ("JSONSchemaPropsOrStringArray", _props_or_strings),
    )
}
