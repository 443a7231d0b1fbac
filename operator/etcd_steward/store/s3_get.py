"""Small objects and listings by plain signed GETs: what a listing of thousands of manifests needs.

Through boto3 such a GET costs 2 ms of CPU, most of which goes into building, checking and parsing
what is always the same here; this costs 0.4. Addresses, credentials and what is trusted are
botocore's. Whatever is out of the ordinary (a proxy, other regions, other ways to sign, a
connection that breaks, an answer that makes no sense) is left to boto3, which is asked for the same
again and, where it fails as well, says why.
"""

import base64
import hashlib
import threading
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit

from botocore.awsrequest import HeadersDict  # type: ignore[import-untyped]
from botocore.exceptions import ClientError  # type: ignore[import-untyped]
from botocore.httpsession import get_cert_path  # type: ignore[import-untyped]
from botocore.parsers import RestXMLParser  # type: ignore[import-untyped]

from etcd_steward.errors import Unavailable
from etcd_steward.store.s3_client import Connection
from etcd_steward.store.s3_list import Page, query, read_page
from etcd_steward.store.s3_options import Parameters
from etcd_steward.store.s3_sign import Signer
from etcd_steward.store.s3_wire import Answer, Wire

_OK: Final = 200
_ERRORS: Final = 400
_FOR_BOTO: Final = {400, 403}
_LONGEST_PAGE: Final = 16 << 20
"""A thousand keys of a thousand bytes, each byte written as three, and what is said of them."""
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class _Bucket:
    """How to reach a bucket."""

    path: str
    """What names are appended to: ends in a slash."""
    signer: Signer
    wire: Wire


class PlainGet:
    """GETs of one bucket."""

    def __init__(self, connection: Connection, bucket: str, key: Parameters) -> None:
        """`key` is that of `Options`."""
        self._client = connection.client
        self._credentials = connection.credentials
        self._name = bucket
        self._key = _key_headers(key["SSECustomerKey"]) if key else {}
        self._bucket: _Bucket | None = None
        self._looked = False
        self._finding = threading.Lock()

    def get(self, name: str, limit: int) -> bytes | None:
        """The object, or its first `limit` + 1 bytes; None if there is more to be said."""
        answer = self._ask("GetObject", quote(name, safe="/~"), "", self._key, limit + 1)
        length = "" if answer is None else answer.headers.get("Content-Length", "")
        if answer is None or not length.isdecimal():
            return None
        # A bounded read takes the end of a broken connection for the end of the object.
        if len(answer.body) != min(int(length), limit + 1):
            raise Unavailable(f"Reading {name} failed: the answer was cut short")
        return answer.body

    def page(self, prefix: str, delimiter: str | None, after: str | None, own: str) -> Page | None:
        """A page of a listing; None if there is more to be said. `own` is the store's prefix."""
        fields = query(prefix, delimiter, after)
        answer = self._ask("ListObjectsV2", "", fields, {}, _LONGEST_PAGE)
        return None if answer is None else read_page(answer.body, own)

    def close(self) -> None:
        """Close the connections."""
        if self._bucket is not None:
            self._bucket.wire.close()

    def _ask(
        self, operation: str, name: str, fields: str, more: dict[str, str], limit: int
    ) -> Answer | None:
        """A successful answer. Raises `ClientError` for a clear no."""
        bucket = self._found()
        if self._credentials is None or bucket is None:
            return None
        path = bucket.path + name if name else bucket.path.rstrip("/") or "/"
        frozen = self._credentials.get_frozen_credentials()
        headers = bucket.signer.headers(frozen, path, fields, more)
        answer = bucket.wire.get(f"{path}?{fields}" if fields else path, headers, limit)
        if answer is not None and answer.status >= _ERRORS and answer.status not in _FOR_BOTO:
            raise self._error(operation, answer)
        return answer if answer is not None and answer.status == _OK else None

    def _found(self) -> _Bucket | None:
        """Where the bucket is; None behind a proxy.

        Not before the first call, because it may ask for credentials.
        """
        with self._finding:
            if not self._looked:
                self._bucket = self._look()
                self._looked = True
            return self._bucket

    def _look(self) -> _Bucket | None:
        example = {"Bucket": self._name, "Key": "k"}
        signed = self._client.generate_presigned_url("get_object", example)
        url = urlsplit(signed.partition("?")[0].removesuffix("k"))
        session = self._client._endpoint.http_session  # noqa: SLF001
        if session._proxy_config.proxy_url_for(url.geturl()) is not None:  # noqa: SLF001
            return None
        meta = self._client.meta
        wire = Wire(
            url,
            get_cert_path(session._verify),  # noqa: SLF001
            connect_timeout=meta.config.connect_timeout,
            read_timeout=meta.config.read_timeout,
        )
        host = url.netloc.removesuffix(f":{_PORTS[url.scheme]}").lower()
        return _Bucket(url.path, Signer(host, meta.region_name), wire)

    def _error(self, operation: str, answer: Answer) -> ClientError:
        parsed = RestXMLParser().parse(
            {
                "status_code": answer.status,
                "headers": HeadersDict(answer.headers),
                "body": answer.body,
            },
            self._client.meta.service_model.operation_model(operation).output_shape,
        )
        return ClientError(parsed, operation)


def _key_headers(key: bytes) -> dict[str, str]:
    prefix = "x-amz-server-side-encryption-customer-"
    digest = hashlib.md5(key, usedforsecurity=False).digest()
    return {
        f"{prefix}algorithm": "AES256",
        f"{prefix}key": base64.b64encode(key).decode("ascii"),
        f"{prefix}key-md5": base64.b64encode(digest).decode("ascii"),
    }
