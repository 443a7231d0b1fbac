"""What the tests of stores share."""

import random
from collections.abc import AsyncIterator, Iterable

from etcd_steward.models.connection import S3Settings
from etcd_steward.models.ports import OpenUpload, Store, Written
from etcd_steward.store.parts import MIB
from tests.testbed import SeaweedFS

PART = 5 * MIB  # the least that S3 takes for all parts but the last


def s3_settings(server: SeaweedFS, bucket: str, **changed: object) -> S3Settings:
    given = {
        "bucket": bucket,
        "prefix": "prod",
        "endpoint": server.endpoint_url,
        "region": server.region,
        "ca": server.ca_file.read_text() if server.ca_file else None,
        "access_key": server.access_key,
        "secret_key": server.secret_key,
        "retry_seconds": 20,
    }
    return S3Settings.model_validate(given | changed)


async def stream(data: bytes, sizes: Iterable[int] | None = None) -> AsyncIterator[bytes]:
    """`data` in chunks of these sizes, over and over; or whole."""
    turns = list(sizes or [len(data) or 1])
    offset = turn = 0
    while offset < len(data):
        size = turns[turn % len(turns)]
        yield data[offset : offset + size]
        offset, turn = offset + size, turn + 1


class Journal:
    """Remembers what a write reports."""

    def __init__(self) -> None:
        self.uploads: list[OpenUpload] = []
        self.sent: list[int] = []

    async def started(self, upload: OpenUpload) -> None:
        self.uploads.append(upload)

    def progress(self, total: int) -> None:
        self.sent.append(total)


async def write(
    store: Store, key: str, chunks: AsyncIterator[bytes], journal: Journal | None = None
) -> Written:
    journal = journal or Journal()
    return await store.write(
        key, chunks, size_hint=10 * MIB, started=journal.started, sent=journal.progress
    )


async def listed(store: Store, prefix: str = "") -> list[str]:
    return [info.key async for info in store.list(prefix)]


async def open_uploads(store: Store, prefix: str = "") -> list[OpenUpload]:
    return [upload async for upload in store.uploads(prefix)]


def some_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311
