"""`snapshot list`, `delete` and `prune` on stores with many backups, run as a process."""

import asyncio
import os
import pty
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from etcd_steward.app import open_store
from etcd_steward.models.connection import LocalSettings
from etcd_steward.models.ports import Store
from tests.support.backups import keys, made, put
from tests.support.cli import PROGRAM, s3_flags, steward
from tests.support.runs import s3_settings
from tests.testbed import SeaweedFS, wait_until
from tests.testbed.process import clean_environment

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    (tmp_path / "store").mkdir()
    async with open_store(LocalSettings(path=tmp_path / "store")) as opened:
        yield opened


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """So that each test has a cache of its own."""
    return {"XDG_CACHE_HOME": str(tmp_path / "cache")}


async def test_a_whole_store_is_told_of_backup_by_backup(
    store: Store, env: dict[str, str], tmp_path: Path
) -> None:
    nights = [made(n, tick=NOW - timedelta(days=10 - n)) for n in (0, 1, 2, 5, 6, 7, 8, 9)]
    others = [
        made(20, backup="_cli.manual", tick=NOW - timedelta(days=4)),
        made(21, backup="_cli.manual", tick=NOW - timedelta(hours=5), suspect="no leader"),
        made(22, cluster="aaaaaaaa", tick=NOW - timedelta(hours=3), verified=False),
    ]
    await put(store, *nights, *others)
    (tmp_path / "store" / "notes.txt").write_text("somebody else's")

    said = await steward("snapshot", "list", f"--store={store.url}", env=env)

    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    urls = [line.split()[-1] for line in lines[1:12]]
    backups = [*others[:2], *nights, others[2]]
    assert urls == [f"{store.url}/{one.folder}" for one in backups]
    assert "suspect" in lines[2]
    summary = [line.split() for line in lines[13:17]]
    assert summary[0][:5] == ["CLUSTER", "BACKUP", "SNAPSHOTS", "SIZE", "VERIFIED"]
    assert summary[1] == ["1f0c9a3e", "_cli.manual", "2", "20", "B", "1", "4d", "ago"]
    assert summary[2] == ["1f0c9a3e", "team.nightly", "8", "80", "B", "8", "24h", "ago", "24h"]
    assert summary[3] == ["aaaaaaaa", "team.nightly", "1", "10", "B", "0", "none"]
    (gap,) = lines[17:]
    assert gap.startswith("Gap in team.nightly of 1f0c9a3e: nothing for 3d, from ")

    flat = await steward("snapshot", "list", f"--store={store.url}", "-ojson", env=env)
    ticks = [one["manifest"]["tick"] for one in flat.json()]
    assert ticks == sorted(ticks)
    assert len(ticks) == 11


async def test_whoever_leaves_out_the_prefix_is_told(
    seaweedfs: SeaweedFS, bucket: str, env: dict[str, str]
) -> None:
    for prefix, count in (("prod", 1), ("prod/eu", 2)):
        async with open_store(s3_settings(seaweedfs, bucket, prefix=prefix)) as store:
            await put(store, *(made(number) for number in range(count)))
    flags = [f"--store=s3://{bucket}", *s3_flags(seaweedfs, bucket)[1:]]
    said = await steward("snapshot", "list", *flags, env=env | seaweedfs.environment())
    assert (said.code, said.out) == (0, "")
    assert said.err.splitlines()[1:] == [
        f"1 lie in s3://{bucket}/prod",
        f"2 lie in s3://{bucket}/prod/eu",
    ]
    eu = await steward(
        "snapshot", "list", f"--store=s3://{bucket}/prod", *flags[1:], "-ojson",
        env=env | seaweedfs.environment(),
    )  # fmt: skip
    assert (eu.code, eu.err, len(eu.json())) == (0, "", 1)


async def test_snapshots_are_deleted_by_their_urls(store: Store, env: dict[str, str]) -> None:
    given = [made(number) for number in range(3)] + [made(3, suspect="no leader")]
    urls = [f"{store.url}/{folder}" for folder in await put(store, *given)]
    before = await keys(store)

    unasked = await steward("snapshot", "delete", urls[0], env=env)
    assert unasked.code == 3
    assert "--yes" in unasked.err
    newest = await steward("snapshot", "delete", "--yes", *urls[1:], env=env)
    assert newest.code == 3
    assert f"{urls[2]} is the newest verified snapshot" in newest.err
    nonsense = await steward("snapshot", "delete", "--yes", store.url, env=env)
    assert nonsense.code == 2
    assert await keys(store) == before

    done = await steward("snapshot", "delete", "--yes", urls[0], urls[3], env=env)
    assert (done.code, done.out) == (0, f"Deleted: {urls[0]}\nDeleted: {urls[3]}\n")
    again = await steward("snapshot", "delete", "--yes", urls[0], "-ojson", env=env)
    assert again.code == 1
    assert "there is no snapshot" in again.err
    forced = await steward("snapshot", "delete", "-y", "--force", *urls[1:3], "-oyaml", env=env)
    assert forced.code == 0
    assert await keys(store) == []


