"""What differs between two sources: two backups, or a backup and the live etcd.

Each side is read once, in whatever order it comes: of the first a digest per key is kept (about
250 bytes a key), never a value. Then only the keys that differ are read again, some at a time.
"""

import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Literal

from etcd_steward.engine.fields import FieldChange, changes, concealed, without_noise
from etcd_steward.engine.objects import printable
from etcd_steward.engine.sources import Source, Wanted, place
from etcd_steward.engine.top import escaped, resource_of
from etcd_steward.errors import Undecodable
from etcd_steward.models.registry import KeyPath, Record

_AT_ONCE: Final = 200
"""Keys that are read again together."""

Fate = Literal["added", "removed", "replaced", "changed"]


@dataclass(frozen=True, slots=True)
class Side:
    """One of two things that are compared."""

    source: Source
    at: int

    @property
    def where(self) -> str:
        """In words."""
        return f"{self.source.name} at revision {self.at or self.source.revision}"


@dataclass(frozen=True, slots=True)
class Difference:
    """One key that is not the same."""

    key: bytes
    path: KeyPath | None
    fate: Fate
    """`replaced`: another object of the same name, by its uid."""
    fields: tuple[FieldChange, ...] = ()
    note: str = ""
    """Why no fields are told, if so."""

    @property
    def title(self) -> str:
        """`deployments.apps shop/api`, or the key."""
        if self.path is None:
            return escaped(self.key)
        name = f"{self.path.namespace}/{self.path.name}" if self.path.namespace else self.path.name
        return f"{resource_of(self.path)} {name}"


@dataclass(slots=True)
class Compared:
    """How many keys each side has."""

    before: int = 0
    after: int = 0


class Diff:
    """A comparison of two sides."""

    def __init__(self, before: Side, after: Side, wanted: Wanted, *, show_secrets: bool) -> None:
        self._before = before
        self._after = after
        self._wanted = wanted
        self._show_secrets = show_secrets
        self.compared = Compared()

    async def differences(self) -> AsyncGenerator[Difference, None]:
        """Every key that differs, by key. Raises `StewardError` of either source."""
        fates = await self._fates()
        keys = sorted(fates)
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            before = await self._fetch(self._before, [k for k in some if fates[k] != "added"])
            after = await self._fetch(self._after, [k for k in some if fates[k] != "removed"])
            for key in some:
                yield self._difference(key, before.get(key), after.get(key))

    async def _fates(self) -> dict[bytes, Fate]:
        fates: dict[bytes, Fate] = {}
        seen: dict[bytes, bytes] = {}
        async with aclosing(self._records(self._before)) as batches:
            async for batch in batches:
                seen.update((record.key, _digest(record.value)) for record in batch)
        self.compared.before = len(seen)
        async with aclosing(self._records(self._after)) as batches:
            async for batch in batches:
                self.compared.after += len(batch)
                for record in batch:
                    digest = seen.pop(record.key, None)
                    if digest is None:
                        fates[record.key] = "added"
                    elif digest != _digest(record.value):
                        fates[record.key] = "changed"
        fates.update(dict.fromkeys(seen, "removed"))
        return fates

    def _records(self, side: Side) -> AsyncGenerator[list[Record], None]:
        return side.source.records(self._wanted, at=side.at)

    async def _fetch(self, side: Side, keys: Sequence[bytes]) -> dict[bytes, Record]:
        return await side.source.fetch(keys, at=side.at) if keys else {}

    def _difference(self, key: bytes, before: Record | None, after: Record | None) -> Difference:
        record = after or before
        path = None if record is None else place(key, record.value, self._wanted.prefix)
        if before is None or after is None:
            return Difference(key, path, "removed" if after is None else "added")
        fate, fields, note = compare(before, after, show_secrets=self._show_secrets)
        return Difference(key, path, fate, fields, note)


def compare(
    before: Record, after: Record, *, show_secrets: bool
) -> tuple[Fate, tuple[FieldChange, ...], str]:
    """What is not the same of two records of one key whose values differ."""
    try:
        one, other = printable(before)[0], printable(after)[0]
    except Undecodable as error:
        sizes = f"{len(before.value)} bytes, {len(after.value)} after"
        return "changed", (), f"its value differs ({sizes}): {error.message}"
    fate: Fate = "changed" if _uid(one) == _uid(other) else "replaced"
    if not show_secrets:
        one, other = concealed(one), concealed(other)
    found = changes(one, other)
    meant = without_noise(found)
    if meant or not found:
        note = "" if meant else "the same object, written in another way"
        return fate, meant, note
    return fate, (), "nothing but the API server's book-keeping: managedFields, generation"


def _uid(found: dict[str, object]) -> object:
    metadata = found.get("metadata")
    return metadata.get("uid") if isinstance(metadata, dict) else None


def _digest(value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=12).digest()
