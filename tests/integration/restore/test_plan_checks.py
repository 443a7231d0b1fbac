"""What a plan refuses to write, each on a real etcd with the registry that it takes."""

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from etcd_steward.engine.live_source import LiveSource
from etcd_steward.engine.report import Tracker
from etcd_steward.engine.restore.plan import Planned, make_plan
from etcd_steward.engine.spool import Spool
from etcd_steward.errors import Refused
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.keys import KeyRange
from etcd_steward.models.registry import Filter
from etcd_steward.models.restore import PlanItem, RestoreOptions, SourceRef
from etcd_steward.models.run import SpoolSettings
from etcd_steward.registry import objectmeta
from tests.support.runs import Heard, connection
from tests.support.values import serialised
from tests.testbed import EtcdCluster

NS = Filter(namespaces=("a",))
CRDS = "apiextensions.k8s.io/customresourcedefinitions"


def made(api_version: str, kind: str, name: str, namespace: str = "a", **body: Any) -> bytes:  # noqa: ANN401
    """An object in JSON, which every API server reads."""
    meta = {"name": name, "uid": f"uid-{kind}-{name}", **body.pop("metadata", {})}
    if namespace:
        meta["namespace"] = namespace
    return json.dumps({"apiVersion": api_version, "kind": kind, "metadata": meta, **body}).encode()


def owned_by(kind: str, name: str, api_version: str = "apps/v1") -> dict[str, Any]:
    """Metadata with an owner."""
    owner = {"apiVersion": api_version, "kind": kind, "name": name, "uid": f"uid-{kind}-{name}"}
    return {"ownerReferences": [owner]}


def config_map(name: str, **metadata: Any) -> bytes:  # noqa: ANN401
    return made("v1", "ConfigMap", name, metadata=metadata)


def definition(*versions: str, stored: tuple[str, ...]) -> bytes:
    """A CustomResourceDefinition of `widgets.example.com`."""
    return made(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        "widgets.example.com",
        "",
        spec={
            "group": "example.com",
            "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": one} for one in versions],
        },
        status={"storedVersions": list(stored)},
    )


@dataclass
class Bench:
    """A registry of a test's own, then and now."""

    client: EtcdClient
    prefix: str
    directory: Path
    revision: int = 0

    async def then(self, objects: dict[str, bytes], *, namespace: bool = True) -> None:
        """What the backup holds."""
        root = {"namespaces/a": made("v1", "Namespace", "a", "")} if namespace else {}
        for key, value in {**root, **objects}.items():
            await self.client.put(f"{self.prefix}/{key}".encode(), value)
        self.revision = (await self.client.range(b"x")).header.revision

    async def now(self, objects: dict[str, bytes]) -> None:
        """What is there now, and nothing else."""
        everything = KeyRange.prefix(f"{self.prefix}/".encode())
        await self.client.delete(everything.start, everything.end)
        for key, value in objects.items():
            await self.client.put(f"{self.prefix}/{key}".encode(), value)

    @asynccontextmanager
    async def planned(
        self,
        include: Filter = NS,
        *,
        live: bool = False,
        **options: Any,  # noqa: ANN401
    ) -> AsyncIterator[Planned]:
        """The plan; `live`: of the etcd's own history."""
        source = await LiveSource.open(self.client, self.prefix)
        settings = SpoolSettings(directory=self.directory)
        async with Spool.open(settings, secrets.token_hex(4)) as spool:
            planned = await make_plan(
                source,
                SourceRef(name="backup", revision=self.revision, live=live),
                self.client,
                RestoreOptions(include=include, **options),
                prefix=self.prefix,
                spool=spool,
                tracker=Tracker(Heard()),
                api=None,
                time_to_live=timedelta(hours=1),
            )
            with closing(planned):
                yield planned

    async def items(self, include: Filter = NS, **options: Any) -> dict[str, PlanItem]:  # noqa: ANN401
        """What the plan says, by key below the prefix."""
        async with self.planned(include, **options) as planned:
            return {one.key.removeprefix(f"{self.prefix}/"): one for one in planned.plan.items}


@pytest.fixture
async def bench(etcd: EtcdCluster, key_prefix: str, tmp_path: Path) -> AsyncIterator[Bench]:
    async with EtcdClient.connect(connection(etcd)) as client:
        yield Bench(client, key_prefix.rstrip("/"), tmp_path)


