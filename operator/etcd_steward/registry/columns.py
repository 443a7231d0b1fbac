"""The columns of a registry file, a row group at a time, and what they tell of keys and values.

Whatever costs a microsecond per row here costs a second per million: neighbours that are alike are
read together.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from operator import itemgetter, lt
from typing import Final

import numpy as np

from etcd_steward.errors import IntegrityError
from etcd_steward.models.registry import KeyPath
from etcd_steward.registry import envelope, paths
from etcd_steward.registry.lanes import Mask, Octets, Offsets
from etcd_steward.registry.strings import joined

_UID: Final = 36
"""Characters of a uid."""
_NO_UID: Final = np.array([one >= 0x80 or chr(one) in '"\\' for one in range(256)])
"""Bytes that JSON would have to write otherwise within a uid."""
_FEW: Final = ("api_group", "resource", "namespace", "api_version", "kind", "encoding")
_Said = tuple[str, str | None, str | None]
"""encoding, apiVersion and kind"""
_said: Callable[[envelope.Header], _Said] = itemgetter(0, 1, 2)


@dataclass(frozen=True, slots=True)
class Texts:
    """A column of byte strings, end to end."""

    data: bytes | Octets
    """There may be more behind the last one."""
    at: Offsets
    """Where each begins, and where the last ends."""
    there: Mask | None = None
    """Which of them there are, the others being null; None: all."""


@dataclass(frozen=True, slots=True)
class Words:
    """A column of few different words."""

    words: list[str]
    numbers: Offsets
    """Of each row, which word; -1 for null."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The columns that keys and values tell."""

    api_group: Words
    resource: Words
    namespace: Words
    name: Texts
    api_version: Words
    kind: Words
    uid: Texts
    encoding: Words


@dataclass(frozen=True, slots=True)
class Group:
    """Some rows as they are stored together, a column each."""

    keys: list[bytes]
    """The same as `key`."""
    key: Texts
    value: Texts
    create_revision: Offsets
    mod_revision: Offsets
    version: Offsets
    lease: Offsets
    decoded: Decoded

    def __len__(self) -> int:
        return len(self.keys)


Place = tuple[bool, bytes, bytes]
"""Where a row belongs: whether it has a namespace, the namespace, the key."""
BEFORE_ALL: Final[Place] = False, b"", b""


def last_place(group: Group, last: Place) -> Place:
    """The last row's place in the order, where `last` is that of the row before the group.

    Raises `IntegrityError` for rows out of order: such a file would mislead every reader.
    """
    namespace = group.decoded.namespace
    changes = np.flatnonzero(np.diff(namespace.numbers)) + 1
    for first, end in pairwise([0, *changes.tolist(), len(group)]):
        number = int(namespace.numbers[first])
        space = (number >= 0, namespace.words[number].encode() if number >= 0 else b"")
        keys = group.keys[first:end]
        if last >= (*space, keys[0]) or not all(map(lt, keys, keys[1:])):
            raise IntegrityError(
                "the rows of a registry file are not in ascending order of namespace and key",
                hint="report this: it is a bug",
            )
        last = *space, keys[-1]
    return last


def ends_of(sizes: Offsets) -> Offsets:
    """Where strings of these sizes begin when they are laid end to end, and where the last ends."""
    at = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=at[1:])
    return at


@dataclass(slots=True)
class _Few:
    """Makes `Words`."""

    known: dict[str | None, int] = field(default_factory=lambda: {None: -1})
    numbers: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def add(self, word: str | None, count: int) -> None:
        """So many rows of this word."""
        self.numbers.append(self.known.setdefault(word, len(self.known) - 1))
        self.counts.append(count)

    def column(self) -> Words:
        words = [word for word in self.known if word is not None]
        return Words(words, np.repeat(np.array(self.numbers, dtype=np.int64), self.counts))


def padded(pieces: Iterable[bytes | memoryview], size: int) -> bytes:
    """The pieces end to end, which have that many bytes, and zeros up to a whole word."""
    return b"".join([*pieces, bytes(-size % 8)])


