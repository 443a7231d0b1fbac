"""The command line as its users run it: a process, its output, its exit code."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.zygote import Zygote
from tests.testbed import SeaweedFS
from tests.testbed.process import clean_environment

PROGRAM = (sys.executable, "-m", "etcd_steward")


@dataclass(frozen=True, slots=True)
class Said:
    """What the program left."""

    code: int
    out: str
    err: str

    def json(self) -> Any:  # noqa: ANN401  # whatever the verb prints
        """Standard output, read as JSON."""
        return json.loads(self.out)


async def steward(
    *words: str | Path, env: Mapping[str, str] | None = None, timeout: float = 90
) -> Said:
    """Run the program to its end, forked from a process that has loaded it (see `zygote`)."""
    environment = clean_environment(env)
    code, out, err = await _zygote().run(list(map(str, words)), env=environment, timeout=timeout)
    return Said(code, out.decode(), err.decode())


@cache
def _zygote() -> Zygote:
    return Zygote()


class Running:
    """The program while it runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    async def says(self, words: str, timeout: float = 60) -> str:
        """The next line of its standard output that holds these words."""
        assert self._process.stdout is not None
        async with asyncio.timeout(timeout):
            async for line in self._process.stdout:
                if words in (text := line.decode()):
                    return text
        raise AssertionError(f"it ended without saying {words!r}")

    async def end(self, timeout: float = 60) -> Said:
        """Wait for its end; what it says from now on."""
        async with asyncio.timeout(timeout):
            out, err = await self._process.communicate()
        assert self._process.returncode is not None
        return Said(self._process.returncode, out.decode(), err.decode())


@asynccontextmanager
async def started(
    *words: str | Path, env: Mapping[str, str] | None = None
) -> AsyncIterator[Running]:
    """Start the program; whatever happens, it is gone afterwards."""
    process = await asyncio.create_subprocess_exec(
        *PROGRAM,
        *map(str, words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(env),
    )
    try:
        yield Running(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def s3_flags(s3: SeaweedFS, bucket: str, *, endpoint: str | None = None) -> list[str]:
    """Flags that lead to `<bucket>/prod`; credentials come by `s3.environment()`."""
    flags = [f"--store=s3://{bucket}/prod", f"--s3-endpoint={endpoint or s3.endpoint_url}"]
    if s3.ca_file is not None:
        flags.append(f"--s3-ca={s3.ca_file}")
    return [*flags, "--s3-path-style"]


def files(directory: Path) -> list[str]:
    """What lies below a directory, the spool's lock left out."""
    found = (path for path in directory.rglob("*") if path.is_file() and path.name != ".lock")
    return sorted(str(path.relative_to(directory)) for path in found)
