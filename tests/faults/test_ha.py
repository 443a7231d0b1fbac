"""Several operators of which one acts: killed, stopped, frozen, and all of them cut off."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support.replicas import Cast, a_cast, leading, log_of
from tests.support.users import HastySteward, children
from tests.testbed import ControlPlane, EtcdCluster, SeaweedFS, process, wait_until
from tests.testbed.bulk import load

DEAD_AFTER = 6.0
HASTY: dict[str, object] = {
    "back_offs": [1.0],
    "progress_every": 1.0,
    "presumed_dead_after": DEAD_AFTER,
    "settle_within": 20.0,
}
DEFAULT_ELECTION: dict[str, object] = {"election": {}}


@pytest.fixture(scope="module")
async def loaded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EtcdCluster]:
    """An etcd with some 40 MB in it, which hardly compress below 10."""
    async with EtcdCluster(tmp_path_factory.mktemp("loaded")) as cluster:
        await load(cluster, 30_000, value_size=1000, namespaces=10, seed=3)
        yield cluster


@pytest.fixture
async def cast(
    control_plane: ControlPlane,
    loaded: EtcdCluster,
    seaweedfs: SeaweedFS,
    bucket: str,
    tmp_path: Path,
) -> AsyncIterator[Cast]:
    """A cast on the shared control plane."""
    async for one in a_cast(control_plane, loaded, seaweedfs, bucket, tmp_path):
        yield one


async def test_a_killed_leader_is_replaced_in_time(cast: Cast) -> None:
    await cast.start(2, DEFAULT_ELECTION)
    old = await cast.leader()
    before = await cast.lease()
    first = await cast.declare("first")
    await cast.user.ended(first)
    killed = time.monotonic()
    await old.server.kill()
    second = await cast.declare("second")
    took = time.monotonic() - killed
    print(f"\nafter kill -9, with the default timings, the other one acted in {took:.1f} s")  # noqa: T201, a figure
    assert took < 30
    new = await cast.leader()
    assert new is not old
    after = await cast.lease()
    assert after["leaseTransitions"] == before["leaseTransitions"] + 1
    assert after["holderIdentity"] != before["holderIdentity"]
    await old.server.start()
    assert await leading(cast.replicas) == [new]
    await cast.once(first, second)


async def test_a_leader_that_is_stopped_hands_over_at_once(cast: Cast) -> None:
    await cast.start(2, {**HASTY, **DEFAULT_ELECTION})
    old = await cast.leader()
    name = await cast.declare("handed")
    await cast.hold_upload()
    await cast.store.reset()
    cast.store.to_server.resume()
    cast.store.to_server.bytes_per_second = 500_000
    old.server.send(signal.SIGTERM)

    async def ended() -> bool:
        return not old.server.running

    await wait_until(ended, "the old leader has ended", timeout=30)
    stopped = time.monotonic()
    assert "no longer leads: nobody is known to hold" in log_of(old)
    assert "is not given up" not in log_of(old)
    new = await cast.leader()
    took = time.monotonic() - stopped
    print(f"\nafter a clean stop, with the default timings, the other one led in {took:.1f} s")  # noqa: T201, a figure
    assert new is not old
    assert took < 8
    cast.store.to_server.bytes_per_second = None
    await cast.once(name)
    made = await cast.user.ended(name)
    assert made["status"]["attempt"] == 1
    assert await cast.said(name, "Retrying") == 0


def freeze(replica: HastySteward) -> Callable[[], None]:
    """Stop a replica's run as a frozen host would, the replica comes next; returns the thaw."""
    (child,) = children(replica.server.pid)
    os.kill(child, signal.SIGSTOP)
    return lambda: os.kill(child, signal.SIGCONT)


