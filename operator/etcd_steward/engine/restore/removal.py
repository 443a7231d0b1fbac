"""Deleting what a restore has created: through the API, by uid, backwards, Namespaces last.

A raw delete would go past finalizers, and a claim that vanishes from etcd takes its disk along
(measured: the volume of a bound claim was `Released` two seconds after a raw delete). So claims and
volumes stay unless they are named, and a volume is told to keep its data before its claim goes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from etcd_steward.deadline import Deadline
from etcd_steward.engine.live_source import LiveSource
from etcd_steward.engine.restore.second_look import called, read_keys
from etcd_steward.engine.restore.transaction import digest_of
from etcd_steward.engine.sources import Wanted, place
from etcd_steward.engine.tasks import together
from etcd_steward.engine.top import resource_of
from etcd_steward.errors import NotFound, StewardError, Undecodable
from etcd_steward.etcd import stubs
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.kube_discovery import ApiResource, Served
from etcd_steward.kube_objects import ApiServer
from etcd_steward.models.registry import Filter, KeyPath, Record
from etcd_steward.models.restore import PlanItem
from etcd_steward.models.restore_place import Undone, UndoOutcome
from etcd_steward.registry import objectmeta

CLAIMS: Final = "persistentvolumeclaims"
VOLUMES: Final = "persistentvolumes"
NAMESPACES: Final = "namespaces"
_AT_ONCE: Final = 8
_POLL: Final = 0.5
_TOLD: Final = 3
DERIVED: Final = {"events", "endpoints", "endpointslices.discovery.k8s.io"}
"""What a namespace has though nobody has put it there, beside what has an owner."""
IN_EVERY: Final = {("serviceaccounts", "default"), ("configmaps", "kube-root-ca.crt")}


@dataclass(slots=True)
class Removal:
    """Deletes what was created; `done` says what became of each."""

    client: EtcdClient
    api: ApiServer
    served: Served
    prefix: str
    volumes: Filter | None
    """Claims and volumes that are deleted, too."""
    patience: float
    """Seconds until what is deleted must be gone."""
    written: Mapping[str, int]
    """At which revision each key was created."""
    done: dict[str, Undone] = field(default_factory=dict)

    async def remove(self, created: Sequence[PlanItem]) -> None:
        """Delete these, given in the order of their writing, and wait until they are gone."""
        named = self._named(created)
        for item in created:
            if item.resource in {CLAIMS, VOLUMES} and item not in named:
                self._say(item, "left", "claims and volumes are left alone unless they are named")
        await self._retain(named)
        going = [item for item in created if item.key not in self.done]
        inside = [item for item in going if item.resource != NAMESPACES]
        for step in backwards(inside):
            await self._each(step, self._delete)
        await self._until_gone(inside)
        spaces = [item for item in going if item.resource == NAMESPACES]
        await self._each(spaces, self._delete_namespace)
        await self._until_gone(spaces)

    def _say(self, item: PlanItem, outcome: UndoOutcome, message: str = "") -> None:
        self.done[item.key] = Undone(key=item.key, outcome=outcome, message=message)

    async def _each(
        self, items: Sequence[PlanItem], work: Callable[[PlanItem], Awaitable[None]]
    ) -> None:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(item: PlanItem) -> None:
            try:
                await work(item)
            finally:
                gate.release()

        async with together() as group:
            for item in items:
                await gate.acquire()
                group.create_task(one(item))

    # Claims and volumes -----------------------------------------------------------------------

    def _named(self, created: Iterable[PlanItem]) -> list[PlanItem]:
        if self.volumes is None:
            return []
        chosen = Wanted(self.volumes, prefix=self.prefix).chosen
        return [
            item
            for item in created
            if item.resource in {CLAIMS, VOLUMES}
            and chosen.wants(
                KeyPath(item.resource, "", item.namespace, item.name),
                item.key.encode(),
                lambda: None,
            )
        ]

    async def _retain(self, named: Sequence[PlanItem]) -> None:
        """Have every volume keep its data that is going to lose its claim, or to go itself."""
        names = {item.name for item in named if item.resource == VOLUMES}
        for item in named:
            if item.resource == CLAIMS:
                names.add(await self._volume_of(item))
        volume = self._served(VOLUMES) if names else None
        change = {"spec": {"persistentVolumeReclaimPolicy": "Retain"}}
        for name in sorted(filter(None, names)):
            if volume is not None:
                try:
                    await self.api.patch(volume, None, name, change)
                except NotFound:
                    continue

    async def _volume_of(self, item: PlanItem) -> str:
        try:
            found = await self.api.get(self._served(CLAIMS), item.namespace, item.name)
        except NotFound:
            return ""
        return str(found["spec"].get("volumeName", ""))

    # Deleting ---------------------------------------------------------------------------------

    def _served(self, name: str) -> ApiResource:
        resource = self.served.find(name)
        if resource is None:
            raise NotFound(f"{name} is not served")
        return resource

    async def _delete(self, item: PlanItem) -> None:
        if not item.resource:
            await self._delete_raw(item)
            return
        try:
            resource = self._served(item.resource)
            uid = item.uid or await self._hidden_uid(resource, item)
            await self.api.delete(resource, item.namespace, item.name, uid=uid)
        except NotFound:
            self._say(item, "gone", "it is not there any more, or is another one by now")
        except StewardError as error:
            self._say(item, "failed", error.message)

    async def _hidden_uid(self, resource: ApiResource, item: PlanItem) -> str:
        """Of an object that is encrypted in etcd, if it is the one that was created."""
        there = await self.client.get(item.key.encode())
        if there is None or there.create_revision != self.written[item.key]:
            raise NotFound(f"{called(item)} is another one by now")
        found = await self.api.get(resource, item.namespace, item.name, metadata_only=True)
        return str(found["metadata"]["uid"])

    async def _delete_raw(self, item: PlanItem) -> None:
        """Delete the key of no API object, if it still has our value."""
        there = await self.client.get(item.key.encode())
        if there is None:
            self._say(item, "gone")
            return
        compare = stubs.Compare(
            result=stubs.Compare.EQUAL,
            target=stubs.Compare.MOD,
            key=there.key,
            mod_revision=there.mod_revision,
        )
        delete = stubs.RequestOp(request_delete_range=stubs.DeleteRangeRequest(key=there.key))
        ours = digest_of(there.value) == item.sha256
        if not ours or not (await self.client.txn([compare], [delete])).succeeded:
            self._say(item, "changed-since", "somebody has written it since")

    async def _delete_namespace(self, item: PlanItem) -> None:
        """Delete a Namespace, unless that would take along what others have put there."""
        others = await self._others(item.name)
        if others:
            more = f" and {len(others) - _TOLD} more" if len(others) > _TOLD else ""
            message = f"it holds {', '.join(others[:_TOLD])}{more}, which would go with it"
            self._say(item, "left", message)
            return
        await self._delete(item)

    async def _others(self, namespace: str) -> list[str]:
        """What a namespace holds that neither its controllers nor a restore have made."""
        source = await LiveSource.open(self.client, self.prefix)
        wanted = Wanted(Filter(namespaces=(namespace,)), prefix=self.prefix)
        found: list[str] = []
        async with aclosing(source.records(wanted)) as batches:
            async for batch in batches:
                found += [name for record in batch if (name := self._other(record))]
        return found

    def _other(self, record: Record) -> str:
        path = place(record.key, record.value, self.prefix)
        if path is None:
            return ""
        resource = resource_of(path)
        try:
            meta = objectmeta.read(record.value)
            made = bool(meta.owner_references) or meta.deletion_timestamp is not None
        except Undecodable:
            made = False
        if made or resource in DERIVED or (resource, path.name) in IN_EVERY:
            return ""
        return f"{resource} {path.name}"

    async def _until_gone(self, items: Sequence[PlanItem]) -> None:
        """Wait for those that are being deleted; some have finalizers to wait for."""
        deadline = Deadline.after(self.patience)
        left = [item for item in items if item.key not in self.done]
        while left:
            left = [item for one in _some(left) for item in await self._still(one)]
            if deadline.passed:
                break
            await asyncio.sleep(_POLL if left else 0)
        for item in left:
            if item.key not in self.done:
                message = f"{called(item)} is being deleted, and waits for its finalizers"
                self._say(item, "failed", message)

    async def _still(self, items: Sequence[PlanItem]) -> list[PlanItem]:
        """Those that are there with their uid; the others are said to be deleted."""
        found = await read_keys(self.client, [item.key for item in items])
        still = []
        for item, kv in zip(items, found, strict=True):
            if kv is not None and (item.uid is None or _uid(kv.value) == item.uid):
                still.append(item)
            else:
                self._say(item, "deleted")
        return still


def backwards(items: Sequence[PlanItem]) -> Iterator[list[PlanItem]]:
    """Neighbours of one leading type, the last first; in each ownership group the owner first.

    A ReplicaSet that goes before its Deployment is made anew by it at once.
    """
    groups = [list(some) for _, some in groupby(items, key=lambda item: item.group)]
    for _, step in groupby(reversed(groups), key=lambda group: group[0].resource):
        yield [item for group in step for item in group]


def _some(items: Sequence[PlanItem]) -> Iterator[Sequence[PlanItem]]:
    for at in range(0, len(items), 50):
        yield items[at : at + 50]


def _uid(value: bytes) -> str | None:
    try:
        return objectmeta.read(value).uid
    except Undecodable:
        return None
