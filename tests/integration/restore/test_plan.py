"""Plans of a real registry: what would come back of a namespace that was deleted, and why not."""

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from etcd_steward.engine.live_source import LiveSource
from etcd_steward.engine.look import look_into_file
from etcd_steward.engine.report import Tracker
from etcd_steward.engine.restore.deletion import before_deletion
from etcd_steward.engine.restore.last_seen import told_where
from etcd_steward.engine.restore.live import Live
from etcd_steward.engine.restore.plan import Planned, make_plan
from etcd_steward.engine.sources import Source
from etcd_steward.engine.spool import Spool
from etcd_steward.errors import InvalidInput, NoSuchNamespace, NotFound, Refused
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.models.connection import LocalSettings
from etcd_steward.models.registry import Filter
from etcd_steward.models.restore import PlanItem, RestoreOptions, SourceRef
from etcd_steward.models.run import SpoolSettings
from etcd_steward.registry.decode import decode
from tests.support.cli import steward
from tests.support.runs import Heard, connection
from tests.testbed import ControlPlane, EtcdCluster, wait_until
from tests.testbed.compare import Entry, entries
from tests.testbed.seed import seed

PREFIX = "/registry"
SHOP = RestoreOptions(include=Filter(namespaces=("shop",)))
SEARCH = RestoreOptions(include=Filter(namespaces=("search",)))


@dataclass(frozen=True)
class Registry:
    """A control plane, a snapshot of its etcd, and what happened since: `shop` was deleted."""

    plane: ControlPlane
    client: EtcdClient
    db: Path
    export: str
    """URL of a registry export of the same time."""
    before: dict[bytes, Entry]
    directory: Path

    @asynccontextmanager
    async def planned(
        self, source: Source, ref: SourceRef, options: RestoreOptions
    ) -> AsyncIterator[Planned]:
        """A plan, with its values."""
        settings = SpoolSettings(directory=self.directory / "spool")
        async with Spool.open(settings, f"plan-{secrets.token_hex(4)}") as spool:
            planned = await make_plan(
                source,
                ref,
                self.client,
                options,
                prefix=PREFIX,
                spool=spool,
                tracker=Tracker(Heard()),
                api=None,
                time_to_live=timedelta(hours=1),
            )
            with closing(planned):
                yield planned

    @asynccontextmanager
    async def from_file(self, options: RestoreOptions, **more: Any) -> AsyncIterator[Planned]:  # noqa: ANN401
        """A plan from the snapshot."""
        settings = SpoolSettings(directory=self.directory / "looking")
        async with AsyncExitStack() as stack:
            source = await look_into_file(self.db, stack, settings, Heard())
            ref = SourceRef(name="snapshot", revision=source.revision, **more)
            yield await stack.enter_async_context(self.planned(source, ref, options))

    @asynccontextmanager
    async def before_deletion(self, options: RestoreOptions) -> AsyncIterator[Planned]:
        """A plan from etcd's own history."""
        live = await LiveSource.open(self.client, PREFIX)
        now = await Live.open(self.client, PREFIX)
        source, ref = await before_deletion(live, now, options, PREFIX)
        async with self.planned(source, ref, options) as planned:
            yield planned


@pytest.fixture(scope="module")
async def registry(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Registry]:
    directory = tmp_path_factory.mktemp("plans")
    async with (
        EtcdCluster(directory / "etcd") as etcd,
        ControlPlane(directory / "plane", etcd) as plane,
        EtcdClient.connect(connection(etcd)) as client,
    ):
        await seed(plane)
        await _settled(plane)
        db = directory / "snapshot.db"
        await etcd.etcdctl("snapshot", "save", db)
        store = directory / "store"
        flags = (*etcd.connection_flags(), f"--store=file://{store}", f"--spool-dir={directory}/x")
        exported = await steward("registry", "export", *flags)
        assert exported.code == 0, exported.err
        before = await entries(etcd)
        await plane.kubectl("delete", "namespace", "shop", timeout=180)
        await plane.kubectl("delete", "configmap", "settings-1", "--namespace=inventory")
        yield Registry(plane, client, db, exported.out.strip(), before, directory)


