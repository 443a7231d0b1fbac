"""Reading what a source holds of what is asked for: values into the spool, the rest into memory."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from typing import Final

from etcd_steward.engine.report import Tracker
from etcd_steward.engine.restore import defaults, rewriting
from etcd_steward.engine.restore.drafts import Draft, digest, form_of
from etcd_steward.engine.restore.facts import ClaimFacts, VolumeFacts, facts_of
from etcd_steward.engine.sources import Source, Wanted
from etcd_steward.engine.spoolfile import SpoolFile
from etcd_steward.errors import Refused, Undecodable
from etcd_steward.models.registry import Filter, Record
from etcd_steward.models.restore import RestoreOptions
from etcd_steward.registry import envelope, objectmeta, paths

MOST: Final = 200_000
"""Keys of one plan, which lies in memory."""
_FETCHED: Final = 200


class Reader:
    """What a source holds, as drafts of a plan."""

    def __init__(
        self, source: Source, options: RestoreOptions, prefix: str, file: SpoolFile, at: int
    ) -> None:
        self._source = source
        self._options = options
        self._prefix = prefix
        self._root = paths.root_of(prefix)
        self._file = file
        self._at = at
        self._wanted = Wanted(options.include, options.exclude, prefix=prefix)
        self.naming = defaults.Naming.of(options.include, prefix)
        self.drafts: dict[bytes, Draft] = {}

    async def read(self, tracker: Tracker) -> list[Draft]:
        """All that is asked for, and what is related to it.

        Raises what the source raises, and `Refused` for more keys than one plan holds.
        """
        async with aclosing(self._source.records(self._wanted, at=self._at)) as batches:
            async for records in batches:
                tracker.raw += await asyncio.to_thread(self._take, records, related=False)
                if len(self.drafts) > MOST:
                    raise Refused(
                        f"more than {MOST:,} keys are asked for in one restore",
                        hint="restore namespace by namespace; a whole cluster is restored from "
                        "its snapshot: `etcd-steward restore cluster`",
                    )
        if self._options.include_cluster_scoped == "Related" and self.drafts:
            await self._read_related()
        elif self._options.include_cluster_scoped == "Related":
            await self._namespaces(self._options.include.namespaces)
        defaults.endpoints_of(self.drafts.values(), self.naming)
        return list(self.drafts.values())

    async def _read_related(self) -> None:
        """The Namespaces of what was read, and the volumes that its claims are bound to."""
        within = {one.namespace for one in self.drafts.values() if one.namespace is not None}
        await self._namespaces([*sorted(within), *self._options.include.namespaces])
        volumes = {
            one.facts.volume: one.uid
            for one in self.drafts.values()
            if isinstance(one.facts, ClaimFacts) and one.facts.volume and not one.settled
        }
        found = await self._fetch(
            self._root + f"persistentvolumes/{name}".encode() for name in sorted(volumes)
        )
        bound = [one for one in found if self._bound(one, volumes)]
        await asyncio.to_thread(self._take, bound, related=True)

    async def _namespaces(self, names: Sequence[str]) -> None:
        patterns = tuple(dict.fromkeys(name for name in names if "*" in name))
        found = await self._fetch(
            self._root + f"namespaces/{name}".encode()
            for name in dict.fromkeys(names)
            if "*" not in name
        )
        if patterns:
            wanted = Wanted(Filter(resources=("namespaces",), names=patterns), prefix=self._prefix)
            async with aclosing(self._source.records(wanted, at=self._at)) as batches:
                async for records in batches:
                    found += records
        await asyncio.to_thread(self._take, found, related=True)

    async def _fetch(self, keys: Iterable[bytes]) -> list[Record]:
        wanted = [key for key in keys if key not in self.drafts]
        found: list[Record] = []
        for start in range(0, len(wanted), _FETCHED):
            some = await self._source.fetch(wanted[start : start + _FETCHED], at=self._at)
            found += some.values()
        return found

    def _bound(self, record: Record, claims: dict[str, str | None]) -> bool:
        """Whether a volume is bound to that very claim."""
        path = paths.parse(record.key, self._prefix)
        if path is None:
            return False
        try:
            facts = facts_of(path, record.value)
        except Undecodable:
            return True  # told of in the plan
        return isinstance(facts, VolumeFacts) and facts.claim_uid == claims[path.name]

    def _take(self, records: Sequence[Record], *, related: bool) -> int:
        """Make drafts of a batch; blocking. How many bytes it has."""
        values: list[bytes] = []
        at = self._file.size
        for record in records:
            if record.key in self.drafts:
                continue
            draft, value = self._draft(record, related=related)
            self.drafts[record.key] = draft
            if not draft.settled:
                draft.at, draft.size = at, len(value)
                values.append(value)
                at += len(value)
        self._file.append(values)
        return sum(len(record.value) for record in records)

    def _draft(self, record: Record, *, related: bool) -> tuple[Draft, bytes]:
        key, value, *_, lease = record
        header = envelope.header(value)
        path = paths.parse(key, self._prefix)
        if path is not None:
            path = paths.settle(path, header[1], header[2])
        draft = Draft(key, path, header, form_of(value, header), related=related)
        if not related:
            defaults.by_key(draft, self.naming, self._root)
        if lease:
            draft.exclude("Leased", "its lease has gone: without one it would stay for ever")
        if draft.settled:
            return draft, value
        if path is not None:
            value = self._understood(draft, value)
        draft.sha256 = digest(value)
        return draft, value

    def _understood(self, draft: Draft, value: bytes) -> bytes:
        """Read metadata and facts, decide what they decide; the value as it would be written."""
        assert draft.path is not None  # noqa: S101  # the caller looked
        if draft.header[0] == "encrypted":
            draft.notes.append(
                f"encrypted at rest ({draft.form}): owners, finalizers and deletions in it can't "
                "be looked at"
            )
            return value
        try:
            draft.meta = objectmeta.read(value)
            draft.facts = facts_of(draft.path, value)
            defaults.by_value(draft, self.naming, self._options)
            if draft.meta.deletion_timestamp is not None and not draft.settled:
                value = self._undeleted(draft, value)
            if self._options.workloads == "Suspended" and not draft.settled:
                value, note = _at_rest(draft, value)
                draft.notes += [note] if note else []
        except Undecodable as error:
            draft.block("Undecodable", f"{error.message}; no API server could read it")
        return value

    def _undeleted(self, draft: Draft, value: bytes) -> bytes:
        """What was being deleted in the source stays deleted, unless it is named."""
        if draft.resource == "namespaces":
            draft.block(
                "BeingDeleted",
                "the namespace was being deleted there: its controller would go on with it. Take "
                "an earlier revision",
            )
            return value
        if not self.naming.by_name:
            draft.block(
                "BeingDeleted",
                "it was being deleted there, and would be again: take an earlier revision, or "
                "name it, and the mark is taken off",
            )
            return value
        draft.notes.append("the mark of its deletion (deletionTimestamp) is taken off")
        return rewriting.undeleted(value)


def _at_rest(draft: Draft, value: bytes) -> tuple[bytes, str]:
    assert draft.path is not None  # noqa: S101  # the caller looked
    rewritten = rewriting.at_rest(draft.path, value)
    return rewritten.value, rewritten.note
