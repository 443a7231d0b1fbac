"""How `watch` shows an answer, and the command that it runs for each change."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence

import click

from etcd_steward.cli.etcdctl.output import flush, write
from etcd_steward.cli.etcdctl.printers import Printer
from etcd_steward.cli.etcdctl.quoting import quote, quoted
from etcd_steward.etcd import stubs

_COMPACTED = "etcdserver: mvcc: required revision has been compacted"


async def show(answer: stubs.WatchResponse, printer: Printer, command: Sequence[str]) -> None:
    """Print it, and run `command`, if there is one.

    Raises `click.exceptions.Exit` if the command fails.
    """
    if answer.canceled:
        reason = _COMPACTED if answer.compact_revision else answer.cancel_reason
        click.echo(f"watch was canceled ({reason})", err=True)
        if answer.created:  # etcd has refused it: etcdctl then shows an answer of its own
            answer = stubs.WatchResponse(canceled=True)
    elif not answer.events:
        write(b"progress notify: %d\n" % answer.header.revision)
    printer.watch(answer)
    flush()
    if command:
        for event in answer.events:
            await _run(command, _environment(answer, event))


def _environment(answer: stubs.WatchResponse, event: stubs.Event) -> dict[bytes, bytes]:
    kind = stubs.Event.EventType.Name(event.type)
    return {
        **os.environb,
        b"ETCD_WATCH_REVISION": b"%d" % answer.header.revision,
        b"ETCD_WATCH_EVENT_TYPE": quote(kind.encode()),
        b"ETCD_WATCH_KEY": quote(event.kv.key),
        b"ETCD_WATCH_VALUE": quote(event.kv.value),
    }


async def _run(command: Sequence[str], environment: Mapping[bytes, bytes]) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdin=asyncio.subprocess.DEVNULL
        )
    except OSError as error:
        _fail(command, _in_gos_words(command[0], error))
    try:
        status = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
    if status > 0:
        _fail(command, f"exit status {status}")
    if status < 0:
        _fail(command, f"signal: {(signal.strsignal(-status) or '').lower()}")


def _fail(command: Sequence[str], reason: str) -> None:
    words = " ".join(map(quoted, command))
    click.echo(f"command [{words}] error ({reason})", err=True)
    raise click.exceptions.Exit(1)


def _in_gos_words(program: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError) and "/" not in program:
        return f"exec: {quoted(program)}: executable file not found in $PATH"
    return f"fork/exec {program}: {(error.strerror or str(error)).lower()}"
