"""A cache that is never trusted over the store, whatever becomes of its file."""

import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from etcd_steward.app import open_store
from etcd_steward.engine.manifest_cache import ManifestCache
from etcd_steward.engine.manifests import Backup, backups
from etcd_steward.models.connection import LocalSettings
from etcd_steward.models.ports import Outcome, Store
from tests.support.backups import made, put


class Counting:
    """A store that counts what is read from it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.reads = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def read_many(self, keys: Sequence[str], *, limit: int) -> list[Outcome]:
        self.reads += len(keys)
        return await self._store.read_many(keys, limit=limit)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(LocalSettings(path=tmp_path / "store")) as opened:
        await put(opened, made(0), made(1))
        yield opened


async def listed(store: Store, directory: Path, limit: int = 1 << 20) -> tuple[list[str], int]:
    """What a listing finds, and how many objects it read for that."""
    counting = Counting(store)
    cache = ManifestCache(directory, store, limit=limit)
    found = [one async for one in backups(counting, cache)]  # type: ignore[arg-type]
    assert all(isinstance(one, Backup) and one.verified for one in found)
    return [one.manifest.folder for one in found if isinstance(one, Backup)], counting.reads


async def test_what_is_remembered_is_not_read_again(store: Store, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    folders = [made(0).folder, made(1).folder]
    assert await listed(store, cache) == (folders, 2)  # the first proof is in the manifest
    assert await listed(store, cache) == (folders, 0)
    assert cache.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in cache.iterdir()} == {0o600}

    await put(store, made(2))
    assert await listed(store, cache) == ([*folders, made(2).folder], 1)
    await store.delete(f"{folders[0]}/manifest.json")
    assert await listed(store, cache) == ([folders[1], made(2).folder], 0)


async def test_another_etag_means_another_read(store: Store, tmp_path: Path) -> None:
    await listed(store, tmp_path / "cache")
    manifest = made(0)
    path = tmp_path / "store" / manifest.folder / "manifest.json"
    text = path.read_text()
    path.unlink()
    path.write_text(text.replace('"liveKeys": 1203', '"liveKeys": 1204'))

    cache = ManifestCache(tmp_path / "cache", store)
    found = [one async for one in backups(store, cache)]

    assert isinstance(found[0], Backup)
    assert found[0].manifest.live_keys == 1204


async def test_another_store_has_memories_of_its_own(store: Store, tmp_path: Path) -> None:
    await listed(store, tmp_path / "cache")
    async with open_store(LocalSettings(path=tmp_path / "other")) as other:
        await put(other, made(0))
        assert (await listed(other, tmp_path / "cache"))[1] == 1


async def test_whatever_lies_there_instead_is_ignored(store: Store, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    file = cache / "manifests.db"
    good = await listed(store, cache)

    file.write_bytes(b"not a database" * 1000)
    assert await listed(store, cache) == good
    assert await listed(store, cache) == good, "the damaged file was removed"
    assert (await listed(store, cache))[1] == 0

    with sqlite3.connect(file) as database:  # damage that SQLite does not see
        database.execute("UPDATE object SET body = replace(body, '1203', '9999')")
    assert await listed(store, cache) == good

    with sqlite3.connect(file) as database:
        database.execute("PRAGMA user_version = 99")
    assert await listed(store, cache) == good

    file.unlink()
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE object (something TEXT)")
    assert await listed(store, cache) == good

    cache.chmod(0o777)
    assert await listed(store, cache) == good


async def test_it_stays_small(store: Store, tmp_path: Path) -> None:
    await put(store, made(2), made(3))
    one = (tmp_path / "store" / made(0).folder / "manifest.json").stat().st_size
    assert (await listed(store, tmp_path / "cache", limit=one * 2 + 100))[1] == 4
    assert (await listed(store, tmp_path / "cache", limit=one * 2 + 100))[1] == 2


async def test_a_cache_that_can_not_be_written_hinders_nobody(store: Store) -> None:
    assert (await listed(store, Path("/proc/nothing/here")))[1] == 2
