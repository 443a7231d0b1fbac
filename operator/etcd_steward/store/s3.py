"""The S3 store: one bucket and prefix, over boto3."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from etcd_steward.errors import (
    AlreadyExists,
    IntegrityError,
    NoSuchStore,
    NotFound,
    Unavailable,
)
from etcd_steward.models.connection import S3Settings
from etcd_steward.models.ports import (
    ObjectInfo,
    OpenUpload,
    Outcome,
    ReadAt,
    Sent,
    Started,
    Written,
)
from etcd_steward.store.keys import check_key, check_prefix
from etcd_steward.store.outcome import outcome
from etcd_steward.store.parts import part_size_for
from etcd_steward.store.s3_answers import no_bucket, no_listing
from etcd_steward.store.s3_calls import Calls
from etcd_steward.store.s3_client import check_settings, connect, place_of
from etcd_steward.store.s3_dialect import Dialect
from etcd_steward.store.s3_get import PlainGet
from etcd_steward.store.s3_list import Page, page_of
from etcd_steward.store.s3_options import Options, Parameters
from etcd_steward.store.s3_put import NewObject
from etcd_steward.store.s3_read import S3ReadAt
from etcd_steward.store.s3_upload import Target, Upload, abort

if TYPE_CHECKING:
    from types_boto3_s3.type_defs import (
        HeadObjectOutputTypeDef,
        ListMultipartUploadsOutputTypeDef,
    )

_THREADS: Final = 32
"""For as many small objects to be read at once as hide the latency of a store; made when needed."""
_READERS: Final = 8
"""Connections kept for `read_at`, which runs in its caller's threads."""


