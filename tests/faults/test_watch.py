"""Members that die under a watch: nothing is lost, nothing is told twice."""

import asyncio
import base64
import json
import urllib.request
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from etcd_steward.errors import StewardError
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.keys import KeyRange
from etcd_steward.etcd.watcher import Told, Watch, Watcher
from tests.integration.etcd_connections import connection_to
from tests.support.watching import OURS, listening, watching
from tests.testbed import EtcdCluster, wait_until
from tests.testbed.etcd import EtcdMember

_WATCHERS = "etcd_debugging_mvcc_watcher_total "
_MANY = 30  # changes that must come through a member before it dies


@pytest.fixture(scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EtcdCluster]:
    """Three members with mutual TLS, of which one at a time is killed."""
    directory = tmp_path_factory.mktemp("watched")
    async with EtcdCluster(directory, members=3, mtls=True) as etcd:
        yield etcd


async def test_a_watch_outlives_members(cluster: EtcdCluster, key_prefix: str) -> None:
    prefix = key_prefix.encode()
    words = ["watch", "--prefix", key_prefix, "-w", "json", *cluster.connection_flags()]
    async with (
        EtcdClient.connect(connection_to(cluster)) as client,
        watching(OURS, *words) as program,
    ):
        start = (await client.range(prefix, count_only=True)).header.revision + 1
        async with _writing(client, prefix):
            for _ in range(2):
                serving = await _serving(cluster)
                seen = len(_told(program.out)) + _MANY
                await wait_until(lambda: _has(program.out, seen), "changes", timeout=60)  # noqa: B023
                await serving.kill()
                seen = len(_told(program.out)) + _MANY
                await wait_until(lambda: _has(program.out, seen), "changes", timeout=60)  # noqa: B023
                await serving.start()
        last = (await client.put(prefix + b"last", b"")).header.revision
        await wait_until(lambda: _reaches(program.out, last), "the last change", timeout=60)

        async with aclosing(
            client.watch(KeyRange.prefix(prefix), start=start, upto=last)
        ) as history:
            happened = [
                (event.kv.mod_revision, event.kv.key)
                async for changes in history
                for event in changes.events
            ]
    told = _told(program.out)
    assert told == happened[-len(told) :]
    assert len(told) > 4 * _MANY
    assert program.err.count(b"going on by https://") == 2
    assert program.process.returncode is not None


async def test_a_quiet_watch_outlives_compaction_and_a_member(
    cluster: EtcdCluster, key_prefix: str
) -> None:
    prefix = key_prefix.encode()
    async with EtcdClient.connect(connection_to(cluster)) as client:
        watcher = Watcher(client, notice=lambda _: None, ask_every=0.1)
        watcher.watch(Watch(KeyRange.key(prefix + b"quiet")))
        async with listening(watcher) as heard:
            serving = await _serving(cluster)
            for number in range(20):
                now = (await client.put(prefix + b"other", b"%d" % number)).header.revision

            async def believed() -> bool:
                return watcher._stream.true

            await wait_until(believed, "the member's version", timeout=60)
            watcher.ask_progress()
            await wait_until(lambda: _reached(heard, now), "progress", timeout=60)
            await client.compact(now)
            await serving.kill()

            async def written() -> bool:
                with suppress(StewardError):  # it may have been the leader
                    await client.put(prefix + b"quiet", b"heard")
                    return True
                return False

            await wait_until(written, "a write", timeout=60)
            await wait_until(lambda: _changed(heard), "the change", timeout=60)
            said = heard[-1].answer
            assert not said.canceled
            assert {change.kv.value for change in said.events} == {b"heard"}
    await serving.start()


async def test_a_single_member_that_comes_back_is_watched_again(
    tmp_path: Path, key_prefix: str
) -> None:
    async with EtcdCluster(tmp_path) as etcd:
        words = ["watch", key_prefix, *etcd.connection_flags()]
        async with watching(OURS, *words) as program:
            member = await _serving(etcd)
            await etcd.etcdctl("put", key_prefix, "before")
            await member.kill()
            await member.start()
            await etcd.etcdctl("put", key_prefix, "after")
            expected = f"PUT\n{key_prefix}\nbefore\nPUT\n{key_prefix}\nafter\n".encode()

            async def complete() -> bool:
                return len(program.out) >= len(expected)

            await wait_until(complete, "both changes", timeout=60)
            assert program.out == expected


@asynccontextmanager
async def _writing(client: EtcdClient, prefix: bytes) -> AsyncIterator[None]:
    """One change after the other, whatever happens; which ones came about, etcd knows."""

    async def write() -> None:
        number = 0
        while True:
            with suppress(StewardError):
                await client.put(prefix + b"%06d" % number, b"x" * 100)
            number += 1
            await asyncio.sleep(0.01)

    task = asyncio.create_task(write())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _serving(cluster: EtcdCluster) -> EtcdMember:
    """The member that tells of changes."""
    found: list[EtcdMember] = []

    async def looked() -> bool:
        found[:] = [one for one in cluster.members if await asyncio.to_thread(_watched, one)]
        return len(found) == 1

    await wait_until(looked, "a member that is watched", timeout=60)
    return found[0]


def _watched(member: EtcdMember) -> bool:
    with urllib.request.urlopen(f"{member.metrics_url}/metrics", timeout=30) as page:  # noqa: S310
        text: str = page.read().decode()
    return any(
        float(line.removeprefix(_WATCHERS)) > 0
        for line in text.splitlines()
        if line.startswith(_WATCHERS)
    )


def _told(out: bytearray) -> list[tuple[int, bytes]]:
    lines = bytes(out).splitlines(keepends=True)
    answers: list[dict[str, Any]] = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return [
        (event["kv"]["mod_revision"], base64.b64decode(event["kv"]["key"]))
        for answer in answers
        for event in answer["Events"]
    ]


async def _has(out: bytearray, count: int) -> bool:
    return len(_told(out)) >= count


async def _reaches(out: bytearray, revision: int) -> bool:
    told = _told(out)
    return bool(told) and told[-1][0] >= revision


async def _reached(heard: list[Told], revision: int) -> bool:
    return any(one.answer.header.revision >= revision for one in heard)


async def _changed(heard: list[Told]) -> bool:
    return bool(heard) and (heard[-1].answer.canceled or bool(heard[-1].answer.events))
