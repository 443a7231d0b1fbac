"""Real clusters, looked at by the real process: what is said of them is what is there."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from etcd_steward.etcd import stubs
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.handlers.observer import Observer
from etcd_steward.metrics import Board
from etcd_steward.models.observation import (
    LeaseSample,
    Observation,
    ObservationPace,
    ObservedMember,
    WatchedCluster,
)
from tests.integration.etcd_connections import connection_to
from tests.support.cli import started, steward
from tests.testbed import EtcdCluster, wait_until
from tests.testbed.bulk import load
from tests.testbed.process import check_output
from tests.testbed.prometheus import promtool
from tests.testbed.rpc import connected, raise_alarm

NAME = "etcd-steward/main"
PACE = ObservationPace(status=0.3, keys=0.3, namespaces=0.3, identity=0.5, share=0.9)
LEASES = 10_000


class Eye:
    """An observer at work, and what it has shown."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.observer = Observer(lambda: datetime.now(UTC), Board(self.registry), pace=PACE)

    @property
    def looks(self) -> int:
        """How often it has looked so far."""
        return len(self.observer.sightings(NAME))

    @property
    def metrics(self) -> str:
        return generate_latest(self.registry).decode()

    @property
    def now(self) -> Observation:
        seen = self.observer.latest(NAME)
        assert seen is not None
        return seen

    async def until(self, holds: Callable[[Observation], bool], what: str) -> Observation:
        """The first look of which this holds."""
        seen = self.observer.latest(NAME)

        async def so() -> bool:
            nonlocal seen
            seen = self.observer.latest(NAME)
            return seen is not None and holds(seen)

        try:
            await wait_until(so, what, timeout=90)
        except Exception as error:
            error.add_note(f"{seen!r}")
            raise
        assert seen is not None
        return seen

    def member(self, name: str) -> ObservedMember:
        return next(one for one in self.now.members if one.name == name)


