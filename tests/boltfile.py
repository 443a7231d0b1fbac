"""Writes bolt files as etcd would, of any page size and shape, and knows where everything lies.

A real etcd gives neither pages of 64 KiB nor a stored freelist, nor nested buckets, nor trees of
five levels in forty pages. `tests/integration/test_bolt_etcd.py` has `etcdutl` judge these files.
"""

import random
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from etcd_steward.errors import IntegrityError
from etcd_steward.registry.proof import StructureReport, prove_structure

HEADER = struct.Struct("<QHHI")
LEAF_ELEMENT = struct.Struct("<IIII")
BRANCH_ELEMENT = struct.Struct("<IIQ")
META = struct.Struct("<IIIIQQQQQ")
NO_FREELIST = (1 << 64) - 1
Items = Mapping[bytes, "bytes | Items"]


def fnv64a(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return value


def meta_page(page_size: int, page: int, root: int, freelist: int, pages: int, txid: int) -> bytes:
    body = META.pack(0xED0CDAED, 2, page_size, 0, root, 0, freelist, pages, txid)
    whole = HEADER.pack(page, 4, 0, 0) + body + struct.pack("<Q", fnv64a(body))
    return whole.ljust(page_size, b"\0")


@dataclass
class BoltFile:
    """A file under construction; `fields` are the structural ones: (offset, length, what)."""

    page_size: int = 4096
    per_leaf: int = 1000
    per_branch: int = 1000
    inline: bool = True
    shuffle: random.Random | None = None
    freelist: bool = False
    spare: int = 3
    pages: dict[int, bytes] = field(default_factory=dict)
    fields: list[tuple[int, int, str]] = field(default_factory=list)
    next: int = 2

    def build(self, buckets: Items) -> bytes:
        """The whole file, digest not included."""
        if self.shuffle:
            self.next += 7
        return self.build_items(self.bucket_items(buckets))

    def build_items(self, items: Sequence[tuple[int, bytes, bytes]]) -> bytes:
        """The whole file of a root bucket's elements: (flags, key, value)."""
        root = self.tree(sorted(items, key=lambda item: item[1]))
        free = [2 + i for i in range(7)] if self.shuffle else []
        free += range(self.next, self.next + self.spare)
        self.next += self.spare
        freelist = NO_FREELIST
        if self.freelist:
            freelist, self.next = self.next, self.next + 1
            self.pages[freelist] = HEADER.pack(freelist, 0x10, len(free), 0) + struct.pack(
                f"<{len(free)}Q", *free
            )
            self.fields.append((freelist * self.page_size, 16 + 8 * len(free), "freelist"))
        data = bytearray(self.next * self.page_size)
        for page in (0, 1):
            meta = meta_page(self.page_size, page, root, freelist, self.next, 9 - page)
            data[page * self.page_size : (page + 1) * self.page_size] = meta
        for page, content in self.pages.items():
            data[page * self.page_size : page * self.page_size + len(content)] = content
        return bytes(data)

    def bucket_items(self, buckets: Items) -> list[tuple[int, bytes, bytes]]:
        items = []
        for name, content in sorted(buckets.items()):
            if isinstance(content, bytes):
                items.append((0, name, content))
                continue
            inner = self.bucket_items(content)
            size = 16 + sum(16 + len(key) + len(value) for _, key, value in inner)
            nested = any(flags for flags, _, _ in inner)
            small = self.inline and size <= self.page_size // 4
            if not inner or (small and not nested):
                items.append((1, name, bytes(16) + leaf(0, inner)))
            else:
                items.append((1, name, struct.pack("<QQ", self.tree(inner), 0)))
        return items

    def tree(self, items: Sequence[tuple[int, bytes, bytes]]) -> int:
        """Write a tree, and say its root page."""
        level = [
            (chunk[0][1] if chunk else b"", self.place(chunk))
            for chunk in self.chunks(items, self.per_leaf, 16)
        ]
        while len(level) > 1:
            parts = [
                [(page, key, b"") for key, page in level[i : i + self.per_branch]]
                for i in range(0, len(level), self.per_branch)
            ]
            if len(parts) > 1 and len(parts[-1]) == 1:
                parts[-1].insert(0, parts[-2].pop())
            level = [(part[0][1], self.place(part, branch=True)) for part in parts]
        return level[0][1]

    def chunks(
        self, items: Sequence[tuple[int, bytes, bytes]], most: int, element: int
    ) -> list[list[tuple[int, bytes, bytes]]]:
        chunks: list[list[tuple[int, bytes, bytes]]] = [[]]
        size = 16
        for item in items:
            more = element + len(item[1]) + len(item[2])
            if chunks[-1] and (len(chunks[-1]) == most or size + more > self.page_size):
                chunks.append([])
                size = 16
            chunks[-1].append(item)
            size += more
        return chunks

    def place(self, items: Sequence[tuple[int, bytes, bytes]], *, branch: bool = False) -> int:
        size = 16 + sum(16 + len(key) + len(value) for _, key, value in items)
        count = -(-size // self.page_size)
        page = self.next
        self.next += count
        if self.shuffle and self.shuffle.random() < 0.3:
            self.next += self.shuffle.randrange(30)
        content = leaf(page, items, overflow=count - 1, branch=branch)
        self.pages[page] = content
        at, kind = page * self.page_size, "branch" if branch else "leaf"
        self.fields.append((at, 16, f"{kind} header"))
        self.fields.append((at + 16, 16 * len(items), f"{kind} elements"))
        offset = at + 16 + 16 * len(items)
        for flags, key, value in items:
            if not branch and flags:
                self.fields.append((offset + len(key), 8, "bucket root"))
            offset += len(key) + len(value)
        return page


def leaf(
    page: int,
    items: Sequence[tuple[int, bytes, bytes]],
    *,
    overflow: int = 0,
    branch: bool = False,
) -> bytes:
    head, body, at = [], [], 16 * len(items)
    for index, (flags, key, value) in enumerate(items):
        position = at - 16 * index
        if branch:
            head.append(BRANCH_ELEMENT.pack(position, len(key), flags))
        else:
            head.append(LEAF_ELEMENT.pack(flags, position, len(key), len(value)))
        body.append(key + value)
        at += len(key) + len(value)
    flags = 1 if branch else 2
    return HEADER.pack(page, flags, len(items), overflow) + b"".join(head) + b"".join(body)


# etcd's own content ------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    value %= 1 << 64
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def key_value(
    key: bytes, create: int = 0, mod: int = 0, version: int = 0, value: bytes = b"", lease: int = 0
) -> bytes:
    """mvccpb.KeyValue as gogo-protobuf writes it."""
    out = b"\x0a" + varint(len(key)) + key if key else b""
    for number, what in ((2, create), (3, mod), (4, version)):
        if what:
            out += bytes([number << 3]) + varint(what)
    if value:
        out += b"\x2a" + varint(len(value)) + value
    return out + (b"\x30" + varint(lease) if lease else b"")


def rev(main: int, sub: int = 0, mark: bytes = b"") -> bytes:
    return main.to_bytes(8, "big") + b"_" + sub.to_bytes(8, "big") + mark


@dataclass
class History:
    """A little mvcc: transactions in, the `key` bucket and what it must count out."""

    revision: int = 1
    records: dict[bytes, bytes] = field(default_factory=dict)
    live: dict[bytes, tuple[int, int, bytes]] = field(default_factory=dict)
    compacted: int = 0

    def txn(self, *operations: tuple[bytes, bytes | None], lease: int = 0) -> None:
        """Put each key, or delete it where the value is None."""
        main, sub = self.revision + 1, 0
        for key, value in operations:
            if value is None:
                if key not in self.live:
                    continue
                del self.live[key]
                self.records[rev(main, sub, b"t")] = key_value(key)
            else:
                create, version, _ = self.live.get(key, (main, 0, b""))
                self.live[key] = (create, version + 1, value)
                self.records[rev(main, sub)] = key_value(
                    key, create, main, version + 1, value, lease
                )
            sub += 1
        if sub:
            self.revision = main

    def meta(self) -> dict[bytes, bytes]:
        meta = {b"consistent_index": (77).to_bytes(8, "big"), b"term": (3).to_bytes(8, "big")}
        if self.compacted:
            meta[b"finishedCompactRev"] = rev(self.compacted)
        return meta

    def buckets(self, **more: Items) -> Items:
        others = {name.encode(): content for name, content in more.items()}
        return {b"key": self.records, b"meta": self.meta(), b"lease": {}, **others}


class BytesFile:
    """`ReadAt` over bytes that fails the test when it is asked for anything outside."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self.reads = 0

    def read_at(self, offset: int, length: int) -> bytes:
        assert offset >= 0, offset
        assert length >= 0, length
        assert offset + length <= max(self.size, 1024), (offset, length, self.size)
        self.reads += length
        return self.data[offset : offset + length]


# One file of everything, as small as it gets ------------------------------------------------------

PAGE = 1024


def content() -> Items:
    history = History(compacted=3)
    for number in range(22):
        history.txn(
            (b"/registry/pods/ns/%d" % (number % 9), b"v" * (number * 29 % 400)),
            (b"/once/%d" % number, None if number % 4 == 0 else b""),
            (b"/once/%d" % (number - 1), None),
            lease=number << 40 if number % 5 else 0,
        )
    history.txn((b"/large", b"L" * 9000))
    return history.buckets(
        lease={struct.pack(">Q", number): b"lease" * 9 for number in range(11)},
        alarm={b"\x08\x05\x10\x01": b""},
        nested={b"deep": {b"k%03d" % number: b"v" * 90 for number in range(9)}},
    )


def shape(*, freelist: bool) -> BoltFile:
    return BoltFile(PAGE, per_leaf=4, per_branch=4, inline=True, freelist=freelist)


@cache
def sound(*, freelist: bool) -> tuple[bytes, BoltFile, StructureReport]:
    made = shape(freelist=freelist)
    data = made.build(content())
    return data, made, prove_structure(BytesFile(data))


def prove(data: bytes | bytearray) -> StructureReport:
    return prove_structure(BytesFile(bytes(data)), size=len(data))


def found(data: bytes | bytearray) -> bool:
    try:
        prove(data)
    except IntegrityError:
        return True
    return False
