"""What all handlers share: made once by `run_operator`, handed to each through kopf's memo."""

import asyncio
import contextvars
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from etcd_steward.config import OperatorConfig
from etcd_steward.handlers.asked import Asked
from etcd_steward.handlers.child import RUNNER, Limits
from etcd_steward.handlers.elector import Election, Elector
from etcd_steward.handlers.inventory import Inventory
from etcd_steward.handlers.maintained import Maintained
from etcd_steward.handlers.observer import Observer
from etcd_steward.handlers.standing import Looked, Order, Run
from etcd_steward.handlers.waits import sleep_unless
from etcd_steward.kube import Key, Kube
from etcd_steward.metrics import BackupMetrics
from etcd_steward.models.observation import ObservationPace

LOOK_AGAIN = 0.5
"""Seconds; a look at our own clock."""


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
    idle: float = 10.0
    """The scheduler's loop turns so often even if nothing is due: the health check sees that, and a
    clock that was set is noticed."""
    look_every: float = 3600.0
    """How often a store is looked through though nothing has happened."""
    look_pace: float = 300.0
    """Between two such looks: each is a process, and there may be hundreds of EtcdBackups."""
    look_within: float = 300.0
    """To look through one store."""
    second_look: float = 200.0
    """After a restore, until what became of it is looked at: longer than the repair loops take."""
    figures_every: float = 300.0
    """How often figures of an etcd are written into a status: it lies in that very etcd."""
    secrets_every: float = 60.0
    """How often credentials of an etcd that is observed are read again."""
    member_patience: float = 3600.0
    """How long a round may take to stop: it ends a member's turn before it does."""
    check_every: float = 15.0
    """How often the watches are compared with the API server."""
    not_ready_after: float = 45.0
    """Without an answer of the API server, or with an event overdue."""
    stale_after: float = 150.0
    """An event so long overdue means that a watch is dead: kopf renews silent ones after 70."""
    alone_limit: float = 900.0
    """Without an answer of the API server: perhaps it is us."""
    limits: Limits = field(default_factory=Limits)
    election: Election = field(default_factory=Election)
    observing: ObservationPace = field(default_factory=ObservationPace)

    def back_off(self, attempt: int) -> float:
        """How long to wait after `attempt` failed."""
        return self.back_offs[min(attempt, len(self.back_offs)) - 1]


def utc_now() -> datetime:
    """This host's time."""
    return datetime.now(UTC)


@dataclass(slots=True)
class Context:
    """The operator's state. Nothing here must survive a restart."""

    config: OperatorConfig
    kube: Kube
    metrics: BackupMetrics
    timing: Timing = field(default_factory=Timing)
    clock: Callable[[], datetime] = utc_now
    """The time that schedules go by."""
    elector: Elector | None = None
    """None: there is no other operator."""
    command: Sequence[str] = RUNNER
    inventory: Inventory = field(default_factory=Inventory)
    observer: Observer = field(init=False)
    """What is known of each etcd that an EtcdMaintenance names."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by each event of a watch; the scheduler waits for it."""
    dirty: set[Key] = field(default_factory=set)
    """EtcdBackups of which something has changed since the scheduler looked."""
    looked: dict[Key, Looked] = field(default_factory=dict)
    """What the last look through an EtcdBackup's store has found."""
    to_look_through: dict[Key, bool] = field(default_factory=dict)
    """EtcdBackups whose store somebody wants looked through, and whether retention may act."""
    look_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when one is added."""
    restores_changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by each event of an EtcdRestore."""
    maintained_changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by each event of an EtcdMaintenance, and whenever something was seen of its etcd."""
    restoring: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One restore at a time: the next one is planned over what the last one has written."""
    surroundings: contextvars.Context | None = None
    """Those of kopf's handlers of events, in which alone it can post one."""
    clean: set[str] = field(default_factory=set)
    """uids of deleted runs that are known to have left nothing in the store."""
    under_way: set[str] = field(default_factory=set)
    """uids of runs with a process of ours, from its start to the word about its end."""
    turned_at: float = field(default_factory=time.monotonic)
    """When the scheduler's loop last turned."""
    turns: defaultdict[Key, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    """Runs of one backup never overlap."""
    slots: asyncio.Semaphore = field(init=False)
    """At most so many runs at once, whatever they back up: others wait in their order."""

    def __post_init__(self) -> None:
        """Make room for as many runs as the installer allows."""
        self.slots = asyncio.Semaphore(self.config.max_runs)
        self.observer = Observer(
            self.clock, self.metrics.board, self.command, self.timing.observing
        )

    def leads(self) -> bool:
        """Whether this operator may begin something: claim, create, start, delete."""
        return self.elector is None or self.elector.leads

    async def leading(self, stop: asyncio.Event) -> bool:
        """Wait until it may; False if `stop` came first."""
        while not self.leads():
            if await sleep_unless(stop, LOOK_AGAIN):
                return False
        return not stop.is_set()

    def touch(self, backup: Key) -> None:
        """Have the scheduler look at an EtcdBackup."""
        self.dirty.add(backup)
        self.changed.set()

    def look_through(self, backup: Key, *, prune: bool) -> None:
        """Have an EtcdBackup's store looked through soon."""
        self.to_look_through[backup] = prune or self.to_look_through.get(backup, False)
        self.look_wanted.set()

    def busy(self, backup: Key) -> bool:
        """Whether a run of an EtcdBackup is under way here."""
        lock = self.turns.get(backup)
        return lock is not None and lock.locked()

    def order(self, key: Key) -> Order | None:
        """One EtcdBackup, as the watch shows it."""
        return self.inventory.orders.get(key)

    def runs_of(self, backup: Key) -> list[Run]:
        """All EtcdSnapshots that name an EtcdBackup."""
        return list(self.inventory.runs.get(backup, {}).values())

    def orders(self) -> list[Order]:
        """All EtcdBackups, as the watch shows them."""
        return list(self.inventory.orders.values())

    def restores(self) -> list[Asked]:
        """All EtcdRestores, as the watch shows them."""
        return list(self.inventory.restores.values())

    def maintained(self) -> list[Maintained]:
        """All EtcdMaintenances, as the watch shows them."""
        return list(self.inventory.maintained.values())

    def runs(self) -> list[Run]:
        """All EtcdSnapshots, as the watch shows them."""
        return [run for held in self.inventory.runs.values() for run in held.values()]
