"""An S3 that says what no healthy server says: for answers that SeaweedFS can't be made to give.

It keeps objects and parts in memory, checks no keys, and answers each operation as scripted, once
per scripted answer, before it turns honest. How much of S3 it knows can be set: servers in the
field differ in checksums and conditional writes.
"""

import base64
import hashlib
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar, Literal
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True, slots=True)
class Said:
    """One scripted answer."""

    status: int
    code: str = ""
    done: bool = False
    """Whether the server does what it was asked before it answers so."""
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    claimed_length: int | None = None
    """Content-Length, where it is to be a lie."""

    def payload(self) -> bytes:
        if self.body is not None:
            return self.body
        if not self.code:
            return b""
        return f"<Error><Code>{self.code}</Code><Message>as scripted</Message></Error>".encode()


class FakeS3:
    """One bucket that takes any name."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.objects: dict[str, bytes] = {}
        self.parts: dict[int, bytes] = {}
        self.upload: str | None = None
        self.script: defaultdict[str, deque[Said]] = defaultdict(deque)
        self.seen: list[str] = []
        self.extra: dict[str, str] = {}
        """Headers of each answer to HEAD."""
        self.headers: list[tuple[str, dict[str, str]]] = []
        """Operation and headers of each request, names in lower case."""
        self.ranges = False
        """Whether Range is known."""
        self.checksums: Literal["computed", "ignored"] | Said = "ignored"
        """What becomes of a CRC-32C; an answer: of all requests that speak of it."""
        self.conditions: Literal["kept", "ignored"] | Said = "kept"
        """What becomes of If-None-Match; an answer: of all requests that have it."""
        self.lock = threading.Lock()

    def sent(self, operation: str, header: str) -> list[str | None]:
        """One header of all requests of that operation."""
        return [headers.get(header) for name, headers in self.headers if name == operation]

    def say(self, operation: str, *answers: Said) -> None:
        """Answer the next calls of `operation` so, in this order."""
        self.script[operation].extend(answers)


def _operation(method: str, query: dict[str, list[str]], key: str) -> str:
    if not key:
        return "HeadBucket" if method == "HEAD" else "List"
    if "uploads" in query:
        return "Create"
    if "uploadId" in query:
        return {"PUT": "Part", "POST": "Complete", "DELETE": "Abort", "GET": "ListParts"}[method]
    return {"PUT": "Put", "GET": "Get", "HEAD": "Head", "DELETE": "Delete"}[method]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: ClassVar[FakeS3]

    def _serve(self) -> None:
        url = urlsplit(self.path)
        key = url.path.removeprefix("/").partition("/")[2]
        query = parse_qs(url.query, keep_blank_values=True)
        operation = _operation(self.command, query, key)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.fake.lock:
            self.fake.seen.append(operation)
            self.fake.headers.append((operation, headers))
            said = self.fake.script[operation].popleft() if self.fake.script[operation] else None
            if said is None:
                said = self._refused(headers, body) or self._do(operation, key, query, body)
            elif said.done:
                self._do(operation, key, query, body)
        self._answer(said)

    def _refused(self, headers: dict[str, str], body: bytes) -> Said | None:
        """Refuse what is not known, and what arrives damaged."""
        known = self.fake
        if isinstance(known.checksums, Said) and any("x-amz-checksum" in name for name in headers):
            return known.checksums
        if isinstance(known.conditions, Said) and "if-none-match" in headers:
            return known.conditions
        digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        return Said(400, "BadDigest") if headers.get("content-md5", digest) != digest else None

    def _computed(self) -> dict[str, str]:
        given = self.headers.get("x-amz-checksum-crc32c")
        computed = given and self.fake.checksums == "computed"
        return {"x-amz-checksum-crc32c": str(given)} if computed else {}

    def _do(self, operation: str, key: str, query: dict[str, list[str]], body: bytes) -> Said:
        if operation == "Create":
            self.fake.upload = "upload-1"
            answer = b"<InitiateMultipartUploadResult><UploadId>upload-1</UploadId>"
            return Said(200, body=answer + b"</InitiateMultipartUploadResult>")
        if "uploadId" in query:
            number = int(query.get("partNumber", ["0"])[0])
            return self._do_upload(operation, key, number, body)
        return self._do_object(operation, key, body)

    def _do_upload(self, operation: str, key: str, number: int, body: bytes) -> Said:
        fake = self.fake
        if fake.upload is None:
            return Said(404, "NoSuchUpload")
        match operation:
            case "Part":
                fake.parts[number] = body
                return Said(200, headers={"ETag": '"part"'} | self._computed())
            case "ListParts":
                return Said(200, body=b"<ListPartsResult></ListPartsResult>")
            case "Complete":
                fake.objects[key] = b"".join(part for _, part in sorted(fake.parts.items()))
            case _:  # Abort
                pass
        fake.upload = None
        fake.parts.clear()
        if operation == "Abort":
            return Said(204)
        return Said(200, body=b"<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")

    def _do_object(self, operation: str, key: str, body: bytes) -> Said:
        fake = self.fake
        match operation:
            case "Put" if key in fake.objects and self._conditional():
                return Said(412, "PreconditionFailed")
            case "Put":
                fake.objects[key] = body
                return Said(200, headers=self._computed())
            case "Delete":
                fake.objects.pop(key, None)
                return Said(204)
            case "Head" | "Get":
                return self._read(fake.objects.get(key))
            case _:  # HeadBucket
                pass
        return Said(200)

    def _read(self, whole: bytes | None) -> Said:
        if whole is None:
            return Said(404, "NoSuchKey")
        if not self.fake.ranges or "Range" not in self.headers:
            return Said(200, body=whole, headers=self._described())
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        where = {"Content-Range": f"bytes {first}-{last}/{len(whole)}"}
        return Said(206, body=whole[int(first) : int(last) + 1], headers=self._described() | where)

    def _conditional(self) -> bool:
        return "If-None-Match" in self.headers and self.fake.conditions == "kept"

    def _described(self) -> dict[str, str]:
        modified = "Sun, 22 Nov 2026 02:17:00 GMT"
        return {"ETag": '"object"', "Last-Modified": modified} | self.fake.extra

    def _answer(self, said: Said) -> None:
        payload = said.payload()
        self.send_response(said.status)
        for name, value in said.headers.items():
            self.send_header(name, value)
        length = len(payload) if said.claimed_length is None else said.claimed_length
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)
        self.close_connection = said.claimed_length is not None

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def fake_s3() -> Iterator[FakeS3]:
    """A fake on a free loopback port."""
    fake = FakeS3()
    handler = type("Handler", (_Handler,), {"fake": fake})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    fake.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