def verdict(item: PlanItem) -> tuple[str, str]:
    assert bool(item.sha256) == item.write
    return item.verdict, item.reason


WRITTEN = ("create", "")


async def test_encryption_keys_that_nothing_live_uses_are_blocked(bench: Bench) -> None:
    await bench.then(
        {
            "secrets/a/old": b"k8s:enc:aescbc:v1:key1:\x01\x02",
            "secrets/a/new": b"k8s:enc:aescbc:v1:key2:\x01\x02",
            "secrets/a/plain": made("v1", "Secret", "plain"),
            "configmaps/a/plain": config_map("plain"),
        }
    )
    await bench.now({"secrets/b/other": b"k8s:enc:aescbc:v1:key2:\x03"})
    items = await bench.items()
    assert verdict(items["secrets/a/old"]) == ("blocked", "KeyNotInUse")
    assert "aescbc:v1 key key1" in items["secrets/a/old"].message
    assert verdict(items["secrets/a/new"]) == WRITTEN
    assert verdict(items["secrets/a/plain"]) == ("blocked", "EncodingNotInUse")
    assert verdict(items["configmaps/a/plain"]) == WRITTEN
    assert "can't be looked at" in items["secrets/a/new"].notes[0]


async def test_what_no_api_server_could_read_is_blocked(bench: Bench) -> None:
    cbor = serialised(json.loads(config_map("cbor")))
    await bench.then(
        {
            "configmaps/a/garbage": b"garbage",
            "configmaps/a/damaged": b'{"apiVersion":"v1","kind":"ConfigMap"',
            "configmaps/a/cbor": b"\xd9\xd9\xf7" + cbor,
            "ingress/a/ancient": made("networking.k8s.io/v9", "Ingress", "ancient"),
        }
    )
    await bench.now({})
    items = await bench.items()
    assert verdict(items["configmaps/a/garbage"]) == ("blocked", "Undecodable")
    assert verdict(items["configmaps/a/damaged"]) == ("blocked", "Undecodable")
    assert verdict(items["configmaps/a/cbor"]) == ("blocked", "EncodingNotInUse")
    assert verdict(items["ingress/a/ancient"]) == ("blocked", "VersionNotServed")


async def test_custom_resources_need_a_definition_that_keeps_their_version(bench: Bench) -> None:
    def widgets(*versions: str) -> dict[str, bytes]:
        return {
            f"example.com/widgets/a/{one}": made(f"example.com/{one}", "Widget", one)
            for one in versions
        }

    crd = {f"{CRDS}/widgets.example.com": definition("v1", "v2", stored=("v2",))}
    await bench.then({**widgets("v1", "v2", "v3"), **crd})
    await bench.now(crd)
    items = await bench.items()
    assert verdict(items["example.com/widgets/a/v1"]) == ("blocked", "VersionNotStored")
    assert verdict(items["example.com/widgets/a/v2"]) == WRITTEN
    assert verdict(items["example.com/widgets/a/v3"]) == ("blocked", "VersionGone")
    await bench.now({})
    items = await bench.items()
    assert {verdict(one) for key, one in items.items() if "widgets" in key} == {
        ("blocked", "NoDefinition")
    }
    both = Filter(
        key_prefixes=(f"{bench.prefix}/{CRDS}/widgets.", f"{bench.prefix}/example.com/widgets/a/v2")
    )
    items = await bench.items(both)
    assert verdict(items["example.com/widgets/a/v2"]) == WRITTEN
    assert verdict(items[f"{CRDS}/widgets.example.com"]) == WRITTEN
    assert items[f"{CRDS}/widgets.example.com"].group < items["example.com/widgets/a/v2"].group


