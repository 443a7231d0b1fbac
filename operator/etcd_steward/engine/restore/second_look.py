"""What became of restored objects once controllers have had their say.

The garbage collector takes within a minute what it finds without an owner; the API server repairs
Services' addresses and ports every three minutes
(`pkg/registry/core/service/ipallocator/controller/repairip.go`). So a look after that tells whether
the restore lasts. It is done in etcd, so that it costs the API server nothing.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from etcd_steward.engine.fields import changes
from etcd_steward.engine.restore.stash import Planned
from etcd_steward.engine.restore.transaction import digest_of
from etcd_steward.errors import Undecodable
from etcd_steward.etcd import stubs
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.models.restore import PlanItem, RestoreReport
from etcd_steward.models.restore_place import SecondLook
from etcd_steward.registry import objectmeta
from etcd_steward.registry.decode import decode
from etcd_steward.store.threads import settled

AFTER: Final = 200.0
"""Seconds: behind the repair loops' three minutes."""
_KEYS: Final = 100
_BYTES: Final = 1 << 20
_TOLD: Final = 5
"""Fields of one object that are named."""
_CONTROLLERS_OWN: Final = re.compile(
    r"status\b|metadata\.(managedFields|generation)\b|metadata\.annotations\[[^/]*kubernetes\.io/"
)
"""What nobody means when it changes: `deployment.kubernetes.io/revision` is the controller's."""


async def look_again(planned: Planned, report: RestoreReport, client: EtcdClient) -> SecondLook:
    """Compare every key that was written with what is there now."""
    written = {one.key for one in report.restored if one.outcome == "written"}
    items = [item for item in planned.plan.items if item.key in written]
    taken: list[str] = []
    async for some, found in _now(client, items):
        taken += await settled(asyncio.to_thread(_compared, planned, some, found))
    return SecondLook(at=datetime.now(UTC), taken=tuple(taken))


async def _now(
    client: EtcdClient, items: Sequence[PlanItem]
) -> AsyncIterator[tuple[list[PlanItem], list[stubs.KeyValue | None]]]:
    """What is there, some keys at a time, about as many bytes as were written."""
    some: list[PlanItem] = []
    used = 0
    for item in items:
        if some and (len(some) == _KEYS or used + item.size > _BYTES):
            yield some, await read_keys(client, [one.key for one in some])
            some, used = [], 0
        some.append(item)
        used += item.size
    if some:
        yield some, await read_keys(client, [one.key for one in some])


async def read_keys(client: EtcdClient, keys: Sequence[str]) -> list[stubs.KeyValue | None]:
    """Some keys, up to a hundred, as of one revision."""
    asked = [stubs.RequestOp(request_range=stubs.RangeRequest(key=key.encode())) for key in keys]
    answer = await client.txn((), asked)
    return [
        one.response_range.kvs[0] if one.response_range.kvs else None for one in answer.responses
    ]


def _compared(
    planned: Planned, items: Sequence[PlanItem], found: Sequence[stubs.KeyValue | None]
) -> list[str]:
    taken = []
    for item, kv in zip(items, found, strict=True):
        if kv is not None and digest_of(kv.value) == item.sha256:
            continue
        said = "is gone" if kv is None else fate(item, planned.value(item), kv.value)
        if said:
            taken.append(f"{called(item)} {said}")
    return taken


def called(item: PlanItem) -> str:
    """`deployments.apps shop/web`, or the key."""
    if not item.resource:
        return item.key
    place = f"{item.namespace}/{item.name}" if item.namespace else item.name
    return f"{item.resource} {place}"


def fate(item: PlanItem, written: bytes, now: bytes) -> str:
    """What somebody did to an object, in words; empty if nothing that matters."""
    try:
        meta = objectmeta.read(now)
        before, after = decode(written).object, decode(now).object
    except Undecodable:
        return "has another value"
    if item.uid is not None and meta.uid != item.uid:
        return "is another one, with another uid"
    if meta.deletion_timestamp is not None:
        return "is being deleted"
    return changed_fields(before, after)


def changed_fields(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Which fields are not the same that a person or a controller has meant; empty if none."""
    found = changes(before, after)
    meant = [one.path for one in found if not _CONTROLLERS_OWN.match(one.path)]
    if not meant:
        return ""
    more = f" and {len(meant) - _TOLD} more" if len(meant) > _TOLD else ""
    return f"has changed: {', '.join(meant[:_TOLD])}{more}"
