"""A run as a child process: request on standard input, events on standard output.

Killing it stops boto3's threads, its memory returns, and hashing can't starve the operator's event
loop. It watches its standard input: when that closes, its parent is gone or wants it to stop; it
then aborts what it has begun and exits. `python -m etcd_steward.runner` is for the operator only.
"""

import asyncio
import logging
import os
import sys
import threading

from pydantic import ValidationError

from etcd_steward.app import settle_run, take_snapshot
from etcd_steward.errors import InvalidInput, StewardError
from etcd_steward.models.run import (
    REQUEST,
    Event,
    Failure,
    Journal,
    Progress,
    Settled,
    SnapshotRequest,
    Warned,
)
from etcd_steward.models.run import Result as RunResult


class _Pipe:
    """The way to the parent: events out, one line back for each journal."""

    def __init__(self, loop: asyncio.AbstractEventLoop, job: "asyncio.Task[None]") -> None:
        self._loop = loop
        self._job = job
        self._answered = asyncio.Event()

    def follow(self) -> None:
        """Read answers until the parent is gone, then stop the job; in a thread of its own."""
        for _ in sys.stdin.buffer:
            self._loop.call_soon_threadsafe(self._answered.set)
        self._loop.call_soon_threadsafe(self._job.cancel)

    def send(self, event: Event) -> None:
        os.write(1, event.model_dump_json(by_alias=True).encode() + b"\n")

    def progress(self, progress: Progress) -> None:
        self.send(progress)

    def warning(self, message: str) -> None:
        self.send(Warned(message=message))

    async def journal(self, journal: Journal) -> None:
        self._answered.clear()
        self.send(journal)
        await self._answered.wait()


async def _run(line: bytes) -> None:
    loop = asyncio.get_running_loop()
    job = asyncio.current_task()
    assert job is not None  # noqa: S101 - a coroutine always runs in a task
    pipe = _Pipe(loop, job)
    threading.Thread(target=pipe.follow, name="parent", daemon=True).start()
    try:
        request = REQUEST.validate_json(line)
        outcome: RunResult | Settled
        if isinstance(request, SnapshotRequest):
            outcome = await take_snapshot(request, pipe)
        else:
            outcome = await settle_run(request)
        pipe.send(outcome)
    except ValidationError as error:
        what = error.errors(include_input=False, include_url=False)
        pipe.send(Failure.of(InvalidInput(f"the request of this run can't be read: {what}")))
    except StewardError as error:
        pipe.send(Failure.of(error))


def main() -> int:
    """Run one job; the exit code says only whether an outcome was reported."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    line = sys.stdin.buffer.readline()
    try:
        asyncio.run(_run(line))
    except (asyncio.CancelledError, KeyboardInterrupt, BrokenPipeError):
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