@pytest.mark.parametrize(
    "silence", [pytest.param(90.0, id="its process fails"), pytest.param(16.0, id="it is lost")]
)
async def test_a_leader_frozen_in_mid_run_says_nothing_when_it_wakes(
    cast: Cast, silence: float
) -> None:
    timing = {**HASTY, "limits": {"silence": silence, "grace": 10.0}}
    await cast.start(2, timing)
    old = await cast.leader()
    name = await cast.declare("frozen")
    await cast.hold_upload()
    await cast.user.until(name, lambda one: "journal" in one["status"])
    frozen_at = time.monotonic()
    thaw = freeze(old)
    await old.server.pause()
    await cast.store.reset()
    cast.store.to_server.resume()
    new = await cast.leader()
    assert new is not old

    await cast.user.until(name, lambda one: one["status"]["attempt"] == 2)
    await cast.hold_upload()
    theirs = await cast.user.until(name, lambda one: one["status"]["phase"] == "Running")
    await asyncio.sleep(max(0.0, frozen_at + 17 - time.monotonic()))  # longer than its silence
    thaw()
    old.server.resume()
    cast.store.to_server.bytes_per_second = 1_000_000
    cast.store.to_server.resume()

    async def stands_by() -> bool:
        return "this one stands by" in log_of(old)

    await wait_until(stands_by, "the old leader stands by", timeout=60)
    assert await leading(cast.replicas) == [new]
    assert not children(old.server.pid)
    assert "another operator has taken" in log_of(old)
    cast.store.to_server.bytes_per_second = None
    made = await cast.user.ended(name)
    assert made["status"]["attempt"] == 2
    assert made["status"]["starts"] == theirs["status"]["starts"]
    await cast.once(name)
    assert await cast.said(name, "Complete") == 1
    assert await cast.said(name, "RunStarted") == 2

    await new.server.kill()  # and the one that stood by acts again, in the same process
    assert await cast.leader() is old
    await cast.once(name, await cast.declare("after"))


async def test_a_run_that_completed_under_a_frozen_leader_is_adopted(cast: Cast) -> None:
    await cast.start(2, HASTY)
    old = await cast.leader()
    name = await cast.declare("adopted", attempts=1)
    await cast.hold_upload()
    await cast.user.until(name, lambda one: "journal" in one["status"])
    await old.server.pause()
    cast.store.to_server.resume()
    made = await cast.user.ended(name)
    assert made["status"]["attempt"] == 1
    old.server.resume()

    async def stands_by() -> bool:
        return "this one stands by" in log_of(old)

    await wait_until(stands_by, "the old leader stands by", timeout=60)
    await cast.once(name)
    now = (await cast.user.get("esnap", name))["status"]
    assert {**now, "kept": None} == {**made["status"], "kept": None}  # the catalogue says it later
    assert await cast.said(name, "Complete") == 1


async def test_a_leader_that_was_frozen_for_a_moment_finishes_its_run(cast: Cast) -> None:
    await cast.start(2, {**HASTY, "presumed_dead_after": 30.0})
    old = await cast.leader()
    name = await cast.declare("moment")
    await cast.hold_upload()
    await cast.user.until(name, lambda one: "journal" in one["status"])
    await old.server.pause()
    new = await cast.leader()
    assert new is not old
    old.server.resume()
    other = await cast.declare("other")  # the new one acts, the old one only finishes

    async def begun() -> bool:
        return bool(children(new.server.pid))

    await wait_until(begun, "the new leader has begun the other run", timeout=30)
    assert len(children(old.server.pid)) == 1
    assert "this one stands by" not in log_of(old)
    cast.store.to_server.resume()
    await cast.once(name, other)
    made = await cast.user.ended(name)
    assert (made["status"]["attempt"], made["status"]["starts"]) == (1, 1)

    async def stands_by() -> bool:
        return "this one stands by" in log_of(old)

    await wait_until(stands_by, "the old leader stands by", timeout=60)


async def test_five_at_once_have_one_leader_at_any_time(cast: Cast) -> None:
    await cast.start(5, HASTY)
    most = 0
    holders: list[str] = []

    async def watch() -> None:
        nonlocal most
        while True:
            first = await leading(cast.replicas)
            holder = (await cast.lease())["holderIdentity"]
            if [holder] != holders[-1:]:
                holders.append(holder)
            second = await leading(cast.replicas)
            most = max(most, len([one for one in first if one in second]))
            await asyncio.sleep(0.2)

    async with asyncio.TaskGroup() as group:
        watcher = group.create_task(watch())
        names = [await cast.declare(f"five-{number}") for number in range(3)]
        for _ in range(2):
            old = await cast.leader()
            await old.server.kill()
            await cast.leader(old)
            await old.server.start()
        names += [await cast.declare(f"five-{number}") for number in range(3, 5)]
        await cast.once(*names)
        watcher.cancel()
    assert most == 1
    assert len(set(holders) - {""}) == 3
    spec = await cast.lease()
    assert spec["holderIdentity"] == holders[-1]
    assert spec["leaseTransitions"] >= 2


