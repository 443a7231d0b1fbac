"""A full etcd, rescued: by hand, twice at once, after a kill, and where it can't be won.

Beside it an API server whose etcd only we compact: that takes minutes of waiting.
"""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from etcd_steward.app import maintain, open_etcd, open_store
from etcd_steward.engine.maintenance import token
from etcd_steward.engine.manifests import Backup, backups
from etcd_steward.errors import OutOfSpace
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.models.connection import LocalSettings
from etcd_steward.models.maintenance import DefragmentationRule, MaintenanceOptions
from etcd_steward.models.maintenance_run import RescueEnded
from tests.support.cli import files, started, steward
from tests.support.full import (
    PREFIX,
    QUOTA,
    TOKENS,
    VALUE,
    Rescuer,
    alarms,
    count,
    empty,
    fill,
    left_by_rescues,
    sizes,
)
from tests.support.retaining import GONE, RETAINED, Retaining, retained
from tests.support.runs import connection
from tests.testbed import EtcdCluster, wait_until
from tests.testbed.rpc import raise_alarm

BELOW = 0.8 * QUOTA


@pytest.fixture(scope="module")
async def three(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EtcdCluster]:
    """Three members with mutual TLS and a small quota."""
    directory = tmp_path_factory.mktemp("three")
    flags = {"quota-backend-bytes": str(QUOTA)}
    async with EtcdCluster(directory, members=3, mtls=True, flags=flags) as etcd:
        yield etcd


@pytest.fixture
async def small(three: EtcdCluster) -> EtcdCluster:
    """With nothing of the tests before; each test leaves it well."""
    await empty(three)
    return three


@pytest.fixture(scope="module")
async def retaining(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Retaining]:
    """Two minutes are long: it goes on while this module's other tests run."""
    async with retained(tmp_path_factory.mktemp("retaining")) as found:
        yield found


async def all_is_well(etcd: EtcdCluster) -> None:
    """Writes work, nothing is above the threshold, and of the rescue only its tokens are there."""
    assert await alarms(etcd) == set()
    assert max(await sizes(etcd)) < BELOW
    assert await left_by_rescues(etcd) == TOKENS
    await etcd.etcdctl("put", "/after", "it works")


def flags(etcd: EtcdCluster, spool: Path) -> list[str]:
    return [*etcd.connection_flags(), f"--spool-dir={spool}", "--settle=1s"]


@pytest.mark.usefixtures("retaining")
async def test_a_rescue_by_hand(small: EtcdCluster, tmp_path: Path) -> None:
    """From the alarm to the proof, into a store, with nothing but a command line."""
    await fill(small)
    raised = await alarms(small)
    assert raised
    said = await steward("alarm", "list", *small.connection_flags(), "-o", "json")
    assert said.code == 4
    assert {one["alarm"] for one in said.json()} == {"NOSPACE"}
    assert all(one["quotaBytes"] == QUOTA for one in said.json())
    refused = await steward("alarm", "disarm", *small.connection_flags())
    assert refused.code == 3
    assert "is still full" in refused.err
    assert await alarms(small) >= raised  # another member may have become full, too
    before = await small.revision()

    store = tmp_path / "store"
    where = f"--store={store.as_uri()}"
    done = await steward(
        "alarm", "rescue", *flags(small, tmp_path / "spool"), where, "-o", "json", timeout=300
    )
    assert done.code == 0, done.err
    report = done.json()
    assert report["outcome"] == "Rescued"
    assert set(report["disarmed"]) >= {one["memberID"] for one in said.json()}
    members = report["round"]["members"]
    assert [one["outcome"] for one in members] == ["Defragmented"] * 3
    assert [one["leader"] for one in members] == [False, False, True]
    assert 0 < report["compaction"]["compactRevision"] < before
    await all_is_well(small)
    async with open_store(LocalSettings(path=store)) as opened:
        (found,) = [one async for one in backups(opened)]
    assert isinstance(found, Backup)
    assert found.verified
    assert report["snapshot"].endswith(found.manifest.folder)
    assert found.manifest.proof is not None
    assert found.manifest.proof.structure is not None
    assert found.manifest.proof.structure.alarms  # it was taken before anything was disarmed

    again = await steward("alarm", "rescue", *flags(small, tmp_path / "spool"))
    assert again.code == 0
    assert "no NOSPACE alarm is raised" in again.out
    assert files(tmp_path / "spool") == []


