"""What the S3 store's tests of faults share."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

from etcd_steward.models.connection import S3Settings
from etcd_steward.models.ports import OpenUpload, Store, Written
from etcd_steward.store import open_store
from etcd_steward.store.parts import MIB
from tests.faults.fake_s3 import FakeS3
from tests.testbed import SeaweedFS

PART = 5 * MIB
DATA = b"0123456789abcdef" * (PART // 16) * 3 + b"end"
SECRET = "a-secret-that-nobody-may-see"


def settings_for(server: SeaweedFS, bucket: str, **changed: object) -> S3Settings:
    given = {
        "bucket": bucket,
        "prefix": "prod",
        "endpoint": server.endpoint_url,
        "ca": server.ca_file.read_text() if server.ca_file else None,
        "access_key": server.access_key,
        "secret_key": server.secret_key,
        "retry_seconds": 60,
        "connect_timeout": 2,
        "read_timeout": 4,
    }
    return S3Settings.model_validate(given | changed)


def fake_settings(fake: FakeS3, **changed: object) -> S3Settings:
    given = {
        "bucket": "bucket",
        "endpoint": fake.endpoint,
        "access_key": "AK",
        "secret_key": SECRET,
        "retry_seconds": 10,
        "read_timeout": 4,
    }
    return S3Settings.model_validate(given | changed)


def opened(settings: S3Settings) -> AbstractAsyncContextManager[Store]:
    return open_store(settings, part_size=PART, parts_in_flight=2)


async def chunks() -> AsyncIterator[bytes]:
    for offset in range(0, len(DATA), MIB):
        yield DATA[offset : offset + MIB]


async def nothing(_: OpenUpload) -> None:
    pass


async def write(store: Store, key: str = "k") -> Written:
    return await store.write(
        key, chunks(), size_hint=len(DATA), started=nothing, sent=lambda _: None
    )


async def open_uploads(store: Store) -> list[OpenUpload]:
    return [upload async for upload in store.uploads("")]


async def is_whole(store: Store, key: str = "k") -> bool:
    return await store.read(key, limit=len(DATA)) == DATA and await open_uploads(store) == []


async def listed(store: Store) -> list[str]:
    return [info.key async for info in store.list("")]


def everything_said(error: BaseException) -> str:
    """All texts of an error and of those that led to it."""
    texts = []
    link: BaseException | None = error
    while link is not None:
        texts += [str(link), repr(link), *getattr(link, "__notes__", [])]
        link = link.__cause__ or link.__context__
    return "\n".join(texts)
