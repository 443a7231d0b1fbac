"""The commands in README.md and docs/, run as a reader would run them.

A ```console block holds commands, on lines that begin with `$ ` (a line that ends in a backslash
goes on; `> ` continues a here-document), each followed by what it prints. A page's commands run in
order in one bash, whose working directory is empty but for links to the checkout's folders. The
block's first line may say more: `exit=3` expects that status, `head=8` shows only so many lines.

A ```yaml block whose first line is a comment like `# nightly.yaml` becomes that file.
`<!-- sandbox: NAME -->` calls one of the sandbox's own deeds, such as stopping a server, where the
page says what to do on a host. Everything else that is fenced is for reading only.

The pages use realistic addresses; `Aliases` turns them into the sandbox's and back. What a page
shows must be true: each word of it must stand in the real output (figures and hashes differ from
run to run). `python -m tests.testbed docs --write` puts the real output into the pages.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.testbed.process import TestbedError, clean_environment

ROOT = Path(__file__).resolve().parents[2]
ELLIPSIS = "..."
COMMAND_TIMEOUT = 180  # seconds
_MARK = "\x1e"
_FENCE = re.compile(r"^```(\w+)?[ ]*(.*)$")
_DEED = re.compile(r"^<!-- sandbox: (\S+) -->$")
_FILE_NAME = re.compile(r"^# ([\w.-]+\.yaml)$")
_WORD = re.compile(r"(?<![\w/.-])[A-Za-z]{4,}(?![\w/.-])")
_HEX = re.compile(r"^[a-f]+$")
_PASSING = frozenset({"never"})
"""What is true only at first: `never compacted`."""
_WAITING = re.compile(r"^[A-Z][a-z ]+( \.\.\.|: [\d.]+ [kMG]?B( of [\d.]+ [kMG]?B)?)$")
"""A line of progress: only a slow machine sees it."""

Deeds = Mapping[str, Callable[[], Awaitable[None]]]


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a page, and what the page says that it prints."""

    line: int
    text: str
    shown: tuple[str, ...]
    status: int = 0
    head: int | None = None


@dataclass(frozen=True, slots=True)
class File:
    """A file that the page asks its reader to write."""

    line: int
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that happens on hosts, which the sandbox does in its own way."""

    line: int
    name: str


@dataclass(frozen=True, slots=True)
class Unrun:
    """A fenced block that nobody runs."""

    line: int
    language: str
    text: str


Step = Command | File | Deed | Unrun


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: number of its first inner line, language, arguments, and inner lines."""

    line: int
    language: str
    arguments: Mapping[str, str]
    lines: tuple[str, ...]


def steps(text: str) -> Iterator[Step]:
    """Read a page from top to bottom. Raises ValueError for what can't be meant."""
    fence: re.Match[str] | None = None
    inner: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if fence is not None:
            if line.startswith("```"):
                words = (word.partition("=") for word in fence[2].split())
                arguments = {key: value for key, _, value in words}
                start = number - len(inner)
                yield from _block(Block(start, fence[1] or "", arguments, tuple(inner)))
                fence, inner = None, []
            else:
                inner.append(line)
        elif match := _FENCE.match(line):
            fence = match
        elif match := _DEED.match(line):
            yield Deed(number, match[1])
    if fence is not None:
        raise ValueError("the last fenced block has no end")


def _block(block: Block) -> Iterator[Step]:
    if block.language == "console":
        yield from _commands(block)
        return
    name = _FILE_NAME.match(block.lines[0]) if block.lines else None
    if block.language == "yaml" and name:
        yield File(block.line, name[1], "\n".join(block.lines) + "\n")
        return
    yield Unrun(block.line, block.language, "\n".join(block.lines))


def _commands(block: Block) -> Iterator[Command]:
    if not block.lines or not block.lines[0].startswith("$ "):
        raise ValueError(f"line {block.line}: a console block begins with `$ `")
    if unknown := set(block.arguments) - {"exit", "head"}:
        raise ValueError(f"line {block.line}: {unknown} is unknown to a console block")
    status = int(block.arguments.get("exit", "0"))
    head = int(block.arguments["head"]) if "head" in block.arguments else None
    number, shown = 0, list[str]()
    text: list[str] = []
    for offset, line in enumerate(block.lines):
        if line.startswith("$ "):
            if text:
                yield Command(number, "\n".join(text), tuple(shown), 0, head)
            number, text, shown = block.line + offset, [line[2:]], []
        elif text and not shown and (text[-1].endswith("\\") or line.startswith("> ")):
            text.append(line.removeprefix("> "))
        else:
            shown.append(line)
    yield Command(number, "\n".join(text), tuple(shown), status, head)


