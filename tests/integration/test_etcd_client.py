"""The client on real members: a lone plaintext one, and three with mutual TLS."""

import asyncio
import hashlib
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from etcd_steward.deadline import Deadline
from etcd_steward.errors import (
    AlreadyExists,
    Compacted,
    IntegrityError,
    InvalidInput,
    NoLeader,
    NotFound,
    OutOfSpace,
    TimedOut,
    Unavailable,
)
from etcd_steward.etcd import stubs
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.keys import KeyRange
from etcd_steward.etcd.member import Alarm, MemberFailure, MemberStatus
from etcd_steward.models.connection import EtcdConnection
from tests.integration.etcd_connections import connection_to
from tests.testbed import EtcdCluster, FaultProxy, wait_until
from tests.testbed.bulk import churn
from tests.testbed.rpc import raise_alarm


async def statuses(client: EtcdClient) -> list[MemberStatus]:
    found = await client.members()
    assert all(isinstance(one, MemberStatus) for one in found), found
    return [one for one in found if isinstance(one, MemberStatus)]


async def drain(client: EtcdClient, status: MemberStatus) -> tuple[bytes, bytes, str]:
    """A snapshot's data, its digest and its version."""
    async with client.member(status).snapshot(deadline=Deadline.after(60)) as stream:
        chunks = await asyncio.to_thread(list, stream)
    blobs = [chunk.blob for chunk in chunks]
    return b"".join(blobs[:-1]), blobs[-1], chunks[-1].version


@pytest.mark.parametrize(
    ("version", "storage", "quota"),
    [("3.5", "", 0), ("3.6", "3.6.0", 1 << 31), ("3.7", "3.7.0", 1 << 31)],
)
async def test_status_and_snapshot_of_each_version(
    tmp_path: Path, version: str, storage: str, quota: int
) -> None:
    async with (
        EtcdCluster(tmp_path, version=version) as etcd,
        EtcdClient.connect(connection_to(etcd)) as client,
    ):
        await client.put(b"/a", b"b")

        async def migrated() -> bool:
            (status,) = await statuses(client)
            return status.storage_version == storage

        await wait_until(migrated, "etcd has set its storage version")
        (status,) = await statuses(client)
        assert status.version.startswith(version + ".")
        assert status.db_size_quota == quota
        assert (status.endpoint, status.name) == (etcd.endpoints[0], "etcd0")
        assert status.member_id == etcd.members[0].id
        assert status.is_leader
        assert status.has_leader
        assert not status.is_learner
        assert status.db_size >= status.db_size_in_use > 0
        assert (status.alarms, status.errors) == ((), ())
        member = client.member(status)
        assert await member.revision() == status.revision == 2
        hashed = await member.hash_kv(2, deadline=Deadline.after(10))
        assert hashed.hash > 0
        assert hashed.hash_revision == (2 if storage else 0)

        data, digest, told = await drain(client, status)
        assert hashlib.sha256(data).digest() == digest
        assert len(data) % 512 == 0
        assert told == storage
        (tmp_path / "snapshot.db").write_bytes(data + digest)
        said = await etcd.etcdutl("snapshot", "status", tmp_path / "snapshot.db")
        assert ", 2, " in said  # revision


async def test_three_members_are_told_apart(etcd_mtls: EtcdCluster) -> None:
    # One listed twice, under two names of the same host; the certificate is good for both.
    twice = etcd_mtls.endpoints[0].replace("127.0.0.1", "localhost")
    connection = connection_to(etcd_mtls, endpoints=(twice, *etcd_mtls.endpoints))
    async with EtcdClient.connect(connection) as client:
        found = await statuses(client)
        assert {one.member_id for one in found} == {one.id for one in etcd_mtls.members}
        assert len(found) == 3
        assert sorted(one.name for one in found) == ["etcd0", "etcd1", "etcd2"]
        assert len({one.cluster_id for one in found}) == 1
        assert sum(one.is_leader for one in found) == 1
        assert {one.leader_id for one in found} == {(await etcd_mtls.leader()).id}
        listed = await client.member_list()
        assert {one.client_urls for one in listed} == {(url,) for url in etcd_mtls.endpoints}
        revision = await client.member(found[0]).revision()
        hashes = [
            await client.member(one).hash_kv(revision, deadline=Deadline.after(10)) for one in found
        ]
        assert len({one.hash for one in hashes}) == 1