async def test_what_the_garbage_collector_would_take_is_blocked(bench: Bench) -> None:
    job = made(
        "batch/v1", "Job", "done", status={"conditions": [{"type": "Complete", "status": "True"}]}
    )
    await bench.then(
        {
            "deployments/a/web": made("apps/v1", "Deployment", "web"),
            "replicasets/a/web-1": made(
                "apps/v1", "ReplicaSet", "web-1", metadata=owned_by("Deployment", "web")
            ),
            "replicasets/a/gone-1": made(
                "apps/v1", "ReplicaSet", "gone-1", metadata=owned_by("Deployment", "gone")
            ),
            "configmaps/a/below": config_map("below", **owned_by("ReplicaSet", "gone-1")),
            "configmaps/a/live": config_map("live", **owned_by("Deployment", "live")),
            "configmaps/a/other": config_map("other", **owned_by("Deployment", "other")),
            "configmaps/a/node": config_map("node", **owned_by("Node", "n1", "v1")),
            "jobs/a/done": job,
            "configmaps/a/jobs": config_map("jobs", **owned_by("Job", "done", "batch/v1")),
        }
    )
    await bench.now(
        {
            "deployments/a/live": made("apps/v1", "Deployment", "live"),
            "deployments/a/other": made(
                "apps/v1", "Deployment", "other", metadata={"uid": "another"}
            ),
            "minions/n1": made("v1", "Node", "n1", ""),
        }
    )
    items = await bench.items()
    dangling = ("blocked", "DanglingOwner")
    assert verdict(items["deployments/a/web"]) == WRITTEN
    assert verdict(items["replicasets/a/web-1"]) == WRITTEN
    assert items["replicasets/a/web-1"].group == items["deployments/a/web"].group
    assert verdict(items["replicasets/a/gone-1"]) == dangling
    assert "Deployment gone" in items["replicasets/a/gone-1"].message
    assert verdict(items["configmaps/a/below"]) == dangling
    assert verdict(items["configmaps/a/live"]) == WRITTEN
    assert verdict(items["configmaps/a/other"]) == dangling
    assert verdict(items["configmaps/a/node"]) == WRITTEN
    assert verdict(items["jobs/a/done"]) == ("excluded", "FinishedJob")
    assert verdict(items["configmaps/a/jobs"]) == ("excluded", "LeftToOthers")


async def test_claims_and_volumes_come_back_together_or_not_at_all(bench: Bench) -> None:
    def claim(name: str, volume: str) -> bytes:
        return made("v1", "PersistentVolumeClaim", name, spec={"volumeName": volume})

    def volume(name: str, claim: str, **ref: str) -> bytes:
        ref = {"namespace": "a", "name": claim, "uid": f"uid-PersistentVolumeClaim-{claim}"} | ref
        return made("v1", "PersistentVolume", name, "", spec={"claimRef": ref})

    await bench.then(
        {
            "persistentvolumeclaims/a/one": claim("one", "pv1"),
            "persistentvolumes/pv1": volume("pv1", "one"),
            "persistentvolumeclaims/a/two": claim("two", "pv2"),
            "persistentvolumes/pv2": volume("pv2", "two"),
            "persistentvolumeclaims/a/three": claim("three", "pv3"),
            "persistentvolumes/pv9": volume("pv9", "nine"),
        }
    )
    await bench.now({"persistentvolumes/pv2": volume("pv2", "thief", uid="x")})
    items = await bench.items()
    assert verdict(items["persistentvolumeclaims/a/one"]) == WRITTEN
    assert verdict(items["persistentvolumes/pv1"]) == WRITTEN
    assert items["persistentvolumes/pv1"].group == items["persistentvolumeclaims/a/one"].group
    order = [key for key, one in items.items() if one.write]
    assert order.index("persistentvolumeclaims/a/one") < order.index("persistentvolumes/pv1")
    assert verdict(items["persistentvolumeclaims/a/two"]) == ("blocked", "VolumeTaken")
    assert not items["persistentvolumes/pv2"].write
    assert "will be Lost" in items["persistentvolumeclaims/a/three"].notes[0]
    assert "persistentvolumes/pv9" not in items
    alone = Filter(resources=("persistentvolumes",), names=("pv1",))
    items = await bench.items(alone)
    assert verdict(items["persistentvolumes/pv1"]) == ("blocked", "ClaimMissing")


async def test_what_was_being_deleted_stays_deleted_unless_it_is_named(bench: Bench) -> None:
    marked = {
        "deletionTimestamp": "2026-11-22T02:17:00Z",
        "deletionGracePeriodSeconds": 30,
        "finalizers": ["example.com/gone", "kubernetes.io/pvc-protection"],
    }
    await bench.then({"configmaps/a/marked": config_map("marked", **marked)})
    await bench.now({})
    items = await bench.items()
    assert verdict(items["configmaps/a/marked"]) == ("blocked", "BeingDeleted")
    named = Filter(namespaces=("a",), resources=("configmaps",), names=("marked",))
    async with bench.planned(named) as planned:
        (item,) = [one for one in planned.plan.items if one.name == "marked"]
        meta = objectmeta.read(planned.value(item))
        assert meta.deletion_timestamp is None
        assert meta.deletion_grace_period_seconds is None
        assert "deletionTimestamp" in item.notes[0]
        assert [note for note in item.notes if "example.com/gone" in note]
        assert not [note for note in item.notes if "pvc-protection" in note]


