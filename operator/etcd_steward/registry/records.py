"""Records of etcd's `key` bucket, a window at a time: revision, user key, `mvccpb.KeyValue`.

The key is 8 bytes main revision, `_`, 8 bytes sub revision, big-endian, and `t` behind a tombstone
(etcd `server/storage/mvcc/revision.go`); the value is a `KeyValue` whose fields etcd writes in
ascending order, leaving out those that are zero. That order is read here for all records at once;
a record that deviates is read again by itself (`read_record`), and only then judged.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from etcd_steward.registry.bolt import Table, damaged
from etcd_steward.registry.lanes import (
    Mask,
    Octets,
    Offsets,
    Shorts,
    Words,
    first_true,
    load64,
    varint,
)
from etcd_steward.registry.wire import BYTES, VARINT, Malformed, Peek, fields

PLAIN: Final = 17
"""Bytes of a revision."""
MARKED: Final = 18
"""Bytes of a tombstone's revision."""
_KEY, _CREATE, _MOD, _VERSION, _VALUE, _LEASE = 1, 2, 3, 4, 5, 6
_LAST: Final = (1 << 63) - 1
_EIGHT: Final = np.uint64(8)


@dataclass(frozen=True, slots=True)
class Revisions:
    """Keys of the `key` bucket, as two numbers whose order is bolt's order of the bytes."""

    main: Offsets
    rest: Shorts
    """Twice the sub revision, plus one for a tombstone."""

    @property
    def tombstone(self) -> Mask:
        """Which of them mark a deletion."""
        return (self.rest & 1).astype(np.bool_)


@dataclass(frozen=True, slots=True)
class Record:
    """One `KeyValue`; offsets count as in the `Peek` that it was read by."""

    key_at: int
    key_size: int
    create: int
    mod: int
    version: int
    value_at: int
    value_size: int
    lease: int


@dataclass(frozen=True, slots=True)
class Fields:
    """Some records at once, an array entry each; offsets count from the window's beginning.

    Of a tombstone, and of a record that is not `good`, nothing but what `put` writes means
    anything; a tombstone's key does.
    """

    key_at: Offsets
    key_size: Offsets
    create: Offsets
    version: Offsets
    value_at: Offsets
    value_size: Offsets
    lease: Offsets
    good: Mask
    """Which records were understood."""

    def put(self, index: int, record: Record) -> None:
        """Write down what was read of one record by itself."""
        self.key_at[index], self.key_size[index] = record.key_at, record.key_size
        self.create[index], self.version[index] = record.create, record.version
        self.value_at[index], self.value_size[index] = record.value_at, record.value_size
        self.lease[index] = record.lease


def revisions(words: Words, octets: Octets, table: Table, ids: Offsets) -> Revisions:
    """Decode the keys of branch or leaf pages. Raises `IntegrityError` for a malformed one."""
    at, size = table.key, table.ksize
    main = load64(words, at).byteswap().view(np.int64)
    sub = load64(words, at + 9).byteswap().view(np.int64)
    marked = size == MARKED
    good = (size == PLAIN) | marked
    good &= octets.take(at + 8, mode="clip") == ord("_")
    good &= ~marked | (octets.take(at + 17, mode="clip") == ord("t"))
    # The sub revision counts the operations of one transaction: it never takes 31 bits.
    good &= (main > 0) & (main < _LAST) & (sub >= 0) & (sub < 1 << 31)
    bad = first_true(~good)
    if bad is not None:
        page = table.owner[bad]
        raise damaged(
            f"bucket key, page {ids[page]}, element {bad - table.first[page]}: "
            f"its key is not a revision"
        )
    return Revisions(main, ((sub << 1) | marked).astype(np.uint32))


def revision(key: bytes) -> tuple[int, int] | None:
    """One key as `Revisions` has it; None if it is not a revision."""
    if len(key) not in {PLAIN, MARKED} or key[8:9] != b"_" or key[17:] not in {b"", b"t"}:
        return None
    main, sub = int.from_bytes(key[:8], "big"), int.from_bytes(key[9:17], "big")
    if not 0 < main < _LAST or sub >= 1 << 31:
        return None
    return main, sub << 1 | (len(key) == MARKED)


def read_keys(words: Words, start: Offsets, size: Offsets) -> tuple[Offsets, Offsets, Mask]:
    """Where each record's user key lies and how long it is, and where there is one at all."""
    word = load64(words, start)
    length, used = varint(word >> _EIGHT)
    good = ((word & np.uint64(0xFF)) == _tag(_KEY, BYTES)) & (used < 8) & (length > 0)
    key = start + 1 + used
    good &= length <= start + size - key
    return key, length, good


def read_fields(
    words: Words, octets: Octets, start: Offsets, size: Offsets, at: Revisions
) -> Fields:
    """Read records whole.

    A record is understood if it has exactly the fields that etcd writes, in etcd's order, ends
    where it must, and says of itself what its revision says (`fits`).
    """
    key, length, good = read_keys(words, start, size)
    tombstone = at.tombstone
    done = good & tombstone & (key + length == start + size)
    fields, mod = _behind(words, octets, (key, length), start + size, good & ~tombstone)
    return replace(fields, good=done | (fields.good & (mod == at.main)))


