"""EtcdMaintenances, as a person makes them with kubectl, beside a running operator."""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.maintaining import (
    Maintainer,
    doing,
    fragment,
    maintenance,
    outcomes,
    says,
    unlocked,
)
from tests.support.users import (
    HastySteward,
    Object,
    backup,
    children,
    condition,
    installed,
    port_of,
    s3_store,
)
from tests.testbed import ControlPlane, EtcdCluster, FaultProxy, SeaweedFS, wait_until
from tests.testbed.steward import NAMESPACE, ROOT, Steward

TIMING = {
    "refusal_patience": 3.0,
    "progress_every": 0.5,
    "presumed_dead_after": 3.0,
    "idle": 1.0,
    "back_offs": [1.0],
    "observing": {"status": 1.0},
}
RULE = {"minReclaim": "4Mi", "minFragmentationPercent": 10, "settle": "1s"}


@pytest.fixture(scope="module")
async def plane(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ControlPlane]:
    """An API server over three members with mutual TLS."""
    directory = tmp_path_factory.mktemp("maintained")
    async with (
        EtcdCluster(directory / "etcd", members=3, mtls=True) as etcd,
        ControlPlane(directory / "plane", etcd) as plane,
    ):
        yield plane


@pytest.fixture(scope="module")
async def steward(
    plane: ControlPlane, seaweedfs: SeaweedFS, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Steward]:
    """The operator, which looks at etcd every second."""
    await installed(plane, seaweedfs)
    operator = HastySteward(tmp_path_factory.mktemp("steward"), plane)
    operator.timing = TIMING
    async with operator:
        yield operator


@pytest.fixture
async def user(plane: ControlPlane, steward: Steward) -> AsyncIterator[Maintainer]:
    """Somebody with kubectl, who leaves nothing behind; all members are fragmented."""
    await fragment(plane.etcd)
    user = Maintainer(plane)
    yield user
    await plane.kubectl("delete", "emaint", "--all", f"--namespace={NAMESPACE}")

    async def idle() -> bool:
        return len(children(steward.server.pid)) == 0 and await unlocked(plane.etcd)

    await wait_until(idle, "no process is left, nor a lock", timeout=60)


async def test_a_scheduled_round_defragments_and_says_so_everywhere(user: Maintainer) -> None:
    leader = (await user.plane.etcd.leader()).name
    soon = datetime.now(UTC) + timedelta(seconds=70)  # there is time to see it wait
    schedule = f"{soon.minute} {soon.hour} * * *"
    spec = {"schedule": schedule, "window": {"duration": "10m"}, "defragmentation": RULE}
    await user.apply(maintenance("main", spec))
    seen = await user.once("main", lambda status: status.get("etcd", {}).get("leader"))
    assert condition(seen, "Ready")["status"] == "True"
    assert condition(seen, "EtcdHealthy")["reason"] == "AllWell"
    assert seen["status"]["nextScheduleTime"] == f"{soon:%Y-%m-%dT%H:%M:00Z}"
    done = await user.once("main", lambda status: "lastRound" in status, timeout=240)
    ended = done["status"]["lastRound"]
    assert ended["outcome"] == "Done", ended
    assert outcomes(ended) == ["Defragmented"] * 3
    assert [one["name"] for one in ended["members"]][-1] == leader
    assert ended["members"][-1]["leader"] is True
    assert all(one["reclaimed"].endswith(" MB") for one in ended["members"])
    assert condition(done, "RoundSucceeded")["status"] == "True"
    assert "finalizers" not in done["metadata"]
    assert "progress" not in done["status"]
    assert done["status"]["lastScheduleTime"] < done["status"]["nextScheduleTime"]

    row, wide = await user.row("main"), await user.row("main", "-o", "wide")
    assert set(row) == {"NAME", "READY", "LEADER", "DB-SIZE", "QUOTA-USED", "LAST-DEFRAG", "NEXT",
                        "AGE"}  # fmt: skip
    assert row["READY"] == "True"
    assert row["LEADER"] in {"etcd0", "etcd1", "etcd2"}
    assert row["DB-SIZE"].endswith("B")
    assert row["QUOTA-USED"].endswith("%")
    assert re.fullmatch(r"(\d+m)?(\d+s)?", row["LAST-DEFRAG"])
    assert row["NEXT"] == done["status"]["nextScheduleTime"]
    assert set(wide) - set(row) == {"IN-USE", "REVISION", "LEASES", "VERSION", "MESSAGE"}
    assert int(wide["REVISION"]) > 100
    assert int(wide["LEASES"]) >= 0
    assert wide["VERSION"].startswith("3.6.")
    assert wide["MESSAGE"].startswith("Last round: 3 of 3 members defragmented")
    await user.told("main", {"RoundStarted", "MemberDefragmented", "RoundDone"})
    reasons = [reason for _, reason, _ in await user.events("main")]
    assert reasons.count("MemberDefragmented") == 3
    told = await user.plane.kubectl("explain", "emaint.spec.defragmentation.minReclaim")
    assert "Example: `256Mi`" in " ".join(told.split())


