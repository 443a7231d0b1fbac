"""What a look at a store finds, and what retention deletes there: real etcds, S3, directories."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from etcd_steward.app import delete, look_through, open_etcd, open_store
from etcd_steward.engine.catalogue import Identity, identify
from etcd_steward.engine.manifests import get_backup
from etcd_steward.errors import IntegrityError, Refused
from etcd_steward.handlers.child import RUNNER
from etcd_steward.models.connection import EtcdConnection, LocalSettings, StoreSettings
from etcd_steward.models.jobs import EVENT, Event, Request
from etcd_steward.models.kinds import Retention
from etcd_steward.models.layout import Folder
from etcd_steward.models.manifest import BackupRef, Manifest
from etcd_steward.models.ports import Store
from etcd_steward.models.run import (
    Catalogued,
    CatalogueEntry,
    CatalogueRequest,
    DeleteRequest,
    Failure,
    Progress,
    Settled,
)
from tests.support.backups import keys, made, put
from tests.support.runs import Heard, connection, s3_settings
from tests.testbed import EtcdCluster, SeaweedFS
from tests.testbed.rpc import raise_alarm

ONE = Retention(keep_last=1)
NIGHTLY = BackupRef(namespace="team", name="nightly")


@pytest.fixture(params=["s3", "local"])
async def settings(
    request: pytest.FixtureRequest, seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> StoreSettings:
    if request.param == "s3":
        return s3_settings(seaweedfs, bucket)
    (tmp_path / "store").mkdir()
    return LocalSettings(path=tmp_path / "store")


@pytest.fixture
async def local(tmp_path: Path) -> LocalSettings:
    (tmp_path / "store").mkdir()
    return LocalSettings(path=tmp_path / "store")


@pytest.fixture
async def store(local: LocalSettings) -> AsyncIterator[Store]:
    async with open_store(local) as opened:
        yield opened


@pytest.fixture
async def me(etcd: EtcdCluster) -> Identity:
    async with open_etcd(connection(etcd)) as client:
        return await identify(client, "/registry")


def mine(me: Identity, *numbers: int, **changes: Any) -> list[Manifest]:  # noqa: ANN401
    """Manifests of this etcd's own."""
    given = {"cluster": me.cluster, "cluster_id": me.cluster_id} | changes
    return [made(number, **given) for number in numbers]


async def look(
    store: StoreSettings,
    etcd: EtcdConnection | None,
    **changes: Any,  # noqa: ANN401
) -> tuple[Catalogued, list[CatalogueEntry]]:
    """Look, and prune unless told otherwise."""
    entries: list[CatalogueEntry] = []
    given = {"retention": ONE, "prune": True, "backup": NIGHTLY, "timeout": 60.0} | changes
    request = CatalogueRequest(store=store, etcd=etcd, **given)
    return await look_through(request, Heard(), entries.append), entries


def folders(entries: list[CatalogueEntry]) -> list[str]:
    return [entry.manifest.folder for entry in entries]


async def test_what_retention_does_not_keep_goes_and_the_rest_is_told_of(
    etcd: EtcdCluster, me: Identity, settings: StoreSettings
) -> None:
    assert me.trouble is None
    given = mine(me, 0, 1, 2) + mine(me, 3, verified=False) + mine(me, 4, suspect="no leader")
    async with open_store(settings) as store:
        await put(store, *given)
        policy = Retention(keep_last=1, keep_yearly=1)

        found, entries = await look(settings, connection(etcd), retention=policy, prune=False)
        assert found.pruned == ()
        assert [entry.kept for entry in entries] == [
            (),
            (),
            ("last", "yearly 2024", "newest verified"),
            ("not verified",),
            ("suspect",),
        ]
        assert found.kept == 3

        found, entries = await look(settings, connection(etcd), retention=policy)
        assert (found.cluster, found.cluster_id, found.frozen) == (me.cluster, me.cluster_id, None)
        assert found.pruned == (given[0].folder, given[1].folder)
        assert found.kept == 1
        assert folders(entries) == [one.folder for one in given[2:]]
        assert entries[0].manifest == given[2]
        assert entries[0].url == f"{store.url}/{given[2].folder}"
        assert (entries[0].level, entries[0].ours) == ("Structure", True)
        assert entries[0].verified_at == given[2].finished_at
        assert {entry.verified_at for entry in entries[1:]} == {None}
        left = await keys(store)
        assert {key.rsplit("/", 1)[0].removesuffix("/proofs") for key in left} == {
            one.folder for one in given[2:]
        }

        again, _ = await look(settings, connection(etcd), retention=policy)
        assert (again.pruned, again.kept) == ((), 1)