def read_live(
    words: Words, octets: Octets, start: Offsets, size: Offsets
) -> tuple[Fields, Offsets]:
    """Read records that came without their revision, none a tombstone, and their mod revisions."""
    key, length, good = read_keys(words, start, size)
    return _behind(words, octets, (key, length), start + size, good)


def _behind(
    words: Words, octets: Octets, key: tuple[Offsets, Offsets], end: Offsets, good: Mask
) -> tuple[Fields, Offsets]:
    """What comes behind the key, and the mod revision."""
    cursor = key[0] + np.where(good, key[1], 0)
    create, cursor, good = _number(words, cursor, _CREATE, good)
    mod, cursor, good = _number(words, cursor, _MOD, good)
    version, cursor, good = _number(words, cursor, _VERSION, good)
    good &= (create >= 1) & (create <= mod) & (version >= 1)

    word = load64(words, cursor)
    present = (cursor < end) & ((word & np.uint64(0xFF)) == _tag(_VALUE, BYTES))
    size, used = varint(word >> _EIGHT)
    behind = cursor + 1 + used
    good &= ~present | ((used < 8) & (size <= end - behind))
    present &= good
    value = np.where(present, behind, cursor)
    size = np.where(present, size, 0)
    lease, cursor = _leases(words, octets, value + size, end)
    good &= cursor == end
    return Fields(*key, create, version, value, size, lease, good), mod


def _number(
    words: Words, cursor: Offsets, number: int, good: Mask
) -> tuple[Offsets, Offsets, Mask]:
    word = load64(words, cursor)
    value, used = varint(word >> _EIGHT)
    found = ((word & np.uint64(0xFF)) == _tag(number, VARINT)) & (used < 8)
    return value, cursor + 1 + used, good & found


def _leases(words: Words, octets: Octets, cursor: Offsets, end: Offsets) -> tuple[Offsets, Offsets]:
    """The lease of each record, 0 where there is none, and where what follows it begins.

    A lease ID usually has nine bytes, and ten where its uppermost bit is set.
    """
    lease = np.zeros_like(cursor)
    tag = octets.take(cursor, mode="clip") == _tag(_LEASE, VARINT)
    leased = np.flatnonzero((cursor < end) & tag)
    if not len(leased):
        return lease, cursor
    at = cursor[leased] + 1
    value, used = varint(load64(words, at))
    ninth, tenth = (octets.take(at + index, mode="clip").astype(np.int64) for index in (8, 9))
    more = (used == 8) & (octets.take(at + 7, mode="clip") >= 0x80)
    most = more & (ninth >= 0x80)
    value |= np.where(more, (ninth & 0x7F) << 56, 0)
    value |= np.where(most, tenth << 63, 0)
    lease[leased] = value
    cursor = cursor.copy()
    cursor[leased] = at + used + more + most
    return lease, cursor


def _tag(number: int, kind: int) -> int:
    return number << 3 | kind


def read_record(peek: Peek, start: int, size: int) -> Record:
    """One `KeyValue`, its fields in any order. Raises `wire.Malformed`."""
    numbers = {_CREATE: 0, _MOD: 0, _VERSION: 0, _LEASE: 0}
    spans = {_KEY: (start, 0), _VALUE: (start, 0)}
    for number, kind, at, length in fields(peek, start, start + size):
        if number in numbers and kind == VARINT:
            numbers[number] = at - (1 << 64) if at >> 63 else at
        elif number in spans and kind == BYTES:
            spans[number] = (at, length)
        elif number <= _LEASE:
            raise Malformed(f"field {number} has wire type {kind}")
    create, mod, version = numbers[_CREATE], numbers[_MOD], numbers[_VERSION]
    return Record(*spans[_KEY], create, mod, version, *spans[_VALUE], numbers[_LEASE])


def checked_record(
    peek: Peek, span: tuple[int, int], at: tuple[int, int], where: Callable[[], str]
) -> Record:
    """One record by itself. Raises `IntegrityError` for what etcd would never write."""
    try:
        record = read_record(peek, *span)
        wrong = fits(record, at)
    except Malformed as error:
        raise damaged(f"{where()}: its value is no KeyValue: {error}") from error
    if wrong:
        raise damaged(f"{where()}: {wrong}")
    return record


def fits(record: Record, at: tuple[int, int]) -> str:
    """What is wrong with a record of this revision; empty if nothing is."""
    main, rest = at
    if not record.key_size:
        return "it has no user key"
    if rest & 1:
        extra = record.create or record.mod or record.version or record.value_size
        return "it is a tombstone, but has more than a key" if extra else ""
    if record.mod != main:
        return f"it lies at revision {main}, but says that it was modified at {record.mod}"
    if not 1 <= record.create <= record.mod:
        return f"it was created at revision {record.create}, modified at {record.mod}"
    if record.version < 1:
        return f"it has version {record.version}"
    return ""