async def test_without_election_it_acts_beside_others(cast: Cast) -> None:
    await cast.start(1, HASTY)
    await cast.leader()
    before = await cast.lease()
    await cast.start(1, HASTY, **{"leader-elect": "false"})
    assert await leading(cast.replicas) == cast.replicas
    elected, alone = cast.replicas
    await elected.server.stop()
    await cast.once(await cast.declare("alone"))
    after = await cast.lease()
    assert (after["holderIdentity"], before["holderIdentity"] != "") == ("", True)
    await alone.server.stop()


async def test_a_namespace_that_is_not_there_ends_the_operator_in_words(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    said = await process.run(
        sys.executable, "-m", "etcd_steward", "run", "--namespace=nowhere",
        f"--kubeconfig={control_plane.kubeconfig}", f"--spool-dir={tmp_path}",
        "--metrics-port=0", "--health-port=0",
    )  # fmt: skip
    assert said.status == 2
    words = said.stderr.decode()
    assert "there is no namespace nowhere for the operator's Lease" in words
    assert "--no-leader-elect" in words
    assert "Traceback" not in words


@pytest.fixture
async def cast_apart(
    loaded: EtcdCluster,
    seaweedfs: SeaweedFS,
    bucket: str,
    tmp_path: Path,
) -> AsyncIterator[Cast]:
    """A cast on a control plane of its own."""
    async with (
        EtcdCluster(tmp_path / "etcd") as etcd,
        ControlPlane(tmp_path / "plane", etcd) as plane,
    ):
        async for one in a_cast(plane, loaded, seaweedfs, bucket, tmp_path):
            yield one


async def test_an_api_server_gone_in_mid_run_ends_no_run_and_doubles_none(
    cast_apart: Cast,
) -> None:
    cast = cast_apart
    dead_after = 20.0
    await cast.start(2, {**HASTY, "presumed_dead_after": dead_after})
    await cast.leader()
    cast.store.to_server.bytes_per_second = 300_000
    held, done = await cast.declare("held"), await cast.declare("done")
    for name in (held, done):
        await cast.user.until(name, lambda one: "journal" in one["status"])
    cast.store.to_server.stall()
    plane = cast.user.plane
    await plane.api_server.stop()
    gone = time.monotonic()
    cast.store.to_server.bytes_per_second = None
    cast.store.to_server.resume()

    async def all_written() -> bool:
        stored = await cast.s3.objects(cast.bucket, "")
        return sum(key.endswith("/manifest.json") for key in stored) == 2

    await wait_until(all_written, "both backups are complete", timeout=60)
    assert await leading(cast.replicas) == []
    await asyncio.sleep(max(0.0, gone + 40 - time.monotonic()))  # the outage itself
    await plane.api_server.start()
    for name in (held, done):
        made = await cast.user.ended(name)
        assert (made["status"]["attempt"], made["status"]["starts"]) == (1, 1)
    await cast.once(held, done)
    assert len(await leading(cast.replicas)) == 1


async def test_a_run_that_outlasts_an_outage_goes_on(cast_apart: Cast) -> None:
    cast = cast_apart
    dead_after = 20.0
    await cast.start(2, {**HASTY, "presumed_dead_after": dead_after})
    old = await cast.leader()
    name = await cast.declare("outlasts")
    await cast.hold_upload()
    before = await cast.user.until(name, lambda one: "journal" in one["status"])
    plane = cast.user.plane
    await plane.api_server.stop()
    await asyncio.sleep(dead_after + 5)  # its heartbeat is old when the API server is back
    await plane.api_server.start()
    beat = before["status"]["heartbeatTime"]
    await cast.user.until(name, lambda one: one["status"]["heartbeatTime"] != beat)
    await asyncio.sleep(dead_after + 5)  # whoever leads has had the time to believe it dead
    assert children(old.server.pid)
    cast.store.to_server.resume()
    made = await cast.user.ended(name)
    assert (made["status"]["attempt"], made["status"]["starts"]) == (1, 1)
    await cast.once(name)
