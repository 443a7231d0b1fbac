"""Protobuf's wire format, read by hand.

Two messages are read out of files here that we must not trust: etcd's `mvccpb.KeyValue`, which may
be gigabytes long and is never held whole, and Kubernetes objects, of which one field is wanted and
whose generated classes would weigh more than this program. A generated parser does neither.
"""

from collections.abc import Callable, Iterator
from typing import Final

Peek = Callable[[int, int], bytes]
"""`peek(offset, length)`: up to `length` bytes from `offset`, fewer only at the end."""

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
FIXED32: Final = 5


class Malformed(Exception):
    """The bytes are not a protobuf message."""


def fields(peek: Peek, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (number, wire type, value or offset, length) for each field in `[start, end)`.

    For `BYTES` the third is the payload's offset, for the others the value itself. Raises
    `Malformed` where a field runs over the end or has a type that protobuf 3 does not use.
    """
    at = start
    while at < end:
        head = peek(at, min(20, end - at))
        tag, used = _varint(head, 0)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise Malformed(f"field number 0 at byte {at}")
        if kind == VARINT:
            value, used = _varint(head, used)
            yield number, kind, value, 0
            at += used
        elif kind == BYTES:
            length, used = _varint(head, used)
            at += used
            if length > end - at:
                raise Malformed(f"field {number} of {length} bytes runs over the end")
            yield number, kind, at, length
            at += length
        elif kind in {FIXED64, FIXED32}:
            width = 8 if kind == FIXED64 else 4
            if len(head) < used + width:
                raise Malformed(f"field {number} runs over the end")
            yield number, kind, int.from_bytes(head[used : used + width], "little"), width
            at += used + width
        else:
            raise Malformed(f"field {number} has wire type {kind}")


def fields_of(message: bytes) -> Iterator[tuple[int, int, int, int]]:
    """`fields` of a message held in memory."""
    return fields(lambda at, length: message[at : at + length], 0, len(message))


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(at, min(len(data), at + 10)):
        value |= (data[index] & 0x7F) << (7 * (index - at))
        if data[index] < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, index + 1
    raise Malformed("a varint has no end")
