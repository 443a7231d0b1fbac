"""Watching a real etcd: history and what comes, whole and in order."""

import asyncio
import contextlib
from contextlib import aclosing
from pathlib import Path

import pytest

from etcd_steward.errors import Compacted, Unauthorized, Unavailable
from etcd_steward.etcd import stubs
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.keys import EVERYTHING, KeyRange
from tests.integration.etcd_connections import connection_to
from tests.testbed import EtcdCluster, wait_until
from tests.testbed.etcd import Auth

ALL = KeyRange(b"\0", EVERYTHING)


async def history(client: EtcdClient, wanted: KeyRange, start: int) -> list[stubs.Event]:
    now = (await client.range(b"\0", count_only=True)).header.revision
    async with aclosing(client.watch(wanted, start=start, upto=now)) as watched:
        return [event async for sent in watched for event in sent.events]


@pytest.mark.parametrize("version", ["3.5", "3.6", "3.7"])
async def test_history_is_told_from_the_compaction_on(tmp_path: Path, version: str) -> None:
    async with (
        EtcdCluster(tmp_path, version=version) as etcd,
        EtcdClient.connect(connection_to(etcd)) as client,
    ):
        assert await client.compact_revision() == 0
        for number in range(40):
            await client.put(b"/a/%d" % (number % 4), b"x" * number)
        last = (await client.put(b"/b", b"last")).header.revision
        await client.delete(b"/a/1")

        events = await history(client, KeyRange.prefix(b"/a/"), 1)
        assert len(events) == 41
        assert [event.kv.mod_revision for event in events] == [*range(2, 42), last + 1]
        assert (events[-1].type, events[-1].kv.key) == (stubs.Event.DELETE, b"/a/1")
        assert await history(client, KeyRange.key(b"/b"), last + 1) == []

        await client.compact(last)
        assert await client.compact_revision() == last
        with pytest.raises(Compacted, match=f"up to revision {last}"):
            await history(client, ALL, last - 1)
        assert len(await history(client, ALL, last)) == 2


async def test_what_is_too_large_for_one_message_comes_whole(tmp_path: Path) -> None:
    async with (
        EtcdCluster(tmp_path, flags={"max-request-bytes": str(1 << 20)}) as etcd,
        EtcdClient.connect(connection_to(etcd)) as client,
    ):
        start = (await client.range(b"\0", count_only=True)).header.revision + 1
        for number in range(16):
            await client.put(b"/large/%02d" % number, bytes(900_000))
        now = start + 15
        async with aclosing(client.watch(ALL, start=start, upto=now)) as watched:
            sent = [one async for one in watched]

        assert any(one.more for one in sent)
        assert not sent[-1].more
        revisions = [event.kv.mod_revision for one in sent for event in one.events]
        assert revisions == list(range(start, now + 1))


async def test_what_comes_is_told_until_nobody_listens(etcd: EtcdCluster, key_prefix: str) -> None:
    prefix = key_prefix.encode()
    async with EtcdClient.connect(connection_to(etcd)) as client:
        seen: list[bytes] = []
        watching = asyncio.Event()

        async def listen() -> None:
            async with aclosing(client.watch(KeyRange.prefix(prefix))) as watched:
                async for sent in watched:
                    seen.extend(event.kv.key for event in sent.events)
                    watching.set()

        listener = asyncio.create_task(listen())
        async with asyncio.timeout(30):
            while not watching.is_set():  # its first change may come before the watch does
                await client.put(prefix + b"first", b"")
                await asyncio.sleep(0.05)
            for number in range(5):
                await client.put(prefix + b"%d" % number, b"")

        async def all_seen() -> bool:
            return seen[-5:] == [prefix + b"%d" % number for number in range(5)]

        await wait_until(all_seen, "five changes")
        listener.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listener


async def test_an_etcd_that_goes_ends_the_watch(tmp_path: Path) -> None:
    async with (
        EtcdCluster(tmp_path) as etcd,
        EtcdClient.connect(connection_to(etcd)) as client,
    ):
        watched = client.watch(ALL)
        first = asyncio.ensure_future(anext(watched))
        async with asyncio.timeout(30):
            while not first.done():
                await client.put(b"/a", b"b")
                await asyncio.sleep(0.05)
        await etcd.members[0].kill()
        with pytest.raises(Unavailable):
            [_ async for _ in watched]


async def test_a_user_sees_what_is_theirs(tmp_path: Path) -> None:
    auth = Auth()
    async with EtcdCluster(tmp_path, auth=auth) as etcd:
        async with EtcdClient.connect(connection_to(etcd)) as root:
            await root.put(b"/app/a", b"b")
            now = (await root.put(b"/other", b"b")).header.revision
            await root.compact(now)
            await root.put(b"/app/b", b"b")
        connection = connection_to(etcd, user=auth.user, password=auth.user_password)
        async with EtcdClient.connect(connection) as client:
            assert await client.compact_revision(b"/app/") == now
            theirs = client.watch(KeyRange.prefix(b"/app/"), start=now, upto=now + 1)
            assert [e.kv.key async for sent in theirs for e in sent.events] == [b"/app/b"]
            with pytest.raises(Unauthorized):
                await history(client, ALL, now)
