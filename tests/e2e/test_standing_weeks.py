"""Ten weeks of a schedule, simulated: no tick lost or doubled, and retention as the model says.

The operator's schedules go by a file, all else goes by real time. The time in the file lies in the
past and jumps towards now, across a change of time; meanwhile the operator is killed and the API
server taken away, at random. `make soak` (STEWARD_SOAK=hourly) does the same with an hourly
schedule; STEWARD_SOAK_SEED repeats a walk.
"""

import asyncio
import contextlib
import json
import logging
import os
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest

from etcd_steward.kube import BACKUPS, SNAPSHOTS, Key, Kube
from etcd_steward.models.kinds import FOUND_IN, Retention
from tests.support.hasty_operator import time_in
from tests.support.retention_model import kept
from tests.support.users import (
    HastySteward,
    Object,
    User,
    backup,
    kubeconfig_through,
    port_of,
    s3_store,
    secret,
)
from tests.testbed import ControlPlane, FaultProxy, SeaweedFS, TestbedError, wait_until
from tests.testbed.steward import NAMESPACE, Steward, install

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

log = logging.getLogger(__name__)

HOURLY = os.environ.get("STEWARD_SOAK") == "hourly"
SEED = int(os.environ.get("STEWARD_SOAK_SEED", random.SystemRandom().randrange(10**6)))
NAME = "weeks"
ZONE = ZoneInfo("Europe/Berlin")
SCHEDULE = "30 * * * *" if HOURLY else "30 2 * * *"
"""Daily within the very hour that one change of time skips and the other doubles."""
POLICY = (
    Retention(keep_last=3, keep_hourly=6, keep_daily=4, keep_weekly=3)
    if HOURLY
    else Retention(keep_last=3, keep_daily=5, keep_weekly=4, keep_monthly=2)
)
PERIOD = timedelta(hours=1) if HOURLY else timedelta(days=1)
HALF = timedelta(weeks=5)
POLL = 0.3
"""Seconds between two looks into the bucket."""
SETTLES_WITHIN = 120.0
HASTY = {
    "back_offs": [0.5],
    "progress_every": 1.0,
    "presumed_dead_after": 2.0,
    "settle_within": 20.0,
    "idle": 0.3,
    "check_every": 1.0,
    "not_ready_after": 10.0,
    "stale_after": 30.0,
}


def change_of_time() -> datetime:
    """The newest change of time that lies far enough back."""
    hour = (datetime.now(UTC) - HALF).replace(minute=0, second=0, microsecond=0)
    while (hour.astimezone(ZONE).utcoffset()) == (hour - timedelta(hours=1)).astimezone(
        ZONE
    ).utcoffset():
        hour -= timedelta(hours=1)
    return hour


