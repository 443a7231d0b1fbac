"""One restore at a time for each namespace, whoever runs it and from where.

Every key is compared when it is written, so two restores could not overwrite each other's keys; but
each would take the other's for somebody's change, and an undo would take both. The lock is a key in
the very etcd, beside the other locks, on a lease: it goes when whoever held it is dead.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from etcd_steward.deadline import Deadline
from etcd_steward.engine.tasks import together
from etcd_steward.errors import OutOfSpace, Refused, StewardError, TransientError
from etcd_steward.etcd import stubs
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.models.restore import PlanItem

PREFIX: Final = "/etcdsteward.io/lock/restore/"
_TTL: Final = 20
"""Seconds that a lock outlives its holder."""
_RENEWED: Final = 5.0
"""Seconds between two renewals."""
_GIVE_UP: Final = 5.0
"""Seconds for giving it back."""


def namespaces_of(items: Iterable[PlanItem]) -> list[str]:
    """The namespaces that an apply writes into, a Namespace itself included."""
    found = {
        item.name if item.resource == "namespaces" else item.namespace
        for item in items
        if item.write
    }
    return sorted(name for name in found if name)


@asynccontextmanager
async def locked(
    client: EtcdClient, namespaces: Sequence[str], *, restore: str, uid: str
) -> AsyncIterator[None]:
    """Hold the locks of these namespaces while the body runs.

    Another process of the same restore (by `uid`) is taken to be dead: its locks are taken over.
    Raises `Refused` if another restore holds one, or has taken it from us.
    """
    if not namespaces:
        yield
        return
    since = datetime.now(UTC).isoformat(timespec="seconds")
    value = json.dumps({"restore": restore, "uid": uid, "since": since}).encode()
    lock = _Lock(client, [f"{PREFIX}{name}".encode() for name in namespaces], value, uid)
    try:
        await lock.take()
        async with together() as group:
            renewing = group.create_task(lock.renew(), name="renew the restore's lock")
            yield
            renewing.cancel()
    finally:
        await lock.give_back()


@dataclass(slots=True)
class _Lock:
    client: EtcdClient
    keys: list[bytes]
    value: bytes
    uid: str
    lease: int = 0
    held: dict[bytes, int] = field(default_factory=dict)
    """Keys that we have put, and their ModRevisions."""

    async def take(self) -> None:
        self.lease = await self.client.grant_lease(_TTL)
        for key in self.keys:
            there = await self.client.get(key)
            if there is not None and _said(there.value).get("uid") != self.uid:
                raise _busy(key, there.value)
            await self._put(key, there.mod_revision if there is not None else 0)

    async def _put(self, key: bytes, before: int) -> None:
        compare = stubs.Compare(
            result=stubs.Compare.EQUAL, target=stubs.Compare.MOD, key=key, mod_revision=before
        )
        put = stubs.PutRequest(key=key, value=self.value, lease=self.lease)
        answer = await self.client.txn([compare], [stubs.RequestOp(request_put=put)])
        if not answer.succeeded:
            there = await self.client.get(key)
            if there is None or there.value != self.value:  # else an answer was lost
                raise _busy(key, b"{}" if there is None else there.value)
            self.held[key] = there.mod_revision
        else:
            self.held[key] = answer.header.revision

    async def renew(self) -> None:
        """Put the keys on a new lease, again and again; a full or absent etcd must not end it."""
        while True:
            await asyncio.sleep(_RENEWED)
            with contextlib.suppress(TransientError, OutOfSpace):
                before, self.lease = self.lease, await self.client.grant_lease(_TTL)
                for key in self.keys:
                    await self._put(key, self.held[key])
                await self.client.revoke_lease(before)

    async def give_back(self) -> None:
        """End the lease, and with it the keys; where that fails they go by themselves."""
        if self.lease:
            with contextlib.suppress(StewardError):
                await self.client.revoke_lease(self.lease, deadline=Deadline.after(_GIVE_UP))


def _said(value: bytes) -> dict[str, str]:
    try:
        said = json.loads(value)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _busy(key: bytes, value: bytes) -> Refused:
    said = _said(value)
    namespace = key.decode().removeprefix(PREFIX)
    return Refused(
        f"the restore {said.get('restore', 'of somebody else')} is writing into namespace "
        f"{namespace!r} since {said.get('since', 'a moment ago')}",
        hint=f"wait for its end, then make a new plan; if it is dead, its lock goes in {_TTL} s",
    )
