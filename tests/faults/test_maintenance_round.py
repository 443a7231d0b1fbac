"""Rounds on real clusters, undisturbed and disturbed: what is done, what is not, what is said."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import pytest

from etcd_steward.engine.announce import announced
from etcd_steward.engine.maintenance import defragment, lock
from etcd_steward.engine.maintenance import round as rounds
from etcd_steward.engine.maintenance.facts import Facts
from etcd_steward.engine.maintenance.leader import successor
from etcd_steward.errors import NoLeader
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.member import MemberStatus
from etcd_steward.models.jobs import EVENT, Event
from etcd_steward.models.maintenance import DefragmentationRule, RoundReport
from etcd_steward.models.maintenance_run import (
    MaintenanceRequest,
    MemberDone,
    MemberTurn,
    RoundEnded,
)
from tests.support.maintenance import Held, hold, of, options, outcomes, round_request
from tests.support.probing import DROPPED, ELECTION, Seen, probing
from tests.support.rounds import (
    by_name,
    followers,
    fragment,
    on_turn,
    revive,
    unlocked,
    well,
)
from tests.support.runs import Heard, connection
from tests.testbed import EtcdCluster, wait_until
from tests.testbed.bulk import load
from tests.testbed.etcd import EtcdMember
from tests.testbed.rpc import raise_alarm

KEYS = 30_000
BUSY = 2.0
"""Seconds that a busy machine may take for any request, however short a member's own stall is."""


@pytest.fixture(scope="module")
async def maintained(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EtcdCluster]:
    """Three members with mutual TLS and 40 MB in use."""
    directory = tmp_path_factory.mktemp("maintained")
    async with EtcdCluster(directory, members=3, mtls=True) as cluster:
        await load(cluster, KEYS, value_size=1000, namespaces=10, seed=7)
        yield cluster


@pytest.fixture
async def etcd(maintained: EtcdCluster) -> AsyncIterator[EtcdCluster]:
    """The same; whatever a test does to a member is made good."""
    yield maintained
    for member in maintained.members:
        member.resume()
        if not member.running:
            await member.kill()
            await member.start()
    async with EtcdClient.connect(connection(maintained)) as client:
        await well(client)
        await client.delete(lock.KEY)


