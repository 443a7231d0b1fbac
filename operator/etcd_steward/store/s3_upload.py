"""One multipart upload, from its creation to its end, whichever end that is."""

import asyncio
import contextlib
import io
import logging
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from etcd_steward.deadline import Deadline
from etcd_steward.errors import IntegrityError, NotFound, StewardError, Unauthorized, Unavailable
from etcd_steward.models.ports import OpenUpload, Sent, Started, StoredPart, Written
from etcd_steward.store.parts import MAX_PARTS, Part, cut
from etcd_steward.store.s3_answers import UploadGone
from etcd_steward.store.s3_calls import Calls
from etcd_steward.store.s3_dialect import Dialect, crc32c_text
from etcd_steward.store.s3_errors import translate
from etcd_steward.store.s3_options import Options, Parameters
from etcd_steward.store.threads import settled

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import (
        CompletedPartTypeDef,
        CompleteMultipartUploadOutputTypeDef,
        HeadObjectOutputTypeDef,
    )

ABORT_SECONDS: Final = 30.0
"""How long a failed upload tries to clean up after itself; the journal serves what is left."""
_BLOCK: Final = 256 * 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """Where an object goes."""

    bucket: str
    name: str
    """The whole key, with the store's prefix."""
    url: str
    """For messages."""


async def abort(
    client: "S3Client",
    calls: Calls,
    target: Target,
    upload_id: str,
    key: Parameters,
    seconds: float | None = None,
) -> None:
    """Abort an upload until the store says that it knows it no more.

    One answer is not enough: a part that was on its way lands after the abort and stays. `key` is
    that of `Options`.
    """
    doing = f"Aborting the upload of {target.url}"

    def once() -> None:
        client.abort_multipart_upload(Bucket=target.bucket, Key=target.name, UploadId=upload_id)
        try:
            client.list_parts(Bucket=target.bucket, Key=target.name, UploadId=upload_id, **key)
        except ClientError as error:
            denied = translate(error, doing, calls.place)
            if not isinstance(denied, Unauthorized):
                raise
            log.warning("%s was not confirmed: %s", doing, denied)
            return
        raise Unavailable(f"the upload of {target.url} is still there after it was aborted")

    with contextlib.suppress(UploadGone):
        await calls.run(doing, once, seconds=seconds)


class _Body(io.BytesIO):
    """A part's bytes, handed to the connection in blocks.

    Python counts the time-out of a plain socket from the beginning of `sendall` to its end: a part
    given to it whole has to go through within the time-out, however well it flows. And between two
    blocks a part that nobody waits for any more can be stopped.
    """

    def __init__(self, data: bytes, given_up: threading.Event) -> None:
        super().__init__(data)
        self._given_up = given_up

    def read(self, size: int | None = -1, /) -> bytes:
        if self._given_up.is_set():
            raise ConnectionAbortedError("the upload was given up")
        return super().read(size if size is None or size < 0 else max(size, _BLOCK))


