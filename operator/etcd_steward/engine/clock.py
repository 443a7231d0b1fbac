"""The clock that lies in a registry: Leases, renewed every few seconds, in etcd's own history."""

from contextlib import aclosing
from datetime import datetime
from typing import Final

from etcd_steward.engine.sources import Source, Wanted
from etcd_steward.engine.times import Clock, Mark
from etcd_steward.errors import Undecodable
from etcd_steward.models.registry import Filter, Record
from etcd_steward.registry.decode import decode

_CONTROL_PLANE: Final = "kube-system"
"""Its Leases are few, and renewed every two seconds; those of nodes are many, and slower."""
_ENOUGH: Final = 30
"""So many renewals of those few make a clock."""


async def clock_of(source: Source, prefix: str) -> Clock:
    """What a source's history tells of moments. Raises `NotFound` if it tells nothing."""
    oldest = await source.oldest()
    leases = Filter(resources=("leases.coordination.k8s.io",))
    few = leases.model_copy(update={"namespaces": (_CONTROL_PLANE,)})
    marks = await _marks(source, Wanted(few, prefix=prefix), oldest)
    if len(marks) < _ENOUGH:
        marks = await _marks(source, Wanted(leases, prefix=prefix), oldest)
    return Clock(marks, oldest)


async def _marks(source: Source, wanted: Wanted, oldest: int) -> list[Mark]:
    marks: list[Mark] = []
    async with aclosing(source.records(wanted, at=oldest)) as batches:
        async for batch in batches:
            marks += [mark for record in batch if (mark := _mark(record)) is not None]
    async with aclosing(source.changes(wanted)) as history:
        async for changes in history:
            marks += [mark for one in changes if (mark := _mark(one.record)) is not None]
    return marks


def _mark(record: Record) -> Mark | None:
    if not record.value:
        return None
    try:
        spec = decode(record.value).object.get("spec", {})
    except Undecodable:
        return None
    renewed = spec.get("renewTime") if isinstance(spec, dict) else None
    return Mark(record.mod_revision, datetime.fromisoformat(renewed)) if renewed else None