class S3Store:
    """See `models.ports.Store`. Made by `open_store`; keys live under `prefix/`."""

    def __init__(self, settings: S3Settings, *, part_size: int, parts_in_flight: int) -> None:
        check_settings(settings)
        self._bucket = settings.bucket
        self._prefix = f"{settings.prefix}/" if settings.prefix else ""
        self._options = Options.of(settings)
        self._dialect = Dialect()
        self._part_size = part_size
        self._parts_in_flight = parts_in_flight
        self._resources = contextlib.ExitStack()
        with self._resources:
            self._url = settings.url
            connection = connect(settings, self._resources, _THREADS + _READERS)
            self._client = connection.client
            self._plain = PlainGet(connection, self._bucket, self._options.key)
            self._resources.callback(self._plain.close)
            self._calls = Calls(
                place_of(settings), retry_seconds=settings.retry_seconds, threads=_THREADS
            )
            self._resources.callback(self._calls.close)
            self._resources = self._resources.pop_all()

    @property
    def url(self) -> str:
        """`s3://bucket/prefix`."""
        return self._url

    @property
    def identity(self) -> str:
        """The URL with the endpoint."""
        return f"{self.url} at {self._calls.place.endpoint}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What this server turned out not to know; see the port."""
        return self._dialect.notes

    def _target(self, key: str) -> Target:
        check_key(key)
        name = self._prefix + key
        return Target(self._bucket, name, f"s3://{self._bucket}/{name}")

    async def put_new(self, key: str, data: bytes) -> None:
        """Write a small object if there is none of that name; see the port."""
        target = self._target(key)

        new = NewObject(self._client, self._calls, target, data, self._dialect, self._options.new)
        # What can't be relied upon to be refused is looked for first.
        there = None if self._dialect.conditional else await self._look(target, len(data))
        if there is None:
            await new.put()
            there = await self._get(target, len(data))
        if there != data:
            raise AlreadyExists(f"{target.url} is there already, with other content")

    async def _look(self, target: Target, limit: int) -> bytes | None:
        try:
            return await self._get(target, limit)
        except NoSuchStore:
            raise
        except NotFound:
            return None

    async def write(
        self,
        key: str,
        chunks: AsyncIterator[bytes],
        *,
        size_hint: int,
        started: Started,
        sent: Sent,
    ) -> Written:
        """Write a large object from a stream by multipart upload; see the port."""
        target = self._target(key)
        upload = Upload(self._client, self._calls, target, self._dialect, self._options)
        return await upload.write(
            key,
            chunks,
            part_size=part_size_for(size_hint, self._part_size),
            in_flight=self._parts_in_flight,
            started=started,
            sent=sent,
        )

    async def read(self, key: str, *, limit: int) -> bytes:
        """A small object whole; see the port."""
        target = self._target(key)
        return _whole(await self._get(target, limit), target, limit)

    async def read_many(self, keys: Sequence[str], *, limit: int) -> list[Outcome]:
        """Small objects, one after the other in one thread; see the port.

        Where one can't be had at once, it is asked for again by itself: that waits for a server in
        trouble without holding a thread, and says what is wrong.
        """
        targets = [self._target(key) for key in keys]

        def get(target: Target) -> bytes:
            return _whole(self._get_now(target, limit), target, limit)

        found: list[Outcome] = []
        while len(found) < len(keys):
            calls = [(f"Reading {one.url}", partial(get, one)) for one in targets[len(found) :]]
            found += await self._calls.run_some(calls)
            if len(found) < len(keys):
                found.append(await outcome(self.read(keys[len(found)], limit=limit)))
        return found

    async def _get(self, target: Target, limit: int) -> bytes:
        """The object, or its first `limit` + 1 bytes."""
        return await self._calls.run(f"Reading {target.url}", partial(self._get_now, target, limit))

    def _get_now(self, target: Target, limit: int) -> bytes:
        plain = self._plain.get(target.name, limit)
        if plain is not None:
            return plain
        answer = self._client.get_object(Bucket=target.bucket, Key=target.name, **self._options.key)
        with answer["Body"] as body:
            data: bytes = body.read(limit + 1)
        # A bounded read takes the end of a broken connection for the end of the object.
        if len(data) != min(answer["ContentLength"], limit + 1):
            raise Unavailable(f"Reading {target.url} failed: the answer was cut short")
        return data

    async def open(self, key: str) -> ReadAt:
        """Random access to a large object; see the port."""
        target = self._target(key)
        info = await self.find(key)
        if info is None:
            raise NotFound(f"there is no {target.url}")
        return S3ReadAt(self._client, self._calls, target, info, self._options.key)

    async def find(self, key: str) -> ObjectInfo | None:
        """What the store knows of one object; see the port."""
        target = self._target(key)

        def head() -> "HeadObjectOutputTypeDef":
            return self._client.head_object(
                Bucket=target.bucket, Key=target.name, **self._options.key
            )

        doing = f"Looking at {target.url}"
        try:
            there = await self._calls.run(doing, head)
        except NotFound:
            # An answer to HEAD has no body: a missing bucket looks just like a missing key.
            await self._check_bucket(doing)
            return None
        return ObjectInfo(key, there["ContentLength"], there["LastModified"], there["ETag"])

    async def _check_bucket(self, doing: str) -> None:
        try:
            await self._calls.run(doing, lambda: self._client.head_bucket(Bucket=self._bucket))
        except NotFound as error:
            raise no_bucket(f"{doing} failed", self._calls.place) from error

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """All objects under `prefix`; see the port."""
        check_prefix(prefix)
        async for page in self._pages(self._prefix + prefix, None):
            for info in page.objects:
                yield info

    async def folders(self, prefix: str) -> tuple[str, ...]:
        """The common prefixes under a prefix; see the port."""
        check_prefix(prefix)
        pages = self._pages(self._prefix + prefix, "/")
        return tuple([one async for page in pages for one in page.folders])

    async def _pages(self, name: str, delimiter: str | None) -> AsyncIterator[Page]:
        """The pages of a listing."""
        after: str | None = None

        def get() -> Page:
            page = self._plain.page(name, delimiter, after, self._prefix)
            return page or self._page_through_boto(name, delimiter, after)

        while True:
            page = await self._calls.run(f"Listing s3://{self._bucket}/{name}", get)
            yield page
            after = page.next
            if after is None:
                return

    def _page_through_boto(self, name: str, delimiter: str | None, after: str | None) -> Page:
        more: Parameters = {"Delimiter": delimiter, "ContinuationToken": after}
        given = {field: value for field, value in more.items() if value is not None}
        answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=name, **given)
        page = page_of(answer, self._prefix)
        # Some other web page must not pass for an empty one.
        if page is None:
            raise no_listing(self._calls.place)
        return page

    async def delete(self, key: str) -> None:
        """Delete one object; see the port."""
        target = self._target(key)

        def delete() -> None:
            self._client.delete_object(Bucket=target.bucket, Key=target.name)

        await self._calls.run(f"Deleting {target.url}", delete, settle=True)

    async def uploads(self, prefix: str) -> AsyncIterator[OpenUpload]:
        """Uploads that were begun and never ended; see the port."""
        check_prefix(prefix)
        name = self._prefix + prefix
        more: dict[str, str] = {}

        def page() -> "ListMultipartUploadsOutputTypeDef":
            return self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=name, **more)  # type: ignore[arg-type]

        while True:
            answer = await self._calls.run(f"Listing uploads of s3://{self._bucket}/{name}", page)
            for found in answer.get("Uploads", []):
                key = found["Key"].removeprefix(self._prefix)
                yield OpenUpload(key, found["UploadId"], found.get("Initiated"))
            # SeaweedFS gives only an ID to go on from; AWS gives both. What is given is sent.
            markers = {
                "KeyMarker": answer.get("NextKeyMarker"),
                "UploadIdMarker": answer.get("NextUploadIdMarker"),
            }
            following = {name: marker for name, marker in markers.items() if marker}
            if "IsTruncated" not in answer:
                raise no_listing(self._calls.place)
            if not answer["IsTruncated"] or following in ({}, more):
                return
            more = following

    async def abort(self, upload: OpenUpload) -> None:
        """Abort an upload; see the port."""
        target = self._target(upload.key)
        await abort(self._client, self._calls, target, upload.upload_id, self._options.key)

    async def aclose(self) -> None:
        """Close connections and threads."""
        await asyncio.to_thread(self._resources.close)


def _whole(data: bytes, target: Target, limit: int) -> bytes:
    if len(data) > limit:
        raise IntegrityError(f"{target.url} is larger than {limit} bytes")
    return data
