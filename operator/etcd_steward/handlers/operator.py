"""The operator: kopf embedded, with our own loops beside it, in the one replica that leads.

A replica that does not lead answers probes and metrics and watches the Lease, nothing else.
Elected, it starts kopf; one that finds itself replaced finishes the runs that it has under way,
ends kopf, and is a standby again.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import kopf
from prometheus_client import CollectorRegistry

from etcd_steward import __version__
from etcd_steward import log as logs
from etcd_steward.config import OperatorConfig
from etcd_steward.handlers.catalogue import Catalogue
from etcd_steward.handlers.child import RUNNER
from etcd_steward.handlers.context import LOOK_AGAIN, Context, Timing, utc_now
from etcd_steward.handlers.elector import Elector
from etcd_steward.handlers.exposition import serving_metrics
from etcd_steward.handlers.health import Health, Probed, Standby, serving_probes
from etcd_steward.handlers.maintenances import Maintenances
from etcd_steward.handlers.resources import register
from etcd_steward.handlers.restores import Restores
from etcd_steward.handlers.schedule import Scheduler
from etcd_steward.handlers.waits import sleep_unless
from etcd_steward.kube import Kube
from etcd_steward.metrics import BackupMetrics, Board, Sample, names
from etcd_steward.models.kinds import GROUP

log = logging.getLogger(__name__)

EXIT_WITHIN = 60.0
"""Seconds after a signal until the process is killed, whatever hangs in it."""


def kopf_settings() -> kopf.OperatorSettings:
    """How kopf is to behave; its defaults wait for ever, and write under somebody else's name."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    # A watch that is silent is renewed: by the server, by us, and by kopf without bookmarks.
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.watching.inactivity_timeout = 70
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    # A watch that gives up (on 5xx, or on the 403 of an API server that has just started) ends
    # kopf, and with it all that is under way.
    settings.networking.error_backoffs = (1, 1, 2, 3, *(5,) * 10_000)
    # A worker holds its last event while it waits for the next: for thousands of objects at once.
    settings.queueing.idle_timeout = 0.5
    settings.execution.max_workers = 2  # all handlers are coroutines
    # A run's daemon ends by itself when it is told, as soon as its process has cleaned up.
    settings.background.instant_exit_timeout = 30
    settings.process.ultimate_exiting_timeout = 60
    # An event waits for the rescue of a full etcd, which takes none meanwhile; an hour at most.
    settings.posting.default_backoffs = (1, 2, 5, 10, *(30,) * 120)
    settings.posting.reporting_component = "etcd-steward"
    settings.posting.event_name_prefix = "etcd-steward-"
    settings.persistence.finalizer = f"{GROUP}/run"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(
        prefix=GROUP, key="last-handled"
    )
    return settings


async def run_operator(
    config: OperatorConfig,
    *,
    command: Sequence[str] = RUNNER,
    timing: Timing | None = None,
    clock: Callable[[], datetime] = utc_now,
) -> None:
    """Run until SIGTERM or SIGINT.

    Raises `InvalidInput` if there is no API server to be asked, a port is taken or the namespace
    for the Lease is not there, and `Unauthorized` if the Lease may not be written.
    """
    logs.configure()
    timing = timing or Timing()
    kube = await Kube.connect(config.kubeconfig)
    try:
        board = Board(CollectorRegistry())
        board.show("operator", [Sample(names.BUILD_INFO, (__version__,), 1.0)])
        for result in ("complete", "failed"):
            board.count("operator", names.RESTORES, result, by=0)
        replica = Replica(config, kube, BackupMetrics(board), timing, command, clock)
        if config.leader_elect:
            replica.elector = Elector(kube, config.namespace, timing.election)
        board.ask(names.LEADER, lambda: float(replica.leads))
        async with (
            serving_metrics(board, config.metrics_port),
            serving_probes(lambda: replica.probed, config.health_port),
        ):
            await replica.run()
    finally:
        await kube.aclose()


