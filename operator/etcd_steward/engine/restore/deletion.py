"""The live etcd as it was before somebody deleted something: until the next compaction it knows.

A namespace is first marked (its `deletionTimestamp`) and then emptied by its controller; so all of
it is read at the revision before the mark. What was deleted by itself is read before its own mark,
or before it went. So one plan may read several revisions.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing

from etcd_steward.engine.live_source import LiveSource
from etcd_steward.engine.restore import asked, defaults
from etcd_steward.engine.restore.drafts import Draft
from etcd_steward.engine.restore.live import Live
from etcd_steward.engine.sources import Change, Sized, Wanted, sized
from etcd_steward.errors import NotFound, Undecodable
from etcd_steward.models.registry import Filter, Record
from etcd_steward.models.restore import RestoreOptions, SourceRef
from etcd_steward.registry import objectmeta, paths


class BeforeDeletion:
    """What is asked for, each object at the last revision before its deletion; a `Source`."""

    ordered = False

    def __init__(
        self,
        source: LiveSource,
        live: Live,
        wanted: Wanted,
        namespaces: Mapping[str, int],
        objects: Mapping[bytes, int],
    ) -> None:
        self._source = source
        self._live = live
        self._wanted = wanted
        self._namespaces = namespaces
        self._objects = objects
        self.name = source.name
        self.revision = max([*namespaces.values(), *objects.values()])

    async def oldest(self) -> int:
        """The revision of the last compaction."""
        return await self._source.oldest()

    async def records(
        self, wanted: Wanted, *, at: int = 0, values: bool = True
    ) -> AsyncGenerator[list[Record], None]:
        """What was deleted, of what this was made for; of anything else, what was there then."""
        if wanted.include != self._wanted.include:
            async with aclosing(
                self._source.records(wanted, at=at or self.revision, values=values)
            ) as batches:
                async for records in batches:
                    yield records
            return
        for name, revision in sorted(self._namespaces.items()):
            include = wanted.include.model_copy(update={"namespaces": (name,)})
            part = Wanted(include, wanted.exclude, prefix=wanted.prefix)
            async with aclosing(self._source.records(part, at=revision, values=values)) as batches:
                async for records in batches:
                    yield records
        async with aclosing(self._live.at(sorted(self._objects.items()))) as batches:
            async for records in batches:
                kept = [one for one in records if wanted.wants(one)]
                if kept:
                    yield kept if values else [one._replace(value=b"") for one in kept]

    async def sizes(self, wanted: Wanted, *, at: int = 0) -> AsyncGenerator[list[Sized], None]:
        """The same keys; etcd tells sizes only with the values."""
        async with aclosing(self.records(wanted, at=at)) as batches:
            async for batch in batches:
                yield list(map(sized, batch))

    async def fetch(self, keys: Sequence[bytes], *, at: int = 0) -> dict[bytes, Record]:
        """Some keys in full, as they were first of all moments that are read."""
        moments = [at] if at else sorted({*self._namespaces.values(), *self._objects.values()})
        found: dict[bytes, Record] = {}
        for revision in moments:
            left = [(key, self._revision(key) or revision) for key in keys if key not in found]
            async with aclosing(self._live.at(left)) as batches:
                async for records in batches:
                    found |= {one.key: one for one in records}
        return found

    async def changes(
        self, wanted: Wanted, *, after: int = 0, upto: int = 0
    ) -> AsyncGenerator[list[Change], None]:
        """What changed since the last compaction."""
        async with aclosing(self._source.changes(wanted, after=after, upto=upto)) as history:
            async for changes in history:
                yield changes

    def _revision(self, key: bytes) -> int | None:
        """That this very key is read at; None where none is meant."""
        path = paths.parse(key, self._wanted.prefix)
        if path is not None and path.resource == "namespaces":
            return self._namespaces.get(path.name, self._objects.get(key))
        return self._objects.get(key)


async def before_deletion(
    source: LiveSource, live: Live, options: RestoreOptions, prefix: str
) -> tuple[BeforeDeletion, SourceRef]:
    """Find what of that which is asked for was deleted, and when.

    Raises `NotFound` where nothing was since the last compaction, `NoSuchNamespace` where that
    may be due to a name.
    """
    wanted = Wanted(options.include, options.exclude, prefix=prefix)
    names = options.include.namespaces
    namespaces: dict[str, int] = {}
    if names:
        them = Wanted(Filter(resources=("namespaces",), names=names), prefix=prefix)
        marks = await _deletions(source, them, _Marks())
        namespaces = {key.rpartition(b"/")[2].decode(): at - 1 for key, at in marks.items()}
    objects: dict[bytes, int] = {}
    if not names or any("*" in name or name not in namespaces for name in names):
        deleted = _Marks(defaults.Naming.of(options.include, prefix), live.root, prefix, namespaces)
        marks = await _deletions(source, wanted.whatever_labels(), deleted)
        objects = {key: at - 1 for key, at in marks.items()}
    if not namespaces and not objects:
        raise await _nothing(source, live, names, prefix)
    found = BeforeDeletion(source, live, wanted, namespaces, objects)
    return found, SourceRef(name=source.name, revision=found.revision, live=True)


async def _nothing(source: LiveSource, live: Live, names: Sequence[str], prefix: str) -> NotFound:
    """Why nothing was found: by its name, or since it is too late."""
    since = f"since revision {await source.oldest()}, when etcd was last compacted"
    keys = {live.root + f"namespaces/{name}".encode(): name for name in names if "*" not in name}
    there = await live.look(keys)
    missing = [name for key, name in keys.items() if key not in there]
    if missing:
        what = f"there is no namespace {', '.join(missing)}, and none was deleted {since}"
        return await asked.no_such_namespace(what, missing, source, prefix, 0)
    return NotFound(
        f"nothing of what is asked for was deleted {since}",
        hint="take a backup that was made before the deletion: `etcd-steward snapshot list`",
    )


class _Marks:
    """When each key was marked for deletion, or deleted, and not made again since."""

    def __init__(
        self,
        naming: defaults.Naming | None = None,
        root: bytes = b"",
        prefix: str = "",
        besides: Iterable[str] = (),
    ) -> None:
        """Without `naming`, of all keys; with it, of those that are not left to others."""
        self._naming = naming
        self._root = root
        self._prefix = prefix
        self._besides = frozenset(besides)
        self.at: dict[bytes, int] = {}

    def take(self, changes: Iterable[Change]) -> None:
        """Go on with what happened next."""
        for change in changes:
            key, value = change.record.key, change.record.value
            if not change.deleted and not _marked(value):
                self.at.pop(key, None)
            elif self._meant(key):
                self.at.setdefault(key, change.record.mod_revision)

    def _meant(self, key: bytes) -> bool:
        if self._naming is None:
            return True
        draft = Draft(key, paths.parse(key, self._prefix))
        if draft.namespace in self._besides:
            return False
        defaults.by_key(draft, self._naming, self._root)
        return not draft.settled


async def _deletions(source: LiveSource, wanted: Wanted, marks: _Marks) -> dict[bytes, int]:
    async with aclosing(source.changes(wanted)) as history:
        async for changes in history:
            await asyncio.to_thread(marks.take, changes)
    return marks.at


def _marked(value: bytes) -> bool:
    try:
        return objectmeta.read(value).deletion_timestamp is not None
    except Undecodable:
        return False  # encrypted: only that it went can be told
