"""Running a verb's work so that Ctrl-C and SIGTERM let it clean up after itself."""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from types import FrameType
from typing import Any, TypeVar

import click

from etcd_steward.cli.framework import Option
from etcd_steward.cli.values import DURATION

Result = TypeVar("Result")

_STOPPING = "Stopping: what was begun is undone, in the store and in the spool."
_AT_ONCE = "Stopped at once. The next run that uses this spool cleans up what was left."


timeout_option = click.option(
    "--timeout",
    cls=Option,
    type=DURATION,
    default=3600.0,
    metavar="DURATION",
    help="How long all of it may take.  [default: 1h]",
)


class Interrupted(Exception):  # what happened, not what went wrong
    """A signal ended the work, which had the time to clean up."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum
        """The shell's own convention: 130 after Ctrl-C, 143 after SIGTERM."""


def run(
    work: Coroutine[Any, Any, Result], *, stopping: str = _STOPPING, at_once: str = _AT_ONCE
) -> Result:
    """Run `work` to its end.

    `stopping` is what a person reads when it is told to stop, `at_once` when it is told twice.
    The first SIGINT or SIGTERM cancels it and waits for its clean-up, then raises `Interrupted`;
    the second ends the process on the spot, threads and all.
    """
    return asyncio.run(_cancellable(work, stopping, at_once))


async def agreed(question: str) -> bool:
    """Ask on the terminal whether to go on; whatever is not a yes is a no.

    `click.confirm` would block the loop, and with it the Ctrl-C that ends all other work here.
    """
    click.echo(f"{question} [y/N]: ", nl=False, err=True)
    loop = asyncio.get_running_loop()
    answered = asyncio.Event()
    loop.add_reader(sys.stdin, answered.set)
    try:
        await answered.wait()
    finally:
        loop.remove_reader(sys.stdin)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


async def _cancellable(work: Coroutine[Any, Any, Result], stopping: str, at_once: str) -> Result:
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    received: list[int] = []

    def stop(signum: int, _frame: FrameType | None) -> None:
        # Python's own handler rather than the loop's: it also runs while the loop is busy.
        if loop.is_closed():  # the work is done, and its result is being printed
            os._exit(128 + signum)
        if received:
            os.write(2, f"\n{at_once}\n".encode())
            os._exit(128 + signum)
        received.append(signum)
        os.write(2, f"\n{stopping} Once more stops at once.\n".encode())
        loop.call_soon_threadsafe(task.cancel)

    for signum in (signal.SIGINT, signal.SIGTERM):
        # Not put back: a thread that blocks at the end must be stoppable by the second signal.
        signal.signal(signum, stop)
    try:
        return await task
    except asyncio.CancelledError:
        if received:
            raise Interrupted(received[0]) from None
        raise
