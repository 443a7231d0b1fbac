"""What the API server is asked about objects that were written past it."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from etcd_steward.engine.tasks import together
from etcd_steward.errors import NotFound, StewardError
from etcd_steward.kube_discovery import ApiResource
from etcd_steward.kube_objects import ApiServer
from etcd_steward.models.restore import PlanItem

_AT_ONCE: Final = 8
"""Requests under way: the API server's fairness lets about so many of one user through."""


async def touch_all(api: ApiServer, items: Sequence[PlanItem]) -> list[str]:
    """Have the API server write each object anew as it is; what went wrong, in words.

    So an old encoding, an old version or an encryption key that is not the newest any more are
    gone, as `kubectl get | kubectl replace` would have it. Nothing is lost where that fails.
    """
    served = await api.served()
    gate = asyncio.Semaphore(_AT_ONCE)
    failed: list[str] = []

    async def touch(item: PlanItem) -> None:
        async with gate:
            resource = served.find(item.resource)
            if resource is None:
                failed.append(f"{item.resource} {item.name}: this type is not served")
                return
            try:
                uid = item.uid or await _uid_of(api, resource, item)
                await api.touch(resource, item.namespace, item.name, uid)
            except NotFound:
                return  # taken meanwhile: that is for whoever reads back
            except StewardError as error:
                failed.append(f"{resource.label(item.namespace, item.name)}: {error.message}")

    objects = [item for item in items if item.resource]
    for at in range(0, len(objects), _AT_ONCE * 16):
        async with together() as group:
            for item in objects[at : at + _AT_ONCE * 16]:
                group.create_task(touch(item))
    return failed


async def _uid_of(api: ApiServer, resource: ApiResource, item: PlanItem) -> str:
    """Of an object that is encrypted in etcd: only the API server can tell it."""
    found = await api.get(resource, item.namespace, item.name, metadata_only=True)
    return str(found["metadata"]["uid"])


async def shown(api: ApiServer, items: Sequence[PlanItem]) -> tuple[int, list[str]]:
    """How many of these objects the API server shows with their uids, and what it does not.

    A list for each type and namespace: that also proves that lists work.
    """
    served = await api.served()
    by_list = defaultdict[tuple[str, str | None], dict[str, PlanItem]](dict)
    for item in items:
        if item.resource:
            by_list[item.resource, item.namespace][item.name] = item
    count, missing = 0, []
    for (name, namespace), wanted in by_list.items():
        resource = served.find(name)
        uids: Mapping[str, str] = {}
        if resource is not None:
            found = api.objects(resource, namespace, metadata_only=True)
            uids = {
                one["metadata"]["name"]: one["metadata"]["uid"]
                async for one in found
                if one["metadata"]["name"] in wanted
            }
        for one, item in wanted.items():
            if one in uids and item.uid in {None, uids[one]}:
                count += 1
            else:
                what = "is another one by now" if one in uids else "is gone"
                place = f"{namespace}/{one}" if namespace else one
                missing.append(f"{name} {place} {what}")
    return count, missing