@dataclass(frozen=True, slots=True)
class Aliases:
    """What the pages call things, and what they are called in the sandbox."""

    pairs: tuple[tuple[str, str], ...]
    """Name in the pages, name in the sandbox; longer ones first where one holds another."""

    def real(self, text: str) -> str:
        """Turn a page's text into the sandbox's."""
        for page, sandbox in self.pairs:
            text = text.replace(page, sandbox)
        return text

    def page(self, text: str) -> str:
        """Turn the sandbox's text into a page's."""
        for page, sandbox in self.pairs:
            text = text.replace(sandbox, page)
        return text


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command of a page did."""

    command: Command
    status: int
    printed: tuple[str, ...]
    """Standard output and error, in the page's names."""

    @property
    def excerpt(self) -> tuple[str, ...]:
        """As much of it as the page asks for."""
        head = self.command.head
        if head is None or len(self.printed) <= head:
            return self.printed
        return (*self.printed[:head], ELLIPSIS)

    def faults(self, *, shown: bool = True) -> list[str]:
        """Say what differs from the page; without `shown` only an unexpected exit status."""
        where = f"line {self.command.line}: {self.command.text.splitlines()[0]}"
        said = "\n".join(self.printed)
        if self.status != self.command.status:
            return [f"{where}\nexits with {self.status}, not {self.command.status}:\n{said}"]
        if not shown:
            return []
        # Of all that it prints: which rows come first depends on what else has run.
        lacking = words("\n".join(self.command.shown)) - words(said)
        if lacking:
            return [f"{where}\nprints none of {sorted(lacking)}:\n{said}"]
        if bool(self.command.shown) != bool(self.printed):
            return [f"{where}\nthe page shows {self.command.shown}, it prints:\n{said}"]
        return []


def words(text: str) -> set[str]:
    """Words that mean something: of four letters or more, and not hexadecimal digits."""
    found = {word for word in _WORD.findall(text) if not _HEX.match(word)}
    return found - _PASSING


@dataclass(slots=True)
class Shell:
    """One bash that runs a page's commands one after the other."""

    directory: Path
    aliases: Aliases
    environment: Mapping[str, str]
    _bash: asyncio.subprocess.Process | None = field(default=None, init=False)

    @asynccontextmanager
    async def started(self) -> AsyncIterator["Shell"]:
        """Start it, and end it and what it left behind."""
        for name in ("crds", "deploy", "docs"):
            (self.directory / name).symlink_to(ROOT / name)
        self._bash = await asyncio.create_subprocess_exec(
            "bash", "--noprofile", "--norc",
            cwd=self.directory,
            env=clean_environment({"TERM": "dumb", "COLUMNS": "110", **self.environment}),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=1 << 24,
        )  # fmt: skip
        try:
            yield self
        finally:
            assert self._bash.stdin is not None
            self._bash.stdin.close()
            try:
                await asyncio.wait_for(self._bash.wait(), 10)
            except TimeoutError:
                self._bash.kill()
                await self._bash.wait()

    async def run(self, command: Command) -> Ran:
        """Run one command to its end. Raises TestbedError if that takes too long."""
        bash = self._bash
        assert bash is not None
        assert bash.stdin is not None
        assert bash.stdout is not None
        text = self.aliases.real(command.text)
        bash.stdin.write(f"{text}\nprintf '{_MARK}%d{_MARK}' $?\n".encode())
        await bash.stdin.drain()
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT):
                said = await bash.stdout.readuntil(_MARK.encode())
                status = await bash.stdout.readuntil(_MARK.encode())
        except TimeoutError as error:
            raise TestbedError(f"line {command.line}: {text} does not end") from error
        except asyncio.IncompleteReadError as error:
            raise TestbedError(f"line {command.line}: bash has gone: {error.partial!r}") from error
        said_text = self.aliases.page(said[:-1].decode(errors="replace"))
        lines = [line.rstrip() for line in said_text.splitlines()]
        printed = tuple(line for line in lines if not _WAITING.match(line))
        return Ran(command, int(status[:-1]), printed)

    async def must(self, text: str) -> None:
        """Run a command that the page does not show. Raises TestbedError if it fails."""
        ran = await self.run(Command(0, text, ()))
        if ran.status:
            raise TestbedError(f"{text} failed with status {ran.status}: {ran.printed}")

    def write(self, file: File) -> None:
        """Write a file that the page shows."""
        (self.directory / file.name).write_text(self.aliases.real(file.text))


async def run_page(text: str, shell: Shell, deeds: Deeds) -> list[Ran]:
    """Run a page from top to bottom."""
    ran: list[Ran] = []
    for step in steps(text):
        match step:
            case Command():
                ran.append(await shell.run(step))
            case File():
                shell.write(step)
            case Deed():
                await deeds[step.name]()
            case Unrun():
                pass
    return ran


def rewritten(text: str, ran: Sequence[Ran]) -> str:
    """The page with the output that its commands really had."""
    lines = text.splitlines()
    for one in sorted(ran, key=lambda one: one.command.line, reverse=True):
        start = one.command.line - 1 + len(one.command.text.splitlines())
        lines[start : start + len(one.command.shown)] = one.excerpt
    return "\n".join(lines) + "\n"


def shims(directory: Path, programs: Mapping[str, Path]) -> str:
    """A PATH on which `programs` come first."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, program in programs.items():
        (directory / name).symlink_to(program)
    return f"{directory}:{os.environ['PATH']}"
