"""EtcdMaintenances when things go wrong: an operator replaced in mid-round, a member, the data."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from etcd_steward.engine.announce import announced
from etcd_steward.engine.maintenance.lock import record_at
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.handlers.maintenance import ATTEMPTS
from tests.support.maintaining import (
    Maintainer,
    defragmentations,
    doing,
    fragment,
    maintenance,
    outcomes,
    says,
    unlocked,
)
from tests.support.replicas import Replicas, leading, log_of
from tests.support.runs import Heard, connection
from tests.support.users import (
    HastySteward,
    Object,
    backup,
    condition,
    installed,
    kubeconfig_through,
    port_of,
    s3_store,
)
from tests.testbed import ControlPlane, EtcdCluster, FaultProxy, SeaweedFS, wait_until
from tests.testbed.etcd import EtcdMember
from tests.testbed.rpc import raise_alarm
from tests.testbed.steward import NAMESPACE

TIMING: dict[str, object] = {
    "progress_every": 0.5,
    "presumed_dead_after": 120.0,
    "idle": 1.0,
    "back_offs": [1.0],
    "observing": {"status": 1.0},
}
RULE = {"minReclaim": "4Mi", "minFragmentationPercent": 10, "settle": "1s"}


@pytest.fixture(scope="module")
async def plane(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ControlPlane]:
    """An API server over three members with mutual TLS."""
    directory = tmp_path_factory.mktemp("disturbed")
    async with (
        EtcdCluster(directory / "etcd", members=3, mtls=True) as etcd,
        ControlPlane(directory / "plane", etcd) as plane,
    ):
        yield plane


@dataclass(kw_only=True)
class Crew(Replicas):
    """Operators that look after the etcd behind their own API server, and who asks them."""

    user: Maintainer

    @property
    def etcd(self) -> EtcdCluster:
        return self.user.plane.etcd

    async def observe(self, spec: Object) -> None:
        """Have it looked after, and wait until it is seen."""
        await self.user.apply(maintenance("main", spec))
        await self.user.once("main", lambda status: "etcd" in status)

    async def round_after(self, last: Object | None = None) -> Object:
        """The status once a round has ended that is not this one."""
        ended = await self.user.once(
            "main", lambda status: status.get("lastRound") != last, timeout=180
        )
        status: Object = ended["status"]
        return status


@pytest.fixture
async def crew(plane: ControlPlane, seaweedfs: SeaweedFS, tmp_path: Path) -> AsyncIterator[Crew]:
    """None of them runs yet, nothing has happened; all members are fragmented."""
    await installed(plane, seaweedfs)
    await plane.kubectl("delete", "events", "--all", f"--namespace={NAMESPACE}")
    await fragment(plane.etcd)
    async with contextlib.AsyncExitStack() as stack:
        yield Crew(user=Maintainer(plane), directory=tmp_path, stack=stack)
        kinds = "emaint,ebk,esnap"
        await plane.kubectl("delete", kinds, "--all", f"--namespace={NAMESPACE}", timeout=90)


@contextlib.asynccontextmanager
async def cut_off(_: HastySteward, api: FaultProxy) -> AsyncIterator[None]:
    """Nothing comes through to the API server; connections stay open."""
    api.to_server.stall()
    yield
    api.to_server.resume()


@contextlib.asynccontextmanager
async def frozen(replica: HastySteward, _: FaultProxy) -> AsyncIterator[None]:
    """The operator stands still, but its process for the round does not."""
    await replica.server.pause()
    yield
    replica.server.resume()


@contextlib.asynccontextmanager
async def killed(member: EtcdMember) -> AsyncIterator[None]:
    """A member is down while the body runs."""
    await member.kill()
    try:
        yield
    finally:
        await member.start()


Loss = Callable[[HastySteward, FaultProxy], contextlib.AbstractAsyncContextManager[None]]


@pytest.mark.parametrize("loss", [cut_off, frozen])
async def test_a_lost_lease_stops_no_round_in_the_middle(
    crew: Crew, plane: ControlPlane, tmp_path: Path, loss: Loss
) -> None:
    """Whoever began it ends it, and says so; whoever leads by then begins it no second time."""
    user, etcd, before = crew.user, crew.etcd, await defragmentations(crew.etcd)
    last = await etcd.leader()
    config = await plane.service_account_kubeconfig(NAMESPACE, NAMESPACE)
    api = await crew.stack.enter_async_context(FaultProxy(port_of(plane.url)))
    through = kubeconfig_through(config, api.address("https"), tmp_path / "through")
    await crew.start(1, TIMING, kubeconfig=str(through))
    old = await crew.leader()
    await crew.start(1, TIMING)
    await crew.observe({"defragmentation": {**RULE, "settle": "2s"}})
    async with (
        EtcdClient.connect(connection(etcd)) as client,
        announced(client, last.id, "reader", seconds=300, report=Heard()),
    ):
        await user.ask("main", "one")
        await user.once("main", doing("Settling"))
        _, locked = await record_at(client)
        async with loss(old, api):
            new = await crew.leader(old)
        # What it does by now is heard, though another one leads.
        await user.once("main", doing("WaitingForSnapshot"))
        assert await leading(crew.replicas) == [new]
        _, still = await record_at(client)
    assert locked is not None
    assert still is not None
    assert still.run == locked.run
    ended = (await crew.round_after())["lastRound"]
    assert ended["outcome"] == "Done", ended
    assert outcomes(ended) == ["Defragmented"] * 3
    assert await defragmentations(etcd) == [one + 1 for one in before]
    assert await unlocked(etcd)

    async def stands_by() -> bool:
        return "this one stands by" in log_of(old)

    await wait_until(stands_by, "whoever has lost its Lease stands by", timeout=60)
    await user.told("main", {"RoundDone"})
    reasons = [reason for _, reason, _ in await user.events("main")]
    assert [reasons.count(one) for one in ("RoundStarted", "RoundDone")] == [1, 1]
    assert not {"RoundWaits", "RoundStopped", "RoundFailed"} & set(reasons)

    await user.ask("main", "two")  # and the new one acts
    after = await crew.round_after(ended)
    assert after["lastRound"]["outcome"] == "NothingToDo", after["lastRound"]
    assert (after["phase"], "progress" in after) == ("Observing", False)
    assert says("RoundSucceeded", "NothingToDo")(after)
    assert says("Ready", "Observing")(after)
    assert await leading(crew.replicas) == [new]


async def test_a_round_is_taken_over_from_an_operator_that_was_killed(crew: Crew) -> None:
    """The second one leaves alone what the first has done."""
    before = await defragmentations(crew.etcd)
    await crew.start(2, {**TIMING, "presumed_dead_after": 3.0})
    old = await crew.leader()
    await crew.observe({"defragmentation": {**RULE, "settle": "4s"}})
    await crew.user.ask("main", "one")
    await crew.user.once("main", doing("Settling"))
    await old.server.kill()
    status = await crew.round_after()
    ended = status["lastRound"]
    assert ended["outcome"] == "Done", ended
    assert set(outcomes(ended)) == {"Skipped", "Defragmented"}
    assert await defragmentations(crew.etcd) == [one + 1 for one in before]
    assert await unlocked(crew.etcd)
    assert (status["phase"], "progress" in status) == ("Observing", False)
    assert await leading(crew.replicas) == [one for one in crew.replicas if one is not old]
    messages = [text for _, why, text in await crew.user.events("main") if why == "RoundWaits"]
    assert any("the operator died" in text for text in messages), messages


async def test_a_round_that_goes_on_without_its_operator_is_waited_for(crew: Crew) -> None:
    """The next operator takes it for dead, but the process that holds the lock lives."""
    user, etcd, before = crew.user, crew.etcd, await defragmentations(crew.etcd)
    last = await etcd.leader()
    await crew.start(2, {**TIMING, "presumed_dead_after": 3.0})
    old = await crew.leader()
    await crew.observe({"defragmentation": {**RULE, "settle": "2s"}})

    async def often() -> bool:
        events = await user.events("main")
        return sum("maintains this etcd since" in text for _, _, text in events) > ATTEMPTS

    async with (
        EtcdClient.connect(connection(etcd)) as client,
        announced(client, last.id, "reader", seconds=300, report=Heard()),
    ):
        await user.ask("main", "one")
        await user.once("main", doing("Settling"))
        await old.server.pause()
        await wait_until(often, "the lock has refused it often", timeout=150, interval=1)
    status = await crew.round_after()
    old.server.resume()
    assert status["lastRound"]["outcome"] == "NothingToDo", status["lastRound"]
    assert await defragmentations(etcd) == [one + 1 for one in before]
    reasons = [reason for _, reason, _ in await user.events("main")]
    assert "RoundRefused" not in reasons


async def test_a_member_killed_in_mid_round_stops_it_and_the_status_says_so(crew: Crew) -> None:
    user, plane, victim = crew.user, crew.user.plane, await crew.etcd.leader()
    await crew.start(1, TIMING)
    await crew.observe({"defragmentation": {**RULE, "settle": "10s"}})
    await user.ask("main", "one")
    await user.once("main", doing("Settling"))
    async with killed(victim):
        status = await crew.round_after()
        ended = status["lastRound"]
        assert (ended["outcome"], ended["reason"]) == ("Stopped", "Stopped"), ended
        assert outcomes(ended) == ["Defragmented", "NotReached", "NotReached"]
        assert f"member {victim.name} does not answer" in ended["message"]
        assert says("RoundSucceeded", "Stopped")(status)
        assert condition({"status": status}, "RoundSucceeded")["status"] == "False"
        said = (await user.once("main", says("EtcdHealthy", "MemberDown")))["status"]
        assert victim.name in condition({"status": said}, "EtcdHealthy")["message"]
        assert user.ready(said)["reason"] == "RoundStopped"
        assert user.ready(said)["message"] == ended["message"]
        down = {one["name"]: one["up"] for one in said["etcd"]["members"]}
        assert [name for name, up in down.items() if not up] == [victim.name]
        await user.told("main", {"RoundStopped", "MemberDown"})
        kinds = {reason: kind for kind, reason, _ in await user.events("main")}
        assert (kinds["RoundStopped"], kinds["MemberDown"]) == ("Warning", "Warning")
        await plane.kubectl("create", "configmap", "quorum-is-kept")
        assert await unlocked(crew.etcd)
    await user.once("main", says("EtcdHealthy", "AllWell"))
    await user.ask("main", "two")
    again = await crew.round_after(ended)
    assert again["lastRound"]["outcome"] == "Done", again["lastRound"]
    assert sorted(outcomes(again["lastRound"])) == ["Defragmented", "Defragmented", "Skipped"]


async def test_a_corrupt_etcd_is_left_alone_and_its_backups_are_suspect(
    crew: Crew, seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    """What was asked for meanwhile is done once a person has disarmed."""
    user = crew.user
    async with EtcdCluster(tmp_path / "sick", members=3) as sick:
        reach = {"etcd": {"endpoints": sick.endpoints}}
        store = {"store": s3_store(seaweedfs, bucket), "retention": {"keepLast": 1}}
        await crew.start(1, TIMING)
        await user.apply(backup("nightly", {**reach, **store}))
        run = (await user.run_of("nightly"))["metadata"]["name"]
        assert condition(await user.ended(run), "Verified")["status"] == "True"
        rule = {"always": True, "settle": "1s"}
        await crew.observe({**reach, "defragmentation": rule})

        await raise_alarm(sick, sick.members[0], corrupt=True)
        told = await user.once("main", says("EtcdHealthy", "Corrupt"))
        healthy = condition(told, "EtcdHealthy")
        assert healthy["status"] == "False"
        assert "CORRUPT etcd0" in healthy["message"]
        assert told["status"]["message"] == healthy["message"]
        assert told["status"]["etcd"]["alarms"] == ["CORRUPT etcd0"]
        await user.shown("ebk", "nightly", says("RetentionFrozen", "Frozen"))
        record = await user.shown("esnap", run, lambda status: status.get("kept") == ["suspect"])
        names = await seaweedfs.objects(bucket, "")
        assert [name.rpartition("/")[2] for name in names].count("suspect.json") == 1
        await user.told("main", {"Corrupt"})
        await user.told("nightly", {"RetentionFrozen"})

        await user.ask("main", "one")
        await user.apply(
            maintenance("main", {**reach, "defragmentation": {**rule, "settle": "2s"}})
        )
        newer = (await user.get("emaint", "main"))["metadata"]["generation"]
        left = await user.once("main", lambda status: status["observedGeneration"] == newer)
        assert not {"lastRound", "progress", "lastHandledRequestedAt"} & set(left["status"])
        assert await crew.said("main", "RoundStarted") == 0
        assert await defragmentations(sick) == [0, 0, 0]

        await sick.etcdctl("alarm", "disarm")
        done = await crew.round_after()
        assert done["lastRound"]["outcome"] == "Done", done["lastRound"]
        assert await defragmentations(sick) == [1, 1, 1]
        assert says("EtcdHealthy", "AllWell")(done)
        await user.delete("emaint", "main")
    assert says("Verified", "Suspect")(record["status"])