async def test_on_a_terminal_it_asks(store: Store, env: dict[str, str]) -> None:
    urls = [f"{store.url}/{folder}" for folder in await put(store, made(0), made(1))]

    async def answer(word: bytes) -> int:
        ours, theirs = pty.openpty()
        try:
            process = await asyncio.create_subprocess_exec(
                *PROGRAM, "snapshot", "delete", urls[0],
                stdin=theirs, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
                env=clean_environment(env),
            )  # fmt: skip
            await asyncio.to_thread(os.write, ours, word)
            _, err = await process.communicate()
            assert b"Delete 1 snapshot?" in err
            assert process.returncode is not None
            return process.returncode
        finally:
            os.close(ours)
            os.close(theirs)

    assert await answer(b"n\n") == 3
    assert len(await keys(store)) == 6
    assert await answer(b"y\n") == 0
    assert len(await keys(store)) == 3


async def test_prune_says_why_each_one_stays(store: Store, env: dict[str, str]) -> None:
    nightly = [made(number) for number in range(10)]
    clone = [made(20 + number, cluster_id="abc") for number in range(2)]
    weekly = [made(30, backup="team.weekly"), made(31, backup="team.weekly", verified=False)]
    await put(store, *nightly, *clone, *weekly)
    before = await keys(store)
    words = ("snapshot", "prune", "--keep-last=1", "--keep-weekly=2", f"--store={store.url}")

    nothing = await steward("snapshot", "prune", f"--store={store.url}", env=env)
    zero = await steward("snapshot", "prune", "--keep-last=0", f"--store={store.url}", env=env)
    assert (nothing.code, zero.code) == (3, 3)
    assert "--keep-last" in nothing.err

    dry = await steward(*words, "--dry-run", env=env)
    assert (dry.code, dry.err) == (0, "")
    assert await keys(store) == before
    assert dry.out.count("would be deleted") == 8
    assert "last, weekly 2024-W48, newest verified" in dry.out
    assert "not verified" in dry.out

    one = await steward(*words, "--backup=team.nightly", "-ojson", env=env)
    assert one.code == 0
    gone = [view["url"] for view in one.json() if not view["keep"]]
    assert gone == [f"{store.url}/{made.folder}" for made in (*nightly[:4], *nightly[5:9])]
    assert next(view["kept"] for view in one.json() if view["keep"]) == ["weekly 2024-W47"]

    again = await steward(*words, env=env)
    assert " deleted" not in again.out
    listed = await steward("snapshot", "list", f"--store={store.url}", "-ojson", env=env)
    assert len(listed.json()) == 6


async def test_prune_refuses_while_the_clock_is_behind(store: Store, env: dict[str, str]) -> None:
    await put(store, made(0), made(1, finished_at=NOW + timedelta(days=1)))
    words = ("snapshot", "prune", "--keep-last=1", f"--store={store.url}")
    said = await steward(*words, env=env)
    assert said.code == 3
    assert "correct the clock" in said.err
    assert (await steward(*words, "--dry-run", env=env)).code == 0


async def test_prune_refuses_where_a_manifest_was_copied_or_edited(
    store: Store, env: dict[str, str], tmp_path: Path
) -> None:
    await put(store, made(0), made(1), made(2, backup="team.weekly"))
    manifest = tmp_path / "store" / made(2).folder.replace("nightly", "weekly") / "manifest.json"
    text = manifest.read_text().replace('"weekly"', '"nightly"')
    manifest.unlink()
    manifest.write_text(text)
    words = ("snapshot", "prune", "--keep-last=1", f"--store={store.url}")
    said = await steward(*words, env=env)
    assert said.code == 3
    assert "but its folder belongs to another" in said.err
    assert len(await keys(store)) == 9
    narrowed = await steward(*words, "--backup=nightly", env=env)
    assert (narrowed.code, narrowed.err) == (0, "")
    assert len(await keys(store)) == 6


async def test_what_dead_runs_left_goes_when_it_is_old_enough(
    seaweedfs: SeaweedFS, bucket: str, env: dict[str, str]
) -> None:
    env |= seaweedfs.environment()
    flags = s3_flags(seaweedfs, bucket)
    dead, dying, whole = (made(number).folder for number in range(3))
    async with open_store(s3_settings(seaweedfs, bucket)) as store:
        await put(store, made(2))
        await store.put_new(f"{dead}/snapshot.db.zst", b"without a manifest")
        foreign = ["notes.txt", f"{dead}/notes.txt", "1f0c9a3e/team.nightly/notes.txt"]
        for key in foreign:
            await store.put_new(key, b"precious")
        client = seaweedfs.client()
        for key in (f"prod/{dying}/snapshot.db.zst", "prod/other.bin", "prod2/x"):
            await asyncio.to_thread(client.create_multipart_upload, Bucket=bucket, Key=key)

        young = await steward("snapshot", "prune", "--orphans", *flags, env=env)
        assert (young.code, young.out) == (0, "")
        assert "Nothing to delete" in young.err

        words = ("snapshot", "prune", "--orphans", "--older-than=1s", *flags)

        async def is_old() -> bool:
            said = await steward(*words, "--dry-run", env=env)
            return said.out.count("Would be deleted") == 2

        await wait_until(is_old, "both are older than a second")
        other = await steward(*words, "--backup=weekly", env=env)
        assert other.out == ""
        said = await steward(*words, env=env)
        assert said.code == 0
        assert f"Deleted: the open upload of {store.url}/{dying}/snapshot.db.zst" in said.out
        assert f"Deleted: {store.url}/{dead} (18 B, without a manifest)" in said.out
        assert [key for key in await keys(store) if not key.startswith(whole)] == sorted(foreign)
        assert len(await keys(store)) == len(foreign) + 3
    left = await seaweedfs.open_uploads(bucket)
    assert set(left.values()) == {"prod/other.bin", "prod2/x"}