def ticks_between(after: datetime, until: datetime, change: datetime) -> list[datetime]:
    """When the schedule comes true, without cron: each hour, or each local day at half past two.

    On the day on which there is no half past two, right after the hour that is skipped.
    """
    if HOURLY:
        first = after.replace(minute=30, second=0, microsecond=0)
        found = [first + number * PERIOD for number in range((until - after) // PERIOD + 2)]
    else:
        day: date = after.astimezone(ZONE).date()
        found = []
        while day <= until.astimezone(ZONE).date():
            wall = datetime(day.year, day.month, day.day, 2, 30, tzinfo=ZONE)
            tick = wall.astimezone(UTC)
            exists = tick.astimezone(ZONE).replace(tzinfo=None) == wall.replace(tzinfo=None)
            found.append(tick if exists else change)
            day += timedelta(days=1)
    return [tick for tick in found if after < tick <= until]


def tick_in(folder: str) -> datetime:
    """The moment in a folder's name."""
    stamp = folder.rpartition("/")[2].partition("-")[0]
    return datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


@dataclass
class Bucket:
    """What lies in the bucket, and all that was ever seen there."""

    s3: SeaweedFS
    name: str
    folders: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)

    async def watch(self) -> None:
        """Look again and again."""
        client = self.s3.client()
        while True:
            found = await asyncio.to_thread(self._list, client)
            self.folders = {
                key.removesuffix("/manifest.json")
                for key in found
                if key.endswith("/manifest.json")
            }
            self.seen |= self.folders
            await asyncio.sleep(POLL)

    def _list(self, client: "S3Client") -> list[str]:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return [one["Key"] for page in pages for one in page.get("Contents", [])]

    def ticks(self) -> list[datetime]:
        """The ticks that lie there now; one that lies there twice comes twice."""
        return sorted(map(tick_in, self.folders))


@dataclass
class Weeks:
    """The operator under test, its time, and what may happen to it."""

    steward: HastySteward
    api: FaultProxy
    kube: Kube
    user: User
    bucket: Bucket
    clock: Path
    kubeconfig: Path
    begin: datetime
    change: datetime
    rng: random.Random
    kept: list[datetime] = field(default_factory=list)
    made: set[datetime] = field(default_factory=set)
    ticks: list[datetime] = field(default_factory=list)
    """All up to now."""
    journal: list[str] = field(default_factory=list)
    """What was done in the step under way."""

    @property
    def now(self) -> datetime:
        """The time that schedules go by."""
        return time_in(self.clock)

    def put(self, now: datetime) -> None:
        """Put the clock forward."""
        new = self.clock.with_suffix(".new")
        new.write_text(str(now.timestamp()))
        new.replace(self.clock)
        self.journal.append(f"it is {now:%Y-%m-%d %H:%M}")

    def jump(self) -> None:
        """Mostly to about the next tick, sometimes past some, sometimes not so far."""
        far = self.rng.random() < 0.1
        periods = self.rng.uniform(4, 7) if far else self.rng.uniform(0.3, 3)
        self.put(self.now + periods * PERIOD)

    async def step(self) -> None:
        """Time goes on, and something may happen."""
        self.journal.clear()
        incidents = (self.nothing, self.killed, self.dead_meanwhile, self.cut_off, self.both)
        await self.rng.choices(incidents, (40, 25, 8, 17, 10))[0]()
        await self.settled()

    async def nothing(self) -> None:
        self.jump()

    async def pause(self, most: float) -> None:
        seconds = self.rng.uniform(0, most)
        self.journal.append(f"{seconds:.1f} s")
        await asyncio.sleep(seconds)

    async def killed(self) -> None:
        """While a run, or the look after it, is under way."""
        self.jump()
        await self.pause(5)
        await self.kill()
        await self.start()

    async def dead_meanwhile(self) -> None:
        """The clock goes on while nobody looks."""
        await self.kill()
        self.jump()
        await self.start()

    async def cut_off(self) -> None:
        """No API server for a while; ticks may come meanwhile."""
        if self.rng.random() < 0.5:
            self.jump()
            await self.pause(4)
        await self.away()
        self.jump()
        await self.pause(4)
        await self.back()

    async def both(self) -> None:
        """The operator dies while it can't write."""
        self.jump()
        await self.pause(4)
        await self.away()
        await self.pause(2)
        await self.kill()
        await self.back()
        await self.start()

    async def start(self) -> None:
        """Start the operator, with a token that is fresh: a soak takes longer than one lives."""
        await self.renew()
        await self.steward.server.start(wait=False)

    async def renew(self) -> None:
        """Write its kubeconfig."""
        plane = self.user.plane
        direct = await plane.service_account_kubeconfig(NAMESPACE, NAMESPACE)
        kubeconfig_through(direct, self.api.address("https"), self.kubeconfig)

    async def kill(self) -> None:
        self.journal.append("killed")
        await self.steward.server.kill()

    async def away(self) -> None:
        self.journal.append("no API server")
        await self.api.refuse()
        await self.api.reset()

    async def back(self) -> None:
        self.journal.append("API server")
        await self.api.accept()

    async def settled(self) -> None:
        """Wait until all is as it must be, and look closely at what must never be otherwise."""
        try:
            await wait_until(self.quiet, "all has settled", timeout=SETTLES_WITHIN)
        except TestbedError as error:
            raise AssertionError(await self.describe()) from error
        self.kept = self.model()
        self.made |= self.new()
        seen = sorted(map(tick_in, self.bucket.seen))
        missed = (await self.status()).get("missedRuns", 0)
        assert len(seen) == len(set(seen)), (self.journal, seen)
        assert set(seen) <= set(self.ticks), await self.describe()
        assert len(self.made) + missed == len(self.ticks), await self.describe()
        await self.records_equal_the_bucket()

    async def records_equal_the_bucket(self) -> None:
        prefix = f"s3://{self.bucket.name}/"
        records = {
            one["status"]["artifact"]["url"].removeprefix(prefix): one["metadata"]["name"]
            for one in await self.user.all("esnap")
        }
        named = {
            folder: f"{NAME}-{tick_in(folder).timestamp():.0f}" for folder in self.bucket.folders
        }
        assert records == named, self.journal

    def new(self) -> set[datetime]:
        """Ticks that have come into the bucket since the last step."""
        return set(map(tick_in, self.bucket.seen)) - self.made

    def model(self) -> list[datetime]:
        """What must lie in the bucket, one new backup after another."""
        left = self.kept
        for tick in sorted(self.new()):
            left = sorted(kept([*left, tick], POLICY, None))
        return left

    async def quiet(self) -> bool:
        """Whether nothing more is to come."""
        self.ticks = ticks = ticks_between(self.begin, self.now, self.change)
        status = await self.status()
        if "anchorTime" not in status or status.get("active"):
            return False
        if ticks and datetime.fromisoformat(status["anchorTime"]) != ticks[-1]:
            return False
        names = {key.name for key in await self.kube.versions(SNAPSHOTS)}
        return (
            self.bucket.ticks() == self.model()
            and (not ticks or ticks[-1] in self.made | self.new())
            and names == {f"{NAME}-{tick.timestamp():.0f}" for tick in self.bucket.ticks()}
            and status.get("kept", 0) == len(names)
        )

    async def status(self) -> Object:
        found = await self.kube.get(BACKUPS, Key(NAMESPACE, NAME))
        status: Object = found.get("status", {})
        return status

    async def describe(self) -> str:
        """All that helps whoever has to find out."""
        names = sorted(key.name for key in await self.kube.versions(SNAPSHOTS))
        missing = [tick for tick in self.ticks if tick not in self.made | self.new()]
        return "\n".join(
            [
                f"seed {SEED}, step: {', '.join(self.journal)}",
                f"status: {json.dumps(await self.status(), indent=1)}",
                f"records: {names}",
                f"bucket: {[f'{tick:%m-%d %H:%M}' for tick in self.bucket.ticks()]}",
                f"model: {[f'{tick:%m-%d %H:%M}' for tick in self.model()]}",
                f"{len(self.ticks)} ticks, {len(self.made | self.new())} made",
                f"without a run: {[f'{tick:%m-%d %H:%M}' for tick in missing]}",
                f"log: {self.steward.server.log_file}",
            ]
        )


@pytest.fixture
async def weeks(
    control_plane: ControlPlane, seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> AsyncIterator[Weeks]:
    """The operator before the first tick, with its API server behind a proxy."""
    await install(control_plane)
    user = User(control_plane)
    await user.apply(secret("s3", seaweedfs.environment()))
    change = change_of_time()
    async with contextlib.AsyncExitStack() as stack:
        api = await stack.enter_async_context(FaultProxy(port_of(control_plane.url)))
        kube = await Kube.connect(control_plane.kubeconfig)
        stack.push_async_callback(kube.aclose)
        kubeconfig = tmp_path / "kubeconfig"
        steward = HastySteward(tmp_path, control_plane, flags={"kubeconfig": str(kubeconfig)})
        steward.timing = {**HASTY, "clock": str(tmp_path / "clock")}
        scene = Weeks(
            steward=steward,
            api=api,
            kube=kube,
            user=user,
            bucket=Bucket(seaweedfs, bucket),
            clock=tmp_path / "clock",
            kubeconfig=kubeconfig,
            begin=change - HALF,
            change=change,
            rng=random.Random(SEED),  # noqa: S311  # to be repeated
        )
        scene.put(scene.begin)
        await scene.renew()
        watching = asyncio.create_task(scene.bucket.watch())
        await stack.enter_async_context(steward)
        yield scene
        watching.cancel()
        await asyncio.wait({watching})
        await user.delete("ebk", NAME)
        await control_plane.kubectl("delete", "esnap", "--all", f"--namespace={NAMESPACE}")


@pytest.mark.timeout(12 * 3600 if HOURLY else 1800)
async def test_no_tick_is_lost_or_doubled_in_ten_weeks(
    weeks: Weeks, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger=__name__)
    # Python 3.11 complains of each connection that our proxy resets.
    caplog.set_level(logging.CRITICAL, logger="asyncio")
    log.info("STEWARD_SOAK_SEED=%d, from %s", SEED, weeks.begin)
    spec = {
        "schedule": SCHEDULE,
        "timeZone": ZONE.key,
        "retention": POLICY.model_dump(mode="json", by_alias=True, exclude_none=True),
        "store": s3_store(weeks.bucket.s3, weeks.bucket.name),
    }
    await weeks.user.apply(backup(NAME, spec))
    await weeks.settled()
    number = 0
    while weeks.now < weeks.change + HALF:
        await weeks.step()
        number += 1
        log.info("step %d: %s", number, ", ".join(weeks.journal))
    stored = await weeks.bucket.s3.objects(weeks.bucket.name)
    folders = {
        key.partition("/proofs/")[0].rpartition("/")[0] for key in stored if "/proofs/" not in key
    }
    assert folders == weeks.bucket.folders, "left over"
    assert not await weeks.bucket.s3.open_uploads(weeks.bucket.name)


async def test_an_operator_starts_beside_many_records(
    control_plane: ControlPlane, seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    """More than kopf once had workers: each waited until all others had been read."""
    await install(control_plane)
    user = User(control_plane)
    kube = await Kube.connect(control_plane.kubeconfig)
    try:
        for number in range(100):
            meta = {
                "name": f"many-{number}",
                "namespace": NAMESPACE,
                "annotations": {FOUND_IN: f"c/{NAMESPACE}.many/20240101T0217{number:02}Z-1"},
            }
            body = {"kind": "EtcdSnapshot", "metadata": meta, "spec": {"backupName": "many"}}
            await kube.create(SNAPSHOTS, body)
        spec = {"schedule": "@yearly", "store": s3_store(seaweedfs, bucket)}
        await user.apply(secret("s3", seaweedfs.environment()), backup("many", spec))

        async def followed() -> bool:
            found = await kube.get(BACKUPS, Key(NAMESPACE, "many"))
            return "nextScheduleTime" in found.get("status", {})

        async with Steward(tmp_path, control_plane) as steward:
            await wait_until(followed, f"it is followed, see {steward.server.log_file}", timeout=60)
    finally:
        await kube.aclose()
        where = f"--namespace={NAMESPACE}"
        await control_plane.kubectl("delete", "ebk,esnap", "--all", where, timeout=120)