async def _settled(plane: ControlPlane) -> None:
    """Wait for what controllers make: claims bound, ReplicaSets and revisions there."""

    async def there() -> bool:
        kinds = "replicasets,controllerrevisions,persistentvolumeclaims"
        found = json.loads(await plane.kubectl("get", kinds, "-A", "-o=json"))["items"]
        by = [one["kind"] for one in found]
        bound = [one for one in found if one.get("status", {}).get("phase") == "Bound"]
        counts = (by.count("ReplicaSet"), by.count("ControllerRevision"), len(bound))
        return counts == (12, 12, 6)

    await wait_until(there, "the controllers are done", timeout=120)


def by_name(planned: Planned) -> dict[str, PlanItem]:
    """`deployments.apps/api`; cluster-scoped and namespaced ones alike."""
    return {f"{one.resource}/{one.name}": one for one in planned.plan.items}


def reasons(planned: Planned) -> dict[str, set[str]]:
    """The resources that are left out, by reason."""
    found: dict[str, set[str]] = {}
    for one in planned.plan.items:
        if one.verdict in {"excluded", "blocked"}:
            found.setdefault(f"{one.verdict} {one.reason}", set()).add(one.resource)
    return found


async def test_a_deleted_namespace_comes_back_whole_from_both_sources(registry: Registry) -> None:
    async with (
        registry.from_file(SHOP) as stored,
        registry.before_deletion(SHOP) as remembered,
        registry.before_deletion(SHOP) as again,
    ):
        items = by_name(stored)
        assert {one.verdict for one in stored.plan.items if one.write} == {"create"}
        for name in (
            "namespaces/shop", "serviceaccounts/default", "configmaps/kube-root-ca.crt",
            "deployments.apps/api", "statefulsets.apps/cache", "daemonsets.apps/worker",
            "secrets/token-0", "services/api", "persistentvolumeclaims/data",
            "cronjobs.batch/report", "widgets.testbed.etcdsteward.io/widget-1",
            "roles.rbac.authorization.k8s.io/api", "ingresses.networking.k8s.io/web",
        ):  # fmt: skip
            assert items[name].write, items[name]
        assert reasons(stored) == {
            "blocked UnfinishedJob": {"jobs.batch"},
            "excluded LeftToOthers": {
                "endpoints", "endpointslices.discovery.k8s.io", "events", "pods",
                "leases.coordination.k8s.io",
            },
        }  # fmt: skip
        assert {one.key for one in remembered.plan.items if one.write} == {
            one.key for one in stored.plan.items if one.write
        }
        assert remembered.plan.digest == again.plan.digest != stored.plan.digest
        assert remembered.plan.source.live
        assert remembered.plan.target_cluster == stored.plan.target_cluster
        for one in stored.plan.items:
            if one.write:
                value = stored.value(one)
                assert registry.before[one.key.encode()].value.hex() == one.sha256
                assert len(value) == one.size
        assert any("kube-controller-manager" in one for one in remembered.plan.warnings)
        assert "grants rights" in str(items["rolebindings.rbac.authorization.k8s.io/api"].notes)


async def test_what_belongs_together_is_one_group(registry: Registry) -> None:
    async with registry.from_file(SHOP) as planned:
        items = by_name(planned)
        writes = [one for one in planned.plan.items if one.write]
        groups = [one.group for one in writes]
        assert groups == sorted(groups)
        assert groups[0] == 1
        assert [(one.resource, one.name) for one in writes[:3]] == [
            ("configmaps", "kube-root-ca.crt"),
            ("serviceaccounts", "default"),
            ("namespaces", "shop"),
        ]
        assert {one.group for one in writes[:3]} == {1}
        for kind, owner in (("replicasets.apps", "api"), ("controllerrevisions.apps", "cache")):
            workload = "deployments.apps" if kind == "replicasets.apps" else "statefulsets.apps"
            dependents = [
                one for one in writes if one.resource == kind and one.name.startswith(owner)
            ]
            assert dependents
            assert {one.group for one in dependents} == {items[f"{workload}/{owner}"].group}
            assert writes.index(items[f"{workload}/{owner}"]) < writes.index(dependents[0])
        first = {
            resource: min(one.group for one in writes if one.resource == resource)
            for resource in {one.resource for one in writes}
        }
        order = (
            "namespaces", "serviceaccounts", "secrets", "persistentvolumeclaims", "services",
            "deployments.apps", "ingresses.networking.k8s.io",
        )  # fmt: skip
        assert [first[one] for one in order] == sorted(first[one] for one in order)


