"""Writing one EtcdSnapshot's status: what must be written is, sooner or later."""

import asyncio
import logging
from typing import Any

from etcd_steward.deadline import Deadline
from etcd_steward.errors import NotFound, StewardError
from etcd_steward.handlers.status import merge_patch
from etcd_steward.handlers.waits import sleep_unless
from etcd_steward.kube import SNAPSHOTS, Key, Kube
from etcd_steward.models.kinds import EtcdSnapshotStatus

log = logging.getLogger(__name__)

PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between tries; the last one repeats."""
FOREVER = float("inf")
_UNKNOWN = object()
"""Differs from every value that could be written."""


class Gone(Exception):
    """The EtcdSnapshot was deleted: nobody is left to be told."""


class StatusWriter:
    """The status as it should be, and as the API server is known to have it."""

    def __init__(self, kube: Kube, key: Key, status: EtcdSnapshotStatus) -> None:
        self.status = status
        self._kube = kube
        self._key = key
        self._written = _dump(status)
        self._one_at_a_time = asyncio.Lock()

    async def try_write(self) -> None:
        """Write what has changed, once. Raises `StewardError`; the next write makes up for it.

        Raises `Gone` if there is no such object any more.
        """
        async with self._one_at_a_time:
            wanted = _dump(self.status)
            patch = merge_patch(self._written, wanted)
            if not patch:
                return
            # Until the answer is there nobody knows what the API server has of these.
            self._written |= dict.fromkeys(patch, _UNKNOWN)
            try:
                await self._kube.patch_status(SNAPSHOTS, self._key, patch)
            except NotFound as error:
                raise Gone from error
            self._written = wanted

    async def write(self, stop: asyncio.Event, patience: float = FOREVER) -> None:
        """Write until the API server takes it, `stop` is set, or `patience` (seconds) is over."""
        deadline = Deadline.after(patience)
        tries = 0
        while True:
            try:
                await self.try_write()
            except StewardError as error:
                pause = min(PAUSES[min(tries, len(PAUSES) - 1)], deadline.left())
                tries += 1
                if stop.is_set() or deadline.passed:
                    log.warning("status of %s is not written yet: %s", self._key, error)
                    return
                log.warning("status of %s: %s; tried again in %.1f s", self._key, error, pause)
                await sleep_unless(stop, pause)
            else:
                return


def _dump(status: EtcdSnapshotStatus) -> dict[str, Any]:
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)