@pytest.fixture
async def client(etcd: EtcdCluster) -> AsyncIterator[EtcdClient]:
    async with EtcdClient.connect(connection(etcd)) as opened:
        yield opened


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Death is believed after seconds."""
    monkeypatch.setattr(lock, "_BEAT", 0.5)
    monkeypatch.setattr(lock, "SILENT", 3.0)
    monkeypatch.setattr(defragment, "_GONE", 2.0)


async def test_a_plan_touches_nothing_and_says_all(etcd: EtcdCluster) -> None:
    before = await etcd.revision()
    leader = await etcd.leader()
    report = await hold(etcd, mode="Plan")
    assert report.outcome == "Planned"
    assert outcomes(report) == ["WouldDefragment"] * 3
    assert [one.leader for one in report.members] == [False, False, True]
    assert report.members[2].name == leader.name
    assert report.objections == ()
    usual = await hold(etcd, mode="Plan", options=options(defragmentation=DefragmentationRule()))
    assert outcomes(usual) == ["Skipped"] * 3
    assert "less than" in usual.members[0].reason
    tight = await hold(etcd, mode="Plan", options=options(disk_room_bytes=1000))
    assert len(tight.objections) == 3
    assert await etcd.revision() == before


async def test_no_client_notices_a_round_but_through_the_member_at_work(
    etcd: EtcdCluster, client: EtcdClient
) -> None:
    """Under write load; leadership moves before the leader's turn, which is the last.

    What etcd drops while leadership moves is asked once more: reads that hear of it at once, and
    writes that a follower passed on to the old leader, which hear of it after etcd's own time-out.
    """
    await fragment(etcd, client)
    leader, seen = await etcd.leader(), Seen()
    wanted = DefragmentationRule(min_reclaim=5_000_000, min_fragmentation_percent=10)
    request = round_request(etcd, options=options(defragmentation=wanted))
    async with probing(etcd) as prober, asyncio.TaskGroup() as group:
        writing = group.create_task(_write(client))
        report = await Held(etcd, request, deed=seen.note).hold()
        writing.cancel()
    assert report.outcome == "Done", report.reason
    assert outcomes(report) == ["Defragmented"] * 3
    assert report.members[-1].name == leader.name
    assert report.leader_move is not None
    assert report.leader_move.from_name == leader.name
    assert report.leader_move.to_name == (await etcd.leader()).name
    assert report.reclaimed_bytes > 3 * 10_000_000
    assert all(one.after_bytes < one.before_bytes for one in report.members)
    assert await unlocked(client)
    elsewhere = seen.elsewhere(prober.probes)
    assert len(elsewhere) > 100
    assert [one for one in elsewhere if one.error] == []
    retried = [one for one in elsewhere if one.first]
    assert [one for one in retried if not one.during(*seen.moved)] == []
    assert [one for one in retried if not one.passing] == []
    assert [one for one in retried if one.again > ELECTION + DROPPED] == []
    own = max(window.end - window.begin for window in seen.windows)
    stall = max(own, BUSY)
    assert [one for one in elsewhere if not one.first and one.seconds > stall] == []


async def _write(client: EtcdClient) -> None:
    for number in range(1 << 30):
        with contextlib.suppress(NoLeader):
            await client.put(b"/written/%d" % (number % 100), b"x" * 1000)


async def test_a_member_that_is_down_before_the_round(
    etcd: EtcdCluster, client: EtcdClient
) -> None:
    victim = (await followers(etcd))[0]
    await victim.stop()
    try:
        report = await hold(etcd)
    finally:
        await victim.start()
    assert report.outcome == "Refused"
    assert f"member {victim.name} does not answer" in report.objections[0]
    assert "Defragmented" not in outcomes(report)
    assert await unlocked(client)
    await well(client)


@pytest.mark.usefixtures("hasty")
async def test_a_member_that_dies_in_its_own_turn_and_the_round_after(
    etcd: EtcdCluster, client: EtcdClient
) -> None:
    """The lock stays, for the member might be at work; once it answers, the next round goes on."""
    dead: list[EtcdMember] = []

    def kill(event: MemberTurn) -> None:
        dead.append(by_name(etcd, event.name))
        dead[0].send(signal.SIGKILL)

    report = await Held(etcd, round_request(etcd), deed=on_turn("Defragmenting", kill)).hold()
    assert report.outcome == "Stopped"
    assert outcomes(report) == ["Unknown", "NotReached", "NotReached"]
    assert "went away in the middle" in report.members[0].reason
    assert report.leader_move is None
    await client.put(b"/still", b"writable")
    assert not await unlocked(client)
    refused = await hold(etcd)
    assert refused.outcome == "Refused"
    await revive(client, dead[0])
    again = await hold(etcd)
    assert again.outcome == "Done", again.reason
    assert await unlocked(client)


async def test_the_leader_is_lost_while_a_follower_is_at_work(
    etcd: EtcdCluster, client: EtcdClient
) -> None:
    leader = await etcd.leader()
    held = Held(
        etcd,
        round_request(etcd),
        deed=on_turn("Defragmenting", lambda _: leader.send(signal.SIGKILL)),
    )
    report = await held.hold()
    assert report.outcome == "Stopped"
    assert outcomes(report) == ["Defragmented", "NotReached", "NotReached"]
    assert leader.name in report.reason or "leader" in report.reason
    await client.put(b"/still", b"writable")
    assert await unlocked(client)
    await revive(client, leader)


async def test_leadership_that_moves_by_itself_ends_the_round(etcd: EtcdCluster) -> None:
    """Nobody is down; but who led when the round began leads no more."""
    leader, other = await etcd.leader(), (await followers(etcd))[0]
    moving: list[asyncio.Task[str]] = []

    def move(_: MemberTurn) -> None:
        endpoints = [leader.endpoint]
        deed = etcd.etcdctl("move-leader", f"{other.id:x}", endpoints=endpoints)
        moving.append(asyncio.create_task(deed))

    wanted = options(settle_seconds=3.0)
    request = round_request(etcd, options=wanted)
    report = await Held(etcd, request, deed=on_turn("Settling", move)).hold()
    await moving[0]
    assert report.outcome == "Stopped"
    assert outcomes(report) == ["Defragmented", "NotReached", "NotReached"]
    assert f"leadership went from {leader.name} to {other.name} by itself" in report.reason


async def test_leadership_that_can_not_be_moved(
    etcd: EtcdCluster, client: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who shall lead stands still; the leader is left alone, even if etcd moves it later."""
    still: list[EtcdMember] = []

    def chooses(facts: Facts, done: frozenset[int]) -> MemberStatus:
        chosen = successor(facts, done)
        still.append(by_name(etcd, chosen.name))
        still[0].send(signal.SIGSTOP)
        return chosen

    monkeypatch.setattr(rounds, "successor", chooses)
    try:
        report = await hold(etcd)
    finally:
        still[0].resume()
    assert report.outcome == "Stopped"
    assert outcomes(report) == ["Defragmented", "Defragmented", "NotReached"]
    assert f"leadership could not be handed to {still[0].name}" in report.reason
    assert report.leader_move is None
    await well(client)
    assert await unlocked(client)


