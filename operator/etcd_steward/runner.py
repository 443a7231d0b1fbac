"""A run as a child process: request on standard input, events on standard output.

Killing it stops boto3's threads, its memory returns, and hashing can't starve the operator's event
loop. It watches its standard input: when that closes, its parent is gone or wants it to stop; it
then aborts what it has begun and exits. Only if its last word is `Settled` was that a success, and
nothing is left of this attempt or of earlier ones. `python -m etcd_steward.runner` is for the
operator only.
"""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator

from pydantic import ValidationError

from etcd_steward.errors import InvalidInput, StewardError
from etcd_steward.memory import return_freed_memory
from etcd_steward.models.jobs import REQUEST, Event, OneJob, Request
from etcd_steward.models.maintenance_run import MaintenanceRequest
from etcd_steward.models.observation import ObserveRequest
from etcd_steward.models.restore_run import RestoreRequest
from etcd_steward.models.run import (
    BackupRequest,
    CatalogueRequest,
    DeleteRequest,
    ExportRequest,
    Failure,
    Journal,
    Progress,
    Settled,
    SettleRequest,
    SnapshotRequest,
    Warned,
)

_LINE = 4 << 20
"""Bytes; a request holds a few certificates at most."""


class _Pipe:
    """The way to the parent: events out, one line back for each journal."""

    def __init__(self) -> None:
        self._answered = asyncio.Event()
        self._lines: asyncio.Queue[bytes] = asyncio.Queue(1)
        self._observing = False
        self._owing = True
        self._begun = self._settled = 0

    def begin(self, request: Request) -> None:
        """Note whether somebody else has begun what this job is to settle."""
        self._observing = isinstance(request, ObserveRequest)
        self._owing = not (
            isinstance(request, BackupRequest)
            and not request.earlier
            and request.run == request.run[:8]
        )

    def stopped(self) -> None:
        """Say that nothing is left, if that is so."""
        if not self._owing:
            self.send(Settled(aborted=self._settled))

    async def follow(self, answers: asyncio.StreamReader, job: asyncio.Task[Event]) -> None:
        """Take answers until the parent is gone or closes the pipe; then stop the job."""
        while line := await answers.readline():
            if self._observing:
                await self._lines.put(line)
            else:
                self._answered.set()
        job.cancel()

    async def requests(self) -> AsyncIterator[ObserveRequest]:
        """What is to be looked at instead, whenever the parent says so."""
        while True:
            yield ObserveRequest.model_validate_json(await self._lines.get())

    def send(self, event: Event) -> None:
        os.write(1, event.model_dump_json(by_alias=True).encode() + b"\n")

    def progress(self, progress: Progress) -> None:
        self.send(progress)

    def warning(self, message: str) -> None:
        self.send(Warned(message=message))

    async def journal(self, journal: Journal) -> None:
        self._answered.clear()
        self._owing, self._begun = True, 1
        self.send(journal)
        await self._answered.wait()

    def settled(self) -> None:
        self._owing, self._settled = False, self._begun


async def _done(request: Request, pipe: _Pipe) -> Event:
    if isinstance(request, ObserveRequest):
        # Before all else is imported: it lives as long as the operator, and is to stay small.
        from etcd_steward.engine.observe.clusters import observe  # noqa: PLC0415

        return await observe(request, pipe.requests(), pipe.send)
    return await _job_of(request, pipe)


async def _job_of(request: OneJob, pipe: _Pipe) -> Event:
    from etcd_steward.app import (  # noqa: PLC0415  # see above
        delete,
        look_through,
        maintain,
        restore,
        settle_run,
        take_snapshot,
    )

    match request:
        case SnapshotRequest() | ExportRequest():
            return await take_snapshot(request, pipe)
        case SettleRequest():
            return await settle_run(request, pipe)
        case CatalogueRequest():
            return await look_through(request, pipe, pipe.send)
        case DeleteRequest():
            return await delete(request, pipe)
        case RestoreRequest():
            return await restore(request, pipe, pipe.send)
        case MaintenanceRequest():
            return await maintain(request, pipe, pipe.send)


async def _job(line: bytes, pipe: _Pipe) -> Event:
    try:
        request = REQUEST.validate_json(line)
        pipe.begin(request)
        return await _done(request, pipe)
    except ValidationError as error:
        what = error.errors(include_input=False, include_url=False)
        return Failure.of(InvalidInput(f"the request of this run can't be read: {what}"))
    except StewardError as error:
        return Failure.of(error)


async def _run() -> None:
    loop = asyncio.get_running_loop()
    answers = asyncio.StreamReader(limit=_LINE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(answers), sys.stdin)
    pipe = _Pipe()
    job = asyncio.create_task(_job(await answers.readline(), pipe))
    following = asyncio.create_task(pipe.follow(answers, job))
    try:
        pipe.send(await job)
    except asyncio.CancelledError:
        pipe.stopped()
        raise
    finally:
        following.cancel()


def main() -> int:
    """Run one job; the exit code says only whether an outcome was reported."""
    return_freed_memory()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    try:
        asyncio.run(_run())
    except (asyncio.CancelledError, KeyboardInterrupt, BrokenPipeError):
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