async def test_a_snapshot_without_a_store_stays_in_the_spool(
    small: EtcdCluster, tmp_path: Path
) -> None:
    await fill(small)
    spool = tmp_path / "spool"
    done = await steward("alarm", "rescue", *flags(small, spool), timeout=300)
    assert done.code == 0, done.err
    (kept,) = files(spool)
    assert f"Snapshot: {spool / kept}" in done.out
    assert "Rescued: etcd takes writes again" in done.out
    assert (spool / kept).stat().st_mode & 0o777 == 0o600
    assert (await steward("hashkv", spool / kept)).code == 0
    await all_is_well(small)


async def test_two_rescues_at_once(small: EtcdCluster, tmp_path: Path) -> None:
    """One does it; the other finds that out, and touches no member."""
    await fill(small)
    one, other = Rescuer(small, tmp_path / "1"), Rescuer(small, tmp_path / "2")
    reports = await asyncio.gather(one.rescue(), other.rescue())
    assert sorted(report.outcome for report in reports) == ["NotNeeded", "Rescued"]
    idle = next(report for report in reports if report.outcome == "NotNeeded")
    assert "somebody else has rescued it" in idle.reason
    assert idle.round is None
    await all_is_well(small)


async def test_killed_in_the_middle(small: EtcdCluster, tmp_path: Path) -> None:
    """The next one sees that nobody is at work any more, and goes on from there."""
    await fill(small)
    async with (
        open_etcd(connection(small)) as client,
        started("alarm", "rescue", *flags(small, tmp_path / "spool")) as running,
    ):
        await wait_until(
            lambda: _taken(client), what="the first rescue takes its token", timeout=120
        )
        running.send(signal.SIGKILL)
        assert (await running.end()).code == -signal.SIGKILL
        assert await alarms(small)
        second = await Rescuer(small, tmp_path / "2").rescue()
    assert second.outcome == "Rescued"
    assert not any("nothing was locked" in one for one in second.warnings)
    await all_is_well(small)


async def _taken(client: EtcdClient) -> bool:
    return 1 not in await token.standing(client)


async def test_ctrl_c_says_how_far_it_came(small: EtcdCluster, tmp_path: Path) -> None:
    await fill(small)
    spool = tmp_path / "spool"
    async with (
        open_etcd(connection(small)) as client,
        started("alarm", "rescue", *flags(small, spool)) as running,
    ):
        await wait_until(lambda: _taken(client), what="it takes its token", timeout=120)
        running.send(signal.SIGINT)
        said = await running.end()
    assert said.code == 130
    assert "no alarm is taken back any more" in said.err
    (kept,) = files(spool)
    assert f"Snapshot: {spool / kept}" in said.out
    assert "Stopped before the end, etcd is still full: it was told to stop" in said.out
    assert "etcd0" in said.out, "what became of the members"
    assert await alarms(small)
    report = await Rescuer(small, tmp_path / "2").rescue()
    assert report.outcome == "Rescued", report
    await all_is_well(small)


async def test_one_that_was_taken_for_dead_stops(small: EtcdCluster, tmp_path: Path) -> None:
    """Another has taken the next token: the first touches no more members, disarms nothing."""
    await fill(small)
    first = Rescuer(small, tmp_path / "1")
    async with open_etcd(connection(small)) as client:
        rescue = asyncio.create_task(first.rescue())
        await wait_until(lambda: _taken(client), what="it takes its token", timeout=120)
        assert await token.take(client, 2)
        report = await rescue
    assert report.outcome in {"Stopped", "Refused"}
    assert "taken this one for dead" in report.reason
    assert report.disarmed == ()
    assert await alarms(small)
    second = await Rescuer(small, tmp_path / "2").rescue()
    assert second.outcome == "Rescued"
    await all_is_well(small)


