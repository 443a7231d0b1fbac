"""Whether a store lets us do all that a backup needs: each right is really tried.

Everything is written under `_check/<random>/`, where no listing of backups looks, and deleted.
"""

import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from etcd_steward.engine.findings import Finding, answered, failed, failure, ok, warning
from etcd_steward.errors import AlreadyExists, PermanentError, StewardError, Unauthorized
from etcd_steward.models.ports import OpenUpload, Store

_SKEW = timedelta(seconds=30)
"""AWS refuses a clock that is wrong by 15 minutes; long before that it needs a look."""


class _Enough(PermanentError):
    """Raised by a source on purpose, so that its upload is aborted."""


async def check_store(store: Store) -> list[Finding]:
    """Try to write, list, read, upload in parts, abort and delete; nothing stays."""
    probe = _Probe(store)
    try:
        findings = await probe.write()
    except Unauthorized as error:
        # Others may be allowed: whoever gives out rights wants to know which one is missing.
        return [failed("store", error), *await answered("store", probe.list_empty())]
    except StewardError as error:
        return [failed("store", error)]
    findings += await answered("store", probe.conditional())
    findings += await answered("store", probe.listing())
    findings += await answered("store", probe.upload())
    findings += await answered("store", probe.abort())
    findings += await answered("store", probe.delete())
    return findings + [warning("store", note) for note in store.notes]


class _Probe:
    """A folder of our own in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = f"_check/{secrets.token_hex(4)}"
        self._small = f"{self._folder}/small"
        self._large = f"{self._folder}/large"
        self._wrote_at = datetime.now(UTC)

    async def write(self) -> list[Finding]:
        """Write a small object; the store reads it back to compare."""
        await self._store.put_new(self._small, b"etcd-steward check\n")
        self._wrote_at = datetime.now(UTC)
        return [ok("store", f"{self._store.url} can be written and read")]

    async def conditional(self) -> list[Finding]:
        """Write other content under the same name: the store must refuse it."""
        try:
            await self._store.put_new(self._small, b"something else\n")
        except AlreadyExists:
            return [ok("store", "a name that is taken is refused")]
        return [failure("store", "the store gave back what it had not kept: nothing in it is safe")]

    async def list_empty(self) -> list[Finding]:
        """List, although nothing could be written."""
        async for _ in self._store.list(f"{self._folder}/"):
            break
        return [ok("store", f"{self._store.url} can be listed")]

    async def listing(self) -> list[Finding]:
        """List what was written, and compare the clocks by its time."""
        infos = [info async for info in self._store.list(f"{self._folder}/")]
        times = [info.modified for info in infos if info.key == self._small]
        if not times:
            return [
                failure(
                    "store",
                    "what was just written is missing from the listing",
                    "backups would not be found: use a store with consistent listings",
                )
            ]
        findings = [ok("store", "it can be listed")]
        skew = times[0] - self._wrote_at
        if self._store.url.startswith("file:"):
            return findings
        if abs(skew) >= _SKEW:
            seconds = skew.total_seconds()
            message = f"the store's clock and ours differ by {abs(seconds):.0f} s"
            hint = "set both by NTP: S3 refuses requests that are 15 minutes off"
            return [*findings, warning("clock", message, hint)]
        return [*findings, ok("clock", "the store's clock and ours agree")]

    async def upload(self) -> list[Finding]:
        """Upload in parts, to the end, and see whether the store confirms the checksum."""
        written = await self._store.write(
            self._large, _some(), size_hint=1 << 20, started=_noted, sent=_ignored
        )
        if written.confirmed:
            how = "the store confirms checksums, so samples are read back"
        else:
            how = "the store confirms no checksum, so every backup is read back whole"
        return [ok("store", f"uploads in parts work; {how}")]

    async def abort(self) -> list[Finding]:
        """Break an upload off, and see whether anything of it stays."""
        with suppress(_Enough):
            await self._store.write(
                f"{self._folder}/aborted",
                _some(fail=True),
                size_hint=1 << 20,
                started=_noted,
                sent=_ignored,
            )
        left = [upload async for upload in self._store.uploads(f"{self._folder}/")]
        if left:
            return [
                failure(
                    "store",
                    "an upload that was broken off could not be aborted, and its parts stay",
                    "allow s3:AbortMultipartUpload, or let a lifecycle rule abort old uploads",
                )
            ]
        return [ok("store", "uploads can be aborted")]

    async def delete(self) -> list[Finding]:
        """Remove it all; what can't be removed is named."""
        for key in (self._small, self._large):
            try:
                await self._store.delete(key)
            except StewardError as error:
                return [
                    warning(
                        "store",
                        f"nothing can be deleted, so {self._store.url}/{self._folder} stays: "
                        f"{error.message}",
                        error.hint,
                    )
                ]
        if [info async for info in self._store.list(f"{self._folder}/")]:
            return [failure("store", f"{self._store.url}/{self._folder} was deleted and is there")]
        return [ok("store", "it can be deleted from")]


async def _some(*, fail: bool = False) -> AsyncIterator[bytes]:
    yield secrets.token_bytes(1 << 16)
    if fail:
        raise _Enough("enough was sent")


async def _noted(_upload: OpenUpload) -> None:
    """Nothing is journalled: the upload ends within the second."""


def _ignored(_sent: int) -> None:
    """Progress of a few bytes is nobody's concern."""
