"""The story: an etcd fills up, somebody is paged, its EtcdMaintenance rescues it, all is well.

All parts are real: the API server that fills it, the operator, Prometheus with the shipped rules as
they are, Alertmanager. What they have seen then answers every question of the shipped dashboard.
`DRAW=docs/images/dashboard.svg` draws it for the documentation.
"""

import asyncio
import json
import os
import re
import time
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.users import Object, User, backup, condition, installed, s3_store
from tests.testbed import (
    Alertmanager,
    ControlPlane,
    EtcdCluster,
    Prometheus,
    SeaweedFS,
    TestbedError,
    wait_until,
)
from tests.testbed.picture import Chart, Drawn, draw
from tests.testbed.prometheus import Series
from tests.testbed.steward import NAMESPACE, ROOT, Steward

QUOTA = 32 << 20
RULES = [ROOT / "deploy" / "alerts" / f"{group}.yaml" for group in ("etcd-steward", "etcd-size")]
DASHBOARD = ROOT / "deploy" / "dashboard" / "etcd-steward.json"
PICTURE = ROOT / "docs" / "images" / "dashboard.svg"
SHOWN = ("Quota used", "Database", "Alarms", "History", "Writes", "Age of the newest backup")
"""Panels of the picture."""
PATIENCE = 240  # seconds
AGAIN = 600
"""Seconds after which even a rescue that failed at first has been tried again."""
MAINTAINED = f"{NAMESPACE}/main"
"""What the metrics call this etcd."""


def maintenance() -> Object:
    return {
        "apiVersion": "etcdsteward.io/v1alpha1",
        "kind": "EtcdMaintenance",
        "metadata": {"name": "main", "namespace": NAMESPACE},
        "spec": {
            "schedule": "30 3 * * 0",
            "defragmentation": {"always": True, "allowSingleMember": True},
            "alarms": {"noSpace": "Rescue", "backupName": "nightly"},
            "diskRoom": "1Gi",  # a rescue goes no deeper than it must: the quota may leave no room
        },
    }


@dataclass
class Scene:
    """Who takes part."""

    user: User
    prometheus: Prometheus
    pager: Alertmanager
    began: float

    async def asked(self, expression: str) -> dict[str, float]:
        """An expression's answers by member, or by the only thing there is."""
        return {
            one.labels.get("member", ""): one.value
            for one in await self.prometheus.query(expression)
        }

    async def shows(self, expression: str, what: str, timeout: float = PATIENCE) -> None:
        """Wait until an expression has an answer."""

        async def answered() -> bool:
            return bool(await self.prometheus.query(expression))

        await wait_until(answered, what, timeout=timeout, interval=0.3)


@pytest.fixture(scope="module")
async def scene(
    seaweedfs: SeaweedFS, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Scene]:
    directory = tmp_path_factory.mktemp("story")
    bucket = await seaweedfs.create_bucket("story")
    etcd = EtcdCluster(directory / "etcd", mtls=True, flags={"quota-backend-bytes": str(QUOTA)})
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(etcd)
        plane = await stack.enter_async_context(ControlPlane(directory / "kubernetes", etcd))
        await installed(plane, seaweedfs)
        user = User(plane)
        nightly = {"schedule": "17 2 * * *", "store": s3_store(seaweedfs, bucket)}
        await user.apply(backup("nightly", nightly), maintenance())
        await user.plane.kubectl(
            *("annotate", "ebk/nightly", "-n", NAMESPACE, "etcdsteward.io/requestedAt=now")
        )
        steward = await stack.enter_async_context(Steward(directory / "operator", plane))
        pager = await stack.enter_async_context(Alertmanager(directory / "alertmanager"))
        prometheus = Prometheus(
            directory / "prometheus",
            {"etcd-steward": [f"127.0.0.1:{steward.metrics_port}"]},
            rules=RULES,
            alertmanager=pager,
        )
        await stack.enter_async_context(prometheus)
        yield Scene(user, prometheus, pager, time.time())


