"""Who fills an etcd, and who writes it: keys, bytes, history and writes, added up by their owners.

Memory is bounded by the number of owners, or where single objects are asked for, of objects.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from heapq import nlargest
from typing import Final

from etcd_steward.engine.sources import Change, Sized
from etcd_steward.errors import Undecodable
from etcd_steward.models.registry import KeyPath, Record
from etcd_steward.registry import objectmeta, paths

UNKNOWN: Final = "(unknown)"
CLUSTER: Final = "(cluster-scoped)"


class By(StrEnum):
    """What is added up."""

    KEYS = "keys"
    BYTES = "bytes"
    HISTORY = "history"
    WRITES = "writes"


class Per(StrEnum):
    """Whose it is."""

    RESOURCE = "resource"
    NAMESPACE = "namespace"
    OBJECT = "object"
    MANAGER = "manager"


@dataclass(slots=True)
class Tally:
    """What one owner has."""

    count: int = 0
    """Keys, or revisions, or writes."""
    size: int = 0
    """Bytes of keys and values."""
    deletions: int = 0
    """How many of the revisions or writes delete a key."""


class Tallies:
    """Sums per owner."""

    def __init__(self, per: Per, prefix: str) -> None:
        self._owner = owner(per, prefix)
        self.owners: dict[str, Tally] = {}
        self.total = Tally()

    def add(self, key: bytes, size: int, value: bytes = b"", *, deleted: bool = False) -> None:
        """One more key or change; `size` in bytes."""
        tally = self.owners.setdefault(self._owner(key, value), Tally())
        for one in (tally, self.total):
            one.count += 1
            one.size += len(key) + size
            one.deletions += deleted

    def largest(self, by: By, limit: int) -> list[tuple[str, Tally]]:
        """The owners of most, the largest first; those that are alike by name."""

        def weight(item: tuple[str, Tally]) -> tuple[int, int]:
            tally = item[1]
            return (tally.size, tally.count) if by is By.BYTES else (tally.count, tally.size)

        return nlargest(limit, sorted(self.owners.items()), key=weight)

    async def add_sizes(self, batches: AsyncIterator[list[Sized]]) -> None:
        """Keys without their values."""
        async for batch in batches:
            for one in batch:
                self.add(one.key, one.size)

    async def add_records(self, batches: AsyncIterator[list[Record]]) -> None:
        """Keys with their values: for managers, who stand in them."""
        async for batch in batches:
            for one in batch:
                self.add(one.key, len(one.value), one.value)

    def add_changes(self, changes: Iterable[Change]) -> None:
        """Revisions."""
        for change in changes:
            record = change.record
            self.add(record.key, len(record.value), record.value, deleted=change.deleted)


def owner(per: Per, prefix: str) -> Callable[[bytes, bytes], str]:
    """How to tell whose a key with its value is."""
    match per:
        case Per.RESOURCE:
            return lambda key, _: resource(key, prefix)
        case Per.NAMESPACE:
            return lambda key, _: namespace(key, prefix)
        case Per.OBJECT:
            return lambda key, _: named(key, prefix)
        case Per.MANAGER:
            return lambda _, value: manager(value)


def resource(key: bytes, prefix: str) -> str:
    """`deployments.apps`, or in brackets what a key is that is no API object's."""
    return resource_and_namespace(key, prefix)[0]


def namespace(key: bytes, prefix: str) -> str:
    """The namespace, in brackets what has none."""
    return resource_and_namespace(key, prefix)[1]


def resource_and_namespace(key: bytes, prefix: str) -> tuple[str, str]:
    """Both at once."""
    path = paths.parse(key, prefix)
    if path is None:
        other = f"({paths.other(key, prefix)})"
        return other, other
    return resource_of(path), CLUSTER if path.namespace is None else path.namespace


def resource_of(path: KeyPath) -> str:
    """`deployments.apps`."""
    return f"{path.resource}.{path.api_group}" if path.api_group else path.resource


def named(key: bytes, prefix: str) -> str:
    """`deployments.apps/shop/api`, or the key as it can be shown."""
    path = paths.parse(key, prefix)
    if path is None:
        return escaped(key)
    return "/".join(
        part for part in (resource(key, prefix), path.namespace, path.name) if part is not None
    )


def manager(value: bytes) -> str:
    """Who wrote an object last, by its managedFields."""
    try:
        managers = objectmeta.read(value).managers
    except Undecodable:
        return UNKNOWN
    newest = max(managers, key=lambda one: (one.time is not None, one.time), default=None)
    return newest.name if newest is not None and newest.name else UNKNOWN


def escaped(key: bytes) -> str:
    r"""A key as a person can read it, on one line: what is no printable text as `\xff`."""
    text = key.replace(b"\\", rb"\\").decode("utf-8", errors="backslashreplace")
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text
    )
