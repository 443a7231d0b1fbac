"""How long commands take, in how much processor time and memory, round by round."""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from tests.testbed import SeaweedFS
from tests.testbed.process import clean_environment

STOPWATCH = Path(__file__).with_name("stopwatch.py")
PATIENCE = 300.0  # seconds
QUIET = 0.05
"""A machine is at rest if its processors work less than this part of the time,"""
RESTING = 3
"""in each of so many seconds."""

Command: TypeAlias = Sequence[str | Path]


@dataclass
class Figures:
    """What one way of doing it took."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Seconds of the command's own processes, not of the servers that it asks."""
    rss: list[float] = field(default_factory=list)
    """Each round's peak, in MB."""

    @property
    def median(self) -> float:
        """Of the seconds."""
        return statistics.median(self.seconds)

    @property
    def used(self) -> str:
        """The columns `cpu s` and `peak RSS MB`."""
        return f"{statistics.median(self.cpu):.1f} | {max(self.rss):.0f} |"

    def add_up(self, parts: "Figures", seconds: float | None = None) -> None:
        """Add a round of several commands: their times together, the largest memory.

        `seconds` is what the round took if it was more than they.
        """
        self.seconds.append(sum(parts.seconds) if seconds is None else seconds)
        self.cpu.append(sum(parts.cpu))
        self.rss.append(max(parts.rss))


def environment(s3: SeaweedFS | None = None) -> dict[str, str]:
    """What a measured command finds in its environment."""
    own = {"PYTHONDONTWRITEBYTECODE": ""}  # an installed program is compiled once
    if s3 is None:
        return clean_environment(own)
    aws = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_DEFAULT_REGION": s3.region}
    return clean_environment(own | aws | s3.environment())


def settled() -> None:
    """Wait until the machine is at rest: what one command leaves to do is not the next one's.

    A server that has answered with a gigabyte collects its garbage for seconds, and gives memory
    back; the kernel writes files.
    """
    os.sync()
    until, rests = time.monotonic() + PATIENCE, 0
    while rests < RESTING:
        if time.monotonic() > until:
            print("the machine does not come to rest: something else runs on it", flush=True)
            return
        before = _ticks()
        time.sleep(1)
        busy, whole = (now - then for now, then in zip(_ticks(), before, strict=True))
        rests = rests + 1 if busy < QUIET * whole else 0


def _ticks() -> tuple[int, int]:
    """The time that all processors have worked, and all of it."""
    first = Path("/proc/stat").read_text().partition("\n")[0]
    user, nice, system, idle, waiting, *interrupts = map(int, first.split()[1:8])
    busy = user + nice + system + sum(interrupts)
    return busy, busy + idle + waiting


@contextmanager
def running(
    command: Command,
    variables: Mapping[str, str],
    into: Figures,
    *,
    stdout: int = subprocess.PIPE,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command beside the body, wait for its end, and add what it took.

    The body reads what it prints to the end. A command that fails ends the benchmark, with its
    words.
    """
    told, tell = os.pipe()
    with os.fdopen(told, "rb") as told_by, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", STOPWATCH, str(tell), *command],
            env=variables,
            stdout=stdout,
            stderr=errors,
            bufsize=0,
            pass_fds=(tell,),
            start_new_session=True,
        )
        os.close(tell)
        try:
            yield process
            said = told_by.read()
            process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        took = json.loads(said or b'{"status": "no result"}')
        if took["status"]:
            errors.seek(0)
            words = errors.read().decode(errors="replace")
            raise SystemExit(f"{command} left with {took['status']}: {words}")
    into.seconds.append(took["seconds"])
    into.cpu.append(took["cpu"])
    into.rss.append(took["rss"])


def timed(
    command: Command,
    variables: Mapping[str, str],
    into: Figures,
    *,
    quiet: bool = False,
) -> bytes:
    """Run a command, add what it took, and return what it printed; `quiet` throws that away."""
    stdout = subprocess.DEVNULL if quiet else subprocess.PIPE
    with running(command, variables, into, stdout=stdout) as process:
        if process.stdout is None:
            return b""
        with process.stdout as output:
            return output.read()
