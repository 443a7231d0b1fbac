"""Applying a plan to a real etcd, without an API server."""

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from etcd_steward.engine.report import Tracker
from etcd_steward.engine.restore.apply import apply
from etcd_steward.engine.restore.lock import PREFIX as LOCKS
from etcd_steward.engine.restore.stash import reopen
from etcd_steward.engine.restore.undo import UndoSettings, undo
from etcd_steward.errors import NotFound, Refused, Unavailable
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.keys import KeyRange
from etcd_steward.models.restore import PlanItem
from tests.support.applying import a_place, applied, config_map, made, settings
from tests.support.cli import files
from tests.support.runs import Heard, connection
from tests.testbed import EtcdCluster, wait_until


@pytest.fixture
async def client(etcd: EtcdCluster) -> AsyncIterator[EtcdClient]:
    async with EtcdClient.connect(connection(etcd)) as client:
        yield client


@pytest.fixture
def prefix(key_prefix: str) -> str:
    return key_prefix.rstrip("/")


@pytest.fixture
def namespace(key_prefix: str) -> str:
    """The test's own, also in the names of locks."""
    return key_prefix.strip("/").replace("/", "-")


def wanted(prefix: str, namespace: str, count: int, data: str = "new") -> dict[str, bytes]:
    """ConfigMaps to restore."""
    return {
        f"{prefix}/configmaps/{namespace}/c{number:03}": config_map(
            f"c{number:03}", namespace, data
        )
        for number in range(count)
    }


async def there(client: EtcdClient, prefix: str) -> dict[str, bytes]:
    """What lies below the test's prefix."""
    answer = await client.range(*_range(prefix))
    return {kv.key.decode(): kv.value for kv in answer.kvs}


def _range(prefix: str) -> tuple[bytes, bytes]:
    found = KeyRange.prefix(f"{prefix}/".encode())
    return found.start, found.end


async def test_what_is_planned_is_written_once_and_put_back(
    client: EtcdClient, prefix: str, namespace: str, tmp_path: Path
) -> None:
    values = wanted(prefix, namespace, 30)
    over = list(values)[:3]
    before = {key: config_map(key[-4:], namespace, "old") for key in over}
    for key, value in before.items():
        await client.put(key.encode(), value)
    planned = await made(client, values)
    async with a_place(tmp_path) as place:
        report = await applied(planned, client, place, settings(prefix))
        assert report.counts == {"written": 30}
        assert [one.key for one in report.restored] == list(values)
        assert report.undo == f"{place.url}/undo.parquet"
        assert "no API server was asked" in report.warnings[0]
        assert await there(client, prefix) == values
        assert files(tmp_path / "store" / place.folder) == [
            "claim.json", "plan.json", "result.json", "undo.parquet", "values.parquet"
        ]  # fmt: skip

        # The same restore once more, as it comes back with a restored cluster.
        await client.delete(over[0].encode())
        again = await applied(planned, client, place, settings(prefix))
        assert again == report
        assert over[0] not in await there(client, prefix)
        await client.put(over[0].encode(), values[over[0]])

        # What was overwritten goes back, but for what somebody has changed; without an API server
        # nothing is deleted, and then nothing is done at all.
        theirs = config_map(over[1][-4:], namespace, "theirs")
        await client.put(over[1].encode(), theirs)
        back = UndoSettings(restore="team.undo", uid="undo", prefix=prefix)
        with pytest.raises(Unavailable, match="deleted through it alone"):
            await undo(client, None, place, Tracker(Heard()), back)
        assert await there(client, prefix) == values | {over[1]: theirs}


async def test_what_was_overwritten_goes_back_where_it_is_still_ours(
    client: EtcdClient, prefix: str, namespace: str, tmp_path: Path
) -> None:
    values = wanted(prefix, namespace, 4)
    before = wanted(prefix, namespace, 4, "old")
    for key, value in before.items():
        await client.put(key.encode(), value)
    planned = await made(client, values)
    keys = list(values)
    async with a_place(tmp_path) as place:
        back = UndoSettings(restore="team.undo", uid="undo", prefix=prefix)
        with pytest.raises(NotFound, match="no restore was applied"):
            await undo(client, None, place, Tracker(Heard()), back)
        await applied(planned, client, place, settings(prefix))
        theirs = config_map("c001", namespace, "theirs")
        await client.put(keys[1].encode(), theirs)
        await client.delete(keys[2].encode())
        labelled = values[keys[3]].replace(b'"uid"', b'"managedFields": [], "uid"')
        await client.put(keys[3].encode(), labelled)
        report = await undo(client, None, place, Tracker(Heard()), back)
        assert [one.outcome for one in report.undone] == [
            "put-back", "gone", "changed-since", "put-back"
        ]  # fmt: skip
        assert report.undone[2].message == "it has changed: data.a"
        assert await there(client, prefix) == {
            keys[0]: before[keys[0]],
            keys[1]: theirs,
            keys[3]: before[keys[3]],
        }
        assert await place.undone() == report


