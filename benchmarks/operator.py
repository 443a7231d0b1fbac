"""What the operator costs beside many resources, and how soon it starts a run that is due.

    python -m benchmarks.operator [--backups 500] [--snapshots 5000] [--idle 60] [--due 5]

A fresh control plane gets so many EtcdBackups with schedules far away and so many EtcdSnapshots as
their runs left them; then the operator is started as a Deployment would. Measured: its memory once
it has settled and at its peak, the processor time that it takes while nothing happens, and for
schedules that come true together the time from their tick to the watch's word of the new
EtcdSnapshot.
"""

import argparse
import asyncio
import json
import os
import ssl
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import aiohttp

from etcd_steward.handlers.catalogue import entry_of
from etcd_steward.handlers.status import recorded
from etcd_steward.kube import BACKUPS, SNAPSHOTS, Key, Kube, Version, version_of
from etcd_steward.models.kinds import (
    API_VERSION,
    BACKUP_LABEL,
    EtcdBackupSpec,
    EtcdSnapshotStatus,
)
from etcd_steward.models.manifest import Level
from etcd_steward.models.run import CatalogueEntry
from tests.support.backups import made
from tests.testbed import ControlPlane, EtcdCluster
from tests.testbed.steward import NAMESPACE, Steward, install

WRITERS = 16
LEAD = timedelta(seconds=20)
"""At least so long before their tick the schedules of the due ones are there."""
SETTLES_WITHIN = 900.0
"""Seconds that the operator gets to read all there is."""
START = datetime(2024, 1, 1, 2, 17, tzinfo=UTC)
PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")

Object = dict[str, Any]


def name_of(number: int) -> str:
    """The name of an EtcdBackup."""
    return f"backup-{number:04}"


def spec_of(number: int, directory: Path) -> Object:
    """A standing order that is far from due."""
    far = datetime.now(UTC) + timedelta(days=150 + number % 60)
    return {
        "schedule": f"{number % 60} {number // 60 % 24} {min(far.day, 28)} {far.month} *",
        "timeZone": "Europe/Berlin",
        "retention": {"keepLast": 7, "keepDaily": 14, "keepWeekly": 8},
        "store": {"local": {"path": str(directory)}},
    }