async def test_a_dead_member_is_named_and_holds_nothing_up(etcd_mtls: EtcdCluster) -> None:
    dead = etcd_mtls.members[1]
    connection = connection_to(etcd_mtls)
    async with EtcdClient.connect(connection) as client:
        await client.members()  # while all are well
        await dead.pause()  # its port still takes connections: the worst case
        try:
            started = asyncio.get_running_loop().time()
            found = await client.members()
            assert asyncio.get_running_loop().time() - started < 8
        finally:
            dead.resume()
    (failed,) = [one for one in found if isinstance(one, MemberFailure)]
    assert failed.endpoint == dead.endpoint
    assert (failed.name, failed.member_id) == ("etcd1", dead.id)
    assert isinstance(failed.error, TimedOut | Unavailable)
    assert len(found) == 3


async def test_calls_go_round_a_dead_endpoint(etcd: EtcdCluster, key_prefix: str) -> None:
    key = f"{key_prefix}a".encode()
    async with FaultProxy(etcd.members[0].client_port) as proxy:
        endpoints = (proxy.address("http"), *etcd.endpoints)
        async with EtcdClient.connect(connection_to(etcd, endpoints=endpoints)) as client:
            await client.put(key, b"1")
            await proxy.refuse()
            found = await client.get(key)
            assert found is not None
            assert found.value == b"1"
        async with EtcdClient.connect(connection_to(etcd, endpoints=endpoints)) as client:
            await client.put(key, b"2")  # surely not sent to the first: so it may go to the second
        async with EtcdClient.connect(connection_to(etcd, endpoints=endpoints[:1])) as client:
            with pytest.raises(Unavailable, match="nothing listens"):
                await client.put(key, b"3")


async def test_a_virtual_address_that_leads_elsewhere_is_noticed(etcd_mtls: EtcdCluster) -> None:
    async with FaultProxy(etcd_mtls.members[0].client_port) as proxy:
        connection = connection_to(etcd_mtls, endpoints=(proxy.address("https"),))
        async with EtcdClient.connect(connection) as client:
            (status,) = await statuses(client)
            await client.member(status).revision()
            # As if the address had led to another one when the status was read.
            lost = client.member(replace(status, member_id=etcd_mtls.members[1].id))
            with pytest.raises(Unavailable, match="leads to member"):
                await lost.revision()


async def test_keys(etcd: EtcdCluster, key_prefix: str) -> None:
    everything = KeyRange.prefix(key_prefix.encode())
    a, b = everything.start + b"a", everything.start + b"b\xff"
    async with EtcdClient.connect(connection_to(etcd)) as client:
        assert await client.get(a) is None
        first = (await client.put(a, b"1")).header.revision
        await client.put(a, b"2")
        await client.put(b, b"3")
        before = await client.get(a, revision=first)
        assert before is not None
        assert before.value == b"1"
        keys = await client.range(everything.start, everything.end, keys_only=True)
        assert [(kv.key, kv.value) for kv in keys.kvs] == [(a, b""), (b, b"")]
        count = await client.range(everything.start, everything.end, count_only=True)
        assert count.count == 2
        page = await client.range(everything.start, everything.end, limit=1, serializable=True)
        assert (len(page.kvs), page.more) == (1, True)

        def create(key: bytes) -> stubs.Compare:
            return stubs.Compare(key=key, target=stubs.Compare.MOD, mod_revision=0)

        put = stubs.RequestOp(request_put=stubs.PutRequest(key=b + b"c", value=b"new"))
        assert (await client.txn([create(b + b"c")], [put])).succeeded
        assert not (await client.txn([create(b + b"c")], [put])).succeeded
        assert await client.delete(everything.start, everything.end) == 3
        with pytest.raises(InvalidInput, match="key is not provided"):
            await client.get(b"")


async def test_a_large_value_comes_and_goes(tmp_path: Path) -> None:
    async with (
        EtcdCluster(tmp_path, flags={"max-request-bytes": str(8 << 20)}) as etcd,
        EtcdClient.connect(connection_to(etcd)) as client,
    ):
        await client.put(b"large", b"x" * (6 << 20))  # gRPC's own limit on answers is 4 MiB
        found = await client.get(b"large")
        assert found is not None
        assert len(found.value) == 6 << 20


