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

LEASE: Final = "leases/kube-system/kube-controller-manager"
"""Its key below the prefix: it is told there since when a controller manager has run."""


def check(drafts: Iterable[Draft], since: datetime | None) -> Iterator[str]:
    """A warning where owners come back that a running controller manager may have missed.

    `since`: when the one that runs now began; None where its Lease does not tell.
    """
    written = [one for one in drafts if one.write and one.verdict == "create"]
    created = {one.uid for one in written if one.uid}
    owned = sum(
        any(owner.uid in created for owner in one.meta.owner_references)
        for one in written
        if one.meta is not None
    )
    if owned:
        began = f" (since {in_words(since)})" if since is not None else ""
        yield (
            f"{owned} objects come back with their owners. If those were deleted while the "
            f"kube-controller-manager that runs now was running{began}, its garbage collector may "
            "remember them as gone and take the objects again: the second look after an apply "
            "tells. To be sure, restart it between the deletion and the apply"
        )
