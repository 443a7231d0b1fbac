"""What all handlers share: made once by `run_operator`, handed to each through kopf's memo."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from etcd_steward.config import OperatorConfig
from etcd_steward.handlers.child import RUNNER, Limits
from etcd_steward.handlers.standing import Order, Run
from etcd_steward.kube import Key, Kube
from etcd_steward.metrics import BackupMetrics


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds; tests shorten them, installations have no reason to."""

    back_offs: tuple[float, ...] = (10.0, 30.0, 60.0, 120.0, 300.0)
    """Before the second, third, … attempt; the last one repeats."""
    progress_every: float = 5.0
    """At most so often a run's progress is written: the operator must not be a load on etcd."""
    write_patience: float = 10.0
    """How long a run waits for its status (its journal, above all) to be written when the API
    server can write nothing: the backup matters more. Only its end is waited for as long as it
    takes."""
    refusal_patience: float = 60.0
    """A 401 or 403 of the API server is believed when it has lasted so long: one that has just
    started refuses for a moment."""
    backup_patience: float = 30.0
    """How long after its creation a run waits for its EtcdBackup: both may come from one file."""
    presumed_dead_after: float = 90.0
    """A run that is Running, but not ours, is somebody else's until it has been silent so long."""
    settle_within: float = 120.0
    """To find out what a dead run left."""
    check_every: float = 15.0
    """How often the watches are compared with the API server."""
    not_ready_after: float = 45.0
    """Without an answer of the API server, or with an event overdue."""
    stale_after: float = 150.0
    """An event so long overdue means that a watch is dead: kopf renews silent ones after 70."""
    alone_limit: float = 900.0
    """Without an answer of the API server: perhaps it is us."""
    limits: Limits = field(default_factory=Limits)

    def back_off(self, attempt: int) -> float:
        """How long to wait after `attempt` failed."""
        return self.back_offs[min(attempt, len(self.back_offs)) - 1]


@dataclass(slots=True)
class Context:
    """The operator's state. Nothing here must survive a restart."""

    config: OperatorConfig
    kube: Kube
    metrics: BackupMetrics
    timing: Timing = field(default_factory=Timing)
    command: Sequence[str] = RUNNER
    order_index: Mapping[Key, Collection[Order]] = field(default_factory=dict)
    """kopf's index of all EtcdBackups; each key holds one."""
    run_index: Mapping[Key, Collection[Run]] = field(default_factory=dict)
    """kopf's index of all EtcdSnapshots; each key holds one."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by each event of a watch; the scheduler waits for it."""
    clean: set[str] = field(default_factory=set)
    """uids of deleted runs that are known to have left nothing in the store."""
    turned_at: float = field(default_factory=time.monotonic)
    """When the scheduler's loop last turned."""
    turns: defaultdict[Key, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    """Runs of one backup never overlap."""

    def orders(self) -> list[Order]:
        """All EtcdBackups, as the watch shows them."""
        return [order for held in self.order_index.values() for order in held]

    def runs(self) -> list[Run]:
        """All EtcdSnapshots, as the watch shows them."""
        return [run for held in self.run_index.values() for run in held]