async def test_namespaces_that_were_going_or_are_missing(bench: Bench) -> None:
    going = made("v1", "Namespace", "a", "", metadata={"deletionTimestamp": "2026-11-22T02:17:00Z"})
    await bench.then({"namespaces/a": going, "configmaps/a/one": config_map("one")})
    await bench.now({})
    items = await bench.items()
    assert verdict(items["namespaces/a"]) == ("blocked", "BeingDeleted")
    assert verdict(items["configmaps/a/one"]) == ("blocked", "NoNamespace")
    items = await bench.items(include_cluster_scoped="None")
    assert list(items) == ["configmaps/a/one"]
    assert verdict(items["configmaps/a/one"]) == ("blocked", "NoNamespace")


async def test_a_terminating_namespace_takes_nothing(bench: Bench) -> None:
    await bench.then({"configmaps/a/one": config_map("one"), "configmaps/a/two": config_map("two")})
    marked = {"deletionTimestamp": "2026-11-22T02:17:00Z"}
    going = made("v1", "Namespace", "a", "", metadata=marked, status={"phase": "Terminating"})
    await bench.now({"namespaces/a": going, "configmaps/a/two": config_map("two")})
    items = await bench.items(existing_objects="Overwrite")
    blocked = ("blocked", "NamespaceTerminating")
    assert verdict(items["namespaces/a"]) == blocked
    assert verdict(items["configmaps/a/one"]) == blocked
    assert "kubectl wait --for=delete namespace/a" in items["configmaps/a/one"].message
    assert verdict(items["configmaps/a/two"]) == ("identical", "")


async def test_pod_security_that_would_be_rolled_back_is_told(bench: Bench) -> None:
    def namespace(level: str) -> bytes:
        labels = {"pod-security.kubernetes.io/enforce": level}
        return made("v1", "Namespace", "a", "", metadata={"labels": labels})

    await bench.then({"namespaces/a": namespace("privileged")})
    await bench.now({"namespaces/a": namespace("restricted")})
    item = (await bench.items(existing_objects="Overwrite"))["namespaces/a"]
    assert item.write
    assert item.notes == ("rolls back Pod Security: from enforce=restricted to enforce=privileged",)


async def test_quotas_node_ports_and_the_collector(bench: Bench) -> None:
    def service(name: str, port: int, protocol: str = "TCP") -> bytes:
        ports = [{"port": 80, "nodePort": port, "protocol": protocol}]
        return made("v1", "Service", name, spec={"type": "NodePort", "ports": ports})

    await bench.then(
        {
            "configmaps/a/one": config_map("one"),
            "configmaps/a/two": config_map("two"),
            "services/specs/a/taken": service("taken", 30001),
            "services/specs/a/free": service("free", 30001, "UDP"),
            "deployments/a/web": made("apps/v1", "Deployment", "web"),
            "replicasets/a/web-1": made(
                "apps/v1", "ReplicaSet", "web-1", metadata=owned_by("Deployment", "web")
            ),
        }
    )
    quota: dict[str, Any] = {
        "spec": {"hard": {"configmaps": "2"}},
        "status": {"used": {"configmaps": "1"}},
    }
    lease = {"holderIdentity": "m", "acquireTime": "2026-11-22T02:17:00.000000Z"}
    await bench.now(
        {
            "namespaces/a": made("v1", "Namespace", "a", ""),
            "resourcequotas/a/quota": made("v1", "ResourceQuota", "quota", **quota),
            "services/specs/b/thief": service("thief", 30001),
            "leases/kube-system/kube-controller-manager": made(
                "coordination.k8s.io/v1",
                "Lease",
                "kube-controller-manager",
                "kube-system",
                spec=lease,
            ),
        }
    )
    async with bench.planned() as planned:
        items = {one.name: one for one in planned.plan.items}
        assert verdict(items["taken"]) == ("blocked", "AddressTaken")
        assert "node port 30001 by b/thief" in items["taken"].message
        assert verdict(items["free"]) == WRITTEN
        unknown, quota_, collector = planned.plan.warnings
    assert "which cluster it is of" in unknown
    assert "configmaps 3 of 2" in quota_
    assert "since 2026-11-22 02:17:00Z" in collector