async def test_a_plan_on_request_touches_nothing(user: Maintainer) -> None:
    before = await user.sizes()
    await user.apply(maintenance("main", {"mode": "Plan", "defragmentation": RULE}))
    await user.once("main", lambda status: "etcd" in status)
    await user.ask("main", "one")
    planned = await user.once("main", lambda status: "plan" in status)
    plan = planned["status"]["plan"]
    assert plan["outcome"] == "Planned", plan
    assert outcomes(plan) == ["WouldDefragment"] * 3
    assert "lastRound" not in planned["status"]
    assert planned["status"]["lastHandledRequestedAt"] == "one"
    assert await user.sizes() == before
    await user.told("main", {"PlanStarted", "Planned"})


async def test_a_round_ends_between_members_when_it_is_suspended_or_deleted(
    user: Maintainer,
) -> None:
    slow = {"defragmentation": {**RULE, "settle": "10m"}}
    await user.apply(maintenance("elder", slow))
    await user.once("elder", lambda status: "etcd" in status)
    await asyncio.sleep(1.1)  # so that one is older
    await user.apply(maintenance("younger", slow))
    told = await user.once("younger", says("Ready", "AnotherMaintains"))
    assert f"{NAMESPACE}/elder is for the same etcd" in user.ready(told["status"])["message"]

    await user.ask("elder", "one")
    await user.ask("younger", "one")
    await user.once("elder", doing("Settling"))
    await user.apply(maintenance("elder", {**slow, "suspend": True}))
    stopped = await user.once("elder", lambda status: "lastRound" in status)
    ended = stopped["status"]["lastRound"]
    assert (ended["outcome"], ended["reason"]) == ("Stopped", "Cancelled")
    assert "spec.suspend was set" in ended["message"]
    assert outcomes(ended) == ["Defragmented", "NotReached", "NotReached"]
    assert stopped["status"]["phase"] == "Suspended"
    assert user.ready(stopped["status"])["status"] == "True"
    assert await unlocked(user.plane.etcd)
    await user.ask("elder", "two")

    await user.plane.kubectl("delete", "emaint", "elder", f"--namespace={NAMESPACE}", timeout=20)
    await user.once("younger", doing("Settling"))
    young = await user.get("emaint", "younger")
    assert user.ready(young["status"])["status"] == "True"
    await user.plane.kubectl("delete", "emaint", "younger", f"--namespace={NAMESPACE}", timeout=20)


async def test_a_round_goes_on_after_its_operator_was_killed(
    user: Maintainer, steward: Steward
) -> None:
    spec = {"defragmentation": {**RULE, "settle": "4s"}}
    await user.apply(maintenance("main", spec))
    await user.once("main", lambda status: "etcd" in status)
    await user.ask("main", "one")
    await user.once("main", doing("Settling"))
    await steward.server.kill()
    left = (await user.get("emaint", "main"))["status"]
    assert left["phase"] == "Running"
    await steward.server.start()
    done = await user.once("main", lambda status: "lastRound" in status, timeout=150)
    assert done["status"]["lastRound"]["outcome"] == "Done", done["status"]
    assert done["status"]["phase"] == "Observing"
    assert done["status"]["starts"] > left["starts"]
    messages = [text for _, reason, text in await user.events("main") if reason == "RoundWaits"]
    assert any("the operator died" in text for text in messages), messages


async def test_an_operator_that_stops_in_order_leaves_the_rest_to_the_next_one(
    user: Maintainer, steward: Steward
) -> None:
    spec = {"defragmentation": {**RULE, "settle": "4s"}}
    await user.apply(maintenance("main", spec))
    await user.once("main", lambda status: "etcd" in status)
    await user.ask("main", "one")
    await user.once("main", doing("Settling"))
    await steward.server.stop()
    left = (await user.get("emaint", "main"))["status"]
    assert (left["phase"], left["task"], left["attempt"]) == ("Pending", "round", 1)
    assert await unlocked(user.plane.etcd)
    await steward.server.start()
    done = await user.once("main", lambda status: "lastRound" in status, timeout=150)
    assert done["status"]["lastRound"]["outcome"] == "Done", done["status"]


