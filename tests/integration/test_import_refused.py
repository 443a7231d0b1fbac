"""What `snapshot import` refuses, and that nothing is left of it."""

import asyncio
import gzip
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pyrage
import pytest

from etcd_steward.cli.main import main
from etcd_steward.errors import StewardError, TimedOut
from tests.integration.imports import AT, IDENTITY, Place, Taken, aged, take
from tests.support.cli import files, s3_flags, started
from tests.support.zstd import zstd
from tests.testbed import EtcdCluster, FaultProxy, SeaweedFS, wait_until


@pytest.fixture(scope="module")
async def taken(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Taken]:
    """Of the version that most run."""
    directory = tmp_path_factory.mktemp("taken")
    async with EtcdCluster(directory / "etcd") as etcd:
        yield await take(etcd, directory / "etcd.db")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def refused(place: Place, path: Path, **wanted: Any) -> StewardError:  # noqa: ANN401
    """Why an import failed, which left nothing."""
    with pytest.raises(StewardError) as caught:
        await place.adopt(path, **wanted)
    assert place.left() == []
    assert caught.value.hint
    return caught.value


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]


def root_page(data: bytes) -> int:
    """Where the root page begins, by the newer meta page; any other page might be a free one."""
    metas = (data[at + 16 : at + 80] for at in (0, 4096))
    newer = max(metas, key=lambda meta: int.from_bytes(meta[48:56], "little"))
    return int.from_bytes(newer[16:24], "little") * 4096


DAMAGE: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("flipped.db", lambda data: flipped(data, len(data) // 2), "does not have the digest"),
    ("digest.db", lambda data: flipped(data, len(data) - 1), "does not have the digest"),
    ("short.db", lambda data: data[: len(data) // 2 + 7], "cut short"),
    ("pages.db", lambda data: data[: 4096 * 5], "counts"),
    ("page.db", lambda data: flipped(data, 16 + 8)[:-32], "meta"),
    ("header.db", lambda data: flipped(data, root_page(data))[:-32], "page"),
    ("short.gz", lambda data: gzip.compress(data)[:-9], "gzip"),
    ("short.zst", lambda data: zstd.compress(data)[:-9], "zstd"),
]


@pytest.mark.parametrize(("name", "damage", "words"), DAMAGE)
async def test_a_damaged_snapshot_leaves_nothing(
    taken: Taken,
    place: Place,
    tmp_path: Path,
    name: str,
    damage: Callable[[bytes], bytes],
    words: str,
) -> None:
    (tmp_path / name).write_bytes(damage(taken.data))
    error = await refused(place, tmp_path / name)
    assert (error.reason, words in error.message) == ("IntegrityError", True), error


async def test_what_is_no_snapshot_is_refused_in_words(
    taken: Taken, place: Place, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty.db").touch()
    (tmp_path / f"Incr-00000001-00000009-{AT}").write_text('[{"etcdEvent":{}}]')
    (tmp_path / "secret.age").write_bytes(aged(taken.data))
    (tmp_path / "loop.db").symlink_to(tmp_path / "loop.db")
    for name, reason, message in (
        ("text", "InvalidInput", "no etcd snapshot"),
        ("empty.db", "InvalidInput", "is empty"),
        (f"Incr-00000001-00000009-{AT}", "Unsupported", "incremental"),
        ("missing.db", "NotFound", "there is no file"),
        (".", "InvalidInput", "is a directory"),
        ("loop.db", "InvalidInput", "can't be read"),
        ("secret.age", "Unauthorized", "no identity was given"),
    ):
        error = await refused(place, tmp_path / name)
        assert (error.reason, message in error.message) == (reason, True), error
    other = (pyrage.x25519.Identity.generate(),)
    error = await refused(place, tmp_path / "secret.age", identities=other)
    assert "none of the identities" in error.message


async def test_the_key_of_an_age_file_is_named_by_a_flag(
    taken: Taken, place: Place, tmp_path: Path
) -> None:
    (tmp_path / "secret.age").write_bytes(aged(taken.data))
    key = tmp_path / "key.txt"
    key.write_text("AGE-SECRET-KEY-1NONSENSE")
    said = await place.take_in(tmp_path / "secret.age", f"--identity={key}")
    assert (said.code, "holds no identity" in said.err) == (2, True)
    assert "NONSENSE" not in said.err
    key.write_text(f"# created by a test\n{IDENTITY}\n")
    assert (await place.take_in(tmp_path / "secret.age", f"--identity={key}")).code == 0


@pytest.mark.parametrize(
    "words",
    [
        ("missing.db", "--name=Upper"),
        ("missing.db", "--cluster=nohex"),
        ("missing.db", "--taken-at=yesterday"),
        ("missing.db", "--taken-at=2025-03-04T05:06:07"),
        ("missing.db", "--taken-at=2999-01-01T00:00:00Z"),
        ("https://example.com/etcd.db",),
        ("s3://bucket",),
        ("file://etcd.db",),
    ],
)
def test_wrong_words_are_refused_before_anything_is_read(
    words: tuple[str, ...], place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["snapshot", "import", *words, *place.flags]) == 2
    assert words[-1].partition("=")[0] in capsys.readouterr().err
    assert not place.store.exists()


async def test_a_spool_that_is_too_small_is_said_and_left_empty(
    taken: Taken, place: Place, tmp_path: Path
) -> None:
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(taken.data[:-32] + bytes(64 << 20), 1))
    assert (await refused(place, bomb, limit=16 << 20)).reason == "OutOfSpace"


async def test_a_pipe_that_says_nothing_can_be_given_up(place: Place, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with started("snapshot", "import", fifo, *place.flags) as program:

        async def waiting() -> bool:
            return await asyncio.to_thread(lambda: any(place.spool.glob("*/snapshot.db")))

        await wait_until(waiting, "the import waits for its pipe", timeout=60)
        program.send(signal.SIGINT)
        said = await program.end(timeout=20)
    assert said.code == 128 + signal.SIGINT
    assert "Traceback" not in said.err
    assert place.left() == []


async def test_an_import_that_takes_too_long_says_so(place: Place, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(TimedOut, match="the import took longer"):
        await place.adopt(fifo, timeout=1)
    assert place.left() == []


async def test_an_interrupted_upload_leaves_nothing(
    seaweedfs: SeaweedFS, bucket: str, place: Place, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(EtcdCluster(tmp_path / "etcd"))
        slow = await stack.enter_async_context(FaultProxy(seaweedfs.port))
        for number in range(12):
            await etcd.etcdctl("put", f"/{number}", stdin=secrets.token_hex(500_000).encode())
        await etcd.etcdctl("snapshot", "save", tmp_path / "etcd.db")
        slow.to_server.bytes_per_second = 1e6
        async with started(
            *("snapshot", "import", tmp_path / "etcd.db", "--cluster=1", place.flags[1]),
            *s3_flags(seaweedfs, bucket, endpoint=slow.address()),
            env=seaweedfs.environment(),
        ) as program:

            async def begun() -> bool:
                return await asyncio.to_thread(lambda: any(place.spool.glob("*/journal.json")))

            await wait_until(begun, "the upload has begun", timeout=90)
            program.send(signal.SIGTERM)
            said = await program.end()
    assert said.code == 128 + signal.SIGTERM
    assert await seaweedfs.open_uploads(bucket) == {}
    assert await seaweedfs.objects(bucket) == {}
    assert files(place.spool) == []
