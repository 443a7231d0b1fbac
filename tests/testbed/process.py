"""Child processes of the test bed: supervised, logged, awaited, and gone when their parent is."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

SUPERVISOR = Path(__file__).with_name("supervisor.py")

LOG_TAIL = 4096  # bytes of a log shown in an error
POLL_SECONDS = 0.05

_FOREIGN_PREFIXES = ("AWS_", "ETCD", "KUBECONFIG", "KUBERNETES_", "S3_", "WEED_")
_OUR_OWN = ("ETCD_STEWARD_ASSETS", "ETCD_STEWARD_CACHE")


class TestbedError(Exception):
    """A part of the test bed is missing, did not start, or a command of it failed."""

    __test__ = False  # pytest: not a test class, whatever its name begins with


@dataclass(frozen=True, slots=True)
class Output:
    """What a finished command left."""

    status: int
    stdout: bytes
    stderr: bytes


def foreign_variables() -> list[str]:
    """Names of variables that would lead a client past the test bed: ETCDCTL_*, AWS_*, proxies."""
    return [
        name
        for name in os.environ
        if name not in _OUR_OWN
        and (name.startswith(_FOREIGN_PREFIXES) or name.lower().endswith("_proxy"))
    ]


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our environment without the foreign variables, plus `extra`."""
    foreign = set(foreign_variables())
    kept = {name: value for name, value in os.environ.items() if name not in foreign}
    return kept | dict(extra or {})


async def _spawn(
    command: Sequence[str | Path],
    *,
    stdin: int,
    stdout: int,
    stderr: int,
    env: Mapping[str, str],
    cwd: Path | None = None,
) -> tuple[asyncio.subprocess.Process, socket.socket]:
    """Start `command` under the supervisor; the socket takes its orders."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                SUPERVISOR,
                str(theirs.fileno()),
                str(os.getpid()),
                *command,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=env,
                cwd=cwd,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # a terminal's Ctrl-C is for us; we end the rest in order
            )
    except BaseException:
        ours.close()
        raise
    ours.setblocking(False)
    return process, ours


async def run(
    *command: str | Path,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 60,
) -> Output:
    """Run a command to its end and return what it said, whatever its exit status.

    `env` replaces the environment (default: `clean_environment()`). Raises TestbedError when
    `timeout` seconds have passed; the command is killed then, as it is on cancellation.
    """
    process, control = await _spawn(
        command,
        stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment() if env is None else env,
        cwd=cwd,
    )
    try:
        async with asyncio.timeout(timeout):
            stdout, stderr = await process.communicate(stdin)
    except TimeoutError as error:
        message = f"{' '.join(map(str, command))} did not end within {timeout:g} s"
        raise TestbedError(message) from error
    finally:
        control.close()  # the supervisor kills what is left
        await process.wait()
    assert process.returncode is not None
    return Output(process.returncode, stdout, stderr)


async def check_output(
    *command: str | Path,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 60,
) -> str:
    """Run a command and return its standard output; TestbedError with its stderr if it fails."""
    output = await run(*command, stdin=stdin, env=env, cwd=cwd, timeout=timeout)
    if output.status:
        said = (output.stderr or output.stdout).decode(errors="replace").strip()
        line = " ".join(map(str, command))
        raise TestbedError(f"{line} failed with status {output.status}: {said}")
    return output.stdout.decode()


async def wait_until(
    condition: Callable[[], Awaitable[bool]],
    what: str,
    *,
    timeout: float = 30,
    interval: float = POLL_SECONDS,
) -> None:
    """Ask `condition` until it holds; TestbedError naming `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not await condition():
        if time.monotonic() > deadline:
            raise TestbedError(f"{what}: still not so after {timeout:g} s")
        await asyncio.sleep(interval)


class Server:
    """One supervised server: its command, its log, and the signals a test may send it.

    `ready` is asked until it holds. `grace` is how long SIGTERM may take before SIGKILL.
    `directory` receives `<name>.log`, which restarts append to.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        directory: Path,
        ready: Callable[[], Awaitable[bool]],
        start_timeout: float = 60,
        grace: float = 5,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.command = command
        self.log_file = directory / f"{name}.log"
        self._ready = ready
        self._start_timeout = start_timeout
        self._grace = grace
        self._env = clean_environment(env)
        self._process: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._pid = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def running(self) -> bool:
        """Whether the process exists (paused counts as running)."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """The server's own process id, not its supervisor's; for reading /proc."""
        return self._pid

    async def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it is ready unless told otherwise.

        Raises TestbedError with the log's tail if it ends first or is not ready in time.
        """
        if self.running:
            raise TestbedError(f"{self.name} runs already")
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as log:
            self._process, self._control = await _spawn(
                self.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log.fileno(),
                stderr=asyncio.subprocess.STDOUT,
                env=self._env,
            )
        try:
            self._pid = int(await asyncio.get_running_loop().sock_recv(self._control, 32))
            if wait:
                await self.wait_ready()
        except BaseException:
            await self.kill()
            raise

    async def wait_ready(self) -> None:
        """Wait until the server is ready; TestbedError if it ends or takes too long."""
        deadline = time.monotonic() + self._start_timeout
        while True:
            if not self.running:
                raise TestbedError(f"{self.name} ended before it was ready; {self._tail()}")
            if await self._ready():
                return
            if time.monotonic() > deadline:
                raise TestbedError(
                    f"{self.name} is not ready after {self._start_timeout:g} s; {self._tail()}"
                )
            await asyncio.sleep(POLL_SECONDS)

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after the grace; nothing to do if it has ended."""
        self._order(b"CT")  # a paused process must run to see its SIGTERM
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._grace):
                    await self._process.wait()
        await self.kill()

    async def kill(self) -> None:
        """SIGKILL to it and all it started, as a crash or the OOM killer would."""
        self._order(b"K")
        if self._process is not None:
            await self._process.wait()
        if self._control is not None:
            self._control.close()
            self._control = None

    async def restart(self) -> None:
        """Stop and start again over the same data and ports."""
        await self.stop()
        await self.start()

    async def pause(self) -> None:
        """SIGSTOP: sockets stay open, nobody answers. Returns when it has really stopped."""
        self._order(b"S")
        await wait_until(self._stopped, f"{self.name} is stopped", timeout=5)

    def resume(self) -> None:
        """SIGCONT."""
        self._order(b"C")

    def send(self, number: signal.Signals) -> None:
        """Send any other signal to the server alone."""
        if self.running:
            os.kill(self._pid, number)

    def _order(self, orders: bytes) -> None:
        if self._control is not None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._control.sendall(orders)

    async def _stopped(self) -> bool:
        if not self.running:
            raise TestbedError(f"{self.name} is not running; {self._tail()}")
        return _state(self._pid) == "T"

    def _tail(self) -> str:
        data = self.log_file.read_bytes()[-LOG_TAIL:].decode(errors="replace")
        return f"the end of {self.log_file}:\n{data}"


def _state(pid: int) -> str:
    """Return the kernel's letter for what a process does: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@contextlib.asynccontextmanager
async def running(*servers: Server) -> AsyncIterator[None]:
    """Start servers together, wait for all, and stop them together."""
    try:
        async with asyncio.TaskGroup() as group:
            for server in servers:
                group.create_task(server.start())
        yield
    finally:
        await stop_all(servers)


async def stop_all(servers: Sequence[Server]) -> None:
    """Stop servers side by side, so that several graces pass as one."""
    async with asyncio.TaskGroup() as group:
        for server in servers:
            group.create_task(server.stop())