async def test_a_round_and_backups_wait_for_each_other(
    user: Maintainer, seaweedfs: SeaweedFS, bucket: str
) -> None:
    etcd = user.plane.etcd
    tls = etcd.tls
    assert tls is not None
    create = ("create", "secret", "generic", "etcd-client", f"--namespace={NAMESPACE}")
    pair = (f"--from-file=tls.crt={tls.client.cert}", f"--from-file=tls.key={tls.client.key}")
    await user.plane.kubectl(*create, f"--from-file=ca.crt={tls.ca_file}", *pair)
    leader = await etcd.leader()
    follower = next(one for one in etcd.members if one is not leader)
    store = {"store": s3_store(seaweedfs, bucket)}
    async with FaultProxy(port_of(follower.endpoint)) as proxy:
        proxy.to_client.bytes_per_second = 700_000
        slow = {"endpoints": [proxy.address("https")], "tls": {"secretName": "etcd-client"}}
        await user.apply(
            maintenance("main", {"defragmentation": RULE}),
            backup("slow", {"etcd": slow, **store}),
        )
        await user.once("main", lambda status: "etcd" in status)
        run = (await user.run_of("slow"))["metadata"]["name"]
        await user.shown("esnap", run, doing("Streaming"))
        await user.ask("main", "one")
        await user.once("main", doing("WaitingForSnapshot"))
        taken = await user.ended(run)
        assert condition(taken, "Complete")["status"] == "True"
        done = await user.once("main", lambda status: "lastRound" in status)
    assert done["status"]["lastRound"]["outcome"] == "Done", done["status"]["lastRound"]

    await user.apply(maintenance("main", {"defragmentation": {**RULE, "always": True}}))
    await user.ask("main", "two")
    await user.once("main", lambda status: status.get("phase") == "Running")
    await user.apply(backup("fast", store))
    taken = await user.ended((await user.run_of("fast"))["metadata"]["name"])
    assert condition(taken, "Complete")["status"] == "True"

    def again(status: Object) -> bool:
        return bool(status["lastRound"] != done["status"]["lastRound"])

    second = await user.once("main", again)
    assert second["status"]["lastRound"]["outcome"] == "Done", second["status"]["lastRound"]


async def test_what_may_not_be_is_refused_in_words(user: Maintainer) -> None:
    name = f"test-{secrets.token_hex(4)}"
    await user.plane.kubectl("create", "namespace", name)
    tenant = Maintainer(user.plane, name)
    await tenant.apply(maintenance("foreign", {}, name))
    await user.apply(
        maintenance("typo", {"schedule": "61 * * * *", "defragmentation": RULE}),
        maintenance(
            "absent",
            {"etcd": {"endpoints": ["https://127.0.0.1:1"], "tls": {"secretName": "absent"}}},
        ),
        maintenance("nobody", {"etcd": {"endpoints": ["http://127.0.0.1:1"]}}),
    )
    for somebody, which, reason, said in (
        (tenant, "foreign", "Refused", "may not use the operator's own etcd"),
        (user, "typo", "InvalidSchedule", "can't be followed"),
        (user, "absent", "NotFound", "there is no Secret"),
        (user, "nobody", "EtcdUnreachable", ""),
    ):
        told = await somebody.once(which, says("Ready", reason))
        assert said in somebody.ready(told["status"])["message"]
    for spec, said in (
        ({"schedule": "@weekly"}, "set defragmentation too"),
        ({"window": {"duration": "1h"}}, "set schedule too"),
        ({"compaction": {"mode": "Retain"}}, "mode Retain needs retainRevisions"),
        ({"compaction": {"retainRevisions": 5}}, "and no other mode does"),
        ({"alarms": {"backupName": "b"}}, "backupName is for noSpace: Rescue"),
        ({"etcd": {"serverName": "etcd"}}, "are for endpoints"),
        ({"defragmentation": {"minReclaim": "256 MB"}}, "minReclaim"),
        ({"window": {"duration": "2 hours"}, "schedule": "@daily"}, "window.duration"),
    ):
        assert said in await user.refused(maintenance("bad", spec)), spec
    sample = ROOT / "deploy/samples/maintenance.yaml"
    await user.plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", sample)
    await user.plane.kubectl("delete", "namespace", name, "--wait=false")
