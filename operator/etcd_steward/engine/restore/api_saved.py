"""What a restore through the API server keeps: values to go on with, objects to put back.

The same files as of a raw restore; but what was there before lies in them as the JSON of the API
server, by the key of the object that was written over it.
"""

import asyncio
import json
from collections.abc import Sequence
from typing import Final

from etcd_steward.engine.restore.api_bodies import target_of
from etcd_steward.engine.restore.place import UNDO, VALUES, Place
from etcd_steward.engine.restore.stash import Planned, add_values, changed_since, collecting
from etcd_steward.engine.spoolfile import SpoolFile
from etcd_steward.engine.tasks import together
from etcd_steward.errors import NotFound
from etcd_steward.kube_client import Object
from etcd_steward.kube_discovery import Served
from etcd_steward.kube_objects import ApiServer
from etcd_steward.models.restore import PlanItem
from etcd_steward.registry.table import RowsWriter
from etcd_steward.store.threads import settled

_AT_ONCE: Final = 8
"""Objects read together: each may have 1.5 MB."""
_PREFIX: Final = "/registry"


async def save_for_api(planned: Planned, api: ApiServer, served: Served, place: Place) -> None:
    """Write `undo.parquet`, then `values.parquet`: from then on the apply may begin.

    Raises `Refused` if something has changed since the plan, naming it: nothing was written then.
    """
    plan = planned.plan
    writes = sorted((item for item in plan.items if item.write), key=lambda one: one.key.encode())
    over = [item for item in writes if item.live_revision]
    with collecting(place, f"saved-{UNDO}") as (file, rows):
        for at in range(0, len(over), _AT_ONCE):
            some = over[at : at + _AT_ONCE]
            async with together() as group:
                tasks = [group.create_task(_live(planned, api, served, item)) for item in some]
            await settled(asyncio.to_thread(_add, file, rows, some, [t.result() for t in tasks]))
        await place.stash(UNDO, rows.rows(), file, revision=plan.revision, prefix=_PREFIX)
    with collecting(place, f"saved-{VALUES}") as (file, rows):
        for at in range(0, len(writes), _AT_ONCE):
            some = writes[at : at + _AT_ONCE]
            await settled(asyncio.to_thread(add_values, file, rows, some, planned.value))
        await place.stash(VALUES, rows.rows(), file, revision=plan.revision, prefix=_PREFIX)


async def _live(planned: Planned, api: ApiServer, served: Served, item: PlanItem) -> Object:
    """What is there, as the plan has seen it."""
    resource = served.find(item.resource)
    target = target_of(item, planned.plan.options.namespace_mapping)
    try:
        if resource is None:
            raise changed_since([item.key])
        found = await api.get(resource, *target)
    except NotFound:
        raise changed_since([item.key]) from None
    if found["metadata"]["resourceVersion"] != str(item.live_revision):
        raise changed_since([item.key])
    return found


def _add(
    file: SpoolFile, rows: RowsWriter, items: Sequence[PlanItem], found: Sequence[Object]
) -> None:
    for item, live in zip(items, found, strict=True):
        value = json.dumps(live, separators=(",", ":")).encode()
        rows.add(item.key.encode(), 0, item.live_revision, 0, 0, file.size, len(value))
        file.append([value])