async def test_a_controller_manager_that_began_later_remembers_nothing(bench: Bench) -> None:
    def lease(began: str) -> dict[str, bytes]:
        name = "kube-controller-manager"
        spec = {"holderIdentity": "m", "acquireTime": began}
        value = made("coordination.k8s.io/v1", "Lease", name, "kube-system", spec=spec)
        return {f"leases/kube-system/{name}": value}

    rs = made("apps/v1", "ReplicaSet", "web-1", metadata=owned_by("Deployment", "web"))
    old, new = lease("2026-11-22T02:17:00.000000Z"), lease("2026-11-22T02:18:00.000000Z")
    deployment = {"deployments/a/web": made("apps/v1", "Deployment", "web")}
    await bench.then({**old, **deployment, "replicasets/a/web-1": rs})
    for now, warned in ((old, 1), (new, 0)):
        await bench.now(now)
        async with bench.planned(live=True) as planned:
            assert planned.plan.writes == 3
            assert len(planned.plan.warnings) == warned


async def test_what_is_never_written(bench: Bench) -> None:
    await bench.then(
        {
            "ranges/serviceips": b"x",
            "health": b"x",
            "ipaddresses/10.0.0.1": made("networking.k8s.io/v1", "IPAddress", "10.0.0.1", ""),
            "etcdsteward.io/etcdrestores/a/r": made("etcdsteward.io/v1alpha1", "EtcdRestore", "r"),
            "configmaps/a/one": config_map("one"),
        }
    )
    await bench.now({})
    everything = Filter(key_prefixes=(f"{bench.prefix}/",))
    items = await bench.items(everything)
    never = ("excluded", "Never")
    for key in (
        "ranges/serviceips", "health", "ipaddresses/10.0.0.1", "etcdsteward.io/etcdrestores/a/r",
    ):  # fmt: skip
        assert verdict(items[key]) == never, key
    assert verdict(items["configmaps/a/one"]) == WRITTEN


async def test_tokens_need_their_service_account(bench: Bench) -> None:
    def token(account: str) -> bytes:
        annotations = {
            "kubernetes.io/service-account.name": account,
            "kubernetes.io/service-account.uid": f"uid-ServiceAccount-{account}",
        }
        return made("v1", "Secret", account, metadata={"annotations": annotations})

    await bench.then(
        {
            **{f"secrets/a/{one}": token(one) for one in ("one", "two", "three")},
            "serviceaccounts/a/one": made("v1", "ServiceAccount", "one"),
        }
    )
    await bench.now({"serviceaccounts/a/two": made("v1", "ServiceAccount", "two")})
    items = await bench.items()
    assert verdict(items["secrets/a/one"]) == WRITTEN
    assert verdict(items["secrets/a/two"]) == WRITTEN
    assert verdict(items["secrets/a/three"]) == ("blocked", "NoServiceAccount")
    assert "tokens that were bound" in items["serviceaccounts/a/one"].notes[0]


async def test_a_resource_that_nobody_knows_is_blocked(bench: Bench) -> None:
    await bench.then({"gadgets/a/one": made("new.k8s.io/v1", "Gadget", "one")})
    await bench.now({})
    items = await bench.items()
    assert items["gadgets/a/one"].resource == "gadgets.new.k8s.io"
    assert verdict(items["gadgets/a/one"]) == ("blocked", "UnknownResource")


async def test_a_lease_that_has_gone_is_not_brought_back(bench: Bench) -> None:
    lease = await bench.client.grant_lease(600)
    key = f"{bench.prefix}/configmaps/a/leased".encode()
    await bench.client.put(key, config_map("leased"), lease=lease)
    await bench.then({})
    await bench.now({})
    assert verdict((await bench.items())["configmaps/a/leased"]) == ("excluded", "Leased")


async def test_the_uid_of_kube_system_tells_whose_backup_it_is(bench: Bench) -> None:
    def system(uid: str) -> dict[str, bytes]:
        value = made("v1", "Namespace", "kube-system", "", metadata={"uid": uid})
        return {"namespaces/kube-system": value}

    await bench.then({**system("one"), "configmaps/a/one": config_map("one")})
    await bench.now(system("one"))
    async with bench.planned() as planned:
        assert planned.plan.warnings == ()
    await bench.now(system("two"))
    with pytest.raises(Refused, match="has the uid one; here it has two"):
        await bench.items()
