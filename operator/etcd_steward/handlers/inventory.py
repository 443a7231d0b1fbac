"""All our objects, as the watches have shown them.

Kept by ourselves: while kopf's own index fills it wakes every waiting worker at each object, which
with thousands of them takes minutes of CPU; and it can't say when it has seen everything.
"""

import asyncio
from dataclasses import dataclass, field

from etcd_steward.handlers.asked import Asked
from etcd_steward.handlers.maintained import Maintained
from etcd_steward.handlers.standing import Order, Run
from etcd_steward.kube import Key


@dataclass(slots=True)
class Inventory:
    """Filled by the handlers of events, read by our loops."""

    orders: dict[Key, Order] = field(default_factory=dict)
    runs: dict[Key, dict[Key, Run]] = field(default_factory=dict)
    """By the EtcdBackup that they name."""
    restores: dict[Key, Asked] = field(default_factory=dict)
    maintained: dict[Key, Maintained] = field(default_factory=dict)
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the watches have shown all that the API server lists."""

    def see_order(self, order: Order, *, gone: bool) -> None:
        """Note an event of an EtcdBackup."""
        if not gone:
            self.orders[order.key] = order
        elif (known := self.orders.get(order.key)) and known.version.uid == order.version.uid:
            del self.orders[order.key]  # and not its successor of that name

    def see_restore(self, asked: Asked, *, gone: bool) -> None:
        """Note an event of an EtcdRestore."""
        if not gone:
            self.restores[asked.key] = asked
        elif (known := self.restores.get(asked.key)) and known.version.uid == asked.version.uid:
            del self.restores[asked.key]

    def see_maintained(self, order: Maintained, *, gone: bool) -> None:
        """Note an event of an EtcdMaintenance."""
        if not gone:
            self.maintained[order.key] = order
        elif (known := self.maintained.get(order.key)) and known.version.uid == order.version.uid:
            del self.maintained[order.key]

    def see_run(self, run: Run, *, gone: bool) -> None:
        """Note an event of an EtcdSnapshot."""
        runs = self.runs.setdefault(run.backup, {})
        if not gone:
            runs[run.key] = run
        elif (known := runs.get(run.key)) and known.version.uid == run.version.uid:
            del runs[run.key]
        if not runs:
            del self.runs[run.backup]
