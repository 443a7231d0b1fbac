"""What a node lives in goes with it, however it ends."""

import asyncio
import functools
import signal
import sys
from pathlib import Path

import pytest

from tests.testbed import wait_until
from tests.testbed.node.namespaces import CGROUP, Namespaces
from tests.testbed.node.needs import CGROUPS
from tests.testbed.ports import reserved_ports
from tests.testbed.process import check_output

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
# A node's surroundings, with a process in there that would live on, and its cgroup in use.
PROGRAM = """
import asyncio, sys
from pathlib import Path
from tests.testbed.node.namespaces import Namespaces

async def main():
    directory = Path(sys.argv[1])
    async with Namespaces(directory, [directory / "data"]) as space:
        left = 'echo $$ > /sys/fs/cgroup/memory/etcd-steward-node/cgroup.procs; exec sleep 1000'
        process = await asyncio.create_subprocess_exec(*space.inside(["sh", "-c", left]))
        print("ready", flush=True)
        await process.wait()

asyncio.run(main())
"""


def left(directory: Path) -> list[str]:
    """Cgroups, data and processes that are still there."""
    found = [str(path) for path in CGROUPS.glob(f"*/{CGROUP}")]
    found += [str(path) for path in directory.glob("data")]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
        if str(directory).encode() in line:
            found.append(line.replace(b"\0", b" ").decode())
    return found


async def gone(directory: Path) -> None:
    async def nothing() -> bool:
        return not await asyncio.to_thread(left, directory)

    await wait_until(nothing, "all of it is gone", timeout=60)


async def test_nothing_outlives_a_test_run_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    run = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, tmp_path, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert run.stdout is not None
    assert await run.stdout.readline() == b"ready\n"
    assert len(await asyncio.to_thread(left, tmp_path)) > 3
    run.send_signal(signal.SIGKILL)
    await run.wait()
    await gone(tmp_path)


async def test_the_node_s_net_leads_nowhere_and_is_reached_by_portals_only(tmp_path: Path) -> None:
    with reserved_ports(1) as (port,):
        await serve(tmp_path, port)
    await gone(tmp_path)


async def serve(directory: Path, port: int) -> None:
    async with Namespaces(directory, []) as space:
        routes = await check_output(*space.network(["ip", "route", "show", "default"]))
        assert routes == ""
        web = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
        server = await asyncio.create_subprocess_exec(
            *space.network(web), cwd=directory,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with space.portal(port):
                there = functools.partial(answers, port)
                await wait_until(there, "the node's server answers on the host", timeout=60)
            assert not await answers(port)
        finally:
            server.kill()
            await server.wait()


async def answers(port: int) -> bool:
    """Ask for the list of files, which names `ready`."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return False
    try:
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        return b"ready" in await reader.read()
    except ConnectionError:
        return False
    finally:
        writer.close()