class Columns:
    """Collects what is decoded, directory by directory."""

    def __init__(self, keys: list[bytes], key: Texts, value: Texts) -> None:
        """All keys and values; both texts are `padded`."""
        self._keys = keys
        self._key = key
        self._values = bytes(value.data)
        self._value_at = value.at
        self._words = np.frombuffer(value.data, dtype="<u8")
        self._done = 0
        self._few = {name: _Few() for name in _FEW}
        self._directories: list[int] = []
        self._counts: list[int] = []
        self._uids: list[bytes] = []
        self._uid_sizes: list[Offsets] = []

    def add(self, path: KeyPath | None, directory: int, count: int) -> None:
        """The next keys, whose first `directory` bytes are the same; `path` is the first one's."""
        first, end = self._done, self._done + count
        self._done = end
        self._directories.append(directory if path is not None else -1)
        self._counts.append(count)
        for (encoding, api_version, kind), rows in self._headers(path, directory, first, end):
            settled = None if path is None else paths.settle(path, api_version, kind)
            said = (
                settled and settled.api_group,
                settled and settled.resource,
                path and path.namespace,
                api_version,
                kind,
                encoding,
            )
            for few, word in zip(self._few.values(), said, strict=True):
                few.add(word, rows)

    def made(self) -> Decoded:
        """All of them."""
        words = {name: few.column() for name, few in self._few.items()}
        directories = np.repeat(np.array(self._directories), self._counts)
        there = directories >= 0
        at, end = self._key.at[:-1] + directories, self._key.at[1:]
        sizes = np.where(there, end - at, 0)
        names = joined(np.frombuffer(self._key.data, dtype="<u8"), at * there, sizes)
        uid_sizes = np.concatenate(self._uid_sizes)
        return Decoded(
            **words,
            name=Texts(names, ends_of(sizes), there),
            uid=Texts(b"".join(self._uids), ends_of(np.maximum(uid_sizes, 0)), uid_sizes >= 0),
        )

    def _headers(
        self, path: KeyPath | None, directory: int, first: int, end: int
    ) -> Iterator[tuple[_Said, int]]:
        """What the values of one directory say of themselves, and how many neighbours say so."""
        at = self._value_at[first : end + 1].tolist()
        values = self._values
        known = envelope.header(values[at[0] : at[1]])
        several = end - first > 1 and known[0] == "json"
        if several and path and self._alike(known, path.namespace, directory, first, end):
            yield _said(known), end - first
            return
        rest = [values[one:other] for one, other in pairwise(at[1:])]
        headers = [known, *map(envelope.header, rest)]
        uids = [None if uid is None else uid.encode() for _, _, _, uid in headers]
        self._uids += filter(None, uids)
        self._uid_sizes.append(np.array([-1 if uid is None else len(uid) for uid in uids]))
        for said, alike in groupby(headers, key=_said):
            yield said, len(list(alike))

    def _alike(
        self, known: envelope.Header, space: str | None, directory: int, first: int, end: int
    ) -> bool:
        """Whether these JSON objects all begin like the first, each with its own name.

        Those of one type and namespace often do. Where the beginning is just that, the uid follows;
        all are compared at once.
        """
        _, api_version, kind, _ = known
        head = f'{{"apiVersion":"{api_version}","kind":"{kind}","metadata":{{"name":"'.encode()
        tail = (f'","namespace":"{space}","uid":"' if space is not None else '","uid":"').encode()
        at, behind = self._value_at[first:end], self._value_at[first + 1 : end + 1]
        names = [key[directory:] for key in self._keys[first:end]]
        sizes = np.diff(self._key.at[first : end + 1]) - directory
        uid_at = at + sizes + (len(head) + len(tail))
        if (uid_at + (_UID + 1) > behind).any():
            return False
        spans = zip(at.tolist(), uid_at.tolist(), strict=True)
        begins = b"".join([self._values[one:other] for one, other in spans])
        if begins != head + (tail + head).join(names) + tail:
            return False
        text = joined(self._words, uid_at, np.full(len(names), _UID + 1))
        table = np.frombuffer(text, dtype=np.uint8).reshape(-1, _UID + 1)
        if (table[:, _UID] != ord('"')).any() or _NO_UID[table[:, :_UID]].any():
            return False
        self._uids.append(table[:, :_UID].tobytes())
        self._uid_sizes.append(np.full(len(names), _UID))
        return True
