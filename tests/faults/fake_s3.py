"""An S3 that says what no healthy server says: for answers that SeaweedFS can't be made to give.

It keeps objects and parts in memory, checks no keys, and answers each operation as scripted, once
per scripted answer, before it turns honest.
"""

import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
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
        self.lock = threading.Lock()

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
        with self.fake.lock:
            self.fake.seen.append(operation)
            said = self.fake.script[operation].popleft() if self.fake.script[operation] else None
            if said is None:
                said = self._do(operation, key, query, body)
            elif said.done:
                self._do(operation, key, query, body)
        self._answer(said)

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
                return Said(200, headers={"ETag": '"part"'})
            case "ListParts":
                return Said(200, body=b"<ListPartsResult></ListPartsResult>")
            case "Complete":
                fake.objects[key] = b"".join(part for _, part in sorted(fake.parts.items()))
        fake.upload = None
        fake.parts.clear()
        if operation == "Abort":
            return Said(204)
        return Said(200, body=b"<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")

    def _do_object(self, operation: str, key: str, body: bytes) -> Said:
        fake = self.fake
        match operation:
            case "Put" if key in fake.objects:
                return Said(412, "PreconditionFailed")
            case "Put":
                fake.objects[key] = body
            case "Delete":
                fake.objects.pop(key, None)
                return Said(204)
            case "Head" | "Get" if key in fake.objects:
                return Said(200, body=fake.objects[key], headers=self._described())
            case "Head" | "Get":
                return Said(404, "NoSuchKey")
        return Said(200)

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
