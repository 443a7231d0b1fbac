"""Clusters that are asked through their API servers, and plans that go through them."""

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from etcd_steward.engine.live_source import LiveSource
from etcd_steward.engine.report import Tracker
from etcd_steward.engine.restore.place import Place
from etcd_steward.engine.restore.plan import Planned, make_plan
from etcd_steward.engine.restore.via_api import ApiSettings
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.kube_client import Client
from etcd_steward.kube_objects import ApiServer
from etcd_steward.models.registry import Filter
from etcd_steward.models.restore import PlanItem, RestoreOptions, SourceRef
from tests.support.applying import a_place
from tests.support.runs import Heard, connection
from tests.testbed import ControlPlane

Object = dict[str, Any]
SETTINGS = ApiSettings(restore="team.shop", uid="7c1e04b2", second_look_after=None)


@dataclass
class Cluster:
    """A control plane, and how it is asked."""

    plane: ControlPlane
    api: ApiServer
    client: EtcdClient = field(repr=False)

    async def get(self, namespace: str, *what: str) -> Object:
        found: Object = json.loads(
            await self.plane.kubectl("get", *what, "-n", namespace, "-ojson")
        )
        return found

    async def uid(self, namespace: str, kind: str, name: str) -> str:
        return str((await self.get(namespace, kind, name))["metadata"]["uid"])


@asynccontextmanager
async def cluster_of(plane: ControlPlane) -> AsyncIterator[Cluster]:
    client = await Client.connect(plane.kubeconfig)
    try:
        async with EtcdClient.connect(connection(plane.etcd)) as etcd:
            yield Cluster(plane, ApiServer(client), etcd)
    finally:
        await client.aclose()


async def planned(
    source: Cluster,
    target: Cluster,
    place: Place,
    include: Filter,
    **options: Any,  # noqa: ANN401
) -> Planned:
    live = await LiveSource.open(source.client, "/registry")
    (place.spool.directory / "restore.values").unlink(missing_ok=True)  # of an earlier plan
    return await make_plan(
        live,
        SourceRef(name=live.name, revision=live.revision, live=True),
        source.client,
        RestoreOptions(include=include, via="API", **options),
        prefix="/registry",
        spool=place.spool,
        tracker=Tracker(Heard()),
        api=target.api,
        time_to_live=timedelta(hours=1),
    )


@asynccontextmanager
async def place_of(tmp_path: Path) -> AsyncIterator[Place]:
    async with a_place(tmp_path / secrets.token_hex(4)) as place:
        yield place


async def config_maps(cluster: Cluster, namespace: str, **values: str) -> None:
    """Make ConfigMaps of these names, with these values."""
    resource = (await cluster.api.served()).find("configmaps")
    assert resource is not None
    for name, value in values.items():
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name},
            "data": {"a": value},
        }
        await cluster.api.create(resource, namespace, body, what=name)


def of(plan: Planned, resource: str, name: str) -> PlanItem:
    (found,) = [i for i in plan.plan.items if (i.resource, i.name) == (resource, name)]
    return found
