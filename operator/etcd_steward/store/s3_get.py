"""Small objects by plain signed GETs: what a listing of thousands of manifests is made of.

Through boto3 such a GET costs 2.9 ms of CPU, of which 2 go into building, checking and parsing
what is always the same here; this costs 1. The connections, the signature and the errors are
botocore's. Where boto3 knows more to do about an answer (other regions, other ways to sign), it is
asked for again through boto3.
"""

import base64
import hashlib
from typing import Final
from urllib.parse import quote

from botocore.auth import S3SigV4Auth  # type: ignore[import-untyped]
from botocore.awsrequest import AWSRequest, AWSResponse  # type: ignore[import-untyped]
from botocore.exceptions import ClientError  # type: ignore[import-untyped]
from botocore.parsers import RestXMLParser  # type: ignore[import-untyped]

from etcd_steward.errors import Unavailable
from etcd_steward.store.s3_client import Connection
from etcd_steward.store.s3_options import Parameters

_OK: Final = 200
_ERRORS: Final = 400
_FOR_BOTO: Final = {400, 403}
_LONGEST_ERROR: Final = 64 * 1024


class PlainGet:
    """GETs of one bucket's objects."""

    def __init__(self, connection: Connection, bucket: str, key: Parameters) -> None:
        """`key` is that of `Options`."""
        self._client = connection.client
        self._send = self._client._endpoint.http_session.send  # noqa: SLF001
        self._credentials = connection.credentials
        self._bucket = bucket
        self._base: str | None = None
        self._headers = _key_headers(key["SSECustomerKey"]) if key else {}

    def _address(self) -> str:
        """What a name is appended to: path or host style, port, region, all as boto3 has it.

        Not before the first call, because it may ask for credentials.
        """
        if self._base is None:
            example = {"Bucket": self._bucket, "Key": "k"}
            signed = self._client.generate_presigned_url("get_object", example)
            self._base = signed.partition("?")[0].removesuffix("k")
        return self._base

    def get(self, name: str, limit: int) -> bytes | None:
        """The object, or its first `limit` + 1 bytes; None if there is more to be said."""
        if self._credentials is None:
            return None
        request = AWSRequest(
            method="GET",
            url=self._address() + quote(name, safe="/~"),
            headers=self._headers,
            stream_output=True,
        )
        frozen = self._credentials.get_frozen_credentials()
        S3SigV4Auth(frozen, "s3", self._client.meta.region_name).add_auth(request)
        answer = self._send(request.prepare())
        length = answer.headers.get("Content-Length", "")
        status = answer.status_code
        if status >= _ERRORS and status not in _FOR_BOTO:
            raise self._error(answer)
        if status != _OK or not length.isdecimal():
            answer.raw.close()
            return None
        data: bytes = answer.raw.read(limit + 1)
        if int(length) > len(data):
            answer.raw.close()
        # A bounded read takes the end of a broken connection for the end of the object.
        if len(data) != min(int(length), limit + 1):
            raise Unavailable(f"Reading {name} failed: the answer was cut short")
        return data

    def _error(self, answer: AWSResponse) -> ClientError:
        parsed = RestXMLParser().parse(
            {
                "status_code": answer.status_code,
                "headers": answer.headers,
                "body": answer.raw.read(_LONGEST_ERROR),
            },
            self._client.meta.service_model.operation_model("GetObject").output_shape,
        )
        answer.raw.close()
        return ClientError(parsed, "GetObject")


def _key_headers(key: bytes) -> dict[str, str]:
    prefix = "x-amz-server-side-encryption-customer-"
    digest = hashlib.md5(key, usedforsecurity=False).digest()
    return {
        f"{prefix}algorithm": "AES256",
        f"{prefix}key": base64.b64encode(key).decode("ascii"),
        f"{prefix}key-MD5": base64.b64encode(digest).decode("ascii"),
    }
