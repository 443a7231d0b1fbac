"""Namespaces that were deleted with kubectl come back, with every uid, and stay.

From a snapshot, from an export and from etcd's own history, side by side: one control plane and one
wait for the garbage collector serve them all.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from etcd_steward.engine.restore.session import Session, opened
from etcd_steward.engine.restore.undo import UndoSettings, undo
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.models.connection import LocalSettings
from etcd_steward.models.registry import Filter
from etcd_steward.models.restore import Plan, RestoreOptions, RestoreReport
from etcd_steward.models.restore_run import From, FromBackup, FromHistory, RestoreRequest
from etcd_steward.models.run import SpoolSettings
from tests.support.cli import steward
from tests.support.informer import Informer, following
from tests.support.runs import Heard, connection
from tests.testbed import ControlPlane, EtcdCluster, wait_until
from tests.testbed.compare import Entry, entries
from tests.testbed.seed import seed

STAYS = float(os.environ.get("RESTORED_FOR", "90"))
"""Seconds that the garbage collector gets to take something again."""
GONE = float(os.environ.get("DELETED_FOR", "0"))
"""Seconds that pass between the deletion and the restore."""
EXPECTED = {
    "configmaps", "cronjobs.batch", "controllerrevisions.apps", "daemonsets.apps",
    "deployments.apps", "horizontalpodautoscalers.autoscaling", "ingresses.networking.k8s.io",
    "limitranges", "namespaces", "networkpolicies.networking.k8s.io", "persistentvolumeclaims",
    "poddisruptionbudgets.policy", "replicasets.apps", "resourcequotas",
    "rolebindings.rbac.authorization.k8s.io", "roles.rbac.authorization.k8s.io", "secrets",
    "serviceaccounts", "services", "statefulsets.apps", "widgets.testbed.etcdsteward.io",
}  # fmt: skip
"""What a seeded namespace gets back."""
OTHERS = (
    "events", "leases", "services/endpoints", "endpointslices", "ipaddresses", "ranges",
    "masterleases", "persistentvolumes", "horizontalpodautoscalers", "resourcequotas",
)  # fmt: skip
"""What controllers write meanwhile, wherever it is."""


@dataclass(frozen=True)
class Restored:
    """A control plane with three namespaces that were deleted and restored."""

    plane: ControlPlane
    directory: Path
    before: Mapping[bytes, Entry]
    """What etcd held while they were there."""
    without: Mapping[bytes, Entry]
    """And while they were not."""
    sources: Mapping[str, From]
    plans: Mapping[str, Plan]
    reports: Mapping[str, RestoreReport]
    informer: Informer

    @asynccontextmanager
    async def session(
        self, namespace: str, uid: str = "", second_look: float | None = None
    ) -> AsyncIterator[Session]:
        """A restore of one namespace."""
        request = RestoreRequest(
            name=f"team.{namespace}",
            uid=uid or f"{namespace}1",
            etcd=connection(self.plane.etcd),
            source=self.sources[namespace],
            store=LocalSettings(path=self.directory / "restores"),
            kubeconfig=self.plane.kubeconfig,
            spool=SpoolSettings(directory=self.directory / "spool"),
            options=RestoreOptions(include=Filter(namespaces=(namespace,))),
            apply=True,
            unthrottled=True,
            second_look=second_look,
        )
        async with (
            EtcdClient.connect(request.etcd) as client,
            opened(request, client, Heard()) as session,
        ):
            yield session


@pytest.fixture(scope="module")
async def restored(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Restored]:
    directory = tmp_path_factory.mktemp("namespaces")
    async with (
        EtcdCluster(directory / "etcd") as etcd,
        ControlPlane(directory / "plane", etcd) as plane,
    ):
        await seed(plane)
        watched = ("configmap", "watched", "--namespace=billing")
        await plane.kubectl("create", *watched, "--from-literal=value=1")
        await plane.kubectl("label", *watched, "informer=yes")
        await _settled(plane)
        sources = await _sources(etcd, directory / "store")
        before = await entries(etcd)
        async with following(plane, "billing") as informer:
            await plane.kubectl("delete", "namespace", *sources, timeout=180)
            await plane.kubectl("delete", "pv", "pv-billing", timeout=60)
            without = await entries(etcd)
            assert informer.contents == {}
            await asyncio.sleep(GONE)
            found = Restored(plane, directory, before, without, sources, {}, {}, informer)
            yield await _restore_all(found)


async def _restore_all(found: Restored) -> Restored:
    async def one(namespace: str) -> tuple[Plan, RestoreReport]:
        async with found.session(namespace, second_look=STAYS) as session:
            planned = await session.plan()
            return planned.plan, await session.apply(planned)

    async with asyncio.TaskGroup() as group:
        tasks = {name: group.create_task(one(name)) for name in found.sources}
    done = {name: task.result() for name, task in tasks.items()}
    return Restored(
        found.plane,
        found.directory,
        found.before,
        found.without,
        found.sources,
        {name: plan for name, (plan, _) in done.items()},
        {name: report for name, (_, report) in done.items()},
        found.informer,
    )


async def _sources(etcd: EtcdCluster, store: Path) -> dict[str, From]:
    flags = (*etcd.connection_flags(), f"--store=file://{store}")
    for name, *words in (("full", "snapshot", "save"), ("keys", "registry", "export")):
        said = await steward(*words, f"--name={name}", *flags)
        assert said.code == 0, said.err
    return {
        "billing": FromBackup(store=LocalSettings(path=store), backup="_cli.full"),
        "checkout": FromBackup(store=LocalSettings(path=store), backup="_cli.keys"),
        "inventory": FromHistory(before_deletion=True),
    }


async def _settled(plane: ControlPlane) -> None:
    """Wait until controllers have made of it what they make."""

    async def complete() -> bool:
        kinds = "replicasets,controllerrevisions,persistentvolumeclaims"
        told = await plane.kubectl("get", kinds, "--all-namespaces", "--output=json")
        items = json.loads(told)["items"]
        bound = [one for one in items if one.get("status", {}).get("phase") == "Bound"]
        return len(bound) == 6 and len(items) == 6 * 5

    await wait_until(complete, "every workload has its parts, every claim its volume", timeout=120)


@pytest.mark.timeout(600)
async def test_every_object_is_back_with_its_uid_and_stays(restored: Restored) -> None:
    now = await entries(restored.plane.etcd)
    for namespace, report in restored.reports.items():
        plan = restored.plans[namespace]
        written = [item for item in plan.items if item.write]
        assert {item.resource for item in written} >= EXPECTED
        assert {item.verdict for item in written} == {"create"}
        assert report.counts == {"written": len(written)}, report.restored
        assert report.read_back == len(written)
        assert report.warnings == ()
        assert report.taken_since == ()  # the second look, after so many seconds
        assert report.second_look is not None
        # What is not written is of no use without a controller, and that one makes it anew.
        gone = {
            key.split(b"/")[2].decode()
            for key in restored.before
            if f"/{namespace}/".encode() in key and key not in now
        }
        assert gone <= {"pods", "events", "endpointslices", "leases", "jobs"}
    uids = await _uids(restored.plane)
    for plan in restored.plans.values():
        for item in plan.items:
            if item.write:
                assert uids[item.resource, item.namespace, item.name] == item.uid
    assert restored.informer.contents == {"watched": "1"}
    assert restored.informer.lists == 1  # its watch has never ended
    volume = json.loads(await restored.plane.kubectl("get", "pv", "pv-billing", "-ojson"))
    assert volume["status"]["phase"] == "Bound"


async def _uids(plane: ControlPlane) -> dict[tuple[str, str | None, str], str]:
    told = await plane.kubectl("get", ",".join(sorted(EXPECTED | {"pv"})), "-A", "-ojson")
    found = {}
    for one in json.loads(told)["items"]:
        group = one["apiVersion"].rpartition("/")[0]
        meta = one["metadata"]
        names = [word for word in EXPECTED | {"persistentvolumes"} if _fits(word, one["kind"])]
        for name in names:
            if name.partition(".")[2] == group:
                found[name, meta.get("namespace"), meta["name"]] = meta["uid"]
    return found


def _fits(resource: str, kind: str) -> bool:
    plural = resource.partition(".")[0]
    return plural in {f"{kind.lower()}s", f"{kind.lower()}es", f"{kind.lower()[:-1]}ies"}


async def test_nothing_else_is_touched(restored: Restored) -> None:
    now = await entries(restored.plane.etcd)
    mine = [f"/{name}".encode() for name in restored.sources]
    allowed = tuple(f"/registry/{word}/".encode() for word in OTHERS)
    for key in restored.before.keys() | now.keys():
        elsewhere = not any(one + b"/" in key or key.endswith(one) for one in mine)
        if elsewhere and not key.startswith((*allowed, b"compact_rev_key")):
            one, other = restored.before.get(key), now.get(key)
            assert one is not None, key
            assert other is not None, key
            assert one.value == other.value, key


async def test_a_second_run_writes_nothing(restored: Restored) -> None:
    before = await entries(restored.plane.etcd)
    async with restored.session("billing", "billing2") as session:
        planned = await session.plan()
        plan, report = planned.plan, await session.apply(planned)
    assert plan.writes == 0
    assert report.counts == {}
    now = await entries(restored.plane.etcd)
    for item in plan.items:
        if item.resource != "events":
            assert before.get(item.key.encode()) == now.get(item.key.encode())


async def test_an_undo_returns_to_before(restored: Restored) -> None:
    volumes = Filter(resources=("persistentvolumeclaims", "persistentvolumes"))
    async with restored.session("billing") as session:
        settings = UndoSettings(restore="team.undo", uid="undo1", volumes=volumes)
        assert session.api is not None
        report = await undo(session.client, session.api, session.place, session.tracker, settings)
    failed = [one for one in report.undone if one.outcome not in {"deleted", "gone"}]
    assert failed == []
    assert await restored.plane.kubectl("get", "pv", "pv-billing", "--ignore-not-found") == ""
    now = await entries(restored.plane.etcd)
    left = [key for key in now if b"/billing/" in key and key not in restored.without]
    assert left == []
    assert b"/registry/namespaces/billing" not in now

    # Left alone: a claim that nobody has named, and so its namespace with it.
    async with restored.session("checkout") as session:
        settings = UndoSettings(restore="team.undo", uid="undo2")
        report = await undo(session.client, session.api, session.place, session.tracker, settings)
    left_alone = {one.key: one.message for one in report.undone if one.outcome == "left"}
    assert set(left_alone) == {
        "/registry/persistentvolumeclaims/checkout/data",
        "/registry/namespaces/checkout",
    }
    assert "persistentvolumeclaims data" in left_alone["/registry/namespaces/checkout"]
    told = await restored.plane.kubectl("get", "pvc", "-n", "checkout", "-ojson")
    assert [one["status"]["phase"] for one in json.loads(told)["items"]] == ["Bound"]
