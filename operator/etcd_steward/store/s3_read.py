"""Random access to one object in S3, pinned to the content that it had when it was opened."""

from typing import TYPE_CHECKING

from etcd_steward.errors import AlreadyExists, IntegrityError, InvalidInput, Unavailable
from etcd_steward.models.ports import ObjectInfo
from etcd_steward.store.s3_calls import Calls
from etcd_steward.store.s3_options import Parameters
from etcd_steward.store.s3_upload import Target

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


class S3ReadAt:
    """Ranged GETs, each on the condition that the object is still the one that was opened."""

    def __init__(
        self, client: "S3Client", calls: Calls, target: Target, info: ObjectInfo, key: Parameters
    ) -> None:
        """`key` is that of `Options`."""
        self._client = client
        self._calls = calls
        self._target = target
        self._size = info.size
        self._etag = info.etag
        self._key = key

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`, or fewer only at the end of the object.

        Blocking and thread-safe. Raises `IntegrityError` if the object was replaced meanwhile.
        """
        if offset < 0 or length < 0:
            raise InvalidInput(f"can't read {length} bytes at {offset}")
        end = min(offset + length, self._size)
        if offset >= end:
            return b""
        doing = f"Reading {self._target.url}"
        try:
            return self._calls.run_here(doing, lambda: self._get(offset, end))
        except AlreadyExists as error:  # 412: our condition did not hold
            changed = f"{self._target.url} was changed while it was being read"
            raise IntegrityError(changed) from error

    def _get(self, offset: int, end: int) -> bytes:
        answer = self._client.get_object(
            Bucket=self._target.bucket,
            Key=self._target.name,
            Range=f"bytes={offset}-{end - 1}",
            IfMatch=self._etag,
            **self._key,
        )
        with answer["Body"] as body:
            if answer.get("ContentRange") != f"bytes {offset}-{end - 1}/{self._size}":
                raise IntegrityError(
                    f"the store sent another range of {self._target.url} than asked"
                )
            data: bytes = body.read()
        if len(data) != end - offset:
            raise Unavailable(
                f"the store sent {len(data)} of {end - offset} bytes of {self._target.url}"
            )
        return data
