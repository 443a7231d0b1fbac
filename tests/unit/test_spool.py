"""The spool: private, bounded, and clean after whoever was killed."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from etcd_steward.engine.spool import Spool
from etcd_steward.errors import InvalidInput, OutOfSpace, Unavailable
from etcd_steward.models.run import Journal, SpoolSettings

JOURNAL = Journal(folder="c/n.b/20261122T000000Z-00000000", key="k", upload_id="u")


def settings(directory: Path, limit: int | None = None) -> SpoolSettings:
    return SpoolSettings(directory=directory, limit=limit)


async def test_files_are_private_and_gone_at_the_end(tmp_path: Path) -> None:
    async with Spool.open(settings(tmp_path / "spool"), "run") as spool:
        file = spool.create("snapshot.db")
        file.append([b"a", b"bc"])
        assert file.read_at(1, 10) == b"bc"
        assert file.path.stat().st_mode & 0o777 == 0o600
        assert spool.directory.stat().st_mode & 0o777 == 0o700
        file.close()
    assert [path.name for path in (tmp_path / "spool").iterdir()] == [".lock"]


async def test_runs_share_one_limit(tmp_path: Path) -> None:
    room = settings(tmp_path, limit=10 << 20)
    async with Spool.open(room, "one") as one, Spool.open(room, "two") as two:
        one.reserve(6 << 20)
        with pytest.raises(OutOfSpace, match="6 MiB are needed and 4 MiB are free"):
            two.reserve(6 << 20)
        two.reserve(4 << 20)
        one.reserve(5 << 20)
    async with Spool.open(room, "three") as three:
        three.reserve(10 << 20)


async def test_a_run_waits_for_the_room_that_others_have_taken(tmp_path: Path) -> None:
    room = settings(tmp_path, limit=10 << 20)
    waited = asyncio.Event()
    async with Spool.open(room, "two") as two:
        async with Spool.open(room, "one") as one:
            one.reserve(6 << 20)
            waiting = asyncio.create_task(two.wait_for_room(6 << 20, waited.set))
            await waited.wait()
            assert not waiting.done()
            with pytest.raises(OutOfSpace):  # would not fit even alone
                await two.wait_for_room(11 << 20, lambda: None)
        async with asyncio.timeout(10):
            await waiting
        with pytest.raises(OutOfSpace):
            await two.wait_for_room(11 << 20, lambda: None)


async def test_a_disk_too_small(tmp_path: Path) -> None:
    async with Spool.open(settings(tmp_path), "run") as spool:
        disk = os.statvfs(tmp_path)
        with pytest.raises(OutOfSpace, match="too small"):
            spool.reserve(disk.f_blocks * disk.f_frsize)


async def test_a_directory_that_cant_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="--spool-dir"):
        async with Spool.open(settings(tmp_path / "file" / "spool"), "run"):
            pass


async def test_an_unsettled_journal_outlives_its_run_until_forgotten(tmp_path: Path) -> None:
    async with Spool.open(settings(tmp_path), "one") as spool:
        spool.write_journal("s3://b/p", JOURNAL)
    for _ in range(2):
        async with Spool.open(settings(tmp_path), "two") as spool:
            (dead,) = spool.dead
            assert (dead.store, dead.journal) == ("s3://b/p", JOURNAL)
    dead.forget()
    async with Spool.open(settings(tmp_path), "three") as spool:
        assert spool.dead == ()
        spool.write_journal("s3://b/p", JOURNAL)
        spool.settled()
    async with Spool.open(settings(tmp_path), "four") as spool:
        assert spool.dead == ()


KILLED = """
import asyncio, os, pathlib, signal, sys
from etcd_steward.engine.spool import Spool
from etcd_steward.models.run import Journal, SpoolSettings

async def main():
    async with Spool.open(SpoolSettings(directory=pathlib.Path(sys.argv[1])), "dead") as spool:
        file = spool.create("snapshot.db")
        file.append([b"every secret of the cluster"])
        spool.write_journal("s3://b/p", Journal.model_validate_json(sys.argv[2]))
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def spooled(directory: Path) -> list[Path]:
    return list(directory.glob("dead-*/snapshot.db"))


async def test_kill_9_leaves_its_data_only_until_the_next_run(tmp_path: Path) -> None:
    async with Spool.open(settings(tmp_path), "alive") as alive:
        alive.create("snapshot.db").close()
        command = [sys.executable, "-c", KILLED, str(tmp_path), JOURNAL.model_dump_json()]
        process = await asyncio.to_thread(subprocess.run, command, check=False)
        assert process.returncode == -9
        assert len(spooled(tmp_path)) == 1
        async with Spool.open(settings(tmp_path), "next") as spool:
            (dead,) = spool.dead
            assert dead.journal == JOURNAL
            assert not spooled(tmp_path)
            assert (alive.directory / "snapshot.db").exists()


async def test_a_journal_of_another_version_is_set_aside(tmp_path: Path) -> None:
    async with Spool.open(settings(tmp_path), "one") as spool:
        spool.write_journal("s3://b/p", JOURNAL)
    (tmp_path / "old-1.orphan.json").write_text('{"store": "s3://b/p", "journal": {"later": 1}}')
    said: list[str] = []
    async with Spool.open(settings(tmp_path), "two", said.append) as spool:
        assert [dead.journal for dead in spool.dead] == [JOURNAL]
    assert "old-1.orphan.json.unreadable" in said[0]
    async with Spool.open(settings(tmp_path), "three", said.append) as spool:
        assert len(spool.dead) == 1
    assert len(said) == 1


async def test_what_cant_be_removed_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    async with Spool.open(settings(tmp_path), "one", said.append) as spool:
        (spool.directory / "folder").mkdir()
    assert str(spool.directory) in said[0]
    assert (spool.directory / "lock").exists()  # so that the next run tries again


async def test_a_disk_that_fails_is_said_in_words(tmp_path: Path) -> None:
    async with Spool.open(settings(tmp_path), "one") as spool:
        (spool.directory / "journal.json.part").mkdir()
        with pytest.raises(Unavailable, match="can't be used"):
            spool.write_journal("s3://b/p", JOURNAL)
        (spool.directory / "journal.json.part").rmdir()


async def test_readers_wait_for_the_writer(tmp_path: Path) -> None:
    async with Spool.open(settings(tmp_path), "run") as spool:
        file = spool.create("snapshot.db")
        waiting = asyncio.create_task(file.wait(3))
        ending = asyncio.create_task(file.ended())
        file.append([b"ab"])
        await file.publish()
        await asyncio.sleep(0)
        assert not waiting.done()
        file.append([b"c"])
        await file.publish()
        assert await waiting == 3
        assert not ending.done()
        await file.publish(ended=True)
        assert await ending == 3
        assert await file.wait(100) == 3
        file.close()