async def test_workloads_come_back_at_rest_if_asked(registry: Registry) -> None:
    options = SHOP.model_copy(update={"workloads": "Suspended"})
    async with registry.from_file(options) as planned:
        items = by_name(planned)
        api = decode(planned.value(items["deployments.apps/api"])).object
        assert api["spec"]["replicas"] == 0
        assert api["metadata"]["generation"] == 2
        assert api["spec"]["template"]["spec"]["containers"][0]["name"] == "api"
        job = decode(planned.value(items["jobs.batch/migrate"])).object
        assert job["spec"]["suspend"]
        assert items["deployments.apps/api"].notes == ("at rest: replicas 2 becomes 0",)
        assert "DaemonSet" in items["daemonsets.apps/worker"].notes[0]
        assert items["deployments.apps/api"].uid


async def test_what_is_there_is_compared(registry: Registry) -> None:
    shown = ("--namespace=search",)
    await registry.plane.kubectl("label", "configmap", "settings-2", "a=b", *shown)
    await registry.plane.kubectl("delete", "serviceaccount", "cache", *shown)
    await registry.plane.kubectl("create", "serviceaccount", "cache", *shown)
    await registry.plane.kubectl("delete", "configmap", "settings-3", *shown)
    try:
        for policy in ("Skip", "Overwrite", "Fail"):
            options = SEARCH.model_copy(update={"existing_objects": policy})
            async with registry.from_file(options) as planned:
                items = by_name(planned)
                assert items["configmaps/settings-4"].verdict == "identical"
                differing = items["configmaps/settings-2"]
                assert (differing.verdict, differing.write) == ("differs", policy == "Overwrite")
                other = items["serviceaccounts/cache"]
                assert (other.verdict, other.write) == ("conflict", False)
                assert other.uid != other.live_uid
                created = items["configmaps/settings-3"]
                assert (created.verdict, created.write) == ("create", policy != "Fail")
                if policy == "Overwrite":
                    found = await planned.live_values([differing, created])
                    assert list(found) == [differing.key]
                    assert found[differing.key].mod_revision == differing.live_revision
                    assert planned.plan.writes >= 2
                if policy == "Fail":
                    assert planned.plan.writes == 0
                    assert "nothing is written" in planned.plan.warnings[0]
    finally:
        await registry.plane.kubectl("label", "configmap", "settings-2", "a-", *shown)


async def test_a_single_object_comes_back_from_history(registry: Registry) -> None:
    include = Filter(namespaces=("inventory",), resources=("configmaps",), names=("settings-*",))
    async with registry.before_deletion(RestoreOptions(include=include)) as planned:
        (write,) = [one for one in planned.plan.items if one.write]
        assert write.name == "settings-1"
        assert registry.before[write.key.encode()].value.hex() == write.sha256


async def test_addresses_that_are_taken_block_a_service(registry: Registry) -> None:
    async with registry.from_file(SHOP) as planned:
        found = decode(planned.value(by_name(planned)["services/api"])).object
    address = found["spec"]["clusterIP"]
    words = ("service", "clusterip", "thief", "--tcp=80", f"--clusterip={address}")
    await registry.plane.kubectl("create", *words, "--namespace=billing")
    try:
        async with registry.from_file(SHOP) as planned:
            item = by_name(planned)["services/api"]
            assert (item.verdict, item.reason) == ("blocked", "AddressTaken")
            assert f"{address} by billing/thief" in item.message
            assert by_name(planned)["services/cache"].write
    finally:
        await registry.plane.kubectl("delete", "service", "thief", "--namespace=billing")


