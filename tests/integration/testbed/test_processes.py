"""Nothing outlives its parent, errors show the log, and ports are nobody else's."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

import pytest

from tests.testbed import Server, TestbedError, wait_until
from tests.testbed.ports import reserved_ports
from tests.testbed.process import check_output, clean_environment, run

ROOT = Path(__file__).parents[3]


def children(pid: int) -> set[int]:
    """Return the process IDs right below `pid`, whichever of its threads started them."""
    try:
        lists = [task / "children" for task in Path(f"/proc/{pid}/task").iterdir()]
        return {int(child) for path in lists for child in path.read_text().split()}
    except (FileNotFoundError, ProcessLookupError):
        return set()


def descendants(pid: int) -> set[int]:
    """Return the process IDs below `pid`, at any depth."""
    found = children(pid)
    return found.union(*(descendants(child) for child in found))


def alive(pids: set[int]) -> set[int]:
    """Return those that still run; zombies have ended, whoever should reap them."""
    return {pid for pid in pids if state(pid) not in {"", "Z", "X"}}


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


async def all_gone(pids: set[int], *, timeout: float = 15) -> None:
    async def gone() -> bool:
        return not alive(pids)

    await wait_until(gone, f"all of {sorted(pids)} are gone", timeout=timeout)


@contextlib.asynccontextmanager
async def spawned(
    *command: str | Path,
    stdin: int = subprocess.DEVNULL,
    log: IO[bytes] | None = None,
    env: dict[str, str] | None = None,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a program outside the supervision that is tested, and kill it if the test fails."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=stdin,
        stdout=log or subprocess.PIPE,
        stderr=subprocess.STDOUT if log else None,
        cwd=ROOT,
        env=env,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


PARENT = """
    import asyncio, pathlib, sys
    from tests.testbed import EtcdCluster, SeaweedFS, Server

    async def yes():
        return True

    async def main(directory):
        # A server whose grandchild is in a session of its own, and ignores SIGTERM.
        nested = "trap '' TERM; setsid sh -c 'trap \\"\\" TERM; sleep 1000' & sleep 1000"
        server = Server("nested", ["sh", "-c", nested], directory=directory, ready=yes)
        async with EtcdCluster(directory / "etcd", members=3) as etcd, SeaweedFS(directory / "s3"):
            async with server:
                await etcd.members[1].pause()
                print("ready", flush=True)
                await asyncio.Event().wait()

    asyncio.run(main(pathlib.Path(sys.argv[1])))
"""


async def test_nothing_outlives_kill_9_of_the_parent(tmp_path: Path) -> None:
    command = (sys.executable, "-c", textwrap.dedent(PARENT), tmp_path)
    async with spawned(*command) as parent:
        assert parent.stdout
        assert await parent.stdout.readline() == b"ready\n"

        async def complete() -> bool:  # supervisors, servers, and the nested two
            return len(descendants(parent.pid)) >= 5 + 5 + 2

        await wait_until(complete, "everything runs")
        family = descendants(parent.pid)
        assert "T" in map(state, family)
    await all_gone(family)


XDIST = """
    import asyncio, os, pathlib
    import pytest

    @pytest.mark.parametrize("number", [1, 2])
    async def test_hangs(etcd, number):
        pathlib.Path(os.environ["READY"], str(number)).touch()
        await asyncio.Event().wait()
