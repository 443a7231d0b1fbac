"""What can be looked into: the live etcd, a stored backup, a file; all read in one way.

A source shows every key that lived at one revision. Records come in batches, so that memory is
bounded by a batch, and in the order of their keys where `ordered` says so (a registry.parquet is
sorted by namespace first).
"""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

from etcd_steward.errors import Compacted, InvalidInput, Undecodable
from etcd_steward.models.registry import Filter, KeyPath, Record, Selection
from etcd_steward.registry import envelope, objectmeta, paths
from etcd_steward.registry.selection import Chosen

Item = TypeVar("Item")


class Sized(NamedTuple):
    """A key, and how large its value is: what can be told without reading values."""

    key: bytes
    size: int
    """Bytes of the value."""
    create_revision: int
    mod_revision: int
    version: int
    lease: int


class Change(NamedTuple):
    """One change in etcd's history."""

    record: Record
    """Of a deletion, key and `mod_revision` alone."""
    deleted: bool


class Wanted:
    """Which keys are meant, as all sources understand it; by default every key there is."""

    def __init__(
        self,
        include: Filter | None = None,
        exclude: Filter | None = None,
        *,
        prefix: str = "/registry",
    ) -> None:
        self.include = include or Filter()
        self.exclude = exclude
        self.prefix = prefix
        """The API server's `--etcd-prefix`."""
        self.chosen = Chosen(Selection(include=self.include, exclude=exclude), prefix)
        """Raises `InvalidInput` for a label selector that can't be meant."""
        self.objects_only = bool(
            self.include.namespaces
            or self.include.names
            or self.include.resources
            or self.include.label_selector
        )
        """Whether nothing is meant but objects of the API server."""

    @property
    def by_value(self) -> bool:
        """Whether values decide."""
        return self.include.label_selector is not None

    @property
    def everything(self) -> bool:
        """Whether every key is meant."""
        return self.include == Filter() and self.exclude is None

    def whatever_labels(self) -> "Wanted":
        """The same without its label selector: what can be told without values."""
        without = self.include.model_copy(update={"label_selector": None})
        return Wanted(without, self.exclude, prefix=self.prefix)

    def wants(self, record: Record) -> bool:
        """Whether this key is meant; a label selector looks into its value."""
        path = None
        if self.objects_only or self.exclude is not None:
            path = place(record.key, record.value, self.prefix)
        return self.chosen.wants(path, record.key, lambda: labels_of(record.value))


class Source(Protocol):
    """Something that shows keys at a revision.

    `at` is a revision between `oldest` and `revision`; 0 means the latter. All raise
    `StewardError`: `Compacted` or `InvalidInput` for a revision that can't be shown.
    """

    @property
    def name(self) -> str:
        """What to call it: a URL, a path, or `the live etcd`."""
        ...

    @property
    def revision(self) -> int:
        """The newest revision that it shows; it stays while the source is open."""
        ...

    @property
    def ordered(self) -> bool:
        """Whether records come in the order of their keys."""
        ...

    async def oldest(self) -> int:
        """The oldest revision that it shows."""
        ...

    def records(
        self, wanted: Wanted, *, at: int = 0, values: bool = True
    ) -> AsyncGenerator[list[Record], None]:
        """The keys that are meant; without `values`, with empty ones, which costs much less."""
        ...

    def sizes(self, wanted: Wanted, *, at: int = 0) -> AsyncGenerator[list[Sized], None]:
        """The same keys and the sizes of their values, by the cheapest way there is."""
        ...

    async def fetch(self, keys: Sequence[bytes], *, at: int = 0) -> dict[bytes, Record]:
        """Some keys in full; those that did not live are left out. For a few hundred at once."""
        ...

    def changes(
        self, wanted: Wanted, *, after: int = 0, upto: int = 0
    ) -> AsyncGenerator[list[Change], None]:
        """What changed after revision `after` (0 = all that is still known), oldest first.

        Up to revision `upto`, with it, which is meant as `at` is elsewhere.
        A source without history (a registry.parquet) tells nothing.
        """
        ...


def labels_of(value: bytes) -> Mapping[str, str] | None:
    """An object's labels; None where they can't be read."""
    try:
        return objectmeta.read(value).labels
    except Undecodable:
        return None


def place(key: bytes, value: bytes, prefix: str) -> KeyPath | None:
    """Which object a key is of; where the key leaves it open, its value says, if there is one."""
    path = paths.parse(key, prefix)
    if path is None or path.api_group or path.resource in paths.BUILTINS or not value:
        return path
    _, api_version, kind, _ = envelope.header(value)
    return paths.settle(path, api_version, kind)


def revision_at(at: int, name: str, newest: int, oldest: int) -> int:
    """The revision that `at` means. Raises `InvalidInput` or `Compacted` if it can't be shown."""
    if at < 0 or at > newest:
        raise InvalidInput(f"revision {at} is in the future: {name} is at revision {newest}")
    if at and at < oldest:
        raise Compacted(
            f"revision {at} is not in {name} any more: it reaches back to revision {oldest}",
            hint="look into a backup that was taken before: `etcd-steward snapshot list`",
        )
    return at or newest


def sized(record: Record) -> Sized:
    """What is told of a record without its value."""
    key, value, *numbers = record
    return Sized(key, len(value), *numbers)


def next_batch(batches: Iterator[list[Item]]) -> list[Item] | None:
    """The next one, None at the end: in a thread `StopIteration` would get lost."""
    return next(batches, None)
