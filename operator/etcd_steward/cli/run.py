"""`etcd-steward run`: the operator."""

import asyncio
from pathlib import Path

import click

from etcd_steward.cli.etcd_flags import etcd_options
from etcd_steward.cli.framework import Option, Verb
from etcd_steward.cli.registry_prefix import registry_prefix_option
from etcd_steward.cli.store_flags import spool_options
from etcd_steward.config import EtcdFlags, OperatorConfig
from etcd_steward.log import configure
from etcd_steward.models.run import SpoolSettings

SECTION = "Operator"
_DEFAULT_NAMESPACE = "etcd-steward"
_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def own_namespace() -> str:
    """Name the pod's namespace, or the usual one outside of a pod."""
    try:
        return _POD_NAMESPACE.read_text(encoding="ascii").strip()
    except OSError:
        return _DEFAULT_NAMESPACE


@click.command(
    "run",
    cls=Verb,
    examples="""
etcd-steward run --kubeconfig ~/.kube/config
etcd-steward run --endpoints https://10.0.0.1:2379 \\
    --cacert ca.crt --cert client.crt --key client.key
etcd-steward run --etcd-namespaces etcd-steward,platform --spool-dir /spool --spool-limit 8Gi
""",
)
@etcd_options(optional=True)
@spool_options
@click.option(
    "--namespace",
    cls=Option,
    section=SECTION,
    envvar="ETCD_STEWARD_NAMESPACE",
    metavar="NAME",
    help="The operator's own namespace.  [default: the pod's, else etcd-steward; "
    "env: ETCD_STEWARD_NAMESPACE]",
)
@click.option(
    "--etcd-namespaces",
    "namespaces",  # not `etcd_…`: those are taken for connection flags
    cls=Option,
    section=SECTION,
    envvar="ETCD_STEWARD_ETCD_NAMESPACES",
    metavar="NAME,...",
    help="Namespaces whose resources may use the operator's etcd, its volumes and its own S3 "
    "identity: whoever may create resources there can read every Secret of the cluster.  "
    "[default: its own only; env: ETCD_STEWARD_ETCD_NAMESPACES]",
)
@registry_prefix_option(SECTION)
@click.option(
    "--kubeconfig",
    cls=Option,
    section=SECTION,
    envvar="ETCD_STEWARD_KUBECONFIG",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="How to reach the API server.  [default: the pod's identity, else as kubectl finds it; "
    "env: ETCD_STEWARD_KUBECONFIG]",
)
@click.option(
    "--max-runs",
    cls=Option,
    section=SECTION,
    envvar="ETCD_STEWARD_MAX_RUNS",
    type=click.IntRange(1, 100),
    default=2,
    metavar="COUNT",
    help="So many backups are taken at once; others wait.  [default: 2; "
    "env: ETCD_STEWARD_MAX_RUNS]",
)
@click.option(
    "--metrics-port",
    cls=Option,
    section=SECTION,
    envvar="ETCD_STEWARD_METRICS_PORT",
    type=click.IntRange(0, 65535),
    default=8080,
    metavar="PORT",
    help="Where /metrics answers.  [default: 8080; env: ETCD_STEWARD_METRICS_PORT]",
)
@click.option(
    "--health-port",
    cls=Option,
    section=SECTION,
    envvar="ETCD_STEWARD_HEALTH_PORT",
    type=click.IntRange(0, 65535),
    default=8081,
    metavar="PORT",
    help="Where /healthz and /readyz answer.  [default: 8081; env: ETCD_STEWARD_HEALTH_PORT]",
)
@click.option(
    "--leader-elect/--no-leader-elect",
    cls=Option,
    section=SECTION,
    envvar="ETCD_STEWARD_LEADER_ELECT",
    default=True,
    help="Act only while holding Lease etcd-steward in the operator's own namespace, so that "
    "several can run.  [default: --leader-elect; env: ETCD_STEWARD_LEADER_ELECT]",
)
def operator(
    *,
    etcd: EtcdFlags | None,
    spool: SpoolSettings,
    namespace: str | None,
    namespaces: str | None,
    registry_prefix: str,
    kubeconfig: Path | None,
    max_runs: int,
    metrics_port: int,
    health_port: int,
    leader_elect: bool,
) -> None:
    """Run the operator: look after what the cluster's EtcdBackups declare.

    The etcd named here serves resources that name none, in the namespaces of --etcd-namespaces.
    SIGTERM and Ctrl-C end the operator in order, with exit code 0.
    """
    own = namespace or own_namespace()
    named = tuple(n.strip() for n in (namespaces or "").split(",") if n.strip())
    config = OperatorConfig(
        namespace=own,
        etcd=etcd,
        etcd_namespaces=named or (own,),
        spool=spool,
        registry_prefix=registry_prefix,
        kubeconfig=kubeconfig,
        max_runs=max_runs,
        metrics_port=metrics_port,
        health_port=health_port,
        leader_elect=leader_elect,
    )
    from etcd_steward.handlers.operator import run_operator  # noqa: PLC0415  # kopf: a second

    configure()
    asyncio.run(run_operator(config))  # it listens to SIGTERM and SIGINT itself