async def test_a_clone_of_the_cluster_prunes_nothing(
    etcd: EtcdCluster, me: Identity, local: LocalSettings, store: Store
) -> None:
    """Its kube-system uid, and so its folder, is the original's; its cluster ID is not."""
    original = mine(me, 0, 1, cluster_id="abc")
    await put(store, *original, *mine(me, 2))

    found, entries = await look(local, connection(etcd))

    assert (found.pruned, found.kept, found.frozen) == ((), 1, None)
    assert [entry.ours for entry in entries] == [False, False, True]
    assert [entry.kept for entry in entries[:2]] == [("not ours",)] * 2

    found, _ = await look(local, connection(etcd), adopt=("0ABC",))
    assert found.pruned == tuple(one.folder for one in original)


async def test_equal_cluster_ids_alone_make_nothing_ours(
    etcd: EtcdCluster, me: Identity, local: LocalSettings, store: Store
) -> None:
    """Two etcds with default flags have the same."""
    other = [made(number, cluster="aaaaaaaa", cluster_id=me.cluster_id) for number in (0, 1)]
    await put(store, *other)

    found, entries = await look(local, connection(etcd))

    assert found.pruned == ()
    assert [entry.ours for entry in entries] == [False, False]


async def test_a_new_cluster_finds_the_old_ones_backups_until_it_has_its_own(
    etcd: EtcdCluster, me: Identity, local: LocalSettings, store: Store
) -> None:
    old = [made(number, cluster="aaaaaaaa", cluster_id="abc") for number in (0, 1)]
    await put(store, *old, made(2, cluster="aaaaaaaa", backup="team.weekly"))

    _, entries = await look(local, connection(etcd))
    assert folders(entries) == [one.folder for one in old]

    await put(store, *mine(me, 5))
    _, entries = await look(local, connection(etcd))
    assert [entry.ours for entry in entries] == [True]

    found, entries = await look(local, connection(etcd), adopt=("abc",), prune=False)
    assert [entry.ours for entry in entries] == [True, True, True]
    assert found.kept == 3


async def test_names_and_prefixes_that_begin_alike_never_meet(
    etcd: EtcdCluster, me: Identity, seaweedfs: SeaweedFS, bucket: str
) -> None:
    given: dict[str, list[str]] = {}
    for prefix in ("prod", "prod2", "prod/eu", ""):
        async with open_store(s3_settings(seaweedfs, bucket, prefix=prefix)) as store:
            for name in ("team.nightly", "team.nightly.b", "team.night", "team2.nightly"):
                given[f"{prefix} {name}"] = await put(store, *mine(me, 0, 1, backup=name))
    settings = s3_settings(seaweedfs, bucket, prefix="prod")

    found, entries = await look(settings, connection(etcd), adopt=("abc",))

    assert found.unreadable == ()
    assert list(found.pruned) == given["prod team.nightly"][:1]
    assert folders(entries) == given["prod team.nightly"][1:]
    left = await seaweedfs.objects(bucket)
    assert len(left) == 4 * 4 * 2 * 3 - 3


async def test_nothing_is_deleted_while_something_is_wrong(
    etcd: EtcdCluster, me: Identity, local: LocalSettings, store: Store, tmp_path: Path
) -> None:
    given = mine(me, 0, 1)
    await put(store, *given)
    ours = connection(etcd)
    known = {"cluster": me.cluster, "cluster_id": me.cluster_id}

    nobody = EtcdConnection(endpoints=("http://127.0.0.1:1",), dial_timeout=1)
    for unknown in (None, nobody):
        found, entries = await look(local, unknown, **known)
        assert found.frozen is not None
        assert "which cluster the etcd is can't be asked" in found.frozen
        assert (found.pruned, found.cluster, found.kept) == ((), me.cluster, 2)
        assert [entry.ours for entry in entries] == [True, True]
        assert entries[0].kept == ()

    later = datetime.now(UTC) + timedelta(hours=1)
    (future,) = await put(store, *mine(me, 3, finished_at=later))
    found, _ = await look(local, ours)
    assert found.frozen is not None
    assert "correct the clock" in found.frozen
    assert future in found.frozen
    await delete(_delete(local, future, me), Heard())

    (alike,) = await put(store, *mine(me, 4, kube_system_uid="another"))
    found, _ = await look(local, ours)
    assert found.frozen is not None
    assert "two clusters" in found.frozen
    await delete(_delete(local, alike, me), Heard())

    copied = tmp_path / "store" / given[0].folder.replace(me.cluster or "", "aaaaaaaa")
    (tmp_path / "store" / given[0].folder).rename(tmp_path / "store" / "x")
    copied.parent.mkdir(parents=True)
    (tmp_path / "store" / "x").rename(copied)
    found, _ = await look(local, ours, adopt=("abc",))
    assert found.frozen is None, "another cluster's trouble is not ours"
    home = tmp_path / "store" / given[0].folder
    copied.rename(home)
    edited = (home / "manifest.json").read_text().replace('"nightly"', '"weekly"')
    (home / "manifest.json").chmod(0o600)
    (home / "manifest.json").write_text(edited)
    found, _ = await look(local, ours)
    assert found.frozen is not None
    assert "says that it is of backup team.weekly" in found.frozen
    assert len(found.unreadable) == 1