async def test_what_changed_since_the_plan_is_named_and_nothing_is_written(
    client: EtcdClient, prefix: str, namespace: str, tmp_path: Path
) -> None:
    values = wanted(prefix, namespace, 3)
    keys = list(values)
    await client.put(keys[0].encode(), b"old")
    planned = await made(client, values)
    await client.put(keys[2].encode(), b"somebody")
    async with a_place(tmp_path) as place:
        with pytest.raises(Refused, match=f"{keys[2]} changed since the plan"):
            await applied(planned, client, place, settings(prefix))
        await client.delete(keys[2].encode())
        await client.put(keys[0].encode(), b"newer")
        with pytest.raises(Refused, match=f"{keys[0]} changed since the plan"):
            await applied(planned, client, place, settings(prefix))
        assert await there(client, prefix) == {keys[0]: b"newer"}
        # Nothing was written, so the same restore may be made of a new plan.
        planned = await made(client, values)
        report = await applied(planned, client, place, settings(prefix))
        assert report.counts == {"written": 3}


async def test_a_key_that_changes_meanwhile_keeps_its_group_from_being_written(
    client: EtcdClient, prefix: str, namespace: str, tmp_path: Path
) -> None:
    values = wanted(prefix, namespace, 5)
    keys = list(values)
    planned = await made(client, values, groups=[0, 1, 1, 1, 2])
    asked: list[str] = []
    loop = asyncio.get_running_loop()

    def somebody(item: PlanItem) -> None:
        asked.append(item.key)
        if asked.count(keys[2]) == 2 and item.key == keys[2]:  # once to save it, once to write it
            put = asyncio.run_coroutine_threadsafe(client.put(keys[2].encode(), b"other"), loop)
            put.result(30)

    planned.asked = somebody
    async with a_place(tmp_path) as place:
        report = await applied(planned, client, place, settings(prefix))
    assert [one.outcome for one in report.restored] == [
        "written", "failed", "changed-since", "failed", "written"
    ]  # fmt: skip
    assert "ownership group" in report.restored[1].message
    assert "nothing was overwritten" in report.restored[2].message
    assert await there(client, prefix) == {
        keys[0]: values[keys[0]],
        keys[2]: b"other",
        keys[4]: values[keys[4]],
    }


async def test_two_restores_of_one_namespace_do_not_run_at_once(
    client: EtcdClient, prefix: str, namespace: str, tmp_path: Path
) -> None:
    planned = await made(client, wanted(prefix, namespace, 3))
    other = await made(client, wanted(prefix, namespace, 3))
    go = threading.Event()
    busy = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(_: PlanItem) -> None:
        loop.call_soon_threadsafe(busy.set)
        go.wait(60)

    planned.asked = hold
    async with (
        a_place(tmp_path / "one") as one,
        a_place(tmp_path / "two", "0000beef") as two,
        asyncio.TaskGroup() as group,
    ):
        first = group.create_task(applied(planned, client, one, settings(prefix)))
        await busy.wait()
        try:
            with pytest.raises(Refused, match=f"team.7c1e04b2 is writing into .*{namespace}"):
                await applied(other, client, two, settings(prefix, "0000beef"))
        finally:
            go.set()
        assert (await first).counts == {"written": 3}
        with pytest.raises(Refused, match="changed since the plan"):
            await applied(other, client, two, settings(prefix, "0000beef"))
    assert await client.get(f"{LOCKS}{namespace}".encode()) is None


