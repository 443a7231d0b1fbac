"""The life of one object, put together from all who have seen it: backups and etcd's history."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from etcd_steward.engine.diff import compare
from etcd_steward.engine.fields import FieldChange
from etcd_steward.errors import Undecodable
from etcd_steward.models.registry import Record
from etcd_steward.registry import objectmeta
from etcd_steward.registry.decode import decode
from etcd_steward.registry.paths import BUILTINS, root_of

_KEPT: Final = 64 << 20
"""Bytes of values that are held to be compared; what comes after is told without its fields."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What somebody showed of a key."""

    where: str
    """A backup, or a history."""
    revision: int
    """At which revision; of a change in a history, its own."""
    record: Record | None
    """None: the key did not live then."""
    moment: datetime | None = None
    """When that was, if it is known."""
    deletion: bool = False
    """`revision` is the very one that deleted the key."""


@dataclass(slots=True)
class Entry:
    """One state of the object, or its absence."""

    revision: int
    """That made it so; of an absence without a known deletion, the first one that shows it."""
    version: int = 0
    """How often it had been written since it was created; 0: it was not there."""
    exact: bool = True
    """Whether `revision` is when it happened, and not only when it was seen."""
    after: int = 0
    """Of an absence that is not exact: it was still there at this revision."""
    missed: int = 0
    """Changes just before this one that nobody has seen."""
    changed_at: datetime | None = None
    """By its own managedFields, whoever wrote last."""
    by: str = ""
    fields: tuple[FieldChange, ...] = ()
    note: str = ""
    seen: list[Sighting] = field(default_factory=list)

    @property
    def absent(self) -> bool:
        """Whether the object was gone."""
        return self.version == 0


def key_of(resource: str, namespace: str | None, name: str, prefix: str) -> bytes:
    """Where an object lies, its resource named as filters do: `pods`, `deployments.apps`."""
    plural, _, group = resource.partition(".")
    builtin = BUILTINS.get(plural)
    if builtin is not None and group == builtin.api_group:
        folder = builtin.path
    else:
        folder = f"{group}/{plural}" if group else plural
    words = (folder, namespace, name) if namespace else (folder, name)
    return root_of(prefix) + "/".join(words).encode()


def timeline(sightings: Iterable[Sighting], *, show_secrets: bool) -> list[Entry]:
    """Every state that was seen, in the order of their revisions, and what changed in between."""
    states: dict[int, Entry] = {}
    records: dict[int, Record] = {}
    gone: list[Sighting] = []
    kept = 0
    for one in sightings:
        if one.record is None:
            gone.append(one)
            continue
        revision = one.record.mod_revision
        entry = states.get(revision)
        if entry is None:
            entry = states[revision] = _entry(one.record)
            kept += len(one.record.value)
            value = one.record.value if kept <= _KEPT else b""
            records[revision] = one.record._replace(value=value)
        entry.seen.append(_light(one))
    ordered = [states[revision] for revision in sorted(states)]
    lives = [records[entry.revision] for entry in ordered]
    _compare(ordered, lives, show_secrets=show_secrets)
    return _with_absences(ordered, lives, sorted(gone, key=lambda one: one.revision))


def _entry(record: Record) -> Entry:
    entry = Entry(record.mod_revision, record.version)
    try:
        managers = objectmeta.read(record.value).managers
    except Undecodable as error:
        entry.note = error.message
        return entry
    timed = [one for one in managers if one.time is not None]
    newest = max(timed, key=lambda one: str(one.time), default=None)
    if newest is not None:
        entry.changed_at, entry.by = newest.time, newest.name
    return entry


def _light(one: Sighting) -> Sighting:
    """The same without what was seen: there may be many."""
    return Sighting(one.where, one.revision, None, one.moment)


def _compare(entries: Sequence[Entry], lives: Sequence[Record], *, show_secrets: bool) -> None:
    before: Record | None = None
    for entry, record in zip(entries, lives, strict=True):
        if before is None or before.create_revision != record.create_revision:
            entry.missed = record.version - 1
        else:
            entry.missed = record.version - before.version - 1
            if not before.value or not record.value:
                entry.note = "too much to compare"
            elif before.value == record.value:
                entry.note = "written anew, and the same"
            elif not entry.note:
                _, entry.fields, entry.note = compare(before, record, show_secrets=show_secrets)
                entry.by = _writers(before, record) or entry.by
        before = record


def _writers(before: Record, after: Record) -> str:
    """Who wrote between two states, by the entries of managedFields that are newer.

    One that has no time counts if it differs at all: `kubectl scale` leaves none. One that differs
    and has the same time has only lost fields to somebody else.
    """
    known, found = _managed(before), _managed(after)
    writers = [who for who, entry in found.items() if _is_newer(entry, known.get(who))]
    return ", ".join(dict.fromkeys(who[0] for who in writers))


def _is_newer(entry: dict[str, Any], before: dict[str, Any] | None) -> bool:
    if before is None or entry.get("time") != before.get("time"):
        return True
    return "time" not in entry and entry != before


def _managed(record: Record) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Entries of managedFields, by manager, operation and subresource."""
    try:
        metadata = decode(record.value).object.get("metadata") or {}
    except Undecodable:
        return {}
    return {
        (str(one.get("manager", "")), one.get("operation", ""), one.get("subresource", "")): one
        for one in metadata.get("managedFields") or ()
    }


def _with_absences(
    entries: Sequence[Entry], lives: Sequence[Record], gone: Sequence[Sighting]
) -> list[Entry]:
    """The states, and between two lives, or after the last, when the object was gone."""
    found: list[Entry] = []
    for number, entry in enumerate(entries):
        found.append(entry)
        last = max(one.revision for one in entry.seen)
        following = lives[number + 1] if number + 1 < len(lives) else None
        if following is not None and following.create_revision == lives[number].create_revision:
            continue
        end = None if following is None else following.create_revision
        between = [
            one
            for one in gone
            if one.revision > entry.revision and (end is None or one.revision <= end)
        ]
        if between or end is not None:
            found.append(_absence(between, last, end))
    return found


def _absence(between: Sequence[Sighting], last: int, end: int | None) -> Entry:
    deletion = next((one for one in between if one.deletion), None)
    if deletion is not None:
        return Entry(deletion.revision, seen=[deletion])
    shown = between[0].revision if between else end or 0
    return Entry(shown, exact=False, after=last, seen=list(between))