class Upload:
    """`await Upload(…).write(…)`, once. Whatever goes wrong, nothing of it stays in the bucket."""

    def __init__(
        self, client: "S3Client", calls: Calls, target: Target, dialect: Dialect, options: Options
    ) -> None:
        self._client = client
        self._calls = calls
        self._target = target
        self._dialect = dialect
        self._options = options
        self._id = ""
        self._etags: dict[int, str] = {}
        self._parts: dict[int, StoredPart] = {}
        self._crc32c = 0
        self._sent = 0
        self._begun = self._completing = self._completed = False

    async def write(
        self,
        key: str,
        chunks: AsyncIterator[bytes],
        *,
        part_size: int,
        in_flight: int,
        started: Started,
        sent: Sent,
    ) -> Written:
        """Send it all, complete it and compare; on any failure undo it and let the error fly."""
        try:
            upload_id = await self._create()
            await started(OpenUpload(key, upload_id))
            await self._send(upload_id, chunks, part_size, in_flight, sent)
            confirmed = await self._complete(upload_id)
        except BaseException as error:
            await settled(self._undo(error))
            if isinstance(error, UploadGone):  # for the run, which may begin another one
                raise Unavailable(error.message, hint=error.hint) from error
            raise
        parts = tuple(self._parts[number] for number in sorted(self._parts))
        return Written(key, self._sent, self._crc32c, confirmed, parts)

    async def _create(self) -> str:
        attempts = 0

        def create(checksum: bool) -> None:
            nonlocal attempts
            attempts += 1
            self._begun = True
            wanted = {"ChecksumAlgorithm": "CRC32C", "ChecksumType": "FULL_OBJECT"}
            # Kept here, in the thread, so that cancellation can't lose it.
            self._id = self._client.create_multipart_upload(
                Bucket=self._target.bucket,
                Key=self._target.name,
                **(wanted if checksum else {}),  # type: ignore[arg-type]
                **self._options.upload,
            )["UploadId"]

        doing = f"Beginning the upload of {self._target.url}"

        async def begin(checksum: bool) -> None:
            await self._calls.run(doing, lambda: create(checksum), settle=True)

        await self._dialect.with_checksums(begin)
        if attempts > 1:
            await self._abort_nameless(self._id, None)
        return self._id

    async def _abort_nameless(self, own: str, seconds: float | None) -> None:
        """Abort what earlier attempts began whose answers, and with them the IDs, were lost."""
        target = self._target

        def others() -> list[str]:
            answer = self._client.list_multipart_uploads(Bucket=target.bucket, Prefix=target.name)
            same = [u for u in answer.get("Uploads", []) if u["Key"] == target.name]
            return [u["UploadId"] for u in same if u["UploadId"] != own]

        doing = f"Listing uploads of {target.url}"
        for upload_id in await self._calls.run(doing, others, seconds=seconds):
            await abort(self._client, self._calls, target, upload_id, self._options.key, seconds)

    async def _send(
        self,
        upload_id: str,
        chunks: AsyncIterator[bytes],
        part_size: int,
        in_flight: int,
        sent: Sent,
    ) -> None:
        # One slot less, taken after a part has begun: the source is asked for more only when the
        # part it gives can be sent at once, so that no finished part lies and waits.
        slots = asyncio.Semaphore(in_flight - 1)
        first: BaseException | None = None
        try:
            async with (
                asyncio.TaskGroup() as group,
                contextlib.aclosing(cut(chunks, part_size)) as parts,
            ):
                async for part in parts:
                    self._crc32c = part.crc32c_so_far
                    group.create_task(self._send_part(upload_id, part, slots, sent))
                    del part  # the task holds it now, and lets go of it when it is sent
                    await slots.acquire()
        except BaseExceptionGroup as errors:
            first = errors.exceptions[0]
        if first is not None:
            raise first

    async def _send_part(
        self, upload_id: str, part: Part, slots: asyncio.Semaphore, sent: Sent
    ) -> None:
        if part.number > MAX_PARTS:
            raise IntegrityError(
                f"{self._target.url} has become larger than its writer said that it could"
            )

        given_up = threading.Event()

        def put(checksum: bool) -> str:
            answer = self._client.upload_part(
                Bucket=self._target.bucket,
                Key=self._target.name,
                UploadId=upload_id,
                PartNumber=part.number,
                Body=_Body(part.data, given_up),
                **self._dialect.digests(part.data, part.crc32c, checksum=checksum),
                **self._options.key,
            )
            self._dialect.heard(answer, checksum=checksum)
            return answer["ETag"]

        doing = f"Uploading part {part.number} of {self._target.url}"

        async def send(checksum: bool) -> str:
            # Settled: an upload may be aborted only when none of its parts is on its way any more.
            return await self._calls.run(
                doing, lambda: put(checksum), settle=True, stop=given_up.set
            )

        self._etags[part.number] = await self._dialect.with_checksums(send)
        self._parts[part.number] = part.stored
        self._sent += len(part.data)
        sent(self._sent)
        slots.release()

    async def _complete(self, upload_id: str) -> bool:
        """Make the object of its parts; True if the store's checksum of the whole equals ours.

        Whatever the answer, or if there is none, what counts is what lies there afterwards.
        """
        computed = bool(self._dialect.computes_checksums)
        parts: list[CompletedPartTypeDef] = [
            {"PartNumber": number, "ETag": self._etags[number]} for number in sorted(self._parts)
        ]
        whole: Parameters = {}
        if computed:
            whole = {"ChecksumCRC32C": crc32c_text(self._crc32c), "ChecksumType": "FULL_OBJECT"}
            for part in parts:
                part["ChecksumCRC32C"] = crc32c_text(self._parts[part["PartNumber"]].crc32c)

        def complete() -> "CompleteMultipartUploadOutputTypeDef":
            return self._client.complete_multipart_upload(
                Bucket=self._target.bucket,
                Key=self._target.name,
                UploadId=upload_id,
                MultipartUpload={"Parts": parts},
                **whole,
                **self._options.key,
            )

        self._completing = True
        doing = f"Completing the upload of {self._target.url}"
        try:
            answer = await self._calls.run(doing, complete, settle=True)
        except UploadGone as gone:
            there = await self._head()
            if there is None or not self._ours(there):
                raise
            log.info("the answer of completing %s was lost: %s", self._target.url, gone.message)
            return _whole_checksum(there) is not None
        self._completed = True
        there = await self._head()
        told = None if there is None else _whole_checksum(there) or _whole_checksum(answer)
        if there is None or there["ContentLength"] != self._sent:
            raise IntegrityError(f"{self._target.url} is not there as it was uploaded")
        if told is not None and told != crc32c_text(self._crc32c):
            raise IntegrityError(
                f"the store's checksum of {self._target.url} is not that of what was sent"
            )
        return told is not None

    async def _head(self, seconds: float | None = None) -> "HeadObjectOutputTypeDef | None":
        def head() -> "HeadObjectOutputTypeDef":
            mode = {"ChecksumMode": "ENABLED"} if self._dialect.takes_checksums else {}
            return self._client.head_object(
                Bucket=self._target.bucket,
                Key=self._target.name,
                **mode,  # type: ignore[arg-type]
                **self._options.key,
            )

        try:
            return await self._calls.run(f"Looking at {self._target.url}", head, seconds=seconds)
        except NotFound:
            return None

    def _ours(self, there: "HeadObjectOutputTypeDef") -> bool:
        """Whether this is what we sent, as far as the store can tell without reading it back."""
        told = _whole_checksum(there)
        return there["ContentLength"] == self._sent and told in {None, crc32c_text(self._crc32c)}

    async def _undo(self, error: BaseException) -> None:
        """Leave nothing behind: abort the upload and, if it was completed after all, delete it."""
        if not self._begun:
            return
        try:
            async with Deadline.after(ABORT_SECONDS).enforce(f"cleaning up {self._target.url}"):
                if not self._id:  # begun perhaps, but nobody was told its name
                    await self._abort_nameless("", ABORT_SECONDS)
                    return
                key = self._options.key
                await abort(self._client, self._calls, self._target, self._id, key, ABORT_SECONDS)
                if self._completing:
                    await self._delete_completed()
        except StewardError as failed:
            error.add_note(f"What was uploaded may still be there: {failed}")
            log.warning("could not clean up %s (upload %s): %s", self._target.url, self._id, failed)

    async def _delete_completed(self) -> None:
        """Delete the object unless it is somebody else's: then ours was never completed."""
        if not self._completed:
            there = await self._head(ABORT_SECONDS)
            if there is None or not self._ours(there):
                return

        def delete() -> None:
            self._client.delete_object(Bucket=self._target.bucket, Key=self._target.name)

        await self._calls.run(f"Deleting {self._target.url}", delete, seconds=ABORT_SECONDS)


def _whole_checksum(
    answer: "HeadObjectOutputTypeDef | CompleteMultipartUploadOutputTypeDef",
) -> str | None:
    """The checksum of the whole object, where the store gives one; not one made of checksums."""
    if answer.get("ChecksumType") != "FULL_OBJECT":
        return None
    return answer.get("ChecksumCRC32C")
