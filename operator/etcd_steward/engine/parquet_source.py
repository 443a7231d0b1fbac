"""A registry.parquet looked into: one revision, of which only what is asked for is read."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from etcd_steward.engine.sources import Change, Sized, Wanted, next_batch
from etcd_steward.errors import Compacted, InvalidInput
from etcd_steward.etcd.keys import KeyRange
from etcd_steward.models.ports import ReadAt
from etcd_steward.models.registry import KeyPath, Record, Selection
from etcd_steward.registry import paths
from etcd_steward.registry.selection import Chosen, ReadLabels
from etcd_steward.store.threads import settled

if TYPE_CHECKING:  # it brings pyarrow, which only this kind of source needs
    from etcd_steward.registry.parquet import RegistryFile

Item = TypeVar("Item")


class ParquetSource:
    """A registry.parquet. Its rows come by namespace, those of none first, and then by key."""

    ordered = False

    def __init__(self, file: "RegistryFile", name: str) -> None:
        self._file = file
        self.name = name
        self.revision = file.revision or 0

    @classmethod
    async def open(cls, file: ReadAt, name: str) -> "ParquetSource":
        """A file for which nothing vouches. Raises `IntegrityError`."""

        def opened() -> "RegistryFile":
            from etcd_steward.registry.parquet import RegistryFile  # noqa: PLC0415  # pyarrow

            return RegistryFile(file, name=name)

        return cls(await settled(asyncio.to_thread(opened)), name)

    async def oldest(self) -> int:
        """The only revision that there is."""
        return self.revision

    async def records(
        self, wanted: Wanted, *, at: int = 0, values: bool = True
    ) -> AsyncGenerator[list[Record], None]:
        """The keys that are meant."""
        self._check(at)
        if values:
            async for records in _each(self._file.read(wanted.chosen)):
                yield records
            return
        async for entries in _each(self._file.entries(wanted.chosen)):
            yield [
                Record(e.key, b"", e.create_revision, e.mod_revision, e.version, e.lease)
                for e in entries
            ]

    async def sizes(self, wanted: Wanted, *, at: int = 0) -> AsyncGenerator[list[Sized], None]:
        """The same keys and the sizes of their values, for which the values are fetched."""
        self._check(at)
        async for entries in _each(self._file.entries(wanted.chosen, sizes=True)):
            yield [
                Sized(e.key, e.size or 0, e.create_revision, e.mod_revision, e.version, e.lease)
                for e in entries
            ]

    async def fetch(self, keys: Sequence[bytes], *, at: int = 0) -> dict[bytes, Record]:
        """Some keys in full, namespace by namespace: so only their row groups are read."""
        self._check(at)
        found: dict[bytes, Record] = {}
        for namespace, some in _by_namespace(keys, self._file.prefix).items():
            async for records in _each(self._file.read(_Exactly(some, namespace))):
                found |= {record.key: record for record in records}
        return found

    async def within(
        self, wanted: KeyRange, *, at: int = 0, values: bool = True
    ) -> AsyncGenerator[list[Record], None]:
        """The keys of a range of bytes, in the order of the file."""
        for chosen in _parts(wanted, self._file.prefix):
            meant = Wanted()
            meant.chosen = chosen
            async with aclosing(self.records(meant, at=at, values=values)) as batches:
                async for records in batches:
                    yield records

    async def changes(
        self,
        wanted: Wanted,  # noqa: ARG002  # a `Source`
        *,
        after: int = 0,  # noqa: ARG002
        upto: int = 0,
    ) -> AsyncGenerator[list[Change], None]:
        """Nothing: the file shows one revision."""
        self._check(upto)
        nothing: list[list[Change]] = []
        for changes in nothing:
            yield changes

    def _check(self, at: int) -> None:
        if at > self.revision:
            raise InvalidInput(
                f"revision {at} is in the future: {self.name} is of revision {self.revision}"
            )
        if at not in {0, self.revision}:
            raise Compacted(
                f"{self.name} shows revision {self.revision} and no other",
                hint="a full snapshot holds what etcd had not compacted yet: name one",
            )


class _Exactly(Chosen):
    """Some keys of one namespace."""

    def __init__(self, keys: Sequence[bytes], namespace: str | None) -> None:
        super().__init__(Selection())
        self._keys = frozenset(keys)
        self._namespace = namespace

    def wants(self, path: KeyPath | None, key: bytes, labels: ReadLabels) -> bool:  # noqa: ARG002
        return key in self._keys

    def namespaces(self) -> frozenset[str] | None:
        return None if self._namespace is None else frozenset({self._namespace})

    def cluster_scoped(self) -> bool:
        return self._namespace is None

    def ranges(self) -> list[tuple[bytes, bytes]] | None:
        return [(key, key + b"\0") for key in sorted(self._keys)]


class _Within(Chosen):
    """A range of keys, wherever they lie in the file."""

    def __init__(self, wanted: KeyRange) -> None:
        super().__init__(Selection())
        self._wanted = wanted

    def wants(self, path: KeyPath | None, key: bytes, labels: ReadLabels) -> bool:  # noqa: ARG002
        return self._wanted.contains(key)

    def ranges(self) -> list[tuple[bytes, bytes]] | None:
        start, end = self._wanted.start, self._wanted.end
        return [(start, end or start + b"\0")]


class _WithinNamespace(_Within):
    """Those of them that belong to one namespace, or to none."""

    def __init__(self, wanted: KeyRange, namespace: str | None) -> None:
        super().__init__(wanted)
        self._namespace = namespace

    def wants(self, path: KeyPath | None, key: bytes, labels: ReadLabels) -> bool:
        namespace = path.namespace if path is not None else None
        return namespace == self._namespace and super().wants(path, key, labels)

    def namespaces(self) -> frozenset[str] | None:
        return None if self._namespace is None else frozenset({self._namespace})

    def cluster_scoped(self) -> bool:
        return self._namespace is None


def _parts(wanted: KeyRange, prefix: str) -> list[_Within]:
    """The same range, cut so that little of the file needs to be read.

    Where all keys begin with a namespace's folder they belong to it, or else are no API objects.
    """
    if wanted == KeyRange.prefix(wanted.start):
        path = paths.parse(wanted.start + b"x", prefix)
    else:
        path = paths.parse(wanted.start, prefix) if not wanted.end else None
    if path is None or path.namespace is None:
        return [_Within(wanted)]
    return [_WithinNamespace(wanted, path.namespace), _WithinNamespace(wanted, None)]


def _by_namespace(keys: Sequence[bytes], prefix: str) -> dict[str | None, list[bytes]]:
    found: dict[str | None, list[bytes]] = {}
    for key in keys:
        path = paths.parse(key, prefix)
        found.setdefault(path.namespace if path is not None else None, []).append(key)
    return found


async def _each(items: Iterator[list[Item]]) -> AsyncIterator[list[Item]]:
    """The batches of a blocking iterator."""
    while (batch := await settled(asyncio.to_thread(next_batch, items))) is not None:
        yield batch
