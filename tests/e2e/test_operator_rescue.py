"""The day etcd is full: the API server takes no write, not even the operator's Lease."""

import json
import urllib.request
from pathlib import Path

import pytest

from etcd_steward.errors import OutOfSpace
from etcd_steward.etcd.client import EtcdClient
from tests.support.maintaining import Maintainer, maintenance
from tests.support.runs import connection
from tests.support.users import (
    HastySteward,
    Object,
    backup,
    condition,
    installed,
    s3_store,
)
from tests.testbed import ControlPlane, EtcdCluster, SeaweedFS
from tests.testbed.steward import NAMESPACE

QUOTA = 48 << 20
TIMING = {
    "progress_every": 0.5,
    "idle": 1.0,
    "observing": {"status": 1.0},
    "election": {
        "lease_duration": 4,
        "renew_deadline": 3.0,
        "retry_period": 0.5,
        "full_patience": 2.0,
    },
}


async def fill(etcd: EtcdCluster) -> None:
    """Write a few keys again and again, until etcd takes no more: it is history that fills it."""
    async with EtcdClient.connect(connection(etcd)) as client:
        try:
            for number in range(1000):
                await client.put(b"/fill/%d" % (number % 3), b"%d" % number + b"x" * 1_000_000)
        except OutOfSpace:
            return
    raise AssertionError("etcd does not fill up")


async def holder(plane: ControlPlane) -> str:
    what = "-o=jsonpath={.spec.holderIdentity} {.spec.leaseTransitions}"
    return await plane.kubectl("get", "lease", "etcd-steward", f"--namespace={NAMESPACE}", what)


def metrics(operator: HastySteward) -> list[str]:
    url = f"http://127.0.0.1:{operator.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        lines: list[str] = answer.read().decode().splitlines()
    return lines


@pytest.mark.timeout(600)
async def test_a_full_etcd_is_rescued_though_the_api_server_can_write_nothing(
    seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    flags = {"quota-backend-bytes": str(QUOTA)}
    async with (
        EtcdCluster(tmp_path / "etcd", members=3, mtls=True, flags=flags) as etcd,
        ControlPlane(tmp_path / "plane", etcd) as plane,
    ):
        await installed(plane, seaweedfs)
        operator = HastySteward(tmp_path / "steward", plane)
        operator.timing = TIMING
        async with operator:
            user = Maintainer(plane)
            await user.apply(
                backup("nightly", {"store": s3_store(seaweedfs, bucket)}),
                maintenance(
                    "main",
                    {"defragmentation": {"settle": "1s"}, "alarms": {"noSpace": "Rescue"}},
                ),
            )
            await user.ended((await user.run_of("nightly"))["metadata"]["name"])
            prepared = await user.once("main", lambda status: "lastCompaction" in status)
            assert condition(prepared, "EtcdHealthy")["status"] == "True"
            before = await holder(plane)

            await fill(etcd)
            rescued = await user.once("main", lambda status: "lastRescue" in status, timeout=240)
            last = rescued["status"]["lastRescue"]
            assert last["outcome"] == "Rescued", last
            assert last["snapshot"].startswith(f"s3://{bucket}/prod/")
            assert last["disarmed"]
            assert "database space exceeded" in operator.server.log_file.read_text()

            await plane.kubectl("create", "configmap", "it-works")
            assert await etcd.etcdctl("alarm", "list") == ""
            assert await holder(plane) == before
            well = await user.once(
                "main", lambda status: "NOSPACE" not in str(status["etcd"].get("alarms", ""))
            )
            assert condition(well, "EtcdHealthy")["reason"] == "AllWell"
            assert condition(well, "Ready")["status"] == "True"
            await user.told("main", {"NoSpace", "RescueStarted", "Rescued", "EtcdHealthy"})
            series = (
                "etcd_steward_maintenance_runs_total"
                f'{{etcd_cluster="{NAMESPACE}/main",result="complete",task="rescue"}} 1.0'
            )
            assert series in metrics(operator)

            # Its operator dies in a round, and the next one finds etcd full: it can't even lead.
            await operator.server.kill()
            running = {"status": {"phase": "Running", "task": "round", "starts": 9}}
            words = ("patch", "emaint", "main", f"--namespace={NAMESPACE}", "--subresource=status")
            await plane.kubectl(*words, "--type=merge", "-p", json.dumps(running))
            await fill(etcd)
            await operator.server.start()

            def again(status: Object) -> bool:
                return bool(status["lastRescue"]["startTime"] > last["completionTime"])

            rescued = await user.once("main", again, timeout=240)
            assert rescued["status"]["lastRescue"]["outcome"] == "Rescued", rescued["status"]
            assert rescued["status"]["phase"] != "Running"
            await plane.kubectl("create", "configmap", "it-works-again")
            assert "is stood in for" in operator.server.log_file.read_text()
