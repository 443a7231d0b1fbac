"""The sidecar of a snapshot: made beside it, exact, proven, made anew, deleted with it."""

import asyncio
import hashlib
import json
import re
import secrets
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import duckdb_extension_httpfs
import pytest

from etcd_steward import app
from etcd_steward.app import look_through, open_store, take_snapshot
from etcd_steward.engine.manifests import Backup, backups
from etcd_steward.engine.prune import delete_backup, find_orphans
from etcd_steward.engine.sidecar import find_index, index_backup, open_registry
from etcd_steward.engine.verify import verify
from etcd_steward.errors import IntegrityError, NotFound
from etcd_steward.models.connection import LocalSettings, S3Settings
from etcd_steward.models.layout import Folder
from etcd_steward.models.manifest import Index, Level, Manifest
from etcd_steward.models.ports import OpenUpload, Store
from etcd_steward.models.registry import Filter, Record, Selection
from etcd_steward.models.run import CatalogueEntry, CatalogueRequest, Result, SpoolSettings
from etcd_steward.registry.selection import Chosen
from tests.support.cli import files, started, steward
from tests.support.runs import Heard, connection, contents, s3_settings, snapshot_request
from tests.testbed import EtcdCluster, SeaweedFS, wait_until
from tests.testbed.bulk import load
from tests.testbed.pages import ROOT

ODD = (
    b"/registry/configmaps/team-0000/\xff\xfe",
    b"/registry/secrets/team-0000/encrypted",
    b"/registry/masterleases/10.0.0.1",
    b"\x00",
)


@dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot in S3 with its sidecar, and what etcd held then."""

    etcd: EtcdCluster
    settings: S3Settings
    result: Result
    keys: list[Record]

    @property
    def manifest(self) -> Manifest:
        return self.result.manifest


@pytest.fixture(scope="module")
async def taken(
    seaweedfs: SeaweedFS, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Taken]:
    directory = tmp_path_factory.mktemp("sidecar")
    bucket = await seaweedfs.create_bucket(f"test-{secrets.token_hex(6)}")
    async with EtcdCluster(directory / "etcd") as etcd:
        await load(etcd, 3_000, namespaces=10, seed=1)
        await load(etcd, 300, namespaces=10, seed=2)  # older revisions stay in the file
        lease = (await etcd.etcdctl("lease", "grant", "3600")).split()[1]
        await etcd.etcdctl("put", "/leased", "x", f"--lease={lease}")
        await etcd.etcdctl("del", "/registry/configmaps/team-0001/configmap-00000008")
        for key in ODD:
            value = b"k8s:enc:aescbc:v1:key1:\x00\x01" if b"encrypted" in key else b"\x00\xff"
            await _put(etcd, key, value)
        settings = s3_settings(seaweedfs, bucket)
        request = snapshot_request(connection(etcd), settings, directory / "spool")
        result = await take_snapshot(request, Heard())
        found = await contents(etcd, result.manifest.revision)
        yield Taken(etcd, settings, result, [Record(*one) for one in found])


async def _put(etcd: EtcdCluster, key: bytes, value: bytes) -> None:
    from etcd_steward.etcd.stubs import PutRequest  # noqa: PLC0415
    from tests.testbed.rpc import connected  # noqa: PLC0415

    async with connected(etcd) as rpc:
        await rpc.kv.Put(PutRequest(key=key, value=value), metadata=rpc.metadata)


@pytest.fixture
async def local(taken: Taken, tmp_path: Path) -> AsyncIterator[tuple[Store, Manifest]]:
    """A snapshot of the same etcd in a directory, with its sidecar."""
    settings = LocalSettings(path=tmp_path / "store")
    request = snapshot_request(connection(taken.etcd), settings, tmp_path / "spool")
    manifest = (await take_snapshot(request, Heard())).manifest
    async with open_store(settings) as store:
        yield store, manifest


async def read(store: Store, manifest: Manifest, chosen: Chosen | None = None) -> list[Record]:
    registry = await open_registry(store, manifest)
    return await asyncio.to_thread(
        lambda: [record for batch in registry.read(chosen) for record in batch]
    )


def same(some: list[Record], others: list[Record]) -> bool:
    """Whether two snapshots of one etcd hold the same; what each announces itself by aside."""
    ours = b"/etcdsteward.io/"
    one, other = (sorted(x for x in part if not x.key.startswith(ours)) for part in (some, others))
    return bool(one) and one == other


def path_of(store: Store, key: str) -> Path:
    return Path(store.url.removeprefix("file://")) / key


async def test_every_value_lease_and_revision_is_exact(taken: Taken) -> None:
    async with open_store(taken.settings) as store:
        assert sorted(await read(store, taken.manifest)) == sorted(taken.keys)
    assert len(taken.keys) == taken.manifest.live_keys
    assert {record.key for record in taken.keys} >= set(ODD)
    assert any(record.lease for record in taken.keys)


async def test_the_index_vouches_for_the_file(taken: Taken, seaweedfs: SeaweedFS) -> None:
    index, folder = taken.result.index, Folder.parse(taken.manifest.folder)
    assert index is not None
    bucket, prefix = taken.settings.bucket, taken.settings.prefix
    stored = await seaweedfs.read(bucket, f"{prefix}/{folder.registry}")
    footer = index.file.footer
    assert footer is not None
    assert hashlib.sha256(stored).hexdigest() == index.file.sha256
    assert hashlib.sha256(stored[-footer.size :]).hexdigest() == footer.sha256
    assert len(stored) == index.file.size
    text = await seaweedfs.read(bucket, f"{prefix}/{folder.index}")
    assert Index.model_validate_json(text) == index
    of = index.raw_sha256, index.revision, index.rows
    assert of == (taken.manifest.raw_sha256, taken.manifest.revision, len(taken.keys))
    async with open_store(taken.settings) as store:
        (found,) = [one async for one in backups(store)]
    assert isinstance(found, Backup)
    assert found.indexed


async def test_the_index_tells_what_each_resource_takes(taken: Taken) -> None:
    index = taken.result.index
    assert index is not None
    told = index.file.resource_bytes
    assert told is not None

    def bytes_below(prefix: bytes) -> int:
        of = (one for one in taken.keys if one.key.startswith(prefix))
        return sum(len(one.key) + len(one.value) for one in of)

    assert sum(told.values()) == bytes_below(b"")
    assert told["secrets"] == bytes_below(b"/registry/secrets/")
    assert told["configmaps"] == bytes_below(b"/registry/configmaps/")
    assert told["roles.rbac.authorization.k8s.io"] == bytes_below(b"/registry/roles/")
    assert told["(lease of an API server)"] == bytes_below(b"/registry/masterleases/")
    outside = bytes_below(b"") - bytes_below(b"/registry/")
    assert told["(outside of the registry)"] == outside > 0


async def test_one_namespace_is_the_part_of_it(taken: Taken) -> None:
    chosen = Chosen(Selection(include=Filter(namespaces=("team-0003",))))
    async with open_store(taken.settings) as store:
        found = await read(store, taken.manifest, chosen)
        registry = await open_registry(store, taken.manifest)
        namespaces = await asyncio.to_thread(registry.namespaces)
    assert sorted(found) == sorted(one for one in taken.keys if b"/team-0003/" in one.key)
    assert len(found) >= 300
    assert namespaces == [f"team-{number:04}" for number in range(10)]


async def test_duckdb_answers_the_query_of_the_documentation(
    taken: Taken, seaweedfs: SeaweedFS
) -> None:
    page = await asyncio.to_thread((ROOT / "docs" / "registry-file.md").read_text)
    block = re.search(r"```sql\n(.*?)```", page, re.DOTALL)
    assert block is not None
    query = block[1][block[1].index("SELECT") :]
    url = f"{taken.result.url}/registry.parquet"
    query, count = re.subn(r"'s3://[^']+/registry\.parquet'", f"'{url}'", query)
    assert count == 1
    base = Path(duckdb_extension_httpfs.__file__).parent
    extension = next(base.rglob("httpfs.duckdb_extension"))

    def ask() -> list[tuple[str | None, int, int]]:
        with duckdb.connect() as database:
            database.execute(f"LOAD '{extension}'")
            database.execute(
                f"CREATE SECRET (TYPE s3, KEY_ID '{seaweedfs.access_key}', "
                f"SECRET '{seaweedfs.secret_key}', ENDPOINT '127.0.0.1:{seaweedfs.port}', "
                f"REGION '{seaweedfs.region}', URL_STYLE 'path', USE_SSL false)"
            )
            return database.execute(query).fetchall()

    rows = await asyncio.to_thread(ask)
    assert sum(row[1] for row in rows) == len(taken.keys)
    assert sum(row[2] for row in rows) == sum(len(one.value) for one in taken.keys)
    secret = next(row for row in rows if row[0] == "secrets")
    assert secret[1] == sum(one.key.startswith(b"/registry/secrets/") for one in taken.keys)
    assert [row[2] for row in rows] == sorted((row[2] for row in rows), reverse=True)


async def test_an_older_snapshot_is_indexed_later(
    local: tuple[Store, Manifest], taken: Taken, tmp_path: Path
) -> None:
    store, manifest = local
    folder, url = Folder.parse(manifest.folder), f"{store.url}/{manifest.folder}"
    before = await find_index(store, manifest)
    assert before is not None
    for key in (folder.index, folder.registry):
        await store.delete(key)
    with pytest.raises(NotFound, match=r"no registry\.parquet") as caught:
        await open_registry(store, manifest)
    assert f"snapshot index {url}" in caught.value.hint

    spool = f"--spool-dir={tmp_path / 'spool'}"
    made = await steward("snapshot", "index", url, spool, "--no-progress")
    assert (made.code, made.err) == (0, "")
    assert made.out.startswith(f"{url}/registry.parquet (")
    after = await find_index(store, manifest)
    assert after is not None
    assert after.file == before.file  # the same snapshot gives the same file
    assert same(await read(store, manifest), taken.keys)

    again = await steward("snapshot", "index", url, spool, "-ojson")
    assert again.json()["new"] is False
    assert Index.model_validate(again.json()["index"]) == after
    shown = await steward("snapshot", "show", url, "-ojson")
    assert shown.json()["indexed"] is True


async def test_a_damaged_sidecar_takes_nothing_from_the_backup(
    local: tuple[Store, Manifest], taken: Taken, tmp_path: Path
) -> None:
    store, manifest = local
    spool = SpoolSettings(directory=tmp_path / "spool")
    path = path_of(store, Folder.parse(manifest.folder).registry)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="not what was written") as caught:
        await verify(store, manifest, Level.STRUCTURE, spool, Heard())
    assert "snapshot index --force" in caught.value.hint
    with pytest.raises(IntegrityError):
        await read(store, manifest)
    (found,) = [one async for one in backups(store)]
    assert isinstance(found, Backup)
    assert found.verified
    assert len(found.proofs) == 2

    _, new = await index_backup(store, manifest, spool, Heard(), force=True)
    assert new
    assert same(await read(store, manifest), taken.keys)
    await verify(store, manifest, Level.DIGEST, spool, Heard())

    path.unlink()
    with pytest.raises(IntegrityError, match="missing"):
        await verify(store, manifest, Level.DIGEST, spool, Heard())
    heard = Heard()
    _, new = await index_backup(store, manifest, spool, heard)
    assert new
    assert len(heard.warnings) == 1


@pytest.mark.parametrize(
    "change", ["digest", "footer", "rows", "revision", "file", "text", "later"]
)
async def test_an_index_that_disagrees_is_never_believed(
    local: tuple[Store, Manifest], tmp_path: Path, change: str
) -> None:
    store, manifest = local
    path = path_of(store, Folder.parse(manifest.folder).index)
    index = json.loads(path.read_text())
    other = "0" * 64
    match change:
        case "digest":
            index["rawSha256"] = other
        case "footer":
            index["file"]["footer"]["sha256"] = other
        case "rows" | "revision":
            index[change] += 1
        case "file":
            index["file"]["size"] -= 1
        case "later":
            index["formatVersion"] = 2
        case _:
            index = {}
    path.write_text(json.dumps(index))
    expected = "later version" if change == "later" else "."
    with pytest.raises(Exception, match=expected) as caught:
        await open_registry(store, manifest)
    reason = "Unsupported" if change == "later" else "IntegrityError"
    assert type(caught.value).__name__ == reason
    if change != "later":
        spool = SpoolSettings(directory=tmp_path / "spool")
        _, new = await index_backup(store, manifest, spool, Heard())
        assert new
        await open_registry(store, manifest)


async def test_a_run_stays_complete_if_indexing_fails(taken: Taken, tmp_path: Path) -> None:
    settings = LocalSettings(path=tmp_path / "store")
    request = snapshot_request(connection(taken.etcd), settings, tmp_path / "spool")
    folder = Folder(taken.manifest.cluster, "_cli", "manual", request.tick, request.run)
    (tmp_path / "store" / folder.registry).mkdir(parents=True)
    result = await take_snapshot(request, Heard())
    assert result.manifest.folder == str(folder)
    assert result.index is None
    assert result.index_failure is not None
    assert "registry.parquet" in result.index_failure.message
    assert not list((tmp_path / "spool").glob("*/"))
    async with open_store(settings) as store:
        (found,) = [one async for one in backups(store)]
        assert isinstance(found, Backup)
        assert found.verified
        assert not found.indexed
        assert not [upload async for upload in store.uploads("")]


async def test_a_run_that_is_killed_over_its_sidecar_has_a_backup(
    taken: Taken, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    flags = [f"--store=file://{root}", f"--spool-dir={tmp_path / 'spool'}"]

    async def recorded() -> bool:
        return any(root.glob("*/*/*/proofs/*.json"))

    async with started("snapshot", "save", *taken.etcd.connection_flags(), *flags) as running:
        await wait_until(
            recorded, "the manifest and its proof to be written", timeout=60, interval=0.005
        )
        running.send(signal.SIGKILL)
        await running.end()
    assert not list(root.glob("*/*/*/index.json"))

    made = await steward("snapshot", "index", *flags)
    assert made.code == 0
    assert len(list(root.glob("*/*/*/index.json"))) == 1
    assert files(tmp_path / "spool") == []
    assert not list((root / ".partial").glob("*"))


async def test_a_look_indexes_the_newest_one(
    local: tuple[Store, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, manifest = local
    await store.delete(Folder.parse(manifest.folder).index)
    request = CatalogueRequest(
        store=LocalSettings(path=tmp_path / "store"),
        backup=manifest.backup,
        cluster=manifest.cluster,
        cluster_id=manifest.cluster_id,
        spool=SpoolSettings(directory=tmp_path / "spool"),
    )
    found: list[CatalogueEntry] = []
    await look_through(request, Heard(), found.append)
    assert [entry.indexed for entry in found] == [False]  # its own run may be at it

    monkeypatch.setattr(app, "_INDEX_AFTER", timedelta(0))
    found.clear()
    await look_through(request, Heard(), found.append)
    assert [entry.indexed for entry in found] == [True]
    index = await find_index(store, manifest)
    assert index is not None
    assert found[0].resource_bytes == index.file.resource_bytes


async def test_a_backup_is_deleted_with_its_sidecar(local: tuple[Store, Manifest]) -> None:
    store, manifest = local
    folder = Folder.parse(manifest.folder)
    assert len([info async for info in store.list(f"{folder}/")]) == 5
    assert await delete_backup(store, folder, lambda _: None)
    assert not [info async for info in store.list(f"{folder}/")]


async def test_what_a_dead_indexer_left_is_found(taken: Taken, seaweedfs: SeaweedFS) -> None:
    folder = Folder.parse(taken.manifest.folder)
    bucket, key = taken.settings.bucket, f"{taken.settings.prefix}/{folder.registry}"
    client = seaweedfs.client()
    await asyncio.to_thread(client.create_multipart_upload, Bucket=bucket, Key=key)
    later = datetime.now(UTC) + timedelta(hours=1)
    async with open_store(taken.settings) as store:
        orphans = await find_orphans(store, later, lambda _: True)
        assert [upload.key for upload in orphans.uploads] == [folder.registry]
        assert not orphans.runs
        (upload,) = orphans.uploads
        await store.abort(OpenUpload(upload.key, upload.upload_id))
