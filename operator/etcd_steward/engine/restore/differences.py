"""What a plan found there already, field by field."""

from collections.abc import AsyncGenerator
from typing import Final

from etcd_steward.engine.diff import compare
from etcd_steward.engine.fields import FieldChange
from etcd_steward.engine.restore.plan import Planned
from etcd_steward.models.registry import Record
from etcd_steward.models.restore import PlanItem

_AT_ONCE: Final = 64
"""Values in memory at a time."""


async def differences(
    planned: Planned,
) -> AsyncGenerator[tuple[PlanItem, tuple[FieldChange, ...], str], None]:
    """Each object that is there and differs: from what it is to what was backed up; a note.

    Secrets are compared, and masked. Raises `Unavailable` where etcd has compacted what was seen.
    """
    there = [one for one in planned.plan.items if one.verdict in {"differs", "conflict"}]
    for at in range(0, len(there), _AT_ONCE):
        some = there[at : at + _AT_ONCE]
        live = await planned.live_values(some)
        for item in some:
            before = live.get(item.key)
            if before is None:
                continue
            after = Record(before.key, planned.value(item), 0, before.mod_revision, 0, 0)
            _, fields, note = compare(before, after, show_secrets=False)
            yield item, fields, note
