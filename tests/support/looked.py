"""A seeded registry that stands still: its etcd runs, its API server is gone."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.support.cli import Said, steward
from tests.testbed import ControlPlane, EtcdCluster
from tests.testbed.seed import seed

KINDS = (
    "configmaps,controllerrevisions,cronjobs,daemonsets,deployments,endpoints,endpointslices,"
    "horizontalpodautoscalers,ingresses,jobs,limitranges,networkpolicies,persistentvolumeclaims,"
    "poddisruptionbudgets,pods,replicasets,resourcequotas,rolebindings,roles,secrets,"
    "serviceaccounts,services,statefulsets,widgets,apiservices,clusterrolebindings,clusterroles,"
    "customresourcedefinitions,flowschemas,namespaces,persistentvolumes,priorityclasses,"
    "prioritylevelconfigurations,regions,storageclasses"
)
DELETED = "settings-3"
SECRET = "hunter2-and-more"


@dataclass(frozen=True, slots=True)
class Looked:
    """An etcd, two snapshots of it in a store, the last one as files, and kubectl's own words."""

    etcd: EtcdCluster
    store: str
    """URL of a directory with two snapshots in it, both with an index."""
    before: str
    """URL of the first, before `DELETED` was deleted in `shop`, and more."""
    url: str
    """URL of the last."""
    db: Path
    """etcdctl's own snapshot, of the same revision."""
    gz: Path
    revision: int
    before_at: datetime
    """A moment before the changes, which a Lease was renewed at; its last renewal is `last_at`."""
    last_at: datetime
    told: tuple[dict[str, Any], ...]
    """Every object of many kinds, as the API server told of it."""

    async def registry(self, *words: str | Path, timeout: float = 90) -> Said:
        """Look into the live etcd, or what `--from` says."""
        flags = self.etcd.connection_flags()
        return await steward("registry", *words, *flags, timeout=timeout)


@asynccontextmanager
async def looked(directory: Path) -> AsyncIterator[Looked]:
    """Seed a registry, take a snapshot, change a few objects, and take its API server away."""
    store = f"file://{directory / 'store'}"
    async with EtcdCluster(directory / "etcd") as etcd:
        async with ControlPlane(directory / "plane", etcd) as plane:
            await seed(plane)
            before = await _snapshot(etcd, store)
            before_at = await _renew(plane)
            await _change(plane)
            assert plane.controller_manager is not None
            await plane.controller_manager.stop()
            last_at = await _renew(plane)
            every = ("get", KINDS, "--all-namespaces", "--output=json", "--show-managed-fields")
            told = json.loads(await plane.kubectl(*every))
        url = await _snapshot(etcd, store)
        db = directory / "etcdctl.db"
        await etcd.etcdctl("snapshot", "save", db)
        gz = directory / "etcdctl.db.gz"
        data = await asyncio.to_thread(db.read_bytes)
        await asyncio.to_thread(gz.write_bytes, gzip.compress(data, 1))
        revision = await etcd.revision()
        told = tuple(told["items"])
        yield Looked(etcd, store, before, url, db, gz, revision, before_at, last_at, told)


async def _snapshot(etcd: EtcdCluster, store: str) -> str:
    saved = await steward(*etcd.connection_flags(), "snapshot", "save", f"--store={store}")
    assert saved.code == 0, saved.err
    return saved.out.strip()


async def _renew(plane: ControlPlane) -> datetime:
    """Renew a Lease, as its holder would."""
    now = datetime.now(UTC)
    spec = {"renewTime": now.isoformat(timespec="microseconds").replace("+00:00", "Z")}
    patch = f"--patch={json.dumps({'spec': spec})}"
    await plane.kubectl("patch", "lease", "leader", "--namespace=shop", "--type=merge", patch)
    return now


async def _change(plane: ControlPlane) -> None:
    shop = ("--namespace=shop",)
    await plane.kubectl("delete", "configmap", DELETED, *shop)
    await plane.kubectl("create", "configmap", "new", "--from-literal=a=b", *shop)
    await plane.kubectl("set", "image", "deployment/api", "*=registry.example.com/api:2", *shop)
    patch = json.dumps({"stringData": {"password": SECRET}})
    await plane.kubectl("patch", "secret", "token-1", f"--patch={patch}", *shop)
    await plane.kubectl("delete", "service", "cache", *shop)
    await plane.kubectl("create", "service", "clusterip", "cache", "--tcp=1", *shop)
