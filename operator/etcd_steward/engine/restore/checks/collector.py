"""The garbage collector's memory of owners that it found gone.

It remembers 500 of them, for as long as it runs, and asks nobody again (kubernetes
`pkg/controller/garbagecollector`, `absentOwnerCache`): an owner that comes back with its uid may
count as gone, and its dependents are deleted.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final

from etcd_steward.engine.restore.drafts import Draft
from etcd_steward.engine.times import in_words
from etcd_steward.errors import Undecodable
from etcd_steward.models.registry import Record
from etcd_steward.registry.decode import decode

LEASE: Final = b"leases/kube-system/kube-controller-manager"
"""Its key below the prefix: it is told there since when a controller manager has run."""


def began(lease: Record | None) -> datetime | None:
    """When the controller manager began that held this Lease; None where it does not tell."""
    if lease is None:
        return None
    try:
        spec = decode(lease.value).object.get("spec") or {}
        told = spec.get("acquireTime") if spec.get("holderIdentity") else None
        return datetime.fromisoformat(told) if told else None
    except (Undecodable, ValueError):
        return None


def check(
    drafts: Iterable[Draft], now: datetime | None, then: datetime | None, *, live_source: bool
) -> Iterator[str]:
    """A warning where owners come back that a running controller manager may have missed.

    `now` and `then`: when the one began that runs now, and the one that ran at the revision that
    is restored. Where that was right before the deletion, another one has seen nothing of it.
    """
    if live_source and None not in {now, then} and now != then:
        return
    written = [one for one in drafts if one.write and one.verdict == "create"]
    created = {one.uid for one in written if one.uid}
    owned = sum(
        any(owner.uid in created for owner in one.meta.owner_references)
        for one in written
        if one.meta is not None
    )
    if owned:
        since = f" (since {in_words(now)})" if now is not None else ""
        yield (
            f"owners come back, and what they own ({owned}). If they were deleted while the "
            f"kube-controller-manager that runs now was running{since}, its garbage collector may "
            "remember them as gone, and take again what they own: the second look after an apply "
            "tells. To be sure, restart it between the deletion and the apply"
        )
