"""Answers to Range as they came over the wire: their keys told apart, and nothing made of them.

protobuf's objects for a million keys take seconds to make. Whoever reads so many takes the bytes of
an answer, and reads all its `KeyValue`s at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Self, overload

from google.protobuf.message import DecodeError

from etcd_steward.errors import Unavailable
from etcd_steward.etcd import stubs

_HEADER = 0x0A
"""Tag of `RangeResponse.header`, which has a few bytes."""
_KVS = 0x12
"""Tag of each of `RangeResponse.kvs`; `more` and `count` come behind those."""
_MORE = 0x80
"""Set in each octet of a varint but the last."""


@dataclass(frozen=True, slots=True)
class KeyValues(Sequence[stubs.KeyValue]):
    """The `KeyValue`s of one answer, each decoded when it is asked for."""

    data: bytes
    """Of the whole answer, or these alone."""
    at: list[int]
    """Where each begins."""
    ends: list[int]

    @classmethod
    def of(cls, kvs: Sequence[stubs.KeyValue]) -> "KeyValues":
        """The same, if they are not that already."""
        if isinstance(kvs, KeyValues):
            return kvs
        pieces = [kv.SerializeToString() for kv in kvs]
        ends = list(accumulate(map(len, pieces)))
        return cls(b"".join(pieces), [0, *ends[:-1]], ends)

    def __len__(self) -> int:
        return len(self.at)

    @overload
    def __getitem__(self, index: int) -> stubs.KeyValue: ...

    @overload
    def __getitem__(self, index: slice) -> list[stubs.KeyValue]: ...

    def __getitem__(self, index: int | slice) -> stubs.KeyValue | list[stubs.KeyValue]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        return stubs.KeyValue.FromString(self.data[self.at[index] : self.ends[index]])


@dataclass(frozen=True, slots=True)
class RangeAnswer:
    """What `stubs.RangeResponse` is, but for its keys."""

    header: stubs.ResponseHeader
    kvs: KeyValues
    more: bool
    count: int

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises `Unavailable` for what etcd does not write."""
        try:
            begin = 2 + data[1] if data[0] == _HEADER else 0
            at, ends, rest = _spans(data, begin)
            said = stubs.RangeResponse.FromString(data[:begin] + data[rest:])
        except (IndexError, DecodeError):
            said = None
        if said is None or said.kvs:
            raise Unavailable(
                "etcd's answer to a range of keys can't be understood",
                hint="is there a proxy in between, or another server than etcd?",
            )
        return cls(said.header, KeyValues(data, at, ends), said.more, said.count)

    def ByteSize(self) -> int:  # noqa: N802  # as messages of protobuf have it
        """Bytes of the answer."""
        return len(self.kvs.data)


def _spans(data: bytes, at: int) -> tuple[list[int], list[int], int]:
    """Where each `KeyValue` begins and ends, and where what follows them begins."""
    starts: list[int] = []
    ends: list[int] = []
    total = len(data)
    while at < total and data[at] == _KVS:
        size, at = data[at + 1], at + 2
        if size >= _MORE:
            size, shift = size & 0x7F, 7
            while (octet := data[at]) >= _MORE:
                size |= (octet & 0x7F) << shift
                at, shift = at + 1, shift + 7
            size, at = size | octet << shift, at + 1
        starts.append(at)
        at += size
        ends.append(at)
    if at > total:
        raise IndexError
    return starts, ends, at