def status_of(number: int, backup_uid: str, spec: Object, count: int) -> Object:
    """What a run left in its status; its backup lies in another store than the order's."""
    name, tick = name_of(number % count), START + timedelta(days=number // count)
    backup = f"{NAMESPACE}.{name}"
    manifest = made(number, backup=backup, tick=tick, raw_sha256=f"{number:064x}")
    url = f"s3://etcd-backups/prod/{manifest.folder}"
    found = CatalogueEntry(
        manifest=manifest,
        url=url,
        ours=True,
        level=Level.STRUCTURE,
        verified_at=tick + timedelta(seconds=9),
        kept=("daily 2024-01-01", "weekly 2024-W01"),
    )
    status = recorded(EtcdSnapshotStatus(), entry_of(found, NAMESPACE)).model_copy(
        update={
            "backup_spec": EtcdBackupSpec.model_validate(spec),
            "backup_uid": backup_uid,
            "attempt": 1,
            "starts": 1,
        }
    )
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


async def side_by_side(works: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Do all, several at a time."""
    waiting = iter(works)

    async def work() -> None:
        for one in waiting:
            await one()

    async with asyncio.TaskGroup() as group:
        for _ in range(WRITERS):
            group.create_task(work())


class Fill:
    """Creates the resources."""

    def __init__(self, kube: Kube, store: Path, backups: int, snapshots: int) -> None:
        self._kube = kube
        self._store = store
        self._backups = backups
        self._snapshots = snapshots
        self._orders: dict[int, Version] = {}

    async def all(self) -> None:
        """Orders first: their uids stand in the runs."""
        await side_by_side(lambda n=n: self._order(n) for n in range(self._backups))  # type: ignore[misc]
        await side_by_side(lambda n=n: self._run(n) for n in range(self._snapshots))  # type: ignore[misc]

    async def _order(self, number: int) -> None:
        key = Key(NAMESPACE, name_of(number))
        meta = {"name": key.name, "namespace": key.namespace}
        spec = spec_of(number, self._store)
        found = await self._kube.create(
            BACKUPS, {"kind": "EtcdBackup", "metadata": meta, "spec": spec}
        )
        self._orders[number] = version_of(found)
        # As if its store had just been looked through: that is not what is measured.
        looked = {"lookedTime": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "kept": 0}
        await self._kube.patch_status(BACKUPS, key, version_of(found), looked)

    async def _run(self, number: int) -> None:
        order = number % self._backups
        tick = START + timedelta(days=number // self._backups)
        key = Key(NAMESPACE, f"{name_of(order)}-{tick.timestamp():.0f}")
        meta = {
            "name": key.name,
            "namespace": key.namespace,
            "labels": {BACKUP_LABEL: name_of(order)},
        }
        spec = {"backupName": name_of(order)}
        found = await self._kube.create(
            SNAPSHOTS, {"kind": "EtcdSnapshot", "metadata": meta, "spec": spec}
        )
        status = status_of(
            number, self._orders[order].uid, spec_of(order, self._store), self._backups
        )
        await self._kube.patch_status(SNAPSHOTS, key, version_of(found), status)


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, without its children's."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss(pid: int) -> float:
    """Resident memory in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 1e6


def peak_rss(pid: int) -> float:
    """The most that it ever was, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = next(line for line in lines if line.startswith("VmHWM:"))
    return int(found.split()[1]) * 1024 / 1e6


async def settled(pid: int) -> float:
    """Wait until the process has hardly anything to do; how much time it took until then."""
    quiet = 0
    while quiet < 3:
        before = cpu_seconds(pid)
        await asyncio.sleep(5)
        quiet = quiet + 1 if cpu_seconds(pid) - before < 0.5 else 0
    return cpu_seconds(pid)


class Admin:
    """Another client: changes schedules, and sees EtcdSnapshots come."""

    def __init__(self, plane: ControlPlane) -> None:
        context = ssl.create_default_context(cafile=str(plane.ca_file))
        self._url = f"{plane.url}/apis/{API_VERSION}"
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {plane.token}"},
            connector=aiohttp.TCPConnector(ssl=context),
            timeout=aiohttp.ClientTimeout(total=None),
            raise_for_status=True,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def schedule(self, name: str, tick: datetime) -> str:
        """Have an order come true at this minute; the version of it."""
        schedule = f"{tick.minute} {tick.hour} {tick.day} {tick.month} *"
        async with self._session.patch(
            f"{self._url}/namespaces/{NAMESPACE}/{BACKUPS}/{name}",
            json={"spec": {"schedule": schedule, "timeZone": "Etc/UTC"}},
            headers={"Content-Type": "application/merge-patch+json"},
        ) as answer:
            return str((await answer.json())["metadata"]["resourceVersion"])

    async def added(self, version: str) -> AsyncIterator[tuple[str, float]]:
        """Name and moment of each EtcdSnapshot that is new after `version`."""
        query = {"watch": "true", "resourceVersion": version}
        async with self._session.get(f"{self._url}/{SNAPSHOTS}", params=query) as answer:
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ADDED":
                    yield event["object"]["metadata"]["name"], time.time()


async def claims(plane: ControlPlane, due: int) -> list[float]:
    """Seconds from a tick to the run, of so many orders that are due at one minute."""
    tick = (datetime.now(UTC) + LEAD).replace(second=0, microsecond=0) + timedelta(minutes=1)
    waiting = {f"{name_of(number)}-{tick.timestamp():.0f}" for number in range(due)}
    found: list[float] = []
    async with Admin(plane) as admin, asyncio.timeout(180):
        versions = [await admin.schedule(name_of(number), tick) for number in range(due)]
        if datetime.now(UTC) > tick - LEAD / 2:
            raise SystemExit("this machine is too busy to measure anything")
        async for name, at in admin.added(versions[-1]):
            if name in waiting:
                waiting.discard(name)
                found.append(at - tick.timestamp())
            if not waiting:
                break
    return found


async def measure(options: argparse.Namespace, directory: Path) -> None:
    """Fill, start, measure, print."""
    store = directory / "store"
    store.mkdir()
    async with (
        EtcdCluster(directory / "etcd", mtls=True) as etcd,
        ControlPlane(directory / "control-plane", etcd) as plane,
    ):
        await install(plane)
        kube = await Kube.connect(plane.kubeconfig)
        try:
            await Fill(kube, store, options.backups, options.snapshots).all()
        finally:
            await kube.aclose()
        print(f"{options.backups:,} EtcdBackups, {options.snapshots:,} EtcdSnapshots", flush=True)
        (directory / "steward").mkdir()
        async with Steward(directory / "steward", plane) as steward:
            pid = steward.server.pid
            async with asyncio.timeout(SETTLES_WITHIN):
                start = await settled(pid)
            resident, peak, before = rss(pid), peak_rss(pid), cpu_seconds(pid)
            await asyncio.sleep(options.idle)
            idle = (cpu_seconds(pid) - before) / options.idle * 100
            late = await claims(plane, options.due)
            after = rss(pid)
    print("| | goal | measured |")
    print("|---|---|---|")
    print(f"| memory, settled | 250 MB | {resident:.0f} MB |")
    print(f"| memory, at its peak while it lists | | {peak:.0f} MB |")
    print(f"| memory, after {options.due} runs | | {after:.0f} MB |")
    print(f"| processor time to start | | {start:.1f} s |")
    print(f"| processor, idle | 2 % of a core | {idle:.1f} % |")
    print(
        f"| from the tick to the run, {options.due} at once | 2 s "
        f"| {max(late):.2f} s (median {statistics.median(late):.2f} s) |"
    )


async def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--backups", type=int, default=500)
    parser.add_argument("--snapshots", type=int, default=5000)
    parser.add_argument("--idle", type=float, default=60, help="seconds")
    parser.add_argument("--due", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="etcd-steward-benchmark-") as scratch:
        await measure(options, Path(scratch))


if __name__ == "__main__":
    asyncio.run(main())
