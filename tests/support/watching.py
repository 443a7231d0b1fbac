"""The real etcdctls and ours, watching the same keys of one etcd at the same time.

A watch has no end: so all programs are started, things are done to etcd, and what they have printed
is compared until it is the same, or nobody can hope any more that it will be.
"""

import asyncio
import shlex
import sys
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from etcd_steward.engine.tasks import together
from etcd_steward.etcd import stubs
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.keys import KeyRange
from etcd_steward.etcd.watcher import Told, Watcher
from tests.testbed import EtcdCluster, wait_until
from tests.testbed.process import clean_environment

OURS = (sys.executable, "-m", "etcd_steward")
PATIENCE = 60  # seconds
_WATCHERS = b"etcd_debugging_mvcc_watcher_total "


@dataclass(slots=True)
class Watching:
    """A program that watches."""

    process: asyncio.subprocess.Process
    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)
    readers: list["asyncio.Task[None]"] = field(default_factory=list)

    def type(self, line: str) -> None:
        """Send it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    async def ended(self) -> int:
        """Its exit code, when all it had to say is there."""
        async with asyncio.timeout(PATIENCE):
            code = await self.process.wait()
            await asyncio.wait(self.readers)  # it may end before the last of it was read
            return code


@asynccontextmanager
async def watching(
    program: Sequence[str | Path], *words: str, env: Mapping[str, str] | None = None
) -> AsyncIterator[Watching]:
    """Start a program with an open standard input; it is gone afterwards."""
    process = await asyncio.create_subprocess_exec(
        *program,
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(env),
    )
    running = Watching(process)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with together() as group:
            running.readers = [
                group.create_task(_read(process.stdout, running.out)),
                group.create_task(_read(process.stderr, running.err)),
            ]
            try:
                yield running
            finally:
                if process.returncode is None:
                    process.kill()
                await asyncio.wait(running.readers)
    finally:
        await process.wait()


async def _read(stream: asyncio.StreamReader, kept: bytearray) -> None:
    while data := await stream.read(1 << 16):
        kept += data


class Side:
    """Some programs beside each other at one etcd."""

    def __init__(self, etcd: EtcdCluster, client: EtcdClient, programs: Sequence[Watching]) -> None:
        self._etcd = etcd
        self._client = client
        self.programs = programs

    async def do(self, step: str) -> None:
        """Do one thing.

        `put KEY VALUE...`, several in one transaction; `del KEY`, `del-prefix KEY`; `> LINE` types
        it; `watchers N` waits until each program has so many, `says N TEXT` until each has printed
        a text so often.
        """
        if step.startswith("> "):
            for program in self.programs:
                program.type(step[2:])
            return
        match shlex.split(step):
            case ["put", key, value]:
                await self._client.put(key.encode(), value.encode())
            case ["put", *words]:
                await self._client.txn([], [_put(*pair) for pair in _pairs(words)])
            case ["del", key]:
                await self._client.delete(key.encode())
            case ["del-prefix", key]:
                wanted = KeyRange.prefix(key.encode())
                await self._client.delete(wanted.start, wanted.end)
            case ["watchers", count]:
                wanted_count = int(count) * len(self.programs)
                await wait_until(
                    lambda: self._has_watchers(wanted_count),
                    f"{count} watchers each",
                    timeout=PATIENCE,
                )
            case ["says", count, text]:
                await wait_until(
                    lambda: self._all_say(text.encode(), int(count)), f"{step!r}", timeout=PATIENCE
                )
            case _:
                raise ValueError(step)

    async def _has_watchers(self, count: int) -> bool:
        url = f"{self._etcd.members[0].metrics_url}/metrics"
        page = await asyncio.to_thread(_get, url)
        return any(
            float(line.removeprefix(_WATCHERS)) == count
            for line in page.splitlines()
            if line.startswith(_WATCHERS)
        )

    async def _all_say(self, text: bytes, count: int) -> bool:
        return all(program.out.count(text) >= count for program in self.programs)


@asynccontextmanager
async def beside(
    etcd: EtcdCluster,
    client: EtcdClient,
    programs: Sequence[Sequence[str | Path]],
    words: Sequence[str],
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[Side]:
    """Start programs with the same words."""
    async with AsyncExitStack() as stack:
        running = [
            await stack.enter_async_context(watching(program, *words, env=env))
            for program in programs
        ]
        yield Side(etcd, client, running)


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=PATIENCE) as page:  # noqa: S310  # of our own etcd
        found: bytes = page.read()
        return found


def _pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(words[::2], words[1::2], strict=True))


def _put(key: str, value: str) -> stubs.RequestOp:
    request = stubs.PutRequest(key=key.encode(), value=value.encode())
    return stubs.RequestOp(request_put=request)


@asynccontextmanager
async def listening(watcher: Watcher) -> AsyncIterator[list[Told]]:
    """All that is told, as it comes."""
    heard: list[Told] = []
    take = heard.append

    async def listen() -> None:
        async with aclosing(watcher.told()) as every:
            async for told in every:
                take(told)

    async with together() as group:
        task = group.create_task(listen())
        yield heard
        task.cancel()
