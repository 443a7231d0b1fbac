"""What one source has seen of one key."""

from contextlib import aclosing
from dataclasses import replace
from datetime import datetime

from etcd_steward.engine.clock import clock_of
from etcd_steward.engine.object_log import Sighting
from etcd_steward.engine.sources import Source, Wanted
from etcd_steward.errors import NotFound
from etcd_steward.models.registry import Filter


async def sightings(
    source: Source, key: bytes, where: str, moment: datetime | None, prefix: str
) -> list[Sighting]:
    """All that a source knows of a key: its last state at `moment`, and its history before.

    When it was deleted, the clock in the same history tells: Leases, or the operator's looks.
    """
    now = (await source.fetch([key])).get(key)
    last = Sighting(where, source.revision, now, moment)
    oldest = await source.oldest()
    if oldest == source.revision:
        return [last]
    before = (await source.fetch([key], at=oldest)).get(key)
    found = [Sighting(where, oldest, before)]
    wanted = Wanted(Filter(key_prefixes=(key.decode(),)), prefix=prefix)
    async with aclosing(source.changes(wanted)) as history:
        async for changes in history:
            found += [
                Sighting(
                    where,
                    one.record.mod_revision,
                    None if one.deleted else one.record,
                    deletion=one.deleted,
                )
                for one in changes
                if one.record.key == key
            ]
    if any(one.deletion for one in found):
        found = await _dated(found, source, prefix)
    return [*found, last]


async def _dated(found: list[Sighting], source: Source, prefix: str) -> list[Sighting]:
    """The same, the deletions with the moment by which they had happened."""
    try:
        clock = await clock_of(source, prefix)
    except NotFound:
        return found
    return [
        replace(one, moment=clock.of(one.revision)[1]) if one.deletion else one for one in found
    ]
