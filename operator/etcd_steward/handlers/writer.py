"""Writing one EtcdSnapshot's status: what must be written is, sooner or later."""

import asyncio
import logging
from typing import Any

from etcd_steward.deadline import Deadline
from etcd_steward.errors import NotFound, OutOfSpace, PermanentError, StewardError
from etcd_steward.handlers.status import merge_patch
from etcd_steward.handlers.waits import sleep_unless
from etcd_steward.kube import SNAPSHOTS, Key, Kube, Object, Version
from etcd_steward.models.kinds import EtcdSnapshotStatus

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
    """The EtcdSnapshot was deleted: nobody is left to be told."""


class StatusWriter:
    """The status as it should be, and as the API server is known to have it."""

    def __init__(self, kube: Kube, key: Key, version: Version, status: EtcdSnapshotStatus) -> None:
        self.status = status
        self._kube = kube
        self._key = key
        self._version = version
        self._written = _dump(status)
        self._one_at_a_time = asyncio.Lock()

    def reset(self, status: EtcdSnapshotStatus) -> None:
        """Begin anew from what the API server has."""
        self.status = status
        self._written = _dump(status)

    async def try_write(self) -> None:
        """Write what has changed, once. Raises `StewardError`; the next write makes up for it.

        Raises `Gone` if there is no such object any more, or another one of its name.
        """
        async with self._one_at_a_time:
            wanted = _dump(self.status)
            patch = merge_patch(self._written, wanted)
            if not patch:
                return
            # Until the answer is there nobody knows what the API server has of these.
            self._written |= dict.fromkeys(patch, _UNKNOWN)
            await self._patch(patch)
            self._written = wanted

    async def _patch(self, patch: Object) -> None:
        try:
            self._version = await self._kube.patch_status(
                SNAPSHOTS, self._key, self._version, patch
            )
        except NotFound as error:
            raise Gone from error

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
        wanted = _dump(self.status)
        try:
            await self._patch({name: wanted[name] for name in MINIMUM if name in wanted})
        except StewardError as error:
            log.error("status of %s is given up: %s", self._key, error)  # noqa: TRY400, no bug
            return False
        log.error("status of %s was refused; only its phase and conditions are written", self._key)
        return True


def _dump(status: EtcdSnapshotStatus) -> dict[str, Any]:
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)