async def test_a_defragmentation_longer_than_its_time_out(
    etcd: EtcdCluster, client: EtcdClient
) -> None:
    """A time-out says nothing: the member is asked until it answers, and then its file tells."""
    await fragment(etcd, client)
    report = await hold(etcd, options=options(defragment_seconds=0.05))
    assert report.outcome == "Done", report.reason
    assert outcomes(report) == ["Defragmented"] * 3
    assert any("to be sure" in one.reason for one in report.members)


async def test_the_window_ends_in_the_middle(etcd: EtcdCluster) -> None:
    """The second member's turn would not be over in time."""
    held = Held(
        etcd,
        round_request(
            etcd,
            options=options(settle_seconds=6.0),
            ends_at=datetime.now(UTC) + timedelta(seconds=6),
            speed=1e9,
        ),
    )
    report = await held.hold()
    assert report.outcome == "WindowOver"
    assert outcomes(report) == ["Defragmented", "NotReached", "NotReached"]
    assert "the window ends at" in report.reason


async def test_two_rounds_at_once(etcd: EtcdCluster, client: EtcdClient) -> None:
    """Whoever comes second, from wherever, is told who is at it."""
    second: list[asyncio.Task[RoundReport]] = []

    def begin(_: MemberTurn) -> None:
        second.append(asyncio.create_task(hold(etcd)))

    request = round_request(etcd, holder="shop/weekly", options=options(settle_seconds=1.0))
    first = await Held(etcd, request, deed=on_turn("Settling", begin)).hold()
    refused = await second[0]
    assert first.outcome == "Done", first.reason
    assert refused.outcome == "Refused"
    assert "shop/weekly maintains this etcd since" in refused.reason
    assert await unlocked(client)


async def test_a_round_waits_for_a_snapshot_and_a_snapshot_for_a_round(
    etcd: EtcdCluster, client: EtcdClient
) -> None:
    """Each on its own member only."""
    order: list[str] = []
    first = (await followers(etcd))[0]
    report: RoundReport | None = None
    reading = asyncio.Event()

    async def read(member: EtcdMember, name: str) -> None:
        async with announced(client, member.id, name, seconds=60, report=Heard()):
            order.append(f"{name} reads")
            await reading.wait()
            order.append(f"{name} is done")

    def note(event: MemberTurn | MemberDone) -> None:
        if isinstance(event, MemberDone):
            order.append(f"{event.member.name} is done")
        elif event.step == "WaitingForSnapshot":
            order.append(f"{event.name} waits")
            reading.set()
        elif event.step == "Defragmenting" and event.name != first.name and len(tasks) == 1:
            tasks.append(asyncio.create_task(read(by_name(etcd, event.name), "second")))

    tasks = [asyncio.create_task(read(first, "first"))]
    await wait_until(lambda: _has(order, "first reads"), "the snapshot is announced")
    report = await Held(etcd, round_request(etcd), deed=note).hold()
    await asyncio.gather(*tasks)
    assert report.outcome == "Done", report.reason
    waits, done = order.index(f"{first.name} waits"), order.index("first is done")
    assert waits < done < order.index(f"{first.name} is done")
    other = next(m.name for m in report.members if m.name != first.name)
    assert order.index(f"{other} is done") < order.index("second reads")


async def _has(order: list[str], what: str) -> bool:
    return what in order


@pytest.mark.parametrize("corrupt", [False, True])
async def test_an_alarm_ends_the_wait_for_a_snapshot(
    etcd: EtcdCluster, client: EtcdClient, corrupt: bool
) -> None:
    """No rescue begins before the round has ended."""
    first, raising = (await followers(etcd))[0], list[asyncio.Task[None]]()

    def complain(_: MemberTurn) -> None:
        deed = raise_alarm(etcd, etcd.members[0], corrupt=corrupt)
        raising.append(asyncio.create_task(deed))

    held = Held(etcd, round_request(etcd), deed=on_turn("WaitingForSnapshot", complain))
    async with announced(client, first.id, "reader", seconds=60, report=Heard()):
        try:
            async with asyncio.timeout(30):
                report = await held.hold()
        finally:
            await asyncio.gather(*raising)
            await etcd.etcdctl("alarm", "disarm")
    assert report.outcome in {"Refused", "Stopped"}  # by whether its turn is the first
    assert ("CORRUPT" if corrupt else "NOSPACE") in report.reason
    assert held.steps(first.name) == ["WaitingForSnapshot"]


