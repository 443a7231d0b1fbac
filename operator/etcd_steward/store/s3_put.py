"""Writing a small object where there is none, with as much of S3 as the server knows."""

import contextlib
import functools
from typing import TYPE_CHECKING

import google_crc32c

from etcd_steward.errors import AlreadyExists, PermanentError
from etcd_steward.store.s3_calls import Calls
from etcd_steward.store.s3_dialect import Dialect, refused_header
from etcd_steward.store.s3_options import Parameters
from etcd_steward.store.s3_upload import Target

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


class NewObject:
    """One object to be. After `put` the caller reads what lies there: that decides."""

    def __init__(
        self,
        client: "S3Client",
        calls: Calls,
        target: Target,
        data: bytes,
        dialect: Dialect,
        options: Parameters,
    ) -> None:
        self._client = client
        self._calls = calls
        self._target = target
        self._data = data
        self._crc32c = google_crc32c.value(data)
        self._dialect = dialect
        self._options = options

    async def put(self) -> None:
        """Write it on the condition that there is none, or without where there are no conditions.

        The first time that a server takes a conditional write, the same bytes are written again:
        whoever knows the condition refuses that, and whoever ignores it changes nothing by it.
        """
        with contextlib.suppress(AlreadyExists):  # perhaps by our own first attempt
            await self._put_somehow()
            if self._dialect.conditional is None:
                await self._send(condition=True)
                self._dialect.conditional = False

    async def _put_somehow(self) -> None:
        if self._dialect.conditional is not False:
            try:
                await self._send(condition=True)
            except PermanentError as error:
                if self._dialect.conditional or not refused_header(error):
                    raise
            else:
                return
        await self._send(condition=False)
        self._dialect.conditional = False

    async def _send(self, *, condition: bool) -> None:
        try:
            await self._dialect.with_checksums(functools.partial(self._call, condition))
        except AlreadyExists:
            self._dialect.conditional = True
            raise

    async def _call(self, condition: bool, checksum: bool) -> None:
        conditions: Parameters = {"IfNoneMatch": "*"} if condition else {}

        def put() -> None:
            answer = self._client.put_object(
                Bucket=self._target.bucket,
                Key=self._target.name,
                Body=self._data,
                **conditions,
                **self._dialect.digests(self._data, self._crc32c, checksum=checksum),
                **self._options,
            )
            self._dialect.heard(answer, checksum=checksum)

        await self._calls.run(f"Writing {self._target.url}", put, settle=True)