async def test_what_may_not_be_written_is_refused(
    client: EtcdClient, prefix: str, namespace: str, tmp_path: Path
) -> None:
    values = wanted(prefix, namespace, 1)
    taboo = (
        "compact_rev_key",
        "/etcdsteward.io/lock/x",
        f"{prefix}/ranges/serviceips",
        f"{prefix}/ipaddresses/10.96.0.9",
        f"{prefix}/etcdsteward.io/etcdrestores/a/b",
        f"{prefix}/masterleases/10.0.0.1",
    )
    past = datetime.now(UTC) - timedelta(seconds=1)
    async with a_place(tmp_path) as place:
        for key in taboo:
            planned = await made(client, {**values, key: b"x"})
            with pytest.raises(Refused, match=f"would write {key}, which a restore never does"):
                await applied(planned, client, place, settings(prefix))
        planned = await made(client, values)
        with pytest.raises(Refused, match="the plan was good until"):
            await applied(planned.with_plan(expires_at=past), client, place, settings(prefix))
        with pytest.raises(Refused, match="made over the etcd cluster abc, this one is"):
            await applied(planned.with_plan(target_cluster="abc"), client, place, settings(prefix))
        assert await there(client, prefix) == {}
        assert await place.claimed() is None


async def test_large_values_large_groups_and_what_etcd_never_takes(
    client: EtcdClient, prefix: str, namespace: str, tmp_path: Path
) -> None:
    values = wanted(prefix, namespace, 250)
    large = f"{prefix}/configmaps/{namespace}/large"
    values[large] = config_map("large", namespace, "x" * 1_500_000)
    huge = f"{prefix}/configmaps/{namespace}/huge"
    values[huge] = config_map("huge", namespace, "x" * 1_600_000)
    planned = await made(client, values, groups=[0] * 251 + [1])
    async with a_place(tmp_path) as place:
        report = await applied(planned, client, place, settings(prefix))
    assert report.counts == {"written": 251, "failed": 1}
    assert "too large" in report.restored[-1].message
    revisions = [one.revision for one in report.restored]
    assert len(set(revisions[:100])) == 1  # as many as etcd takes in one transaction
    del values[huge]
    assert await there(client, prefix) == values


async def test_a_claim_is_for_one_plan_of_one_restore(
    client: EtcdClient, prefix: str, namespace: str, tmp_path: Path
) -> None:
    planned = await made(client, wanted(prefix, namespace, 2))
    other = await made(client, wanted(prefix, namespace, 3))
    async with a_place(tmp_path) as place:
        assert await reopen(place) is None

        def fail(item: PlanItem) -> None:
            if item.key.endswith("c001"):
                raise RuntimeError("a bug")

        planned.asked = fail
        with pytest.raises(RuntimeError):
            await applied(planned, client, place, settings(prefix))
        # It has saved what was there before: it may have written.
        with pytest.raises(Refused, match="an apply runs once"):
            await applied(other, client, place, settings(prefix))
        with pytest.raises(Refused, match="belongs to the restore"):
            await applied(planned, client, place, settings(prefix, "0000beef"))
        planned.asked = lambda _: None
        report = await applied(planned, client, place, settings(prefix))
        assert report.counts == {"written": 2}


async def test_a_second_look_tells_what_was_taken_or_changed(
    client: EtcdClient, prefix: str, namespace: str, tmp_path: Path
) -> None:
    values = wanted(prefix, namespace, 5)
    keys = list(values)
    planned = await made(client, values)

    async def controllers(tracker: Tracker) -> None:
        async def watching() -> bool:
            return tracker.step == "Watching"

        await wait_until(watching, "the apply waits for controllers")
        await client.delete(keys[0].encode())
        await client.put(keys[1].encode(), config_map("c001", namespace, "changed"))
        await client.put(keys[2].encode(), config_map("c002", namespace, "new", uid="other"))
        going = values[keys[3]].replace(
            b'"uid"', b'"deletionTimestamp":"2026-11-22T02:18:00Z","uid"'
        )
        await client.put(keys[3].encode(), going)

    tracker = Tracker(Heard())
    async with a_place(tmp_path) as place, asyncio.TaskGroup() as group:
        group.create_task(controllers(tracker))
        using = settings(prefix, second_look_after=3.0)
        report = await apply(planned, client, None, place, tracker, using)
        assert report.second_look is not None
        assert report.taken_since == (
            f"configmaps {namespace}/c000 is gone",
            f"configmaps {namespace}/c001 has changed: data.a",
            f"configmaps {namespace}/c002 is another one, with another uid",
            f"configmaps {namespace}/c003 is being deleted",
        )
        assert await place.result() == report
        assert files(tmp_path / "store" / place.folder) == [
            "claim.json", "plan.json", "result.json", "second-look.json", "undo.parquet"
        ]  # fmt: skip
