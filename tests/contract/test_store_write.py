"""What the port `Store` promises of `write`, asked of every store."""

import asyncio
from collections.abc import AsyncIterator

import google_crc32c
import pytest

from etcd_steward.errors import (
    NotFound,
)
from etcd_steward.models.ports import OpenUpload, Store
from tests.contract.support import (
    PART,
    Journal,
    listed,
    open_uploads,
    some_bytes,
    stream,
    write,
)
from tests.testbed import wait_until


class TestWrite:
    @pytest.mark.parametrize(
        "size", [0, 1, PART - 1, PART, PART + 1, 2 * PART, 3 * PART + 17], ids=str
    )
    @pytest.mark.parametrize("chunk", [10_007, PART, 10 * PART], ids=str)
    async def test_stores_the_stream(self, store: Store, size: int, chunk: int) -> None:
        data = some_bytes(size)
        journal = Journal()
        written = await write(store, "c/b/r/snapshot.db.zst", stream(data, [chunk]), journal)
        assert written.key == "c/b/r/snapshot.db.zst"
        assert written.size == size
        assert written.crc32c == google_crc32c.value(data)
        assert [(part.offset, part.size) for part in written.parts] == [
            (offset, min(PART, size - offset)) for offset in range(0, size or 1, PART)
        ]
        for part in written.parts:
            piece = data[part.offset : part.offset + part.size]
            assert part.crc32c == google_crc32c.value(piece)
        assert await store.read("c/b/r/snapshot.db.zst", limit=size) == data
        assert journal.sent == sorted(journal.sent)
        assert journal.sent[-1] == size
        assert len(journal.sent) == len(written.parts)
        assert await open_uploads(store) == []

    async def test_confirms_only_what_the_store_itself_computed(self, store: Store) -> None:
        written = await write(store, "k", stream(b"x" * PART * 3))
        assert written.confirmed == store.url.startswith("s3://")

    async def test_reports_the_upload_before_the_first_byte(self, store: Store) -> None:
        seen: list[list[OpenUpload]] = []
        asked = False

        async def source() -> AsyncIterator[bytes]:
            nonlocal asked
            asked = True
            yield b"data"

        async def started(upload: OpenUpload) -> None:
            assert not asked
            seen.append([upload])
            seen.append(await open_uploads(store, "c/"))

        await store.write("c/k", source(), size_hint=4, started=started, sent=lambda _: None)
        assert len(seen) == 2
        assert seen[0] == seen[1]
        assert seen[0][0].key == "c/k"

    async def test_is_not_listed_before_it_is_whole(self, store: Store) -> None:
        async def source() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"x" * PART
                assert await listed(store) == []
                assert await store.find("k") is None

        await write(store, "k", source())
        assert await listed(store) == ["k"]

    async def test_replaces_an_object_of_that_name(self, store: Store) -> None:
        await write(store, "k", stream(b"old" * 1000))
        await write(store, "k", stream(b"new"))
        assert await store.read("k", limit=100) == b"new"

    @pytest.mark.parametrize("error", [ValueError("broken"), GeneratorExit(), NotFound("gone")])
    async def test_a_failing_source_leaves_nothing(
        self, store: Store, error: BaseException
    ) -> None:
        async def source() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"x" * PART
            raise error

        with pytest.raises(type(error)) as raised:
            await write(store, "k", FromGenerator(source(), error))
        assert raised.value is error
        assert not getattr(error, "__notes__", [])
        assert await listed(store) == []
        assert await open_uploads(store) == []

    async def test_a_journal_that_fails_leaves_nothing(self, store: Store) -> None:
        async def started(_: OpenUpload) -> None:
            raise OSError("journal")

        with pytest.raises(OSError, match="journal"):
            await store.write("k", stream(b"x"), size_hint=1, started=started, sent=lambda _: None)
        assert await listed(store) == []
        assert await open_uploads(store) == []

    async def test_a_progress_report_that_fails_leaves_nothing(self, store: Store) -> None:
        def sent(_: int) -> None:
            raise OSError("progress")

        journal = Journal()
        data = stream(b"x" * PART * 3, [PART])
        with pytest.raises(OSError, match="progress"):
            await store.write("k", data, size_hint=1, started=journal.started, sent=sent)
        assert await listed(store) == []
        assert await open_uploads(store) == []

    @pytest.mark.parametrize("cancellations", [1, 3])
    async def test_cancelled_it_leaves_nothing(self, store: Store, cancellations: int) -> None:
        journal = Journal()
        ended = False

        async def source() -> AsyncIterator[bytes]:
            nonlocal ended
            try:
                for _ in range(3):
                    yield b"x" * PART
                await asyncio.Event().wait()
            finally:
                ended = True

        task = asyncio.create_task(write(store, "k", source(), journal))

        async def all_sent() -> bool:
            return bool(journal.sent) and journal.sent[-1] == 3 * PART

        await wait_until(all_sent, "three parts sent")
        for _ in range(cancellations):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended
        assert await listed(store) == []
        assert await open_uploads(store) == []

    @pytest.mark.parametrize("delay", [0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4])
    async def test_cancelled_at_any_moment_it_leaves_nothing_or_all(
        self, store: Store, delay: float
    ) -> None:
        task = asyncio.create_task(write(store, "k", stream(b"x" * PART * 5, [PART])))
        await asyncio.sleep(delay)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await listed(store) == []
        assert await open_uploads(store) == []

    async def test_concurrent_writes_do_not_meet(self, store: Store) -> None:
        contents = {f"f{number}/k": some_bytes(PART + 1 + number, number) for number in range(4)}
        async with asyncio.TaskGroup() as group:
            for key, data in contents.items():
                group.create_task(write(store, key, stream(data, [50_000])))
        for key, data in contents.items():
            assert await store.read(key, limit=len(data)) == data


class FromGenerator:
    """An iterator that may raise what a generator can't: GeneratorExit."""

    def __init__(self, inner: AsyncIterator[bytes], last: BaseException) -> None:
        self._inner = inner
        self._last = last

    def __aiter__(self) -> "FromGenerator":
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._inner)
        except (RuntimeError, GeneratorExit):
            raise self._last from None
