"""What may happen to an apply under way: it dies, etcd loses its leader, or etcd is full."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from etcd_steward.engine.report import Tracker
from etcd_steward.engine.restore.lock import PREFIX as LOCKS
from etcd_steward.engine.restore.place import VALUES
from etcd_steward.engine.restore.stash import reopen
from etcd_steward.engine.restore.undo import UndoSettings, undo
from etcd_steward.errors import OutOfSpace, StewardError
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.keys import KeyRange
from etcd_steward.models.restore import PlanItem
from tests.support.applying import Made, a_place, applied, config_map, killed, made, settings
from tests.support.runs import Heard, connection
from tests.testbed import EtcdCluster
from tests.testbed.rpc import raise_alarm

COUNT = 160


@pytest.fixture
async def client(etcd: EtcdCluster) -> AsyncIterator[EtcdClient]:
    async with EtcdClient.connect(connection(etcd)) as client:
        yield client


def wanted(prefix: str, data: str = "new") -> dict[str, bytes]:
    """ConfigMaps in a namespace of the test's own."""
    space = prefix.strip("/").replace("/", "-")
    return {
        f"{prefix}/configmaps/{space}/c{number:03}": config_map(f"c{number:03}", space, data)
        for number in range(COUNT)
    }


async def lived(client: EtcdClient, prefix: str) -> dict[str, tuple[bytes, int]]:
    """Values, and how often each key was written."""
    found = KeyRange.prefix(f"{prefix}/".encode())
    answer = await client.range(found.start, found.end)
    return {kv.key.decode(): (kv.value, kv.version) for kv in answer.kvs}


@pytest.mark.parametrize(
    "die",
    [
        {"step": "Saving"},  # claimed, and nothing else
        {"asked": 20},  # what was there before is saved, what comes is not
        {"step": "Writing"},
        {"raw": 2_000},  # some are written
        {"step": "Recording"},
    ],
    ids=str,
)
async def test_a_killed_apply_goes_on_where_it_was(
    client: EtcdClient,
    etcd: EtcdCluster,
    key_prefix: str,
    tmp_path: Path,
    die: Mapping[str, object],
) -> None:
    prefix = key_prefix.rstrip("/")
    values = wanted(prefix)
    over = list(values)[:5]
    for key in over:
        await client.put(key.encode(), wanted(prefix, "old")[key])
    planned = await made(client, values)
    await killed(connection(etcd), tmp_path, planned, prefix, die)

    # A controller writes a status into what is there already.
    written = await lived(client, prefix)
    touched = [key for key, (value, _) in written.items() if value == values[key]][-1:]
    for key in touched:
        labelled = values[key].replace(b'"data"', b'"status": {}, "data"')
        await client.put(key.encode(), labelled)
    async with a_place(tmp_path) as place:
        again = await reopen(place)
        assert (again is None) == (await place.stashed(VALUES) is None)
        report = await applied(again or planned, client, place, settings(prefix))
    assert report.counts == {"written": COUNT}
    found = await lived(client, prefix)
    assert found.keys() == values.keys()
    for key, (value, times) in found.items():
        assert times == 1 + (key in over) + (key in touched), key  # nothing was written twice
        assert key in touched or value == values[key]


async def test_a_killed_apply_can_be_undone(
    client: EtcdClient, etcd: EtcdCluster, key_prefix: str, tmp_path: Path
) -> None:
    prefix = key_prefix.rstrip("/")
    values, before = wanted(prefix), wanted(prefix, "old")
    for key, value in before.items():
        await client.put(key.encode(), value)
    planned = await made(client, values)
    await killed(connection(etcd), tmp_path, planned, prefix, {"raw": 2_000})
    some = {
        key for key, (value, _) in (await lived(client, prefix)).items() if value != before[key]
    }
    assert 0 < len(some) < COUNT
    assert await client.delete(*_locks()) == 1  # as it goes by itself in some seconds
    async with a_place(tmp_path) as place:
        back = UndoSettings(restore="team.undo", uid="undo", prefix=prefix)
        report = await undo(client, None, place, Tracker(Heard()), back)
    assert report.counts == {"put-back": len(some)}
    assert {key: value for key, (value, _) in (await lived(client, prefix)).items()} == before


async def test_a_full_etcd_ends_the_apply_which_goes_on_once_there_is_room(
    key_prefix: str, tmp_path: Path
) -> None:
    prefix = key_prefix.rstrip("/")
    async with (
        EtcdCluster(tmp_path / "etcd") as etcd,
        EtcdClient.connect(connection(etcd)) as client,
        a_place(tmp_path) as place,
    ):
        planned = await made(client, wanted(prefix))
        _when_half_is_written(planned, lambda: raise_alarm(etcd, etcd.members[0]))
        with pytest.raises(OutOfSpace, match="database space exceeded"):
            await applied(planned, client, place, settings(prefix, at_once=1))
        some = await lived(client, prefix)
        assert 0 < len(some) < COUNT
        assert await place.result() is None
        for alarm in await client.alarms():
            await client.disarm(alarm)
        again = await reopen(place)
        assert again is not None
        report = await applied(again, client, place, settings(prefix))
        assert report.counts["written"] >= COUNT - len(some)


async def test_an_apply_outlives_changes_of_the_leader(
    etcd_mtls: EtcdCluster, key_prefix: str, tmp_path: Path
) -> None:
    prefix = key_prefix.rstrip("/")
    leader = await etcd_mtls.leader()
    loop = asyncio.get_running_loop()
    async with (
        EtcdClient.connect(connection(etcd_mtls)) as client,
        a_place(tmp_path) as place,
    ):
        values = wanted(prefix)
        planned = await made(client, values)

        async def lose_the_leader() -> None:
            await leader.pause()
            loop.call_later(12, leader.resume)

        _when_half_is_written(planned, lose_the_leader)
        try:
            report = await applied(planned, client, place, settings(prefix, at_once=4))
        finally:
            leader.resume()
        assert report.counts == {"written": COUNT}
        found = await lived(client, prefix)
    assert {key: value for key, (value, _) in found.items()} == values
    assert {times for _, times in found.values()} == {1}


async def test_an_etcd_that_stays_away_ends_the_apply(key_prefix: str, tmp_path: Path) -> None:
    prefix = key_prefix.rstrip("/")
    async with (
        EtcdCluster(tmp_path / "etcd") as etcd,
        EtcdClient.connect(connection(etcd)) as client,
        a_place(tmp_path) as place,
    ):
        planned = await made(client, wanted(prefix))
        _when_half_is_written(planned, etcd.members[0].stop)
        with pytest.raises(StewardError):
            await applied(planned, client, place, settings(prefix, at_once=1, patience=3.0))
        await etcd.members[0].start()
        again = await reopen(place)
        assert again is not None
        async with EtcdClient.connect(connection(etcd)) as newer:
            report = await applied(again, newer, place, settings(prefix))
            assert report.counts == {"written": COUNT}
            assert {times for _, times in (await lived(newer, prefix)).values()} == {1}


def _locks() -> tuple[bytes, bytes]:
    found = KeyRange.prefix(LOCKS.encode())
    return found.start, found.end


def _when_half_is_written(planned: Made, do: object) -> None:
    """Do something when the value in the middle is asked for by the writing."""
    loop = asyncio.get_running_loop()
    asked: list[str] = []

    def count(item: PlanItem) -> None:
        asked.append(item.key)
        if len(asked) == COUNT + COUNT // 2:  # all were saved before
            asyncio.run_coroutine_threadsafe(do(), loop).result(60)  # type: ignore[operator]

    planned.asked = count