async def fill(client: EtcdClient, prefix: bytes, numbers: range, value: bytes) -> None:
    """One key per number, twenty to a transaction."""
    for start in numbers[::20]:
        puts = [
            stubs.RequestOp(request_put=stubs.PutRequest(key=prefix + b"%05d" % n, value=value))
            for n in range(start, start + 20)
        ]
        await client.txn([], puts)


async def test_pages_give_one_revision_while_keys_change(tmp_path: Path) -> None:
    async with EtcdCluster(tmp_path) as etcd, EtcdClient.connect(connection_to(etcd)) as client:
        await fill(client, b"/p/", range(2000), b"small")
        await fill(client, b"/p/", range(2000, 3300), b"x" * 60_000)
        await client.put(b"/q", b"a neighbour")
        async with churn(etcd) as background:
            await background.reached(10)
            pages = [page async for page in client.pages(KeyRange.prefix(b"/p/"))]
        assert len({page.revision for page in pages}) == 1
        keys = [kv.key for page in pages for kv in page.kvs]
        assert keys == [b"/p/%05d" % n for n in range(3300)]
        # Pages shrink as soon as the first with large values has been seen.
        weights = [sum(len(kv.value) for kv in page.kvs) for page in pages]
        assert max(weights) < 2000 * 60_001
        assert max(weights[-2:]) <= 4 << 20
        assert [page async for page in client.pages(KeyRange.prefix(b"/none/"))] == []
        # As of a revision: the first transaction's keys.
        first = [page async for page in client.pages(KeyRange.prefix(b"/p/"), revision=2)]
        assert sum(len(page.kvs) for page in first) == 20


async def test_pages_left_half_way_leave_no_task(etcd: EtcdCluster, key_prefix: str) -> None:
    prefix = key_prefix.encode()
    async with EtcdClient.connect(connection_to(etcd)) as client:
        await fill(client, prefix, range(1000), b"v")
        before = asyncio.all_tasks()
        async with aclosing(client.pages(KeyRange.prefix(prefix))) as pages:
            await anext(pages)
        assert asyncio.all_tasks() == before


async def test_compaction(tmp_path: Path) -> None:
    async with EtcdCluster(tmp_path) as etcd, EtcdClient.connect(connection_to(etcd)) as client:
        for n in range(5):
            await client.put(b"a", b"%d" % n)
        await client.compact(4, physical=True)
        with pytest.raises(Compacted):
            await client.get(b"a", revision=3)
        with pytest.raises(Compacted):
            await client.compact(3)
        with pytest.raises(Compacted):
            _ = [page async for page in client.pages(KeyRange.prefix(b"a"), revision=3)]
        with pytest.raises(Unavailable, match="future revision"):
            await client.get(b"a", revision=1000)
        (status,) = await statuses(client)
        await client.member(status).defragment(deadline=Deadline.after(30))


async def test_leases(etcd: EtcdCluster, key_prefix: str) -> None:
    key = f"{key_prefix}leased".encode()
    async with EtcdClient.connect(connection_to(etcd)) as client:
        lease = await client.grant_lease(600)
        with pytest.raises(AlreadyExists):
            await client.grant_lease(600, lease_id=lease)
        await client.put(key, b"v", lease=lease)
        assert lease in await client.leases()
        left = await client.lease_time_to_live(lease, keys=True)
        assert 0 < left.TTL <= left.grantedTTL == 600
        assert list(left.keys) == [key]
        await client.revoke_lease(lease)
        assert await client.get(key) is None
        assert (await client.lease_time_to_live(lease)).TTL == -1
        with pytest.raises(NotFound):
            await client.revoke_lease(lease)


async def test_a_full_database_and_its_alarm(tmp_path: Path) -> None:
    flags = {"quota-backend-bytes": str(4 << 20)}
    async with (
        EtcdCluster(tmp_path, flags=flags) as etcd,
        EtcdClient.connect(connection_to(etcd)) as client,
    ):
        with pytest.raises(OutOfSpace, match="disarm the NOSPACE alarm"):  # noqa: PT012
            for n in range(100):
                await client.put(b"%d" % n, b"x" * 500_000)
        (alarm,) = await client.alarms()
        assert alarm == Alarm(etcd.members[0].id, "NOSPACE")
        (status,) = await statuses(client)
        assert status.alarms == (alarm,)
        _, digest, _ = await drain(client, status)  # still works
        assert len(digest) == 32
        await client.disarm(alarm)
        assert await client.alarms() == []