async def test_what_rules_the_cluster_is_restored_only_when_named(registry: Registry) -> None:
    name = "widgets.testbed.etcdsteward.io"
    crd = f"{PREFIX}/apiextensions.k8s.io/customresourcedefinitions/{name}"
    everything = Filter(resources=("*", "*.*"))
    async with registry.from_file(RestoreOptions(include=everything)) as planned:
        found = reasons(planned)
        assert "customresourcedefinitions.apiextensions.k8s.io" in found["excluded NotNamed"]
        assert "clusterroles.rbac.authorization.k8s.io" in found["excluded NotNamed"]
        assert "ipaddresses.networking.k8s.io" in found["excluded Never"]
    include = Filter(key_prefixes=(crd, f"{PREFIX}/testbed.etcdsteward.io/widgets/shop/"))
    async with registry.from_file(RestoreOptions(include=include)) as planned:
        items = by_name(planned)
        assert items[f"customresourcedefinitions.apiextensions.k8s.io/{name}"].verdict in {
            "identical",
            "differs",
        }
        assert items[f"{name}/widget-1"].write
        assert items["namespaces/shop"].write  # related


async def test_what_is_not_there_says_what_is(registry: Registry) -> None:
    nowhere = RestoreOptions(include=Filter(namespaces=("shopp",)))
    with pytest.raises(NotFound, match="no namespace shopp") as error:
        async with registry.from_file(nowhere):
            pass
    assert error.value.hint.startswith("there are shop, ")
    nothing = Filter(namespaces=("shop",), resources=("configmaps",), names=("nope",))
    with pytest.raises(NotFound, match="no configmaps 'nope' in namespace shop"):
        async with registry.from_file(RestoreOptions(include=nothing)):
            pass
    with pytest.raises(NotFound, match="nothing of what is asked for was deleted"):
        async with registry.before_deletion(
            RestoreOptions(include=Filter(namespaces=("monitoring",), resources=("secrets",)))
        ):
            pass
    with pytest.raises(InvalidInput, match="nothing is named"):
        async with registry.from_file(RestoreOptions()):
            pass
    mapped = SHOP.model_copy(update={"namespace_mapping": {"shop": "shop2"}})
    with pytest.raises(InvalidInput, match="another namespace"):
        async with registry.from_file(mapped):
            pass


async def test_a_namespace_that_is_gone_is_found_in_a_backup(registry: Registry) -> None:
    live = await LiveSource.open(registry.client, PREFIX)
    ref = SourceRef(name=live.name, revision=live.revision, live=True)
    include = Filter(namespaces=("shop", "nowhere", "search"))
    with pytest.raises(NoSuchNamespace, match="no namespace shop, nowhere in") as error:
        async with registry.planned(live, ref, RestoreOptions(include=include)):
            pass
    assert "search" in error.value.hint
    store = LocalSettings(path=registry.directory / "store")
    told = await told_where(error.value, store, PREFIX)
    assert told.hint.startswith(error.value.hint)
    assert f"shop was last seen in {registry.export}" in told.hint
    assert "nowhere is in none of the newest 1 backups" in told.hint
    empty = LocalSettings(path=registry.directory / "empty")
    assert (await told_where(error.value, empty, PREFIX)).hint == error.value.hint


async def test_another_clusters_backup_is_refused_unless_it_is_meant(registry: Registry) -> None:
    uid = "00000000-0000-0000-0000-000000000000"
    with pytest.raises(Refused, match="another cluster's"):
        async with registry.from_file(SHOP, kube_system_uid=uid):
            pass
    options = SHOP.model_copy(update={"other_cluster": True})
    async with registry.from_file(options, kube_system_uid=uid) as planned:
        assert planned.plan.writes
        assert uid in planned.plan.warnings[0]
