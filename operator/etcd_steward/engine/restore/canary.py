"""The first object of each type, shown by every API server before more of that type is written.

One value that an API server can't decode breaks its type for all of it: every LIST fails, watches
reinitialise for ever (https://github.com/k3s-io/k3s/issues/10058). So the first one is read by GET,
which decodes what etcd holds, and by LIST out of the watch cache, which has decoded what came.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from etcd_steward.deadline import Deadline
from etcd_steward.engine.report import Report
from etcd_steward.errors import NotFound, Refused, StewardError
from etcd_steward.etcd import stubs
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.kube_discovery import ApiResource, Served
from etcd_steward.kube_objects import ApiServer
from etcd_steward.models.restore import PlanItem, Restored

_SHOWN_WITHIN: Final = 30.0
"""Seconds until an API server must know an object: it may have to learn its type first."""
_DECODED_WITHIN: Final = 4.0
"""Seconds that one may fail to read it: it breaks lists as long as it is there."""
_AGAIN: Final = 0.2


@dataclass(slots=True)
class Canaries:
    """Which types every API server has shown an object of."""

    servers: Sequence[ApiServer]
    seen: set[str] = field(default_factory=set)
    """Resources."""
    _served: dict[str, Served] = field(default_factory=dict)

    def due(self, items: Sequence[PlanItem]) -> list[PlanItem]:
        """The first object of each type that was not shown yet."""
        if not self.servers:
            return []
        first = {item.resource: item for item in reversed(items) if item.resource}
        return [item for resource, item in first.items() if resource not in self.seen]

    async def show(self, items: Sequence[PlanItem]) -> None:
        """Wait until every API server shows these objects.

        Raises `Refused` if one can't, and `TransientError` if one has gone away meanwhile.
        """
        for item in items:
            for server in self.servers:
                await self._shown(server, item)
            self.seen.add(item.resource)

    async def _shown(self, server: ApiServer, item: PlanItem) -> None:
        within, decoded = Deadline.after(_SHOWN_WITHIN), Deadline.after(_DECODED_WITHIN)
        while True:
            try:
                await self._look(server, item)
            except StewardError as error:
                if (decoded if not isinstance(error, NotFound) else within).passed:
                    trouble = await server.trouble()
                    if trouble is not None:
                        raise trouble from error
                    raise _unreadable(server, item, error) from error
            else:
                return
            await asyncio.sleep(_AGAIN)

    async def _look(self, server: ApiServer, item: PlanItem) -> None:
        resource = await self._resource(server, item.resource)
        namespace = item.namespace
        found = await server.get(resource, namespace, item.name, metadata_only=True)
        listed = server.objects(resource, namespace, metadata_only=True, resource_version="0")
        uids = [one["metadata"]["uid"] async for one in listed]
        uid = found["metadata"]["uid"]
        if item.uid not in {None, uid} or uid not in uids:
            raise NotFound(f"{resource.label(namespace, item.name)} is not shown with its uid")

    async def _resource(self, server: ApiServer, name: str) -> ApiResource:
        """What it serves may have just been restored itself: then it is asked again."""
        known = self._served.get(server.address)
        found = known.find(name) if known is not None else None
        if found is None:
            self._served[server.address] = known = await server.served()
            found = known.find(name)
        if found is None:
            raise NotFound(f"{server.address} serves no {name}")
        return found


@asynccontextmanager
async def canaries(api: ApiServer | None, report: Report) -> AsyncIterator[Canaries]:
    """Canaries for every API server that can be reached; the report is warned of the others."""
    if api is None:
        report.warning(
            "no API server was asked: whether it can read what is written shows when it is back"
        )
        yield Canaries(())
        return
    async with api.each() as servers:
        troubles = [await server.trouble() for server in servers]
        reached = [one for one, trouble in zip(servers, troubles, strict=True) if trouble is None]
        for server, trouble in zip(servers, troubles, strict=True):
            if trouble is not None:
                report.warning(
                    f"the API server {server.address} can't be asked from here, and may be "
                    f"unable to read what is written: {trouble.message}"
                )
        yield Canaries(reached or [api])


async def withdraw(
    client: EtcdClient, items: Sequence[PlanItem], written: Sequence[Restored]
) -> None:
    """Take back one transaction, where the keys are still as it left them.

    By hand in etcd: an API server that can't decode an object can't delete it either.
    """
    compare, ops = [], []
    for item, done in zip(items, written, strict=True):
        key = item.key.encode()
        compare.append(
            stubs.Compare(
                result=stubs.Compare.EQUAL,
                target=stubs.Compare.MOD,
                key=key,
                mod_revision=done.revision,
            )
        )
        before = None
        if item.live_revision:
            before = await client.get(key, revision=item.live_revision)
        if before is None:
            ops.append(stubs.RequestOp(request_delete_range=stubs.DeleteRangeRequest(key=key)))
        else:
            put = stubs.PutRequest(key=key, value=before.value, lease=before.lease)
            ops.append(stubs.RequestOp(request_put=put))
    await client.txn(compare, ops)


def _unreadable(server: ApiServer, item: PlanItem, error: StewardError) -> Refused:
    return Refused(
        f"the API server {server.address} can't read {item.resource} {item.name} as it was "
        f"written, so it was taken back and nothing more was written: {error.message}",
        hint="restore it through the API (via: API), or leave its type out",
    )