async def test_an_etcd_that_nobody_has_prepared(small: EtcdCluster, tmp_path: Path) -> None:
    """Without tokens nothing can be locked: it is watched for a while, and said."""
    await small.etcdctl("del", "--prefix", "/etcdsteward.io/")
    await fill(small)
    report = await Rescuer(small, tmp_path).rescue()
    assert report.outcome == "Rescued", report
    assert any("nothing was locked" in one for one in report.warnings)
    await all_is_well(small)


async def test_live_data_that_is_too_much(small: EtcdCluster, tmp_path: Path) -> None:
    """It says so and what is biggest, before anything was done; deletions make it possible."""
    await fill(small, live=9000)
    while (lives := await count(small) * VALUE) < 0.85 * QUOTA:  # the rest is air
        await small.etcdctl("defrag")
        await small.etcdctl("alarm", "disarm")
        await fill(small, live=9000, first=lives // VALUE)
    raised = await alarms(small)
    third = DefragmentationRule(quota_usage_percent_above=30)
    options = MaintenanceOptions(settle_seconds=0.5, defragmentation=third)
    rescuer = Rescuer(small, tmp_path, options)
    report = await rescuer.rescue()
    assert report.outcome == "Refused"
    assert "live data alone takes" in report.reason
    assert "Delete what is not needed" in report.reason
    assert "configmaps" in report.reason
    assert rescuer.saved == 0
    assert await alarms(small) >= raised

    await small.etcdctl("del", f"{PREFIX}0200", f"{PREFIX}9")
    report = await Rescuer(small, tmp_path, options).rescue()
    assert report.outcome == "Rescued", report
    await all_is_well(small)


async def test_a_full_disk(small: EtcdCluster, tmp_path: Path) -> None:
    """The copy would not fit: a full quota is better than a full disk."""
    await fill(small)
    raised = await alarms(small)
    said = await steward("alarm", "rescue", *flags(small, tmp_path), "--disk-room=10k")
    assert said.code == 3
    assert "Refused: the disk is full, not only the quota" in said.err
    assert "Nothing was defragmented, nor disarmed" in said.err
    assert await alarms(small) >= raised
    assert min(await sizes(small)) > BELOW
    assert await left_by_rescues(small) == TOKENS  # a refusal costs no token
    roomy = MaintenanceOptions(settle_seconds=0.5, disk_room_bytes=1 << 30)
    report = await Rescuer(small, tmp_path, roomy).rescue()
    assert report.outcome == "Rescued", report
    assert report.warnings == ()
    await all_is_well(small)


async def test_one_that_is_begun_again_takes_no_second_snapshot(
    small: EtcdCluster, tmp_path: Path
) -> None:
    """As long as the first one is there."""
    await fill(small)
    tight = MaintenanceOptions(settle_seconds=0.5, disk_room_bytes=10_000)
    rescuer = Rescuer(small, tmp_path, tight)

    async def refused(taken: str) -> str:
        ended = await maintain(rescuer.request(taken=taken), rescuer.heard, lambda _: None)
        assert isinstance(ended, RescueEnded)
        assert ended.report.outcome == "Refused"
        return ended.report.snapshot

    first = await refused("")
    assert await refused(first) == first
    (tmp_path / Path(first).name).unlink()
    other = await refused(first)
    assert other != first
    assert files(tmp_path) == [Path(other).name]
    assert (await Rescuer(small, tmp_path).rescue()).outcome == "Rescued"
    await all_is_well(small)


async def test_told_to_stop(small: EtcdCluster, tmp_path: Path) -> None:
    await fill(small)
    rescuer = Rescuer(small, tmp_path)
    rescuer.stop.set()
    report = await rescuer.rescue()
    assert (report.outcome, report.reason) == ("Stopped", "it was told to stop")
    assert await alarms(small)
    assert await left_by_rescues(small) == TOKENS
    report = await Rescuer(small, tmp_path).rescue()
    assert report.outcome == "Rescued", report
    await all_is_well(small)


async def test_an_alarm_of_nobody(small: EtcdCluster, tmp_path: Path) -> None:
    """A restored snapshot brings the alarm of a member that is no more: only that goes."""
    stranger = type("Stranger", (), {"id": 0x1234})()
    await raise_alarm(small, stranger)
    with pytest.raises(OutOfSpace):
        async with open_etcd(connection(small)) as client:
            await client.put(b"/no", b"room")
    report = await Rescuer(small, tmp_path).rescue()
    assert report.outcome == "Rescued", report
    assert report.disarmed == ("1234",)
    assert report.round is not None
    assert report.round.outcome == "NothingToDo"
    await all_is_well(small)


async def test_corrupt_stops_everything(small: EtcdCluster, tmp_path: Path) -> None:
    """Nothing is compacted, defragmented or disarmed; a person takes it back, of one member."""
    await fill(small)
    bad = small.members[1]
    await raise_alarm(small, bad, corrupt=True)
    raised = await alarms(small)
    before = await sizes(small)
    rescuer = Rescuer(small, tmp_path)
    report = await rescuer.rescue()
    assert report.outcome == "Refused"
    assert f"CORRUPT alarm (member {bad.id:x})" in report.reason
    assert (rescuer.saved, report.disarmed) == (0, ())
    compact = await steward(
        "maintenance", "compact", *small.connection_flags(), "--retain-revisions=10"
    )
    assert compact.code == 3
    assert "CORRUPT" in compact.err
    unnamed = await steward("alarm", "disarm", "--type=CORRUPT", *small.connection_flags())
    assert unnamed.code == 2
    assert await alarms(small) >= raised
    after = await sizes(small)  # a member may have been behind
    assert all(now >= then for then, now in zip(before, after, strict=True))

    named = await steward("alarm", "disarm", "etcd1", "--type=CORRUPT", *small.connection_flags())
    assert named.code == 0, named.err  # the members' hashes are equal
    assert named.out == "CORRUPT of etcd1 is disarmed\n"
    assert all("NOSPACE" in one for one in await alarms(small))
    report = await Rescuer(small, tmp_path).rescue()
    assert report.outcome == "Rescued", report
    await all_is_well(small)
    listed = await steward("alarm", "list", *small.connection_flags(), "-o", "json")
    assert (listed.code, json.loads(listed.out)) == (0, [])


@pytest.mark.timeout(RETAINED * 3 + 300)
async def test_an_api_server_whose_etcd_only_we_compact(retaining: Retaining) -> None:
    """Its watchers lose nothing; lists go on for as long as is retained, and no longer."""

    async def old_enough() -> bool:
        pages = retaining.pages
        return bool(pages) and time.monotonic() - pages[0][0] > RETAINED * 1.4

    await wait_until(old_enough, what="pages grow old", timeout=RETAINED * 2 + 120)
    done = [one for one in retaining.reports if one.outcome == "Compacted"]
    assert len(done) > 3
    assert {one.outcome for one in retaining.reports} == {"Compacted", "NotNeeded"}
    codes: dict[int, list[float]] = {}
    for at, page in list(retaining.pages):
        age = time.monotonic() - at
        codes.setdefault(await retaining.go_on(page), []).append(age / RETAINED)
    assert set(codes) == {200, GONE}
    assert min(codes[GONE]) > 0.99, "what is retained stays"
    assert max(codes[200]) < 1.4, "what is older goes"
    last = {name: int(values[-1]) for name, values in retaining.written.items()}

    async def caught_up() -> bool:
        return all(
            int(retaining.seen[name][-1]) >= value
            and int(retaining.informer.contents[name]) >= value
            for name, value in last.items()
        )

    await wait_until(caught_up, what="the watcher has caught up", timeout=60)
    for name, values in retaining.seen.items():
        assert values == retaining.written[name][: len(values)]
    informer = retaining.informer
    assert (informer.lists, informer.expired, informer.broken) == (1, 0, 0)
