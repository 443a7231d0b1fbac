"""Draining: what a healthy server never does, faked stream by stream."""

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etcd_steward.engine.drain import Drained, drain
from etcd_steward.engine.report import Tracker
from etcd_steward.engine.spool import Spool
from etcd_steward.errors import IntegrityError, OutOfSpace, TimedOut, Unavailable
from etcd_steward.etcd.streaming import SnapshotChunk
from etcd_steward.models.run import SpoolSettings
from tests.support.runs import Heard


def chunks_of(data: bytes, size: int, *, digest: bytes | None = None) -> list[SnapshotChunk]:
    """Messages as etcd sends them: data, then the digest in a message of its own."""
    messages = [
        SnapshotChunk(data[at : at + size], max(0, len(data) - at - size), "3.6.0")
        for at in range(0, len(data), size)
    ]
    return [*messages, SnapshotChunk(digest or hashlib.sha256(data).digest(), 0, "3.6.0")]


class FakeStream(list[SnapshotChunk]):
    """Messages, one by one."""

    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


async def drained(
    messages: list[SnapshotChunk], directory: Path, *, limit: int | None = None
) -> tuple[Drained, bytes]:
    """What comes of a stream, and what lies in the spool then."""
    async with Spool.open(SpoolSettings(directory=directory, limit=limit), "run") as spool:
        file = spool.create("snapshot.db")
        try:
            found = await drain(FakeStream(messages), "m", spool, file, Tracker(Heard()))
            return found, file.read_at(0, file.size + 1)
        finally:
            file.close()


@given(
    pages=st.integers(1, 200),
    size=st.integers(100, 40_000),
    seed=st.binary(min_size=1, max_size=8),
)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_any_cutting_gives_the_file(
    pages: int, size: int, seed: bytes, tmp_path: Path
) -> None:
    data = (seed * (512 * pages))[: 512 * pages]
    found, spooled = await drained(chunks_of(data, size), tmp_path)
    whole = data + hashlib.sha256(data).digest()
    assert spooled == whole
    assert found.size == len(whole)
    assert found.sha256 == hashlib.sha256(whole).hexdigest()
    assert found.storage_version == "3.6.0"


async def test_a_wrong_digest_is_an_integrity_error(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="digest"):
        await drained(chunks_of(b"x" * 4096, 1000, digest=b"\0" * 32), tmp_path)


@pytest.mark.parametrize("missing", [1, 2, 3])
async def test_a_clean_end_before_the_digest_is_a_break(missing: int, tmp_path: Path) -> None:
    messages = chunks_of(b"x" * 4096, 1024)[:-missing]
    with pytest.raises(Unavailable, match="broke off"):
        await drained(messages, tmp_path)


async def test_no_message_at_all(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="broke off after 0 bytes"):
        await drained([], tmp_path)


async def test_a_server_that_sends_empty_messages_for_ever(tmp_path: Path) -> None:
    messages = [SnapshotChunk(b"x" * 512, 512, ""), *[SnapshotChunk(b"", 512, "")] * 5]
    with pytest.raises(Unavailable, match="stopped sending with 512 bytes to go"):
        await drained(messages, tmp_path)


async def test_a_size_that_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError):
        await drained(chunks_of(b"x" * 1000, 300), tmp_path)


async def test_more_than_the_spool_holds_is_refused_at_the_first_message(tmp_path: Path) -> None:
    with pytest.raises(OutOfSpace, match="1 MiB are needed"):
        await drained(chunks_of(b"x" * (1 << 20), 32768), tmp_path, limit=4096)


async def test_more_than_was_announced(tmp_path: Path) -> None:
    messages = [*chunks_of(b"x" * 4096, 1024), SnapshotChunk(b"more", 0, "")]
    with pytest.raises(IntegrityError, match="more than the 4096 bytes"):
        await drained(messages, tmp_path)


class Silent(FakeStream):
    """Sends its first message and then nothing until it is cancelled."""

    def __init__(self, messages: list[SnapshotChunk]) -> None:
        super().__init__(messages)
        self._ended = threading.Event()

    def __iter__(self) -> Iterator[SnapshotChunk]:
        yield self[0]
        self._ended.wait()
        raise ConnectionError("cancelled")

    def cancel(self) -> None:
        super().cancel()
        self._ended.set()


async def test_a_stream_that_stands_still_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etcd_steward.engine.drain._STALL", 0.3)
    async with Spool.open(SpoolSettings(directory=tmp_path), "run") as spool:
        file = spool.create("snapshot.db")
        stream = Silent(chunks_of(b"x" * 4096, 1024))
        with pytest.raises(TimedOut, match="no progress"):
            await drain(stream, "m", spool, file, Tracker(Heard()))
        assert stream.cancelled
        file.close()


async def test_cancellation_waits_for_the_thread(tmp_path: Path) -> None:
    async with Spool.open(SpoolSettings(directory=tmp_path), "run") as spool:
        file = spool.create("snapshot.db")
        stream = Silent(chunks_of(b"x" * 4096, 1024))
        draining = asyncio.create_task(drain(stream, "m", spool, file, Tracker(Heard())))
        await asyncio.sleep(0.2)
        draining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining
        assert stream.cancelled
        file.close()
