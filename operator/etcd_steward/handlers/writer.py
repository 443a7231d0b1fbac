"""Writing the status of one run or restore: what must be written is, sooner or later."""

import asyncio
import logging
from typing import Generic

from etcd_steward.deadline import Deadline
from etcd_steward.errors import NotFound, OutOfSpace, PermanentError, StewardError
from etcd_steward.handlers.read import read_status
from etcd_steward.handlers.status import BegunStatus, dumped, is_terminal, merge_patch
from etcd_steward.handlers.waits import sleep_unless
from etcd_steward.kube import SNAPSHOTS, Key, Kube, Version, version_of
from etcd_steward.kube_client import Object

log = logging.getLogger(__name__)

PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between tries; the last one repeats."""
REFUSALS = 9
"""So often in a row the API server may refuse a status (413, 422, 403) before that is believed: for
a minute, since one that has just started refuses for a moment."""
MINIMUM = ("phase", "conditions")
"""What is written of a status that is refused as a whole."""
FOREVER = float("inf")
_UNKNOWN = object()
"""Differs from every value that could be written."""


class Gone(Exception):
    """The object was deleted, or another operator has begun it since: be still."""


class StatusWriter(Generic[BegunStatus]):
    """The status as it should be, and as the API server is known to have it."""

    def __init__(
        self, kube: Kube, key: Key, version: Version, status: BegunStatus, plural: str = SNAPSHOTS
    ) -> None:
        self.status: BegunStatus = status
        self.version = version
        """Of the object, as we know it."""
        self._kube = kube
        self._key = key
        self._plural = plural
        self._written = dumped(status)
        self._begun = status.starts or 0
        self._gone = False
        self._one_at_a_time = asyncio.Lock()

    async def read_again(self) -> None:
        """Begin anew from what the API server has. Raises as `confirm` does."""
        found = await self._find()
        self.status = read_status(type(self.status), found).status
        self._written = dumped(self.status)
        self._begun = self.status.starts or 0

    async def try_write(self) -> None:
        """Write what has changed, once. Raises `StewardError`; the next write makes up for it.

        Raises `Gone` if there is no such object any more, or another one of its name, or if
        another operator has started a process for the run: from then on it is not ours.
        """
        async with self._one_at_a_time:
            if self._gone:
                raise Gone
            wanted = dumped(self.status)
            patch = merge_patch(self._written, wanted)
            if not patch:
                return
            # Until the answer is there nobody knows what the API server has of these.
            self._written |= dict.fromkeys(patch, _UNKNOWN)
            await self._patch(patch)
            self._written = wanted

    async def confirm(self) -> None:
        """Raise `Gone` if the run is not ours any more, `StewardError` if that can't be known."""
        self._yield_to_another(await self._find())

    async def _find(self) -> Object:
        try:
            found = await self._kube.get(self._plural, self._key)
        except NotFound as error:
            raise Gone from error
        if version_of(found).uid != self.version.uid:
            raise Gone
        return found

    async def _patch(self, patch: Object) -> None:
        starts = self.status.starts or 0
        try:
            self.version = await self._kube.patch_status(
                self._plural, self._key, self.version, patch, overtaken=self._yield_to_another
            )
        except NotFound as error:
            self._gone = True
            raise Gone from error
        except StewardError:
            self._begun = starts  # perhaps it was written
            raise
        self._begun = starts

    def _yield_to_another(self, found: Object) -> None:
        """Raise `Gone` if the run has ended, or more processes were started than may be ours."""
        theirs = read_status(type(self.status), found).status
        ended = is_terminal(theirs) and not is_terminal(self.status)
        if ended or (theirs.starts or 0) > self._begun:
            log.warning("another operator has taken %s over: it is left alone", self._key)
            self._gone = True
            raise Gone

    async def write(self, stop: asyncio.Event, patience: float = FOREVER) -> bool:
        """Write until the API server takes it, `stop` is set, or `patience` (seconds) is over.

        A status that is refused again and again is written in its barest form, or given up. Says
        whether anything was written.
        """
        deadline = Deadline.after(patience)
        tries = refusals = 0
        while True:
            try:
                await self.try_write()
            except StewardError as error:
                refused = isinstance(error, PermanentError) and not isinstance(error, OutOfSpace)
                refusals = refusals + 1 if refused else 0
                if refusals >= REFUSALS:
                    return await self._write_minimum()
                pause = min(PAUSES[min(tries, len(PAUSES) - 1)], deadline.left())
                tries += 1
                if stop.is_set() or deadline.passed:
                    log.warning("status of %s is not written yet: %s", self._key, error)
                    return False
                log.warning("status of %s: %s; tried again in %.1f s", self._key, error, pause)
                await sleep_unless(stop, pause)
            else:
                return True

    async def _write_minimum(self) -> bool:
        wanted = dumped(self.status)
        try:
            await self._patch({name: wanted[name] for name in MINIMUM if name in wanted})
        except StewardError as error:
            log.error("status of %s is given up: %s", self._key, error)  # noqa: TRY400, no bug
            return False
        log.error("status of %s was refused; only its phase and conditions are written", self._key)
        return True