@asynccontextmanager
async def looking(*clusters: WatchedCluster) -> AsyncIterator[Eye]:
    eye = Eye()
    eye.observer.watch(clusters)
    task = asyncio.create_task(eye.observer.run())
    try:
        yield eye
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.fixture(scope="module")
async def etcd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EtcdCluster]:
    directory = tmp_path_factory.mktemp("observed")
    async with EtcdCluster(directory, members=3, mtls=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
async def eye(etcd: EtcdCluster) -> AsyncIterator[Eye]:
    connection = connection_to(etcd)
    again = WatchedCluster(name="tenant/same", etcd=connection)
    async with looking(WatchedCluster(name=NAME, etcd=connection), again) as eye:
        yield eye


async def grant(etcd: EtcdCluster, count: int, keys: int) -> None:
    """So many leases, the first of them with one key each."""
    numbers = iter(range(count))

    async def worker(client: EtcdClient) -> None:
        for number in numbers:
            lease = await client.grant_lease(3600)
            if number < keys:
                await client.put(
                    f"/registry/events/ns-{number % 3}/e{number}".encode(), b"", lease=lease
                )

    async with EtcdClient.connect(connection_to(etcd)) as client, asyncio.TaskGroup() as group:
        for _ in range(64):
            group.create_task(worker(client))


async def test_keys_of_sampled_leases_are_counted(tmp_path: Path) -> None:
    """All of twenty leases are looked at; of more, as many as that."""
    async with (
        EtcdCluster(tmp_path) as lone,
        EtcdClient.connect(connection_to(lone)) as client,
        looking(WatchedCluster(name=NAME, etcd=connection_to(lone))) as eye,
    ):
        seen = await eye.until(lambda seen: seen.leases == 0, "a first look")
        assert seen.lease_sample == LeaseSample(leases=0, keys=0, most=0)
        leases = [await client.grant_lease(3600) for _ in range(20)]
        for number, lease in enumerate(leases):
            for key in range(number % 4):
                await client.put(f"/held/{number}/{key}".encode(), b"", lease=lease)
        thirty = LeaseSample(leases=20, keys=5 * (0 + 1 + 2 + 3), most=3)
        await eye.until(lambda seen: seen.lease_sample == thirty, "twenty leases with thirty keys")
        for figure, value in (("leases", 20), ("lease_keys", 30), ("lease_keys_max", 3)):
            assert f'etcd_sampled_{figure}{{etcd_cluster="{NAME}"}} {value}.0' in eye.metrics
        await client.delete(b"/held/3/0")
        await eye.until(
            lambda seen: seen.lease_sample == LeaseSample(leases=20, keys=29, most=3), "one less"
        )
        for _ in range(20):
            lease = await client.grant_lease(3600)
            for key in range(2):
                await client.put(f"/more/{lease}/{key}".encode(), b"", lease=lease)
        seen = await eye.until(lambda seen: seen.leases == 40, "forty leases")
        assert seen.lease_sample is not None
        assert seen.lease_sample.leases == 20


async def test_figures_are_those_of_etcd(etcd: EtcdCluster, eye: Eye) -> None:
    first = await eye.until(lambda seen: seen.revision == 1, "a first look")
    assert first.compact_revision == 0
    loaded = await load(etcd, 1000, namespaces=10)
    await grant(etcd, LEASES, 30)
    await etcd.etcdctl("put", "compact_rev_key", "0")
    await etcd.etcdctl("put", "/registry/namespaces/shop", "x")
    revision = await etcd.revision()
    assert revision > loaded.revision
    seen = await eye.until(
        lambda seen: seen.revision == revision and seen.leases == LEASES, "all leases and keys"
    )
    assert seen.lease_sample is not None
    assert seen.lease_sample.leases == 20
    assert [member.name for member in seen.members] == ["etcd0", "etcd1", "etcd2"]
    assert {member.name: f"{member.id:x}" for member in etcd.members} == {
        member.name: member.member_id for member in seen.members
    }
    leader = await etcd.leader()
    assert seen.leader == leader.name
    assert [member.name for member in seen.members if member.leader] == [leader.name]
    for member in seen.members:
        assert (member.up, member.has_leader, member.learner, member.lag) == (True, True, False, 0)
        assert member.db_size is not None
        assert member.db_size >= (member.db_in_use or 0) > 0
        assert (member.quota, member.quota_source) == (2 << 30, "Status")
    assert (seen.alarms, seen.error) == ((), "")
    seen = await eye.until(lambda seen: seen.client_certificate_expires is not None, "certificates")
    assert seen.ca_certificate_expires is not None
    assert all(member.certificate_expires is not None for member in seen.members)


async def test_keys_are_counted_by_resource_and_namespace(etcd: EtcdCluster, eye: Eye) -> None:
    """The load has 1,000 keys in 8 resources and 10 namespaces."""
    answer = json.loads(
        await etcd.etcdctl("get", "/registry/", "--prefix", "--keys-only", "-w", "json")
    )
    total = len(answer["kvs"])
    seen = await eye.until(
        lambda seen: seen.keys is not None and seen.keys.total == total + 1, "keys by resource"
    )
    assert seen.keys is not None
    assert seen.keys.largest["events"] == 30
    assert seen.keys.largest["namespaces"] == 1
    assert seen.keys.largest["(outside of the registry)"] == 1
    assert seen.keys.largest["configmaps"] == 125
    assert seen.keys.largest["leases.coordination.k8s.io"] == 125
    assert seen.keys.other == 0
    seen = await eye.until(
        lambda seen: seen.namespace_keys is not None and seen.namespace_keys.total == total - 1,
        "keys by namespace",
    )
    assert seen.namespace_keys is not None
    assert seen.namespace_keys.largest["ns-1"] == 10


async def test_a_compaction_is_seen_when_it_moves(etcd: EtcdCluster, eye: Eye) -> None:
    revision = eye.now.revision
    assert revision is not None
    await etcd.etcdctl("compact", str(revision - 10))
    seen = await eye.until(lambda seen: seen.compact_revision == revision - 10, "the compaction")
    moved = seen.compact_revision_since
    looks = eye.looks
    await eye.until(lambda _: eye.looks >= looks + 3, "three more looks")
    assert eye.now.compact_revision_since == moved
    assert moved is not None
    assert moved > (eye.observer.sightings(NAME)[0].time)
    last = eye.observer.sightings(NAME)[-1]
    assert (last.revision, last.compact_revision) == (revision, revision - 10)


async def served(etcd: EtcdCluster, method: str) -> int:
    """How many calls of a method all members have answered."""
    count = 0
    for member in etcd.members:
        page = await check_output("curl", "-s", member.metrics_url + "/metrics")
        begin = 'grpc_server_handled_total{grpc_code="OK"'
        lines = [line for line in page.splitlines() if line.startswith(begin)]
        count += sum(int(float(line.rpartition(" ")[2])) for line in lines if f'"{method}"' in line)
    return count


async def test_a_look_proposes_nothing_and_two_names_are_one_look(
    etcd: EtcdCluster, eye: Eye
) -> None:
    async def index() -> set[int]:
        async with connected(etcd) as connection:
            answer = await connection.maintenance.Status(stubs.StatusRequest())
        return {answer.raftIndex}

    before, looks = await index(), eye.looks
    asked = await served(etcd, "Status")
    await eye.until(lambda _: eye.looks >= looks + 10, "ten more looks")
    asked, looks = await served(etcd, "Status") - asked, eye.looks - looks
    assert await index() == before
    # One call for each member and look, and some to know where to count keys and our own.
    assert asked <= 3 * (looks + 2) * 3
    assert eye.observer.same_as("tenant/same") == NAME
    same = eye.observer.latest("tenant/same")
    assert same is not None
    assert same.revision == eye.now.revision


async def test_alarms_are_seen_and_gone(etcd: EtcdCluster, eye: Eye) -> None:
    await raise_alarm(etcd, etcd.members[1])
    seen = await eye.until(lambda seen: seen.has_alarm("NOSPACE"), "NOSPACE")
    assert [(one.kind, one.member) for one in seen.alarms] == [("NOSPACE", "etcd1")]
    assert f'etcd_alarm{{alarm="NOSPACE",etcd_cluster="{NAME}",member="etcd1"}} 1' in eye.metrics
    await etcd.etcdctl("alarm", "disarm")
    await eye.until(lambda seen: not seen.alarms, "the alarm is gone")
    await raise_alarm(etcd, etcd.members[2], corrupt=True)
    await eye.until(lambda seen: seen.has_alarm("CORRUPT"), "CORRUPT")
    await etcd.etcdctl("alarm", "disarm")
    await eye.until(lambda seen: not seen.alarms, "the alarm is gone")


async def test_a_learner_that_never_came_is_listed(etcd: EtcdCluster, eye: Eye) -> None:
    member_id = await etcd.add_learner("late")
    seen = await eye.until(lambda seen: len(seen.members) == 4, "a fourth member")
    (late,) = (member for member in seen.members if member.member_id == member_id)
    assert (late.name, late.learner, late.up) == (member_id, True, None)
    assert len(seen.voters) == 3
    await etcd.etcdctl("member", "remove", member_id)
    await eye.until(lambda seen: len(seen.members) == 3, "it is gone")


async def test_metrics_are_what_promtool_wants(eye: Eye) -> None:
    await eye.until(lambda seen: seen.namespace_keys is not None, "all figures")
    said = await promtool("check", "metrics", stdin=eye.metrics.encode())
    assert (said.status, said.stdout, said.stderr) == (0, b"", b"")


async def test_status_says_it_on_one_screen(etcd: EtcdCluster) -> None:
    said = await steward("status", *etcd.connection_flags())
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[1] == "3 members, quota used 0 %, alarms: none"
    assert lines[3].startswith("leases 10,000, ")
    assert [line.split()[0] for line in lines if line.startswith("etcd")][-3:] == [
        "etcd0",
        "etcd1",
        "etcd2",
    ]
    assert len(lines) < 24
    said = await steward("status", *etcd.connection_flags(), "-o", "json")
    assert said.json()["leases"] == LEASES
    assert said.json()["members"][0]["quotaSource"] == "Status"


async def test_status_goes_on_until_it_is_told_to_stop(etcd: EtcdCluster) -> None:
    flags = ("--watch", "--interval=100ms", "-o", "json")
    async with started("status", *etcd.connection_flags(), *flags) as running:
        for _ in range(3):
            await running.says('"leases": 10000')
        running.send(signal.SIGINT)
        said = await running.end()
    assert said.code == 130


async def test_a_member_that_is_down_is_seen_and_comes_back(etcd: EtcdCluster, eye: Eye) -> None:
    leader = await etcd.leader()
    await leader.kill()
    try:
        seen = await eye.until(
            lambda seen: seen.leader not in (None, leader.name), "another one leads"
        )
        (down,) = (member for member in seen.members if not member.up)
        assert (down.name, down.up) == (leader.name, False)
        assert down.error
        assert seen.reachable
        assert seen.revision is not None
        said = await steward("status", *etcd.connection_flags())
        assert said.code == 4
        assert f"{leader.name} is down" in said.out
        labels = f'etcd_cluster="{NAME}",member="{leader.name}"'
        assert f"etcd_member_up{{{labels}}} 0" in eye.metrics
        assert f"etcd_db_size_bytes{{{labels}}}" not in eye.metrics
        second = next(one for one in etcd.members if one.name == seen.leader)
        await second.kill()
        try:
            await eye.until(lambda seen: seen.leader is None and seen.reachable, "nobody leads")
            assert f'etcd_has_leader{{etcd_cluster="{NAME}"}} 0' in eye.metrics
            last = next(one for one in etcd.members if one not in (leader, second))
            await last.kill()
            try:
                seen = await eye.until(lambda seen: not seen.reachable, "nobody answers")
                names = [(member.name, member.up) for member in seen.members]
                assert names == [("etcd0", False), ("etcd1", False), ("etcd2", False)]
                said = await steward("status", *etcd.connection_flags())
                assert said.code == 1
                assert "etcd does not answer" in said.out
            finally:
                await last.start(wait=False)
        finally:
            await second.start(wait=False)
    finally:
        await leader.start()
    await eye.until(
        lambda seen: all(member.up and member.has_leader for member in seen.members), "all are up"
    )


async def test_a_quota_that_etcd_does_not_tell(tmp_path: Path) -> None:
    """Before 3.6 it stands on the metrics page; else somebody must say it."""
    quota = 64 << 20
    flags = {"quota-backend-bytes": str(quota)}
    async with EtcdCluster(tmp_path, version="3.5", flags=flags) as old:
        etcd, pages = connection_to(old), (old.members[0].metrics_url,)
        async with looking(WatchedCluster(name=NAME, etcd=etcd)) as eye:
            seen = await eye.until(lambda seen: seen.reachable, "a first look")
            assert (seen.members[0].quota, seen.members[0].quota_source) == (None, None)
            assert "etcd_quota_bytes{" not in eye.metrics
            eye.observer.watch([WatchedCluster(name=NAME, etcd=etcd, quota_bytes=123)])
            seen = await eye.until(lambda seen: seen.members[0].quota == 123, "what is stated")
            assert seen.members[0].quota_source == "Spec"
            told = WatchedCluster(name=NAME, etcd=etcd, quota_bytes=123, metrics_endpoints=pages)
            eye.observer.watch([told])
            seen = await eye.until(lambda seen: seen.members[0].quota == quota, "the page")
            assert seen.members[0].quota_source == "Metrics"
        said = await steward("status", *old.connection_flags())
        assert "the quota is unknown" in said.out
        metrics = f"--metrics-endpoints={pages[0]}"
        said = await steward("status", *old.connection_flags(), metrics)
        assert f"{quota / 1e6:.1f} MB" in said.out
