"""A stored object in full, as `kubectl get -o json` prints it, with no API server.

The one difference: `metadata.resourceVersion` is missing. etcd does not hold it in the value; the
API server puts the key's mod_revision there.
"""

from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import DecodeError, Message

from etcd_steward.errors import Undecodable
from etcd_steward.registry import builtin
from etcd_steward.registry.builtin.printing import printed, unknown_fields
from etcd_steward.registry.builtin.served import as_served
from etcd_steward.registry.documents import document_of
from etcd_steward.registry.envelope import no_object, open_envelope

_HINT: Final = "Look at the same object in an older backup"


@dataclass(frozen=True, slots=True)
class Decoded:
    """An object, and what could not be shown of it."""

    object: dict[str, Any]
    notes: tuple[str, ...] = ()
    """A sentence for each thing that the value holds and `object` does not."""


def decode(value: bytes) -> Decoded:
    """The object that a value holds. Members are in no particular order.

    Raises `Undecodable` where it is encrypted, of a type newer than ours, damaged, or none at all.
    """
    envelope = open_envelope(value)
    if envelope.api_version is None or envelope.kind is None:
        raise no_object(envelope)
    if envelope.encoding != "protobuf":
        return _served(document_of(value) or {})
    message = _message(envelope.api_version, envelope.kind)
    try:
        message.ParseFromString(envelope.body)
        body = printed(message)
        notes = _notes(message)
    except (DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise Undecodable(
            f"this {envelope.kind} of {envelope.api_version} is damaged: {error}",
            hint=_HINT,
        ) from error
    head = {"apiVersion": envelope.api_version, "kind": envelope.kind}
    return _served({**head, **body}, notes)


def _served(stored: dict[str, Any], notes: tuple[str, ...] = ()) -> Decoded:
    try:
        return Decoded(as_served(stored), notes)
    except (AttributeError, TypeError) as error:  # lists where objects belong, and the like
        raise Undecodable(
            f"this {stored['kind']} of {stored['apiVersion']} is damaged: {error}", hint=_HINT
        ) from error


def _message(api_version: str, kind: str) -> Message:
    found = builtin.type_of(api_version, kind)
    if found is None:
        raise Undecodable(
            f"Kubernetes {builtin.VERSION} has no {kind} of {api_version} that is stored as "
            "protobuf, so its fields have no names here",
            hint="Use a newer etcd-steward, or take the raw value",
        )
    return found()


def _notes(message: Message) -> tuple[str, ...]:
    """What a newer Kubernetes wrote. Looked for only where something is: most have nothing."""
    bare = type(message)()
    bare.CopyFrom(message)
    bare.DiscardUnknownFields()
    if bare.ByteSize() == message.ByteSize():
        return ()
    return tuple(
        f"{what} is newer than Kubernetes {builtin.VERSION}: it is kept in the raw value, "
        "but not shown"
        for what in unknown_fields(message)
    )
