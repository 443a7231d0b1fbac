"""What a restore through the API server would do: each object against what is there.

The target may be another namespace, or another cluster altogether, so nothing is compared by key or
uid here: an object's place is its type, namespace and name. Whether the API server would take it is
asked by a dry run, which runs admission and validation and writes nothing.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from etcd_steward.engine.restore.api_bodies import (
    ACCOUNTS,
    DEFAULT_ACCOUNT,
    NAMESPACES,
    body_of,
    comparable,
    holds,
    notes_of,
    target_of,
)
from etcd_steward.engine.restore.api_order import ordered
from etcd_steward.engine.tasks import together
from etcd_steward.errors import NotFound, Undecodable
from etcd_steward.kube_client import Object
from etcd_steward.kube_discovery import ApiResource, Served
from etcd_steward.kube_objects import ApiServer
from etcd_steward.models.restore import PlanItem, RestoreOptions
from etcd_steward.registry import objectmeta
from etcd_steward.registry.envelope import header
from etcd_steward.registry.objectmeta import ObjectMeta
from etcd_steward.store.threads import settled

AT_ONCE: Final = 8
"""Requests under way: the API server's fairness lets about so many of one user through."""
DEFINITIONS: Final = "customresourcedefinitions.apiextensions.k8s.io"
_VOLUMES: Final = "persistentvolumes"
_ROOT_CA: Final = "kube-root-ca.crt"
_STORED_ELSEWHERE: Final = {"apiextensions.k8s.io/v1beta1": "apiextensions.k8s.io/v1"}
"""CustomResourceDefinitions lie in etcd in a version that nobody can ask for any more."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A plan's items, as the target's API server sees them."""

    items: tuple[PlanItem, ...]
    """In the order of their writing, `group` set; then those that are not written."""
    warnings: tuple[str, ...]
    target: str
    """uid of the target's kube-system Namespace."""


async def judge(
    items: Sequence[PlanItem],
    value: Callable[[PlanItem], bytes],
    api: ApiServer,
    options: RestoreOptions,
) -> Judged:
    """Look at each item that is not excluded or blocked yet: verdict, and whether it is written.

    `value` is what the source has of an item, and may block. Raises what `ApiServer` raises.
    """
    served = await api.served()
    work = _Judge(api, served, options, value)
    asked = [item for item in items if item.verdict not in {"excluded", "blocked"}]
    await work.look_around(asked)
    done: list[PlanItem] = []
    for at in range(0, len(asked), AT_ONCE * 16):
        gate = asyncio.Semaphore(AT_ONCE)
        async with together() as group:
            tasks = [group.create_task(work.one(i, gate)) for i in asked[at : at + AT_ONCE * 16]]
        done += [task.result() for task in tasks]
    existing = [item for item in done if item.verdict == "differs" and not item.write]
    found = [*work.warnings()]
    if existing and options.existing_objects == "Fail":
        nothing = {"write": False, "sha256": "", "size": 0}
        done = [item.model_copy(update=nothing) for item in done]
        one = existing[0]
        found.append(
            f"{len(existing)} objects are there already and differ, {one.resource} {one.name} for "
            "one: nothing is written (existingObjects: Fail)"
        )
    written = ordered([item for item in done if item.write], work.metas)
    rest = [item for item in done if not item.write]
    passed = [item for item in items if item.verdict in {"excluded", "blocked"}]
    return Judged((*written, *rest, *passed), tuple(found), await api.kube_system_uid())


def resource_of(item: PlanItem, value: bytes, served: Served) -> ApiResource | None:
    """The type that an object is sent as: in the version that it is stored in, and no other."""
    _, api_version, _, _ = header(value)
    version = _STORED_ELSEWHERE.get(api_version or "", api_version)
    return served.find(item.resource, version)


def _core(served: Served, name: str) -> ApiResource:
    found = served.find(name)
    if found is None:
        raise NotFound(f"the API server does not serve {name}", hint="Is it one of Kubernetes?")
    return found


