"""The program, started a hundred times at the cost of one: forked from a process that loaded it.

Half of what a call of the command line costs is Python reading its modules, a second of processor
time that hundreds of calls pay. So each test process keeps one that has read them all and done
nothing else, and forks it for every call: a process of its own, with its own memory, environment,
working directory and descriptors, that runs `etcd_steward.__main__.main`. What a real start does
is looked at by those who call `started`, and by the pages of docs/.
"""

import array
import asyncio
import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

_FDS = 3
"""Standard input, output and error go with each order."""
_LARGEST = 1 << 20
"""Bytes of an order; Linux takes less as arguments of one program in practice."""


class Zygote:
    """The loaded process, and how to fork it."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="etcd-steward-zygote-")
        self._path = Path(self._directory.name, "socket")
        command = [sys.executable, "-m", "tests.support.zygote", str(self._path)]
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=root)
        atexit.register(self.close)

    def close(self) -> None:
        """End it; what it was forked into goes on."""
        self._process.kill()
        self._process.communicate()
        self._directory.cleanup()

    async def run(
        self, words: Sequence[str], *, env: Mapping[str, str], timeout: float
    ) -> tuple[int, bytes, bytes]:
        """Run the program with these arguments; exit code, standard output, standard error.

        Raises TimeoutError; the program is killed then, as it is on cancellation.
        """
        said = {"words": list(words), "env": dict(env), "cwd": str(Path.cwd())}
        order = json.dumps(said).encode()
        async with asyncio.timeout(timeout):
            with contextlib.closing(await self._connected()) as connection:
                outputs = await asyncio.to_thread(_send, connection, order)
                out, err = await asyncio.gather(*map(_read, outputs))
                code = await asyncio.get_running_loop().sock_recv(connection, 64)
        if not code:
            raise RuntimeError("the forked program left no exit code")
        return int(code), out, err

    async def _connected(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        while self._process.poll() is None:
            connection = socket.socket(socket.AF_UNIX)
            connection.setblocking(False)
            try:
                await loop.sock_connect(connection, str(self._path))
            except (FileNotFoundError, ConnectionRefusedError):
                connection.close()
                await asyncio.sleep(0.05)
            else:
                return connection
        raise RuntimeError(f"the zygote ended with {self._process.returncode}")


def _send(connection: socket.socket, order: bytes) -> tuple[int, int]:
    """Send an order; the ends of the pipes to read what the program prints."""
    outputs, theirs = zip(os.pipe(), os.pipe(), strict=True)
    nothing = os.open(os.devnull, os.O_RDONLY)
    descriptors = array.array("i", [nothing, *theirs])
    try:
        connection.setblocking(True)
        header = len(order).to_bytes(4, "little")
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
        connection.sendmsg([header], ancillary)
        connection.sendall(order)
        connection.setblocking(False)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return outputs


async def _read(descriptor: int) -> bytes:
    reader = asyncio.StreamReader()
    pipe = os.fdopen(descriptor, "rb", 0)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        return await reader.read()
    finally:
        transport.close()


def _serve(path: str) -> None:
    """Load everything, then fork for every connection until standard input closes."""
    _load()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(16)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        waiting: list[socket.socket | int] = [listener, 0]
        if 0 in select.select(waiting, [], [])[0]:
            return
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _keep(connection)
        connection.close()


def _load() -> None:
    packages = ("cli", "engine", "engine.restore", "engine.maintenance", "registry", "store")
    for name in packages:
        package = importlib.import_module(f"etcd_steward.{name}")
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(found.name)
    importlib.import_module("etcd_steward.__main__")
    gc.freeze()


def _keep(connection: socket.socket) -> NoReturn:
    """Fork the program, and tell how it ended; kill it when nobody waits for it any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    header, descriptors, _, _ = socket.recv_fds(connection, 4, _FDS)
    size = int.from_bytes(header, "little")
    order = bytearray()
    while len(order) < size and (piece := connection.recv(min(_LARGEST, size - len(order)))):
        order += piece
    if len(order) < size or len(descriptors) != _FDS:
        os._exit(1)
    program = os.fork()
    if program == 0:
        connection.close()
        _become(json.loads(order), descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    ended = os.pidfd_open(program)
    waiting: list[socket.socket | int] = [ended, connection]
    if ended not in select.select(waiting, [], [])[0]:
        os.kill(program, signal.SIGKILL)
    _, status = os.waitpid(program, 0)
    with contextlib.suppress(OSError):
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _become(order: Mapping[str, object], descriptors: Sequence[int]) -> NoReturn:
    """Be the program that was asked for."""
    code = 1
    try:
        words, env = order["words"], order["env"]
        assert isinstance(words, list)
        assert isinstance(env, dict)
        os.setsid()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.chdir(str(order["cwd"]))
        os.environ.clear()
        os.environ.update(env)
        sys.argv = ["etcd_steward", *words]
        code = _code_of_main()
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001  # the interpreter's own last resort, done by hand
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _code_of_main() -> int:
    from etcd_steward.__main__ import main  # noqa: PLC0415  # the zygote alone loads the program

    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


if __name__ == "__main__":
    _serve(sys.argv[1])