"""


@pytest.mark.parametrize("victim", ["controller", "worker"])
async def test_nothing_outlives_kill_9_of_pytest_xdist(tmp_path: Path, victim: str) -> None:
    """Run two workers that wait for ever with an etcd each; kill the controller or a worker."""
    (tmp_path / "test_hangs.py").write_text(textwrap.dedent(XDIST))
    ready = tmp_path / "ready"
    ready.mkdir()
    command = (
        *(sys.executable, "-m", "pytest", "-n2", "--max-worker-restart=0", f"--rootdir={ROOT}"),
        *(f"--config-file={ROOT}/pyproject.toml", "-p", "tests.conftest", "-p", "no:cacheprovider"),
        *("--basetemp", tmp_path / "base", tmp_path / "test_hangs.py"),
    )
    environment = clean_environment({"READY": str(ready)})
    # Into a file: a full pipe that nobody reads would stop it.
    with (tmp_path / "log").open("wb") as log:
        async with spawned(*command, log=log, env=environment) as controller:

            async def both_ready() -> bool:
                assert controller.returncode is None, (tmp_path / "log").read_text()
                return len(list(ready.iterdir())) == 2

            await wait_until(both_ready, "both workers have their etcd", timeout=120)
            family = descendants(controller.pid)
            workers = children(controller.pid)
            target = controller.pid if victim == "controller" else min(workers)
            doomed = descendants(target)
            assert len(doomed) >= 2
            os.kill(target, signal.SIGKILL)
            # execnet gives a worker that lost its controller 15 s before it ends it.
            await all_gone(doomed, timeout=60)
    await all_gone(family, timeout=60)


async def test_a_cancelled_command_is_killed_with_what_it_started(tmp_path: Path) -> None:
    before = descendants(os.getpid())
    script = (
        f"sleep 1000 & echo $! > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; wait"
    )
    task = asyncio.create_task(run("sh", "-c", script, timeout=60))

    async def started() -> bool:
        return (tmp_path / "pid").exists()

    await wait_until(started, "the command has started")
    family = descendants(os.getpid()) - before
    assert int((tmp_path / "pid").read_text()) in family
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await all_gone(family)


async def test_a_command_cancelled_while_it_starts_is_killed_too() -> None:
    before = descendants(os.getpid())
    for delay in range(20):  # up to 0.1 s: the supervisor's whole start
        with pytest.raises(TestbedError):
            await run("sleep", "1000", timeout=delay / 200)
    assert not alive(descendants(os.getpid()) - before)


async def test_a_command_past_its_time_and_a_failing_one_say_so() -> None:
    with pytest.raises(TestbedError, match=r"sleep 1000 did not end within 0\.2 s"):
        await run("sleep", "1000", timeout=0.2)
    with pytest.raises(TestbedError, match="failed with status 3: told you"):
        await check_output("sh", "-c", "echo told you >&2; exit 3")
    with pytest.raises(TestbedError, match="no-such-program: No such file"):
        await check_output("no-such-program")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo what went wrong; exit 3", r"ended before it was ready(.|\n)*what went wrong"),
        ("echo still thinking; sleep 1000", r"not ready after 0\.5 s(.|\n)*still thinking"),
    ],
)
async def test_a_server_that_does_not_start_shows_its_log(
    tmp_path: Path, script: str, message: str
) -> None:
    async def never() -> bool:
        return False

    command = ["sh", "-c", script]
    server = Server("odd", command, directory=tmp_path, ready=never, start_timeout=0.5)
    with pytest.raises(TestbedError, match=message):
        await server.start()
    assert not server.running
    assert not alive({server.pid})


HOLDER = """
    import sys
    from tests.testbed.ports import reserved_ports
    with reserved_ports(40) as ports:
        print(*ports, flush=True)
        sys.stdin.read()
"""


async def test_ports_go_to_one_process_only() -> None:
    command = (sys.executable, "-c", textwrap.dedent(HOLDER))
    async with contextlib.AsyncExitStack() as stack:
        holders = [
            await stack.enter_async_context(spawned(*command, stdin=subprocess.PIPE))
            for _ in range(6)
        ]
        lines = [await holder.stdout.readline() for holder in holders if holder.stdout]
        taken = [int(port) for line in lines for port in line.split()]
        assert len(taken) == len(set(taken)) == 6 * 40
        with reserved_ports(40) as ours:
            assert not set(ours) & set(taken)


async def test_a_port_in_use_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setattr("tests.testbed.ports.FIRST", port)
    monkeypatch.setattr("tests.testbed.ports.LAST", port + 1)
    async with server:
        with pytest.raises(TestbedError, match="no 1 free ports"), reserved_ports(1):
            pass
    with reserved_ports(1) as ports:
        assert ports == [port]
