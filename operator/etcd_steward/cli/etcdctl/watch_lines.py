"""`watch --interactive`: what to watch is taken from standard input, line by line."""

import asyncio
import os
import sys
from contextlib import aclosing, suppress

import click

from etcd_steward.cli.etcdctl.errors import BAD_CONNECTION, INVALID_INPUT, EtcdctlError, told
from etcd_steward.cli.etcdctl.flags import Ctl
from etcd_steward.cli.etcdctl.printers import Printer
from etcd_steward.cli.etcdctl.ranges import key_range
from etcd_steward.cli.etcdctl.watch_shown import show
from etcd_steward.cli.etcdctl.watch_words import Asked, Named, NoSuchWatch, asked_by_line, split
from etcd_steward.cli.output import warn
from etcd_steward.engine.tasks import together
from etcd_steward.etcd.keys import KeyRange
from etcd_steward.etcd.watcher import Watcher

_CHUNK = 1 << 16


async def interact(ctl: Ctl, named: Named) -> None:
    """Take lines until there are no more, which is an error, as with etcdctl."""
    async with ctl.connect() as client:
        session = _Session(Watcher(client, notice=warn), ctl.printer(), named)
        with told(BAD_CONNECTION):
            async with together() as group:
                group.create_task(session.show())
                await session.read()


class _Session:
    """What was asked for so far."""

    def __init__(self, watcher: Watcher, printer: Printer, named: Named) -> None:
        self._watcher = watcher
        self._printer = printer
        self._named = named
        self._asked: dict[int, Asked] = {}

    async def show(self) -> None:
        """Print what is told, for ever."""
        async with aclosing(self._watcher.told()) as every:
            async for one in every:
                await show(one.answer, self._printer, self._asked[one.number].command)
                if one.answer.canceled:
                    del self._asked[one.number]

    async def read(self) -> None:
        """Do what the lines say. Raises `EtcdctlError` at their end."""
        lines = _Lines()
        while (line := await lines.next()) is not None:
            self._do(line)
        raise EtcdctlError("error reading watch request line: EOF", INVALID_INPUT)

    def _do(self, line: str) -> None:
        match split(line):
            case []:
                _complain(f"Invalid command: {line} (watch and progress supported)")
            case ["watch"] if not self._named.key:
                _complain(f"Invalid command {line} (command type or key is not provided)")
            case ["watch", *words]:
                self._watch(line, words)
            case ["progress", *_]:
                if self._asked:
                    self._watcher.ask_progress()
            case ["cancel", *words]:
                self._cancel(line, words)
            case _:
                _complain(f"Invalid command {line} (only support watch)")

    def _watch(self, line: str, words: list[str]) -> None:
        try:
            asked = asked_by_line(words, self._named)
        except NoSuchWatch as error:
            _complain(f"Invalid command {line} ({error.message})")
            return
        self._asked[self._watcher.watch(asked.watch)] = asked

    def _cancel(self, line: str, words: list[str]) -> None:
        found = list(self._asked)
        if words:
            wanted = {
                key_range(tuple(words[:2]), prefix=False, from_key=False),
                KeyRange.prefix(os.fsencode(words[0])) if len(words) == 1 else None,
            }
            found = [number for number in found if self._asked[number].watch.wanted in wanted]
        if not found:
            _complain(f"Invalid command {line} (nothing of that is watched)")
        for number in found:
            self._watcher.cancel(number)
            del self._asked[number]


def _complain(text: str) -> None:
    click.echo(text, err=True)


class _Lines:
    """Lines of standard input, which may be a terminal, a pipe, a file or nothing."""

    def __init__(self) -> None:
        self._input = None if sys.stdin is None else sys.stdin.fileno()
        self._read = b""

    async def next(self) -> str | None:
        """The next line; None at the end, also where it ends within a line."""
        while b"\n" not in self._read:
            if self._input is None:
                return None
            await self._readable(self._input)
            found = os.read(self._input, _CHUNK)
            if not found:
                return None
            self._read += found
        line, _, self._read = self._read.partition(b"\n")
        return os.fsdecode(line)

    async def _readable(self, descriptor: int) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        with suppress(PermissionError):  # a file can be read at any time
            loop.add_reader(descriptor, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_reader(descriptor)