@dataclass(slots=True)
class Replica:
    """One of perhaps several operators."""

    config: OperatorConfig
    kube: Kube
    metrics: BackupMetrics
    timing: Timing
    command: Sequence[str]
    clock: Callable[[], datetime] = utc_now
    """The time that schedules go by."""
    elector: Elector | None = None
    """None: there is no other operator."""
    acting: Health | None = None
    """While kopf runs."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by a signal."""

    @property
    def leads(self) -> bool:
        """Whether this replica may begin something."""
        return self.elector is None or self.elector.leads

    @property
    def probed(self) -> Probed | None:
        """Who knows whether it is well; nobody, where it neither acts nor stands by."""
        if self.acting is None and self.elector is not None:
            return Standby(self.elector, self.timing)
        return self.acting

    async def run(self) -> None:
        """Act while elected, or all the time where there is no election, until a signal."""
        self._listen()
        if self.elector is None:
            await self._act()
            return
        standing = asyncio.create_task(self.elector.run(), name="elector")
        try:
            while await self._elected(self.elector, standing):
                await self._act()
        finally:
            standing.cancel()
            await asyncio.wait({standing})
            await self.elector.release()

    async def _elected(self, elector: Elector, standing: asyncio.Task[None]) -> bool:
        """Wait until this replica leads; False if it is to stop. Raises what ended the elector."""
        while not self.stop.is_set():
            if standing.done():
                standing.result()
            if elector.leads:
                return True
            await sleep_unless(self.stop, LOOK_AGAIN)
        return False

    async def _act(self) -> None:
        """Follow the resources until a signal, or until another operator has taken over."""
        context = Context(
            self.config,
            self.kube,
            self.metrics,
            timing=self.timing,
            clock=self.clock,
            command=self.command,
            elector=self.elector,
        )
        registry = kopf.OperatorRegistry()
        register(registry, context)
        health = self.acting = Health(context)
        restores, maintenances = Restores(context), Maintenances(context)
        over, ready = asyncio.Event(), asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                # Before kopf starts: it takes every younger task for its own and ends it at its
                # end.
                loops = [
                    group.create_task(Scheduler(context).run(), name="scheduler"),
                    group.create_task(Catalogue(context).run(), name="catalogue"),
                    group.create_task(restores.run(), name="restores"),
                    group.create_task(maintenances.run(), name="maintenances"),
                    group.create_task(context.observer.run(), name="observer"),
                    group.create_task(health.watch(), name="health"),
                    group.create_task(
                        self._end(context, (restores, maintenances), over), name="end"
                    ),
                    group.create_task(self._listen_again(ready), name="signals"),
                ]
                log.info("watching the resources of all namespaces")
                await kopf.operator(
                    registry=registry,
                    settings=kopf_settings(),
                    clusterwide=True,
                    stop_flag=over,
                    ready_flag=ready,
                    # Given, since kopf would ask for the user's name, which a container may not
                    # have.
                    identity="etcd-steward",  # type: ignore[arg-type]  # a NewType that it hides
                )
                if not over.is_set():
                    self.stop.set()  # a signal that came before we listened again
                for loop in loops:
                    loop.cancel()
        finally:
            self.acting = None
            self.metrics.keep_only(())
            maintenances.metrics.keep_only(())
            context.observer.watch(())

    async def _end(
        self, context: Context, loops: tuple[Restores, Maintenances], over: asyncio.Event
    ) -> None:
        """Set `over` at a signal, or once this replica is replaced and has nothing under way."""
        elector = self.elector
        while not (elector is not None and elector.replaced and not context.under_way):
            if await sleep_unless(self.stop, LOOK_AGAIN):
                break
        else:
            log.info("another operator leads: this one stands by")
        await asyncio.gather(*(one.stop() for one in loops))
        over.set()

    async def _listen_again(self, ready: asyncio.Event) -> None:
        """Take signals back from kopf, which never gives them back and would wait five seconds."""
        await ready.wait()
        self._listen()

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        log.info("stopping in order")
        self.stop.set()
        asyncio.get_running_loop().call_later(EXIT_WITHIN, os.kill, os.getpid(), signal.SIGKILL)
