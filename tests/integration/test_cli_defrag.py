"""`etcd-steward defrag` as its users run it: plan, round, refusal, Ctrl-C."""

import signal

from etcd_steward.engine.maintenance.lock import KEY
from tests.support.cli import started, steward
from tests.testbed import EtcdCluster, wait_until


async def test_plan_and_round(etcd_mtls: EtcdCluster) -> None:
    flags = etcd_mtls.connection_flags()
    leader = (await etcd_mtls.leader()).name
    quiet = await steward("defrag", "--plan", *flags)
    assert quiet.code == 0, quiet.err
    assert "Nothing to do" in quiet.out
    assert f"{leader} (leader)   Skipped" in quiet.out
    plan = await steward("defrag", "--plan", "--always", *flags)
    assert plan.code == 0, plan.err
    assert "3 of 3 members would be defragmented in this order, leadership handed over" in plan.out
    assert plan.out.index(f"{leader} (leader)   WouldDefragment") > plan.out.index("about 1")
    done = await steward("defrag", "--always", "--settle=100ms", "-o=json", *flags)
    assert done.code == 0, done.err
    report = done.json()
    assert report["outcome"] == "Done"
    assert [one["outcome"] for one in report["members"]] == ["Defragmented"] * 3
    assert report["leaderMove"]["fromName"] == leader
    assert report["reclaimedBytes"] == sum(one["reclaimedBytes"] for one in report["members"])
    assert "[1/3]" in done.err
    assert f"[3/3] {leader}: it leads: handing leadership over" in done.err


async def test_what_must_not_be_done_now_has_its_exit_code(etcd_mtls: EtcdCluster) -> None:
    flags = etcd_mtls.connection_flags()
    for words in (("--plan",), ()):
        said = await steward("defrag", *words, "--always", "--disk-room=1k", *flags)
        assert said.code == 3
        assert "of disk for the copy, and only 1.00 kB are said to be free" in said.out + said.err
    late = await steward("defrag", "--always", "--within=10ms", *flags)
    assert late.code == 4
    assert "The time is over before the end" in late.out
    two = [flag if "endpoints" not in flag else flag.rpartition(",")[0] for flag in flags]
    missing = await steward("defrag", *two)
    assert missing.code == 3
    assert "every voter must be named" in missing.err


async def test_ctrl_c_ends_the_round_between_two_members(etcd_mtls: EtcdCluster) -> None:
    flags = etcd_mtls.connection_flags()

    async def locked() -> bool:
        return "memberID" in await etcd_mtls.etcdctl("get", KEY.decode())

    async with started("defrag", "--always", "--settle=60s", *flags) as running:
        await wait_until(locked, "a member's turn has come", timeout=60, interval=0.01)
        running.send(signal.SIGINT)
        said = await running.end()
    assert said.code == 130
    assert "Stopping as soon as no member is at work" in said.err
    assert "Stopped before the end\n  - it was told to stop" in said.out
    assert said.out.count("NotReached") == 2
    assert await etcd_mtls.etcdctl("get", KEY.decode()) == ""