@dataclass(slots=True)
class _Judge:
    api: ApiServer
    served: Served
    options: RestoreOptions
    value: Callable[[PlanItem], bytes]
    metas: dict[str, ObjectMeta] = field(default_factory=dict)
    phases: dict[str, str] = field(default_factory=dict)
    """Of the target's namespaces that are meant and there."""
    made: set[str] = field(default_factory=set)
    """Namespaces and types that the restore itself makes."""
    unasked: int = 0
    """Objects of which admission could not be asked."""

    async def look_around(self, items: Iterable[PlanItem]) -> None:
        """Which namespaces are there, and what the restore makes itself."""
        mapping = self.options.namespace_mapping
        wanted: set[str] = set()
        for item in items:
            namespace, name = target_of(item, mapping)
            if item.resource == NAMESPACES:
                self.made.add(name)
                wanted.add(name)
            elif item.resource == DEFINITIONS:
                self.made.add(item.name)
            if namespace is not None:
                wanted.add(namespace)
        resource = _core(self.served, NAMESPACES)
        for name in sorted(wanted):
            try:
                found = await self.api.get(resource, None, name)
            except NotFound:
                continue
            self.phases[name] = str((found.get("status") or {}).get("phase", "Active"))

    def warnings(self) -> Iterable[str]:
        """What concerns the whole."""
        for name in sorted(self.phases):
            if self.phases[name] == "Terminating":
                yield f"namespace {name} is being deleted: nothing can be restored into it yet"
        if self.unasked:
            yield f"of {self.unasked} objects admission can't be asked before they are applied"

    async def one(self, item: PlanItem, gate: asyncio.Semaphore) -> PlanItem:
        """One item with its verdict."""
        if left := self._left_out(item):
            return _without(item, "excluded", *left)
        async with gate:
            try:
                return await self._judged(item)
            except Undecodable as error:
                return _without(item, "blocked", "Undecodable", str(error))

    def _left_out(self, item: PlanItem) -> tuple[str, str] | None:
        if (item.resource, item.name) == ("configmaps", _ROOT_CA):
            return "MadeByController", "every namespace gets its cluster's own"
        if item.resource == _VOLUMES and not self._names(_VOLUMES):
            return "DiskStays", (
                "it names a disk, which the cluster that it comes from may still use; "
                f"name {_VOLUMES} in include.resources if it is meant"
            )
        return None

    async def _judged(self, item: PlanItem) -> PlanItem:
        value = await settled(asyncio.to_thread(self.value, item))
        self.metas[item.key] = objectmeta.read(value)
        target = target_of(item, self.options.namespace_mapping)
        if blocked := self._namespace_in_the_way(target[0]):
            return _without(item, "blocked", *blocked)
        resource = resource_of(item, value, self.served)
        if resource is None:
            return self._not_served(item, value)
        notes = await settled(asyncio.to_thread(notes_of, value, resource))
        mapping = self.options.namespace_mapping
        body = await settled(asyncio.to_thread(body_of, value, resource, target, (), mapping))
        item = item.model_copy(update={"notes": (*item.notes, *notes)})
        live = await self._live(resource, target)
        if live is None:
            return await self._new(item, resource, target, body)
        return await self._there(item, live, body)

    async def _live(self, resource: ApiResource, target: tuple[str | None, str]) -> Object | None:
        """What is there; nothing in a namespace that is not there, without asking."""
        if target[0] is not None and target[0] not in self.phases:
            return None
        try:
            return await self.api.get(resource, *target)
        except NotFound:
            return None

    def _namespace_in_the_way(self, namespace: str | None) -> tuple[str, str] | None:
        if namespace is None:
            return None
        phase = self.phases.get(namespace)
        if phase == "Terminating":
            return "NamespaceTerminating", (
                f"namespace {namespace} is being deleted: wait until it is gone"
            )
        if phase is None and namespace not in self.made:
            return "NoNamespace", (
                f"there is no namespace {namespace}: create it, or restore the Namespace, too"
            )
        return None

    def _not_served(self, item: PlanItem, value: bytes) -> PlanItem:
        versions = [one.api_version for one in self.served.versions(item.resource)]
        if not versions and item.resource in self.made:
            self.unasked += 1
            note = "its type is made by this restore: admission can't be asked before"
            return _created(item, note)
        _, api_version, _, _ = header(value)
        message = (
            f"it is stored as {api_version}, and the API server serves "
            f"{' and '.join(versions) or 'no such type'}"
        )
        return _without(item, "blocked", "NotServed", message)

    async def _new(
        self,
        item: PlanItem,
        resource: ApiResource,
        target: tuple[str | None, str],
        body: Object | bytes,
    ) -> PlanItem:
        namespace, name = target
        if namespace is not None and namespace not in self.phases:
            self.unasked += 1
            return _created(item, "its namespace is made by this restore")
        what = resource.label(namespace, name)
        said = await self.api.admits(resource, namespace, body, what=what)
        if said.verdict == "no":
            return _without(item, "blocked", "AdmissionRefused", said.message)
        if said.verdict == "unknown":
            self.unasked += 1
            return _created(item, f"admission is unknown: {said.message}")
        return _created(item)

    async def _there(self, item: PlanItem, live: Object, body: Object | bytes) -> PlanItem:
        same = await settled(asyncio.to_thread(lambda: holds(live, comparable(body))))
        overwrite = not same and self.options.existing_objects == "Overwrite"
        reason = message = ""
        if not same and (item.resource, item.name) == (ACCOUNTS, DEFAULT_ACCOUNT):
            overwrite, message = True, "every namespace has one: what it lacks is added"
        elif overwrite and item.resource == NAMESPACES and not self._names(NAMESPACES):
            overwrite = False
            reason, message = "Related", "it is there, and was not asked for: it stays"
        elif not same and not overwrite:
            reason, message = "Exists", "it is there, and stays (existingObjects)"
        return item.model_copy(
            update={
                "verdict": "identical" if same else "differs",
                "reason": reason,
                "message": message,
                "write": overwrite,
                "sha256": item.sha256 if overwrite else "",
                "size": item.size if overwrite else 0,
                "live_uid": live["metadata"]["uid"],
                "live_revision": int(live["metadata"]["resourceVersion"]),
            }
        )

    def _names(self, resource: str) -> bool:
        """Whether somebody asked for this type in so many words."""
        return resource in self.options.include.resources


def _created(item: PlanItem, *notes: str) -> PlanItem:
    return item.model_copy(
        update={"verdict": "create", "write": True, "notes": (*item.notes, *notes)}
    )


def _without(item: PlanItem, verdict: str, reason: str, message: str) -> PlanItem:
    return item.model_copy(
        update={
            "verdict": verdict,
            "write": False,
            "reason": reason,
            "message": message,
            "sha256": "",
            "size": 0,
        }
    )