async def test_a_corrupt_alarm_freezes(tmp_path: Path, local: LocalSettings, store: Store) -> None:
    async with EtcdCluster(tmp_path / "etcd") as sick:
        async with open_etcd(connection(sick)) as client:
            me = await identify(client, "/registry")
            await put(store, *mine(me, 0, 1))
            await raise_alarm(sick, sick.members[0], corrupt=True)
            assert (await identify(client, "/registry")).trouble is not None
        found, entries = await look(local, connection(sick))
        again, _ = await look(local, connection(sick))
    assert found.pruned == ()
    assert found.frozen is not None
    assert "CORRUPT" in found.frozen
    # A structural proof says nothing of what the other members hold: nothing vouches for these.
    assert [one.verified_at for one in entries] == [None, None]
    assert all("CORRUPT" in (one.manifest.suspect or "") for one in entries)
    assert (again.kept, again.pruned) == (0, ())
    folder = Folder.parse(entries[0].manifest.folder)
    suspect = await get_backup(store, folder)
    assert suspect.manifest.suspect == entries[0].manifest.suspect
    await store.delete(folder.suspect)  # by hand, once it is known which are good
    assert (await get_backup(store, folder)).verified


async def test_what_others_put_there_stays(
    etcd: EtcdCluster, me: Identity, settings: StoreSettings
) -> None:
    async with open_store(settings) as store:
        going, later, broken, staying = mine(me, 0, 1, 2, 3)
        await put(store, going, staying)
        for manifest, text in (
            (later, later.model_dump_json(by_alias=True).replace('ion":1', 'ion":2', 1)),
            (broken, "{"),
        ):
            folder = Folder.parse(manifest.folder)
            await store.put_new(folder.snapshot, b"data")
            await store.put_new(folder.manifest, text.encode())
        run_under_way = mine(me, 4)[0].folder
        foreign = [
            "notes.txt",
            f"{me.cluster}/notes.txt",
            f"{me.cluster}/team.nightly/notes.txt",
            f"{me.cluster}/team.nightly/manifest.json",
            f"{me.cluster}/team.nightly/99999999T999999Z-00000000/manifest.json",
            f"{going.folder}/notes.txt",
            f"{going.folder}/proofs/notes.txt",
            f"{going.folder}/deeper/manifest.json",
            f"{run_under_way}/snapshot.db.zst",
        ]
        for key in foreign:
            await store.put_new(key, b"precious")

        found, entries = await look(settings, connection(etcd))

        assert (found.pruned, found.frozen) == ((going.folder,), None)
        assert folders(entries) == [staying.folder]
        assert len(found.unreadable) == 2
        assert "later version" in found.unreadable[0]
        left = set(await keys(store))
        assert left >= set(foreign)
        assert len(left) == len(foreign) + 2 * 2 + 3


async def test_ten_thousand_objects_of_others_hide_nothing(
    etcd: EtcdCluster, me: Identity, local: LocalSettings, store: Store
) -> None:
    """Some in our own run's folder, some beside it, some that look like backups, or nearly so."""
    ours = mine(me, 0, 1)
    await put(store, *ours)
    before = await keys(store)
    beside = ours[0].folder.rpartition("/")[0]

    def litter() -> None:
        for number in range(10_000):
            folder = (beside, ours[1].folder, "logs/2026", f"{beside}/not-a-run")[number % 4]
            path = local.path / folder / f"{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    await asyncio.to_thread(litter)
    found, entries = await look(local, connection(etcd))
    assert found.pruned == (ours[0].folder,)
    assert folders(entries) == [ours[1].folder]
    assert found.unreadable == ()
    left = await keys(store)
    assert sum(key.endswith(".txt") for key in left) == 10_000
    assert {key for key in left if not key.endswith(".txt")} == {
        key for key in before if not key.startswith(ours[0].folder)
    }


async def test_a_store_that_was_emptied_holds_nothing(
    etcd: EtcdCluster, me: Identity, settings: StoreSettings
) -> None:
    async with open_store(settings) as store:
        await put(store, *mine(me, 0, 1))
        for key in await keys(store):
            await store.delete(key)
    found, entries = await look(settings, connection(etcd))
    assert (found.kept, found.pruned, found.frozen, entries) == (0, (), None, [])