def letter(number: int) -> Object:
    """A ConfigMap of nearly a megabyte that compresses to nothing, and etcd doesn't compress."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "diary", "namespace": "default"},
        "data": {"page": f"{number:04} " + "all work and no play " * 45_000},
    }


async def fill(user: User) -> int:
    """Write the same object again and again until etcd refuses; returns how often it took it."""
    taken, last = 0, ""
    for number in range(100):
        try:
            await user.plane.kubectl("replace", "-f", "-", stdin=json.dumps(letter(number)))
            taken += 1
        except TestbedError as error:
            last = str(error)
            if "database space exceeded" in last:
                return taken
    raise AssertionError(f"etcd has taken {taken} MB with a quota of 32 MB: {last}")


@pytest.mark.timeout(1500)
async def test_an_etcd_fills_up_and_is_rescued(scene: Scene) -> None:
    user, pager = scene.user, scene.pager.pager
    await scene.shows("etcd_steward_backup_last_verified_timestamp_seconds", "a proven backup")
    await scene.shows(f"etcd_steward_etcd_quota_bytes == {QUOTA}", "the quota is seen")
    await user.plane.kubectl("create", "-f", "-", stdin=json.dumps(letter(0)))
    assert await fill(user) > 20

    # Somebody is paged,
    async def paged() -> bool:
        return "firing" in pager.states("EtcdNoSpace")

    await wait_until(paged, "somebody is paged", timeout=PATIENCE)
    page = next(alert for alert in pager.received if alert.name == "EtcdNoSpace")
    assert page.labels["severity"] == "critical"
    assert page.labels["etcd_cluster"] == MAINTAINED
    assert page.annotations["summary"] == f"etcd {MAINTAINED} is full and refuses every write"
    assert page.annotations["runbook_url"].endswith("/docs/runbooks/EtcdNoSpace.md")

    # and before anybody can do anything, it is over.
    async def over() -> bool:
        return pager.states("EtcdNoSpace")[-1] == "resolved"

    await wait_until(over, "the page is taken back", timeout=AGAIN)
    await user.plane.kubectl("create", "configmap", "after", "-n", "default")
    sizes = await scene.asked("etcd_steward_etcd_db_size_bytes")
    assert all(size < 0.9 * QUOTA for size in sizes.values()), sizes  # 0.8, and some writes since
    assert not await scene.prometheus.query("etcd_steward_etcd_alarm == 1")
    await scene.shows(
        'etcd_steward_maintenance_runs_total{task="rescue",result="complete"} == 1',
        "the rescue is counted",
    )

    async def told() -> bool:
        ready = condition(await user.get("emaint", "main"), "Ready")
        return bool(ready["status"] == "True")

    await wait_until(told, "the EtcdMaintenance is well again", timeout=PATIENCE)
    assert pager.states("EtcdNoSpace") == ["firing", "resolved"]
    assert not {"EtcdStewardDown", "BackupStale", "BackupFailing"} & await scene.prometheus.firing()


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


async def test_the_dashboard_has_an_answer_to_every_question(scene: Scene) -> None:
    user = scene.user
    await user.plane.kubectl(  # so that a round has been, too
        *("annotate", "emaint/main", "-n", NAMESPACE, "etcdsteward.io/requestedAt=now")
    )
    await scene.shows(
        'etcd_steward_maintenance_last_success_timestamp_seconds{task="round"}', "a round is over"
    )
    variable = next(
        one for one in json.loads(DASHBOARD.read_text())["templating"]["list"]
        if one["type"] == "query"
    )  # fmt: skip
    asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"])
    assert asked
    values = await scene.prometheus.label_values(asked[2], asked[1])
    assert values == [MAINTAINED]
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"].replace(f"${variable['name']}", values[0])
            await scene.shows(expression, f"{panel['title']}: {expression}", timeout=60)


def legend(template: str, series: Series) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: series.labels.get(match[1], ""), template)


async def charts(scene: Scene) -> AsyncIterator[Chart]:
    by_title = {panel["title"]: panel for panel in panels()}
    for title in SHOWN:
        panel = by_title[title]
        lines = [
            Drawn(legend(target["legendFormat"], series), series.values)
            for target in panel["targets"]
            for series in await scene.prometheus.history(
                target["expr"].replace("$etcd_cluster", MAINTAINED), scene.began, 1.0
            )
        ]
        yield Chart(title, panel["fieldConfig"]["defaults"]["unit"], lines)


def lines_of(picture: str) -> list[ET.Element]:
    root = ET.fromstring(picture)  # noqa: S314, it is our own
    return root.findall(".//{http://www.w3.org/2000/svg}polyline")


async def test_the_picture_shows_it(scene: Scene) -> None:
    title = "An etcd with a quota of 32 MB fills up and is rescued"
    picture = draw([chart async for chart in charts(scene)], title)
    assert len(lines_of(picture)) >= len(SHOWN)
    if target := os.environ.get("DRAW"):
        await asyncio.to_thread(Path(target).write_text, picture, encoding="utf-8")
    committed = PICTURE.read_text(encoding="utf-8")
    assert len(lines_of(committed)) >= len(SHOWN)
    for panel in SHOWN:
        assert f">{panel}</text>" in committed
