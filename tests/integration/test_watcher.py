"""Several watches over one stream of a real etcd."""

import asyncio
from pathlib import Path

import pytest

from etcd_steward.errors import Unavailable
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.keys import KeyRange
from etcd_steward.etcd.watcher import Told, Watch, Watcher
from etcd_steward.models.connection import EtcdConnection
from tests.integration.etcd_connections import connection_to
from tests.support.watching import listening
from tests.testbed import EtcdCluster, wait_until
from tests.testbed.etcd import Auth


async def count(heard: list[Told], wanted: int) -> None:
    async def enough() -> bool:
        return len(heard) >= wanted

    await wait_until(enough, f"{wanted} answers", timeout=60)


def values(told: Told) -> list[bytes]:
    return [event.kv.value for event in told.answer.events]


def silent(_message: str) -> None:
    """Nothing is to be told of."""


async def test_watches_share_a_stream(etcd: EtcdCluster, key_prefix: str) -> None:
    prefix = key_prefix.encode()
    async with EtcdClient.connect(connection_to(etcd)) as client:
        first = (await client.put(prefix + b"a", b"old")).header.revision
        watcher = Watcher(client, notice=silent)
        history = watcher.watch(Watch(KeyRange.key(prefix + b"a"), start=first, prev_kv=True))
        every = watcher.watch(Watch(KeyRange.prefix(prefix), start=first + 1))
        async with listening(watcher) as heard:
            await count(heard, 1)
            assert [(one.number, values(one)) for one in heard] == [(history, [b"old"])]
            await client.put(prefix + b"a", b"new")
            await count(heard, 3)
            told = {one.number: one for one in heard[1:]}
            assert values(told[history]) == values(told[every]) == [b"new"]
            assert told[history].answer.events[0].prev_kv.value == b"old"
            assert not told[every].answer.events[0].HasField("prev_kv")

            watcher.ask_progress()
            await count(heard, 5)
            now = (await client.range(prefix, count_only=True)).header.revision
            assert {one.number for one in heard[3:]} == {history, every}
            assert all(one.answer.header.revision == now for one in heard[3:])

            watcher.cancel(history)
            await client.put(prefix + b"a", b"newest")
            await count(heard, 6)
            assert [(one.number, values(one)) for one in heard[5:]] == [(every, [b"newest"])]

            later = watcher.watch(Watch(KeyRange.key(prefix + b"b")))
            watcher.ask_progress()  # answered only once the watch has begun
            await count(heard, 8)
            await client.put(prefix + b"b", b"1")
            await count(heard, 10)
            assert {one.number for one in heard[8:]} == {every, later}


async def test_what_etcd_splits_is_told_whole(tmp_path: Path) -> None:
    async with (
        EtcdCluster(tmp_path, flags={"max-request-bytes": str(1 << 20)}) as etcd,
        EtcdClient.connect(connection_to(etcd)) as client,
    ):
        start = (await client.put(b"/large/first", b"")).header.revision
        for number in range(8):
            await client.put(b"/large/%d" % number, bytes(900_000))
        await client.put(b"/compacted", b"")
        watcher = Watcher(client, notice=silent)
        watcher.watch(Watch(KeyRange.prefix(b"/large/"), start=start))
        async with listening(watcher) as heard:
            await count(heard, 1)
            assert len(heard[0].answer.events) == 9
            assert not heard[0].answer.fragment

            now = (await client.put(b"/compacted", b"")).header.revision
            await client.compact(now)
            gone = watcher.watch(Watch(KeyRange.key(b"/compacted"), start=start))
            await count(heard, 2)
            assert (heard[1].number, heard[1].answer.canceled) == (gone, True)
            assert heard[1].answer.compact_revision == now


async def test_a_forgotten_token_is_renewed_and_a_missing_right_is_told(tmp_path: Path) -> None:
    auth = Auth(token_ttl=1)
    async with EtcdCluster(tmp_path, auth=auth) as etcd:
        connection = connection_to(etcd, user=auth.user, password=auth.user_password)
        async with (
            EtcdClient.connect(connection_to(etcd)) as root,
            EtcdClient.connect(connection) as client,
        ):
            await client.put(b"/app/a", b"1")
            await asyncio.sleep(3)  # etcd forgets the token: there is no sign of it to wait for
            watcher = Watcher(client, notice=silent)
            watcher.watch(Watch(KeyRange.prefix(b"/app/")))
            async with listening(watcher) as heard:

                async def told() -> bool:
                    await root.put(b"/app/a", b"2")
                    return bool(heard)

                await wait_until(told, "a change", timeout=60, interval=0.2)
                assert values(heard[0]) == [b"2"]
                other = watcher.watch(Watch(KeyRange.key(b"/elsewhere")))

                async def refused() -> bool:
                    return any(one.number == other for one in heard)

                await wait_until(refused, "a refusal")
                said = next(one.answer for one in heard if one.number == other)
                assert said.canceled
                assert said.cancel_reason.endswith("etcdserver: permission denied")


async def test_nobody_there_to_begin_with_is_said() -> None:
    connection = EtcdConnection(
        endpoints=("http://127.0.0.1:1", "http://127.0.0.1:2"), dial_timeout=1
    )
    async with EtcdClient.connect(connection) as client:
        watcher = Watcher(client, notice=silent)
        watcher.watch(Watch(KeyRange.key(b"/a")))
        with pytest.raises(Unavailable, match="none of 2 endpoints could be used"):
            async for _ in watcher.told():
                pass
