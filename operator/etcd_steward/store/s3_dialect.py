"""What a server turns out not to know of S3, found out while it is being used.

AWS, SeaweedFS and new servers of others compute CRC-32C and refuse a conditional write. Many in
the field do neither: Ceph's radosgw 16 ignores both headers, others answer that they are not
implemented. Nobody says so beforehand, so the first answers tell, and the next best is done.
"""

import base64
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from etcd_steward.errors import PermanentError, StewardError
from etcd_steward.store.s3_options import Parameters

T = TypeVar("T")

_NOT_KNOWN: Final = {
    "InvalidArgument",
    "InvalidRequest",
    "NotImplemented",
    "UnsupportedOperation",
    "XNotImplemented",
}
"""How servers refuse a header that they don't know."""


def crc32c_text(crc32c: int) -> str:
    """A CRC-32C as S3 writes it."""
    return base64.b64encode(crc32c.to_bytes(4, "big")).decode("ascii")


def refused_header(error: StewardError) -> bool:
    """Whether this may be the answer of a server that does not know a header."""
    cause = error.__cause__
    if not isinstance(cause, ClientError):
        return False
    status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status == 501 or cause.response.get("Error", {}).get("Code") in _NOT_KNOWN


@dataclass(slots=True)
class Dialect:
    """One server's; None is what no answer has told yet. Any thread may read and write it."""

    takes_checksums: bool | None = None
    """Whether our CRC-32C may be sent at all."""
    computes_checksums: bool | None = None
    """Whether the server says that it has computed it as well."""
    conditional: bool | None = None
    """Whether a write with If-None-Match is refused where there is an object."""

    async def with_checksums(self, attempt: Callable[[bool], Awaitable[T]]) -> T:
        """What `attempt` returns, which is told whether to send checksums.

        Where the server refuses to know them it is made once more, without, and so from then on.
        """
        if self.takes_checksums is not False:
            try:
                return await attempt(True)
            except PermanentError as error:
                if self.takes_checksums or not refused_header(error):
                    raise
        answer = await attempt(False)
        self.takes_checksums = self.computes_checksums = False
        return answer

    def digests(self, data: bytes, crc32c: int, *, checksum: bool) -> Parameters:
        """What a body is sent with, so that damage on the way is noticed by the server.

        MD5 costs time, so only where nothing else is sure to be looked at.
        """
        found: Parameters = {"ChecksumCRC32C": crc32c_text(crc32c)} if checksum else {}
        if not self.computes_checksums:
            digest = hashlib.md5(data, usedforsecurity=False).digest()
            found["ContentMD5"] = base64.b64encode(digest).decode("ascii")
        return found

    def heard(self, answer: Mapping[str, Any], *, checksum: bool) -> None:
        """Learn from the answer to a body that was sent with `digests`."""
        if checksum:
            self.takes_checksums = True
            if self.computes_checksums is None:
                self.computes_checksums = "ChecksumCRC32C" in answer

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know."""
        found = []
        if self.computes_checksums is False:
            found.append(
                "the store computes no CRC-32C: each part is sent with its MD5 instead, and every "
                "backup is read back whole"
            )
        if self.conditional is False:
            found.append(
                "the store overwrites what a conditional write must not (If-None-Match): it is "
                "looked at before each write instead, so let only one etcd-steward write below "
                "this prefix"
            )
        return tuple(found)
