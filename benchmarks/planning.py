"""How long the plan of one deleted namespace takes, out of a large snapshot in S3.

    python -m benchmarks.planning [--keys 1000000] [--runs 5]

A fresh etcd gets so many keys of 1 kB, 10,000 in each namespace, over 16 built-in resource types; a
fresh SeaweedFS gets its snapshot by `snapshot save`. Then one namespace is deleted from the etcd,
and its restore is planned again and again: opening the backup, reading the namespace, comparing it
with the etcd, and all checks. The first plan is not counted.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack, closing
from datetime import timedelta
from pathlib import Path

from benchmarks.snapshot import BUCKET
from benchmarks.timing import Command, Figures, environment, timed
from etcd_steward.engine.report import Tracker
from etcd_steward.engine.restore.origin import open_origin
from etcd_steward.engine.restore.plan import make_plan
from etcd_steward.engine.spool import Spool
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.models.connection import StoreSettings
from etcd_steward.models.registry import Filter
from etcd_steward.models.restore import Plan, RestoreOptions
from etcd_steward.models.restore_run import FromBackup, RestoreRequest
from etcd_steward.models.run import SpoolSettings
from tests.support.cli import s3_flags
from tests.support.runs import Heard, connection, s3_settings
from tests.testbed import EtcdCluster, SeaweedFS
from tests.testbed.bulk import load

PER_NAMESPACE = 10_000
TYPES = (
    ("configmaps", "v1", "ConfigMap"),
    ("secrets", "v1", "Secret"),
    ("serviceaccounts", "v1", "ServiceAccount"),
    ("limitranges", "v1", "LimitRange"),
    ("podtemplates", "v1", "PodTemplate"),
    ("services/specs", "v1", "Service"),
    ("roles", "rbac.authorization.k8s.io/v1", "Role"),
    ("rolebindings", "rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("deployments", "apps/v1", "Deployment"),
    ("replicasets", "apps/v1", "ReplicaSet"),
    ("statefulsets", "apps/v1", "StatefulSet"),
    ("controllerrevisions", "apps/v1", "ControllerRevision"),
    ("cronjobs", "batch/v1", "CronJob"),
    ("ingress", "networking.k8s.io/v1", "Ingress"),
    ("networkpolicies", "networking.k8s.io/v1", "NetworkPolicy"),
    ("poddisruptionbudgets", "policy/v1", "PodDisruptionBudget"),
)
NAMESPACE = (
    '{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"%s","uid":"%s"},'
    '"status":{"phase":"Active"}}'
)


async def fill(etcd: EtcdCluster, s3: SeaweedFS, directory: Path, keys: int) -> str:
    """Load, save, and delete one namespace; its name."""
    namespaces = max(1, keys // PER_NAMESPACE)
    await load(etcd, keys, namespaces=namespaces, seed=1, resources=TYPES)
    name = f"team-{namespaces // 2:04}"
    async with EtcdClient.connect(connection(etcd)) as client:
        for number, some in enumerate((name, "kube-system")):
            value = NAMESPACE % (some, f"00000000-0000-0000-0000-{number:012}")
            await client.put(f"/registry/namespaces/{some}".encode(), value.encode())
        command: Command = [
            *(sys.executable, "-m", "etcd_steward", "snapshot", "save", "--no-progress"),
            *etcd.connection_flags(),
            *s3_flags(s3, BUCKET),
            f"--spool-dir={directory / 'spool'}",
        ]
        await asyncio.to_thread(timed, command, environment(s3), Figures())
        for path, *_ in TYPES:
            folder = f"/registry/{path}/{name}"
            await client.delete(f"{folder}/".encode(), f"{folder}0".encode())
        await client.delete(f"/registry/namespaces/{name}".encode())
    return name


async def plan(etcd: EtcdCluster, store: StoreSettings, directory: Path, namespace: str) -> Plan:
    """Make it, as a restore does."""
    request = RestoreRequest(
        name="team.benchmark",
        uid="0",
        etcd=connection(etcd),
        source=FromBackup(store=store),
        spool=SpoolSettings(directory=directory / "planning"),
        options=RestoreOptions(include=Filter(namespaces=(namespace,))),
    )
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(EtcdClient.connect(request.etcd))
        spool = await stack.enter_async_context(Spool.open(request.spool, "plan"))
        source, ref, options = await open_origin(request, client, stack, Heard())
        planned = await make_plan(
            source,
            ref,
            client,
            options,
            prefix=request.registry_prefix,
            spool=spool,
            tracker=Tracker(Heard()),
            api=None,
            time_to_live=timedelta(hours=1),
        )
        with closing(planned):
            return planned.plan


async def main(keys: int, runs: int) -> None:
    """Measure, and print one line."""
    with tempfile.TemporaryDirectory(prefix="etcd-steward-benchmark-") as scratch:
        directory = Path(scratch)
        quota = {"quota-backend-bytes": str(8 << 30)}
        async with (
            EtcdCluster(directory / "etcd", flags=quota) as etcd,
            SeaweedFS(directory / "s3") as s3,
        ):
            await s3.create_bucket(BUCKET)
            namespace = await fill(etcd, s3, directory, keys)
            store = s3_settings(s3, BUCKET)
            seconds, cpu = [], []
            for turn in range(runs + 1):
                started, used = time.perf_counter(), time.process_time()
                found = await plan(etcd, store, directory, namespace)
                if turn:
                    seconds.append(time.perf_counter() - started)
                    cpu.append(time.process_time() - used)
    print(
        f"{keys:,} keys, {found.writes:,} to write: median {statistics.median(seconds):.2f} s "
        f"({min(seconds):.2f} to {max(seconds):.2f}), of which {statistics.median(cpu):.2f} s CPU"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    asyncio.run(main(given.keys, given.runs))