@contextlib.asynccontextmanager
async def child(request: MaintenanceRequest) -> AsyncIterator[asyncio.subprocess.Process]:
    """A round as the operator starts it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "etcd_steward.runner"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(request.model_dump_json(by_alias=True).encode() + b"\n")
    await process.stdin.drain()
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def heard(process: asyncio.subprocess.Process, wanted: Callable[[Event], bool]) -> Event:
    """Read events until one is as wanted."""
    assert process.stdout is not None
    while line := await process.stdout.readline():
        event = EVENT.validate_json(line)
        if wanted(event):
            return event
    raise AssertionError("the child ended before it said so")


def at_work(event: Event) -> bool:
    return isinstance(event, MemberTurn) and event.step == "Defragmenting"


@pytest.mark.usefixtures("hasty")
async def test_a_round_that_is_killed(etcd: EtcdCluster, client: EtcdClient) -> None:
    """Its lock is broken when it has been silent, and the member it was at answers."""
    async with child(round_request(etcd)) as process:
        await heard(process, at_work)
        process.kill()
        await process.wait()
    assert not await unlocked(client)
    report = await hold(etcd)
    assert report.outcome == "Done", report.reason
    assert await unlocked(client)


async def test_a_round_whose_parent_goes_ends_between_two_members(
    etcd: EtcdCluster, client: EtcdClient
) -> None:
    async with child(round_request(etcd, options=options(settle_seconds=60.0))) as process:
        await heard(process, at_work)
        assert process.stdin is not None
        process.stdin.close()
        ended = await heard(process, lambda event: isinstance(event, RoundEnded))
        await process.wait()
    assert isinstance(ended, RoundEnded)
    assert ended.report.outcome == "Stopped"
    assert ended.report.reason == "it was told to stop"
    assert outcomes(ended.report) == ["Defragmented", "NotReached", "NotReached"]
    assert await unlocked(client)


async def test_a_learner_is_waited_for_by_nobody(etcd: EtcdCluster) -> None:
    added = await etcd.add_learner("late")
    try:
        report = await hold(etcd)
    finally:
        await etcd.etcdctl("member", "remove", added)
    assert report.outcome == "Refused"
    assert "learner" in report.objections[0]


async def test_a_voter_that_no_endpoint_leads_to(etcd: EtcdCluster) -> None:
    two = connection(etcd, endpoints=tuple(etcd.endpoints[:2]))
    report = await hold(etcd, etcd=two)
    assert report.outcome == "Refused"
    assert "no endpoint leads to member etcd2" in report.objections[0]
    assert etcd.endpoints[2] in report.objections[0]


async def test_a_disk_that_is_too_small(etcd: EtcdCluster) -> None:
    report = await hold(etcd, options=options(disk_room_bytes=1_000_000))
    assert report.outcome == "Refused"
    assert "only 1.00 MB are said to be free" in report.objections[0]


async def test_one_member_of_an_etcd_that_tells_no_quota(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Refused with the cost, and with what to state; done once both are said."""
    async with EtcdCluster(tmp_path_factory.mktemp("lone"), version="3.5") as etcd:
        await load(etcd, 2_000, value_size=1000, namespaces=2, seed=1)
        refused = await hold(etcd)
        assert refused.outcome == "Refused"
        assert "this etcd has one member" in refused.objections[0]
        assert "state how much is free there, or the quota" in refused.objections[1]
        allowed = options(allow_single_member=True)
        metrics = allowed.model_copy(
            update={"metrics_endpoints": (etcd.members[0].metrics_url, "http://127.0.0.1:9")}
        )
        done = await hold(etcd, options=metrics)
        assert done.outcome == "Done", done.reason
        assert of(done, "etcd0").after_bytes > 0
        assert "http://127.0.0.1:9/metrics tells no metrics" in done.warnings[0]
        stated = allowed.model_copy(update={"quota_bytes": 2 << 30})
        assert (await hold(etcd, options=stated)).outcome == "Done"
