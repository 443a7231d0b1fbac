"""etcd's own tool, which alone may write a data directory that etcd starts from."""

import asyncio
import os
import re
import shutil
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from etcd_steward.errors import InvalidInput, NotFound, PermanentError, Refused

Version = tuple[int, ...]

_VERSION = re.compile(r"etcdutl version: (\d+)\.(\d+)\.(\d+)")
_ANSWER_SECONDS = 20.0
_TOLD = 1 << 16
"""Bytes kept of what it prints; it ends with what went wrong."""
_BUMPS_SINCE = (3, 5, 10)
"""--bump-revision and --mark-compacted came with 3.5.10 and 3.6.0 (etcd CHANGELOG-3.5; 3.4 has no
etcdutl)."""


def numbers(text: str) -> Version:
    """The numbers of a version such as `3.6.16` or `3.6.0-rc.1`; empty if it begins with none."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(number) for number in found[0].split(".")) if found else ()


@dataclass(frozen=True, slots=True)
class Etcdutl:
    """An etcdutl that runs on this host."""

    path: Path
    version: Version

    @classmethod
    async def find(cls, named: Path | None) -> "Etcdutl":
        """The one at `named`, an absolute path, else on PATH, asked for its version.

        Raises `NotFound` where there is none, `InvalidInput` if it is no etcdutl.
        """
        found = shutil.which("etcdutl" if named is None else named)
        if found is None:
            where = "is not on PATH" if named is None else f"is not at {named}, or can't be run"
            raise NotFound(
                f"etcdutl {where}",
                hint="it comes with each release of etcd, beside etcd and etcdctl: name it by "
                "--etcdutl",
            )
        path = Path(found)
        status, said = await _run([path, "version"], timeout=_ANSWER_SECONDS)
        version = _VERSION.search(said)
        if status or version is None:
            raise InvalidInput(
                f"{path} does not say its version: {_last_line(said) or 'nothing'}",
                hint="name etcd's own etcdutl by --etcdutl",
            )
        return cls(path, tuple(int(number) for number in version.groups()))

    def must_suit(self, needed: str, *, bumps: bool) -> None:
        """Raise `Refused` if it is older than a snapshot of etcd `needed`, or can't bump revisions.

        A newer one is fine: what 3.6 and 3.7 restore, etcd 3.5 starts from. An older one does not
        know what a later etcd keeps in the file.
        """
        if bumps and self.version < _BUMPS_SINCE:
            raise Refused(
                f"{self} can't bump revisions",
                hint="take etcdutl 3.5.10 or later: without it clients that watch are fooled",
            )
        minor = numbers(needed)[:2]
        if self.version[:2] < minor:
            wanted = ".".join(map(str, minor))
            raise Refused(
                f"{self} is older than the snapshot, which is of etcd {wanted}",
                hint=f"take etcdutl {wanted}, the one of the etcd that will run",
            )

    async def restore(
        self, snapshot: Path, flags: Sequence[str], *, lock: int, timeout: float
    ) -> None:
        """Run `etcdutl snapshot restore`. It ends when we are cancelled.

        `lock` is a descriptor that it inherits: what is locked by it stays so while it runs, even
        if we are killed. Raises `PermanentError` with its own words.
        """
        command: list[str | Path] = [self.path, "snapshot", "restore", snapshot, *flags]
        status, said = await _run(command, timeout=timeout, keep=lock)
        if status:
            words = _last_line(said).removeprefix("Error: ") or f"exit status {status}"
            raise PermanentError(
                f"{self} could not restore: {words}",
                hint="nothing was left in the data directory",
            )

    def __str__(self) -> str:
        return f"{self.path} {'.'.join(map(str, self.version))}"


async def _run(
    command: Sequence[str | Path], *, timeout: float, keep: int | None = None
) -> tuple[int, str]:
    """Run a command in a session of its own; its exit status, and the end of what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        pass_fds=() if keep is None else (keep,),
        start_new_session=True,  # Ctrl-C is ours to handle: it is killed in order
    )
    try:
        async with asyncio.timeout(timeout):
            said = await _tail(process)
            return await process.wait(), said
    except TimeoutError as error:
        line = " ".join(map(str, command[:3]))
        raise PermanentError(f"{line} did not end within {timeout:.0f} s") from error
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):  # it has just ended
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _tail(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None  # noqa: S101  # it was asked for as a pipe
    tail = b""
    while chunk := await process.stdout.read(_TOLD):
        tail = (tail + chunk)[-_TOLD:]
    return tail.decode(errors="replace")


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("Error:")]
    return (told or lines or [""])[-1]
