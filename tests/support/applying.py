"""Plans of made-up objects, and applying them; also as a process that is killed on the way."""

import asyncio
import base64
import hashlib
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from etcd_steward.engine.report import Tracker
from etcd_steward.engine.restore.apply import ApplySettings, apply
from etcd_steward.engine.restore.place import Place, folder_of
from etcd_steward.engine.restore.stash import Planned
from etcd_steward.engine.spool import Spool
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.models.connection import EtcdConnection, LocalSettings
from etcd_steward.models.restore import Plan, PlanItem, RestoreOptions, RestoreReport, SourceRef
from etcd_steward.models.run import Progress, SpoolSettings
from etcd_steward.store import open_store
from tests.support.runs import Heard
from tests.testbed.process import clean_environment

CLUSTER = "1f0c9a3e"


def config_map(name: str, namespace: str, data: str = "", *, uid: str = "") -> bytes:
    """A ConfigMap as an API server might have stored it."""
    uid = uid or str(uuid.uuid5(uuid.NAMESPACE_URL, f"{namespace}/{name}"))
    metadata = {
        "name": name,
        "namespace": namespace,
        "uid": uid,
        "creationTimestamp": "2026-11-22T02:17:00Z",
    }
    found = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata, "data": {"a": data}}
    return json.dumps(found).encode()


@dataclass
class Made:
    """A plan with its values in memory."""

    plan: Plan
    values: dict[str, bytes] = field(repr=False)
    asked: Callable[[PlanItem], object] = field(default=lambda _: None, repr=False)
    """Called in a thread whenever a value is wanted."""

    def value(self, item: PlanItem) -> bytes:
        self.asked(item)
        return self.values[item.key]

    @property
    def items(self) -> tuple[PlanItem, ...]:
        return self.plan.items

    def with_plan(self, **changes: Any) -> "Made":  # noqa: ANN401
        """The same values with another plan."""
        return replace(self, plan=self.plan.model_copy(update=changes))


async def made(
    client: EtcdClient, wanted: Mapping[str, bytes], *, groups: Sequence[int] = ()
) -> Made:
    """A plan to write these values over whatever is there; a group each, unless `groups` tells."""
    items = []
    revision = cluster = 0
    for number, (key, value) in enumerate(wanted.items()):
        answer = await client.range(key.encode())
        revision, cluster = answer.header.revision, answer.header.cluster_id
        there = answer.kvs[0] if answer.kvs else None
        meta = json.loads(value)["metadata"] if value.startswith(b"{") else {}
        items.append(
            PlanItem(
                key=key,
                resource="configmaps" if meta else "",
                namespace=meta.get("namespace"),
                name=meta.get("name", ""),
                verdict="create" if there is None else "differs",
                write=True,
                group=groups[number] if groups else number,
                sha256=hashlib.sha256(value).hexdigest(),
                size=len(value),
                uid=meta.get("uid"),
                live_revision=there.mod_revision if there is not None else 0,
            )
        )
    now = datetime.now(UTC)
    plan = Plan(
        made_at=now,
        expires_at=now + timedelta(hours=1),
        source=SourceRef(name="a test", revision=1),
        target_cluster=f"{cluster:x}",
        revision=revision,
        options=RestoreOptions(),
        items=tuple(items),
    )
    return Made(plan, dict(wanted))


@asynccontextmanager
async def a_place(directory: Path, uid: str = "7c1e04b2") -> AsyncIterator[Place]:
    """The place of a restore in a local store."""
    settings = SpoolSettings(directory=directory / "spool")
    async with (
        open_store(LocalSettings(path=directory / "store")) as store,
        Spool.open(settings, f"restore-{uid}") as spool,
    ):
        yield Place(store, folder_of(CLUSTER, "team.shop", uid), spool)


def settings(prefix: str, uid: str = "7c1e04b2", **changes: Any) -> ApplySettings:  # noqa: ANN401
    """Settings for a fast apply."""
    fast: dict[str, Any] = {"unthrottled": True, "second_look_after": None}
    return ApplySettings(restore=f"team.{uid}", uid=uid, prefix=prefix, **(fast | changes))


async def applied(
    planned: Planned, client: EtcdClient, place: Place, using: ApplySettings
) -> RestoreReport:
    """Apply without an API server."""
    return await apply(planned, client, None, place, Tracker(Heard()), using)


# As a process ---------------------------------------------------------------------------------


async def killed(
    etcd: EtcdConnection, directory: Path, planned: Made, prefix: str, die: Mapping[str, object]
) -> None:
    """Run an apply in a process that kills itself: see `_Mortal`."""
    order = {
        "etcd": etcd.model_dump(mode="json", by_alias=True),
        "directory": str(directory),
        "plan": planned.plan.model_dump(mode="json", by_alias=True),
        "values": {key: base64.b64encode(value).decode() for key, value in planned.values.items()},
        "prefix": prefix,
        "die": die,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.applying",
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(None) | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    _, err = await process.communicate(json.dumps(order).encode())
    assert process.returncode == -signal.SIGKILL, err.decode()


class _Silent(Heard):
    def progress(self, progress: Progress) -> None:
        """Nobody listens."""


class _Mortal(Tracker):
    """Dies by SIGKILL when a step begins, or so many bytes are written."""

    die: Mapping[str, Any]

    def __init__(self, die: Mapping[str, Any]) -> None:
        self.__dict__["die"] = die
        super().__init__(_Silent())

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        wanted = self.die.get(name)
        if wanted is not None and (value == wanted if name == "step" else value >= wanted):
            os.kill(os.getpid(), signal.SIGKILL)


async def _run(order: dict[str, Any]) -> None:
    values = {key: base64.b64decode(value) for key, value in order["values"].items()}
    asked: list[PlanItem] = []

    def count(item: PlanItem) -> None:
        asked.append(item)
        if len(asked) == order["die"].get("asked"):
            os.kill(os.getpid(), signal.SIGKILL)

    planned = Made(Plan.model_validate(order["plan"]), values, count)
    etcd = EtcdConnection.model_validate(order["etcd"])
    async with (
        EtcdClient.connect(etcd) as client,
        a_place(Path(order["directory"])) as place,
    ):
        using = settings(order["prefix"], at_once=1)
        await apply(planned, client, None, place, _Mortal(order["die"]), using)


if __name__ == "__main__":
    asyncio.run(_run(json.loads(sys.stdin.read())))