@pytest.mark.parametrize("version", ["3.5", "3.7"])
async def test_only_the_named_alarm_is_disarmed(tmp_path: Path, version: str) -> None:
    async with (
        EtcdCluster(tmp_path, version=version) as etcd,
        EtcdClient.connect(connection_to(etcd)) as client,
    ):
        await raise_alarm(etcd, etcd.members[0])
        await raise_alarm(etcd, etcd.members[0], corrupt=True)
        with pytest.raises(IntegrityError, match="CORRUPT alarm"):
            await client.put(b"a", b"b")
        await client.disarm(Alarm(etcd.members[0].id, "NOSPACE"))
        corrupt = Alarm(etcd.members[0].id, "CORRUPT")
        assert await client.alarms() == [corrupt]
        (status,) = await statuses(client)
        assert status.alarms == (corrupt,)


async def test_without_quorum(tmp_path: Path) -> None:
    async with EtcdCluster(tmp_path, members=3, version="3.7") as etcd:
        survivor = etcd.members[0]
        connection = connection_to(etcd, command_timeout=6)
        async with EtcdClient.connect(connection) as client:
            before = await statuses(client)
            leader = client.member(next(one for one in before if one.is_leader))
            target = next(one for one in before if not one.is_leader)
            with pytest.raises(NoLeader):
                await client.member(target).move_leader(target.member_id)
            with pytest.raises(InvalidInput, match="voting member"):
                await leader.move_leader(1)
            await leader.move_leader(target.member_id)
            assert {one.leader_id for one in await statuses(client)} == {target.member_id}

            await asyncio.gather(*(member.kill() for member in etcd.members[1:]))
            alone = connection.model_copy(update={"endpoints": (survivor.endpoint,)})
            async with EtcdClient.connect(alone) as single:

                async def leaderless() -> bool:
                    (status,) = await statuses(single)
                    return not status.has_leader

                await wait_until(leaderless, "the survivor sees that it is alone")
                (status,) = await statuses(single)
                assert any("no leader" in text for text in status.errors)
                with pytest.raises(NoLeader, match="no leader"):
                    await single.get(b"a")
                with pytest.raises(NoLeader, match="no leader"):
                    await single.member(status).revision()
                assert (await single.range(b"a", serializable=True)).count == 0
                # The last member standing still gives what it has.
                data, digest, _ = await drain(single, status)
                assert hashlib.sha256(data).digest() == digest


async def test_leaving_a_snapshot_early_ends_the_call(tmp_path: Path) -> None:
    async with EtcdCluster(tmp_path) as etcd, EtcdClient.connect(connection_to(etcd)) as client:
        for n in range(60):
            await client.put(b"%d" % n, b"x" * 1_000_000)
        (status,) = await statuses(client)
        member = client.member(status)
        async with member.snapshot(deadline=Deadline.after(60)):
            pass

        # A defragmentation waits for every open read transaction: none is left.
        await member.defragment(deadline=Deadline.after(10))

        task = asyncio.create_task(drain(client, status))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await member.defragment(deadline=Deadline.after(10))


async def test_a_snapshots_deadline(tmp_path: Path) -> None:
    async with EtcdCluster(tmp_path) as etcd, FaultProxy(etcd.members[0].client_port) as proxy:
        connection = EtcdConnection(endpoints=(proxy.address("http"),))
        async with EtcdClient.connect(connection) as client:
            for n in range(20):
                await client.put(b"%d" % n, b"x" * 1_000_000)
            (status,) = await statuses(client)
            proxy.to_client.stall()
            with pytest.raises(TimedOut, match="send a whole snapshot"):
                async with client.member(status).snapshot(deadline=Deadline.after(1)):
                    pass


async def test_no_endpoints() -> None:
    with pytest.raises(InvalidInput, match="no etcd endpoint"):
        async with EtcdClient.connect(EtcdConnection(endpoints=())):
            pass
