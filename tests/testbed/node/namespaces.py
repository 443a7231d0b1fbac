"""The node's net, mount and pid namespaces: how a program gets in, and how one is reached."""

import asyncio
import contextlib
import ctypes
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from tests.testbed.binaries import cache_directory, say
from tests.testbed.locks import locked_file
from tests.testbed.node.janitor import CGROUPS, remove_groups
from tests.testbed.part import Part
from tests.testbed.process import Server, TestbedError

CGROUP = "etcd-steward-node"
CLONE_NEWNET = 0x40000000
CHUNK = 1 << 16
_HERE = Path(__file__).parent


class Namespaces(Part):
    """`async with Namespaces(directory, data) as space:` one at a time on a machine.

    `data` are folders that are removed at the end, with the cgroups, even if we are killed.
    """

    def __init__(self, directory: Path, data: Sequence[Path]) -> None:
        super().__init__(directory)
        self._data = data
        self._init = 0

    async def _start(self) -> None:
        await self._stack.enter_async_context(
            locked_file(
                cache_directory() / "node.lock",
                owner=f"process {os.getpid()}",
                waiting=lambda owner: say(f"waiting for another node to end: {owner}"),
            )
        )
        if not remove_groups(CGROUP):
            raise TestbedError(f"processes of a former node are still in {CGROUPS}/*/{CGROUP}")
        await self._stack.enter_async_context(_janitor(CGROUP, self._data))
        self._stack.callback(_clear, self.directory / "ready")
        _make_groups()
        ready = self.directory / "ready"

        async def furnished() -> bool:
            return ready.exists()

        server = Server(
            "namespaces",
            ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
             sys.executable, "-I", "-S", _HERE / "inside.py", self.directory],
            directory=self.directory,
            ready=furnished,
        )  # fmt: skip
        await self._stack.enter_async_context(server)
        self._init = _only_child(server.pid)
        self._pool = ThreadPoolExecutor(1, "node", _enter_network, (self._init,))
        self._stack.callback(self._pool.shutdown)

    def network(self, command: Sequence[str | Path]) -> list[str | Path]:
        """Return the command that runs this one in the node's net, and else on the host."""
        return ["nsenter", f"--target={self._init}", "--net", "--", *command]

    def inside(self, command: Sequence[str | Path]) -> list[str | Path]:
        """Return the command that runs this one on the node, as far as it can see."""
        spaces = ("--net", "--mount", "--pid")
        return ["nsenter", f"--target={self._init}", *spaces, "--wd=/", "--", *command]

    @asynccontextmanager
    async def portal(self, port: int, target: int | None = None) -> AsyncIterator[None]:
        """Lead 127.0.0.1:`port` of the host to 127.0.0.1:`target` (default: the same) of the node.

        Tests and kubectl stay on the host, where no interface leads to the node's net. One thread
        lives in that net and opens sockets there; a socket belongs to where it was opened.
        """

        def connect() -> socket.socket:
            return socket.create_connection(("127.0.0.1", target or port), timeout=5)

        busy: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._lead(connect, reader, writer))
            busy.add(task)
            task.add_done_callback(busy.discard)

        async with await asyncio.start_server(accept, "127.0.0.1", port):
            try:
                yield
            finally:
                for task in busy:
                    task.cancel()
                await asyncio.gather(*busy, return_exceptions=True)

    async def _lead(
        self,
        connect: Callable[[], socket.socket],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        with _closing(writer):
            try:
                found = await asyncio.get_running_loop().run_in_executor(self._pool, connect)
            except OSError:
                return  # nobody listens there (yet): the caller sees its connection closed
            found.setblocking(False)
            inner_reader, inner_writer = await asyncio.open_connection(sock=found)
            with _closing(inner_writer):
                async with asyncio.TaskGroup() as group:
                    group.create_task(_pump(reader, inner_writer))
                    group.create_task(_pump(inner_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):  # either side may hang up when it likes
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof() if writer.can_write_eof() else writer.close()


@contextlib.contextmanager
def _closing(writer: asyncio.StreamWriter) -> Iterator[None]:
    try:
        yield
    finally:
        writer.close()


def _only_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _enter_network(pid: int) -> None:
    """Move the calling thread, and no other, into that process' net."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)


def _make_groups() -> None:
    for top in CGROUPS.iterdir():
        if top.is_dir() and not top.is_symlink():
            (top / CGROUP).mkdir(exist_ok=True)
    for name in ("cpuset.cpus", "cpuset.mems"):  # a new cpuset begins with none
        value = (CGROUPS / "cpuset" / name).read_text()
        (CGROUPS / "cpuset" / CGROUP / name).write_text(value)


def _clear(file: Path) -> None:
    file.unlink(missing_ok=True)


@asynccontextmanager
async def _janitor(group: str, data: Sequence[Path]) -> AsyncIterator[None]:
    """Have the cgroups and data removed when the block ends, or when this process does."""
    janitor = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", _HERE / "janitor.py", group, *data,
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is not for it
    )  # fmt: skip
    try:
        yield
    finally:
        _, said = await janitor.communicate(b"")
        if janitor.returncode:
            raise TestbedError(f"the node was not cleaned up: {said.decode()}")
