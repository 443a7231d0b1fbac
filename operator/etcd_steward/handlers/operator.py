"""The operator: kopf embedded, with our own loops beside it."""

import asyncio
import logging
from collections.abc import Sequence

import kopf
from prometheus_client import CollectorRegistry, start_http_server

from etcd_steward import log as logs
from etcd_steward.config import OperatorConfig
from etcd_steward.errors import InvalidInput
from etcd_steward.handlers.child import RUNNER
from etcd_steward.handlers.context import Context, Timing
from etcd_steward.handlers.health import Health, serving
from etcd_steward.handlers.resources import register
from etcd_steward.handlers.schedule import schedule
from etcd_steward.kube import Kube
from etcd_steward.metrics import BackupMetrics
from etcd_steward.models.kinds import GROUP

log = logging.getLogger(__name__)


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
    settings.queueing.worker_limit = 64
    settings.execution.max_workers = 2  # all handlers are coroutines
    # A run's daemon ends by itself when it is told, as soon as its process has cleaned up.
    settings.background.instant_exit_timeout = 30
    settings.process.ultimate_exiting_timeout = 60
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
    settings: kopf.OperatorSettings | None = None,
) -> None:
    """Run until SIGTERM or SIGINT.

    Raises `InvalidInput` if there is no API server to be asked, or a port is taken.
    """
    logs.configure()
    kube = await Kube.connect(config.kubeconfig)
    try:
        metrics = CollectorRegistry()
        context = Context(
            config, kube, BackupMetrics(metrics), timing=timing or Timing(), command=command
        )
        await _serve(context, metrics, settings or kopf_settings())
    finally:
        await kube.aclose()


async def _serve(
    context: Context, metrics: CollectorRegistry, settings: kopf.OperatorSettings
) -> None:
    config = context.config
    registry = kopf.OperatorRegistry()
    register(registry, context)
    health = Health(context)
    try:
        server, thread = start_http_server(config.metrics_port, registry=metrics)
    except OSError as error:
        raise InvalidInput(f"metrics port {config.metrics_port}: {error.strerror}") from error
    try:
        async with serving(health, config.health_port), asyncio.TaskGroup() as group:
            # Before kopf starts: it takes every younger task for its own and ends it at its end.
            loops = [
                group.create_task(schedule(context), name="scheduler"),
                group.create_task(health.watch(), name="health"),
            ]
            log.info("watching EtcdBackups and EtcdSnapshots of all namespaces")
            await kopf.operator(
                registry=registry,
                settings=settings,
                clusterwide=True,
                # Given, since kopf would ask for the user's name, which a container may not have.
                identity="etcd-steward",  # type: ignore[arg-type]  # a NewType that it hides
            )
            for loop in loops:
                loop.cancel()
    finally:
        server.shutdown()
        thread.join()
