"""What becomes of a run that died, in a real directory: adopted, cleaned up, or left alone."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from etcd_steward.app import open_store, settle_run
from etcd_steward.engine.manifests import find_manifest, write_manifest
from etcd_steward.engine.settle import clean, settle
from etcd_steward.errors import AlreadyExists, NoSuchStore, Unauthorized
from etcd_steward.models.connection import LocalSettings
from etcd_steward.models.layout import Folder
from etcd_steward.models.manifest import Manifest, RunRef
from etcd_steward.models.ports import OpenUpload, Store
from etcd_steward.models.run import Journal, Result, Settled, SettleRequest, SpoolSettings
from etcd_steward.store.local import LocalStore
from tests.support.runs import Heard
from tests.unit.test_operator_status import manifest as some_manifest

RUN = "7c1e04b2"
FOLDER = Folder.parse(some_manifest().folder)
BESIDE = FOLDER.__class__(FOLDER.cluster, FOLDER.namespace, FOLDER.name, FOLDER.tick, f"{RUN}.2")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(LocalSettings(path=tmp_path / "store")) as opened:
        await opened.put_new("first", b"so that the directory is there")
        yield opened


def manifest(folder: Folder = FOLDER, uid: str | None = None) -> Manifest:
    changes = {"folder": str(folder), "run": RunRef(uid=uid)}
    return some_manifest().model_copy(update=changes)


async def record(store: Store, made: Manifest) -> None:
    await store.put_new(f"{made.folder}/snapshot.db.zst", b"data")
    await write_manifest(store, made)


def journal(folder: Folder = FOLDER) -> Journal:
    return Journal(folder=str(folder), key=folder.snapshot, upload_id="gone")


async def keys(store: Store) -> list[str]:
    return [info.key async for info in store.list("") if info.key != "first"]


async def test_a_complete_attempt_is_found_by_another_ones_journal(store: Store) -> None:
    await store.put_new(FOLDER.snapshot, b"in vain")
    await record(store, made := manifest(BESIDE))
    assert await settle(store, RUN, [journal()], lambda _: None) == made
    assert await settle(store, RUN, [], lambda _: None) == made


async def test_another_run_with_the_same_digits_is_left_alone(store: Store) -> None:
    await record(store, manifest(BESIDE, uid="00000000-another"))
    await store.put_new(FOLDER.snapshot, b"in vain")
    before = [key for key in await keys(store) if str(BESIDE) in key]
    assert await settle(store, RUN, [journal()], lambda _: None) == 1
    assert await keys(store) == before
    with pytest.raises(AlreadyExists, match="nothing was deleted"):
        await settle(store, RUN, [journal(BESIDE)], lambda _: None)
    assert await keys(store) == before


async def test_cleaning_never_takes_a_manifest(store: Store) -> None:
    await record(store, made := manifest())
    before = await keys(store)
    assert await clean(store, FOLDER, [journal()], lambda _: None) == made
    assert await keys(store) == before


class Late(LocalStore):
    """A directory into which a manifest comes after the file that it names was deleted."""

    async def delete(self, key: str) -> None:
        await super().delete(key)
        if key == FOLDER.snapshot:
            await write_manifest(self, manifest())


async def test_a_manifest_that_comes_too_late_goes_with_its_file(
    store: Store, tmp_path: Path
) -> None:
    await store.put_new(FOLDER.snapshot, b"in vain")
    late = Late(LocalSettings(path=tmp_path / "store"), part_size=1 << 20)
    assert await clean(late, FOLDER, [journal()], lambda _: None) is None
    assert await keys(store) == []


async def test_a_missing_directory_is_no_empty_folder(tmp_path: Path) -> None:
    async with open_store(LocalSettings(path=tmp_path / "unmounted")) as missing:
        with pytest.raises(NoSuchStore):
            await find_manifest(missing, FOLDER)
        with pytest.raises(NoSuchStore):
            await settle(missing, RUN, [journal()], lambda _: None)


class Sealed(LocalStore):
    """A store that shows nobody its uploads."""

    def uploads(self, prefix: str) -> AsyncIterator[OpenUpload]:
        return self._denied(prefix)

    async def _denied(self, prefix: str) -> AsyncIterator[OpenUpload]:
        raise Unauthorized(f"{prefix} is denied")
        yield OpenUpload("", "")


async def test_a_look_that_is_denied_is_a_warning(store: Store, tmp_path: Path) -> None:
    await store.put_new(FOLDER.snapshot, b"in vain")
    sealed = Sealed(LocalSettings(path=tmp_path / "store"), part_size=1 << 20)
    said: list[str] = []
    assert await settle(sealed, RUN, [journal()], said.append) == 1
    assert await keys(store) == []
    assert any("could not look" in one for one in said)


async def test_settling_sweeps_the_spool(store: Store, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    (spool / "dead-1").mkdir(parents=True)
    (spool / "dead-1" / "lock").touch()
    (spool / "dead-1" / "snapshot.db").write_bytes(b"every secret of the cluster")
    request = SettleRequest(
        store=LocalSettings(path=tmp_path / "store"),
        spool=SpoolSettings(directory=spool),
        run=RUN,
        earlier=(journal(),),
    )
    assert await settle_run(request, Heard()) == Settled(aborted=1)
    assert [path.name for path in spool.iterdir()] == [".lock"]
    await record(store, manifest())
    assert isinstance(await settle_run(request, Heard()), Result)