def _delete(store: StoreSettings, folder: str, me: Identity, **changes: Any) -> DeleteRequest:  # noqa: ANN401
    given = {"backup": NIGHTLY, "cluster_ids": (me.cluster_id,)} | changes
    return DeleteRequest(store=store, folder=folder, **given)


async def test_one_backup_is_deleted_if_it_is_the_one_that_is_meant(
    me: Identity, settings: StoreSettings
) -> None:
    async with open_store(settings) as store:
        first, second = await put(store, *mine(me, 0, 1))
        before = await keys(store)
        for wrong in (
            {"cluster_ids": ("abc",)},
            {"cluster_ids": ()},
            {"backup": BackupRef(namespace="team", name="n")},
        ):
            with pytest.raises(Refused, match="is not deleted"):
                await delete(_delete(settings, first, me, **wrong), Heard())
        assert await keys(store) == before

        await delete(_delete(settings, first, me), Heard())
        assert await keys(store) == [key for key in before if key.startswith(second)]
        await delete(_delete(settings, first, me), Heard())  # gone already


async def test_a_deletion_that_was_killed_is_finished_and_left_no_lie(
    me: Identity, settings: StoreSettings
) -> None:
    (manifest,) = mine(me, 0)
    async with open_store(settings) as store:
        (folder,) = await put(store, manifest)
        await store.delete(f"{folder}/manifest.json")
        await delete(_delete(settings, folder, me), Heard())
        assert await keys(store) == []

        await store.put_new(f"{folder}/snapshot.db.zst", b"of a run under way")
        await delete(_delete(settings, folder, me), Heard())
        assert await keys(store) == [f"{folder}/snapshot.db.zst"]


async def test_retention_finishes_what_a_killed_one_began(
    etcd: EtcdCluster, me: Identity, settings: StoreSettings
) -> None:
    ours, other = mine(me, 0, 1, 2), mine(me, 0, cluster="0123abcd")
    async with open_store(settings) as store:
        await put(store, *ours, *other)
        for half in (ours[0], *other):
            await store.delete(Folder.parse(half.folder).manifest)
        under_way = f"{ours[2].folder[:-8]}01234567/snapshot.db.zst"
        await store.put_new(under_way, b"of a run under way")
        found, entries = await look(settings, connection(etcd), prune=False)
        assert any(key.startswith(ours[0].folder) for key in await keys(store))

        found, entries = await look(settings, connection(etcd))
        assert found.pruned == (ours[1].folder,)
        assert folders(entries) == [ours[2].folder]
        left = {key for key in await keys(store) if not key.startswith(ours[2].folder)}
        assert {key for key in left if not key.startswith(other[0].folder)} == {under_way}
        assert any(key.startswith(other[0].folder) for key in left)


async def test_a_manifest_that_cannot_be_read_is_not_deleted(
    me: Identity, local: LocalSettings, store: Store
) -> None:
    (manifest,) = mine(me, 0)
    await store.put_new(Folder.parse(manifest.folder).manifest, b"{}")
    with pytest.raises(IntegrityError):
        await delete(_delete(local, manifest.folder, me), Heard())
    assert len(await keys(store)) == 1


async def test_a_child_process_tells_of_each_backup_and_deletes_one(
    etcd: EtcdCluster, me: Identity, local: LocalSettings, store: Store, tmp_path: Path
) -> None:
    given = mine(me, 0, 1, 2)
    await put(store, *given)

    async def child(request: Request) -> list[Event]:
        line = request.model_dump_json(by_alias=True)
        process = await asyncio.create_subprocess_exec(
            *RUNNER, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line.encode() + b"\n")  # left open: its end would stop the child
        async with asyncio.timeout(90):
            said = (await process.stdout.read()).splitlines()
            assert await process.wait() == 0
        events = [EVENT.validate_json(one) for one in said]
        return [one for one in events if not isinstance(one, Progress)]

    request = CatalogueRequest(
        store=local,
        etcd=connection(etcd),
        backup=NIGHTLY,
        retention=Retention(keep_last=2),
        prune=True,
        cache=tmp_path / "cache",
    )
    *entries, last = await child(request)
    assert [one.event for one in entries] == ["entry", "entry"]
    assert isinstance(last, Catalogued)
    assert (last.pruned, last.kept) == ((given[0].folder,), 2)
    assert (tmp_path / "cache" / "manifests.db").exists()

    assert await child(_delete(local, given[2].folder, me)) == [Settled(aborted=0)]
    (refused,) = await child(_delete(local, given[1].folder, me, cluster_ids=("abc",)))
    assert isinstance(refused, Failure)
    assert (refused.reason, refused.transient) == ("Refused", False)
    assert len(await keys(store)) == 3
