"""The clock that lies in a registry: moments that somebody writes down, in etcd's own history.

Leases come first, for they are renewed every few seconds. Where none is, there is what the operator
has observed: the status of its EtcdMaintenances, written every few minutes.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import Final

from etcd_steward.engine.sources import Source, Wanted
from etcd_steward.engine.times import LEASES, OBSERVATIONS, Clock, Mark
from etcd_steward.errors import Undecodable
from etcd_steward.models.registry import Filter, Record
from etcd_steward.registry.decode import decode

_CONTROL_PLANE: Final = "kube-system"
"""Its Leases are few, and renewed every two seconds; those of nodes are many, and slower."""
_ENOUGH: Final = 30
"""So many renewals of those few make a clock."""
_RENEWED: Final = ("spec", "renewTime")
_OBSERVED: Final = ("status", "etcd", "time")


async def clock_of(source: Source, prefix: str) -> Clock:
    """What a source's history tells of moments. Raises `NotFound` if it tells nothing."""
    oldest = await source.oldest()
    marks = await _renewals(source, prefix, oldest)
    if any(mark.revision > oldest for mark in marks):
        return Clock(marks, oldest)
    seen = await _observations(source, prefix, oldest)
    return Clock([*marks, *seen], oldest, OBSERVATIONS if seen else LEASES)


async def _renewals(source: Source, prefix: str, oldest: int) -> list[Mark]:
    leases = Filter(resources=("leases.coordination.k8s.io",))
    few = leases.model_copy(update={"namespaces": (_CONTROL_PLANE,)})
    for include in (few, leases):
        async with aclosing(_history(source, Wanted(include, prefix=prefix), oldest)) as records:
            marks = [
                Mark(record.mod_revision, moment)
                async for record in records
                if (moment := written(record, _RENEWED)) is not None
            ]
        if len(marks) >= _ENOUGH:
            break
    return marks


async def _observations(source: Source, prefix: str, oldest: int) -> list[Mark]:
    """Of each object the first record of each moment: what is written later keeps an old one.

    Whether what the history begins with is such a first one, nobody knows. An object that begins
    with a status was brought back from a backup: the API server begins with none.
    """
    include = Filter(resources=("etcdmaintenances.etcdsteward.io",))
    marks: list[Mark] = []
    known: set[tuple[bytes, datetime]] = set()
    async with aclosing(_history(source, Wanted(include, prefix=prefix), oldest)) as records:
        async for record in records:
            moment = written(record, _OBSERVED)
            if moment is None or (record.key, moment) in known:
                continue
            known.add((record.key, moment))
            if record.mod_revision > oldest and record.version > 1:
                marks.append(Mark(record.mod_revision, moment))
    return marks


async def _history(source: Source, wanted: Wanted, oldest: int) -> AsyncGenerator[Record, None]:
    """What lived when the history began, and every change since."""
    async with aclosing(source.records(wanted, at=oldest)) as batches:
        async for batch in batches:
            for record in batch:
                yield record
    async with aclosing(source.changes(wanted)) as history:
        async for changes in history:
            for one in changes:
                yield one.record


def written(record: Record, path: tuple[str, ...]) -> datetime | None:
    """The moment that an object holds in one of its fields; None where there is none."""
    if not record.value:
        return None
    try:
        found: object = decode(record.value).object
    except Undecodable:
        return None
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    try:
        moment = datetime.fromisoformat(found) if isinstance(found, str) else None
    except ValueError:
        return None
    return moment if moment is None or moment.tzinfo is not None else None
