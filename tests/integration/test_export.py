"""Registry exports: what lies in the store is what etcd held at one revision, to the last bit."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from etcd_steward.app import open_store, take_snapshot
from etcd_steward.engine.manifests import Backup, backups
from etcd_steward.engine.sidecar import open_registry
from etcd_steward.engine.verify import verify
from etcd_steward.errors import Compacted, IntegrityError, InvalidInput, NotFound
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.models.connection import EtcdConnection, LocalSettings, StoreSettings
from etcd_steward.models.manifest import BackupRef, Level, Manifest, RunRef
from etcd_steward.models.registry import Filter, Record, Selection
from etcd_steward.models.run import ExportRequest, SpoolSettings
from etcd_steward.registry.parquet import RegistryFile
from etcd_steward.store.local_files import LocalReadAt
from tests.support.cli import files, steward
from tests.support.runs import Heard, connection, contents, s3_settings
from tests.testbed import EtcdCluster, FaultProxy, SeaweedFS, binary, wait_until
from tests.testbed.bulk import churn, load

OWN = b"/etcdsteward.io/"
NO_TEXT = b"/registry/pods/team-0001/\xc3("
LARGE = 1_500_000
"""Bytes: with its envelope, about what etcd takes at most."""


def request(
    etcd: EtcdConnection, store: StoreSettings, spool: Path, **changes: object
) -> ExportRequest:
    """A request as the command line makes it."""
    fields: dict[str, Any] = {
        "etcd": etcd,
        "store": store,
        "spool": SpoolSettings(directory=spool),
        "backup": BackupRef(namespace="_cli", name="manual"),
        "requester": RunRef(),
        "run": secrets.token_hex(4),
        "tick": datetime.now(UTC),
        "timeout": 120.0,
    }
    return ExportRequest(**(fields | changes))


async def rows(settings: StoreSettings, manifest: Manifest) -> list[Record]:
    """All rows of a stored export, in the order of the file."""
    async with open_store(settings) as store:
        registry = await open_registry(store, manifest)
        return await asyncio.to_thread(lambda: [row for part in registry.read() for row in part])


@pytest.fixture(scope="module")
async def odd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EtcdCluster]:
    """An etcd with all that may be in one: large values, leases, keys that are no text."""
    async with EtcdCluster(tmp_path_factory.mktemp("odd")) as cluster:
        await load(cluster, 3_000, value_size=400, namespaces=5, seed=4)
        async with EtcdClient.connect(connection(cluster)) as client:
            lease = await client.grant_lease(600)
            await client.put(b"/registry/events/team-0001/leased", b"x", lease=lease)
            for name in (b"one", b"two", b"three"):
                await client.put(b"/registry/secrets/team-0002/" + name, secrets.token_bytes(LARGE))
            for key in (b"\xff\xfe", NO_TEXT, b"/registry/pods/team-0001/a\n", b"compact_rev_key"):
                await client.put(key, b"odd")
            await client.put(b"/registry/namespaces/empty", b"{}")
            await client.put(OWN + b"lock/x", b"ours")
        yield cluster


@pytest.mark.parametrize("version", ["3.5", "3.7"])
async def test_three_members_under_load_are_exported_as_of_one_revision(
    version: str, seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    settings = s3_settings(seaweedfs, bucket)
    async with EtcdCluster(tmp_path / "etcd", members=3, mtls=True, version=version) as etcd:
        await load(etcd, 5_000, value_size=1000, namespaces=10, seed=1)
        async with churn(etcd) as background:
            await background.reached(200)
            heard = Heard()
            result = await take_snapshot(
                request(connection(etcd), settings, tmp_path / "spool"), heard
            )
        manifest = result.manifest
        expected = await contents(etcd, manifest.revision)
        leader = await etcd.leader()
    found = await rows(settings, manifest)
    assert sorted(tuple(row) for row in found) == [key for key in expected if OWN not in key[0]]

    assert manifest.type == "RegistryExport"
    assert manifest.revision == manifest.compact_revision == manifest.read_revision
    assert manifest.live_keys == manifest.records == len(found)
    assert manifest.member_id != f"{leader.id:x}"
    assert manifest.etcd_version.startswith(version)
    (file,) = manifest.files
    assert (file.name, file.role) == ("registry.parquet", "registry")
    assert (file.size, file.sha256) == (manifest.raw_size, manifest.raw_sha256)
    proof = manifest.proof
    assert proof is not None
    assert (proof.level, proof.read_back, proof.structure) == (Level.STRUCTURE, "whole", None)
    assert proof.registry is not None
    assert proof.registry.rows == len(found)
    assert proof.registry.namespaces == 10
    assert proof.registry.value_bytes == sum(len(row.value) for row in found)
    assert file.resource_bytes is not None
    assert sum(file.resource_bytes.values()) == sum(len(row.key) + len(row.value) for row in found)
    objects = await seaweedfs.objects(bucket)
    assert {key.removeprefix(f"prod/{manifest.folder}/").partition("/")[0] for key in objects} == {
        "registry.parquet", "manifest.json", "proofs",
    }  # fmt: skip
    assert heard.steps[-1].raw_bytes == proof.registry.value_bytes
    assert not heard.warnings
    assert not list((tmp_path / "spool").glob("*/"))


async def test_keys_that_are_no_text_large_values_and_leases_are_exact(
    odd: EtcdCluster, tmp_path: Path
) -> None:
    store = LocalSettings(path=tmp_path / "store")
    manifest = (
        await take_snapshot(request(connection(odd), store, tmp_path / "spool"), Heard())
    ).manifest
    found = await rows(store, manifest)
    expected = [key for key in await contents(odd, manifest.revision) if OWN not in key[0]]
    assert sorted(tuple(row) for row in found) == expected
    assert {row.key for row in found} >= {b"\xff\xfe", b"compact_rev_key"}
    assert max(len(row.value) for row in found) == LARGE
    assert [row.key for row in found if row.lease] == [b"/registry/events/team-0001/leased"]

    # Read back by anybody who knows nothing of where it came from.
    async with open_store(store) as opened:
        spool = SpoolSettings(directory=tmp_path / "spool")
        proof = await verify(opened, manifest, Level.STRUCTURE, spool, Heard())
        assert proof.registry == (manifest.proof.registry if manifest.proof else None)
        (kept,) = [one async for one in backups(opened)]
        assert isinstance(kept, Backup)
        assert kept.verified


@pytest.mark.parametrize(
    ("selection", "wanted"),
    [
        pytest.param(
            Selection(include=Filter(namespaces=("team-0001", "team-0003"))),
            lambda key: b"/team-0001/" in key or b"/team-0003/" in key,
            id="namespaces",
        ),
        pytest.param(
            Selection(include=Filter(namespaces=("*2",), resources=("secrets", "endpoints"))),
            lambda key: key.startswith(
                (b"/registry/secrets/team-0002/", b"/registry/services/endpoints/team-0002/")
            ),
            id="resources by glob",
        ),
        pytest.param(
            Selection(exclude=Filter(resources=("secrets", "events"), namespaces=("team-*",))),
            lambda key: (
                not key.startswith((b"/registry/secrets/team-", b"/registry/events/team-", OWN))
            ),
            id="all but",
        ),
        pytest.param(
            Selection(include=Filter(key_prefixes=("compact", "/etcdsteward", "/registry/leases"))),
            lambda key: key.startswith((b"compact", b"/registry/leases")),
            id="prefixes",
        ),
        pytest.param(
            Selection(
                include=Filter(
                    namespaces=("team-0004",), label_selector="app.kubernetes.io/name=bulk"
                )
            ),
            lambda key: b"/team-0004/" in key,
            id="labels",
        ),
    ],
)
async def test_only_what_is_chosen(
    selection: Selection,
    wanted: Callable[[bytes], bool],
    odd: EtcdCluster,
    tmp_path: Path,
) -> None:
    store = LocalSettings(path=tmp_path / "store")
    asked = request(connection(odd), store, tmp_path / "spool", selection=selection)
    manifest = (await take_snapshot(asked, Heard())).manifest
    # A key that is no text is no API object's, whatever it looks like.
    expected = [
        key
        for key in await contents(odd, manifest.revision)
        if wanted(key[0]) and (key[0] != NO_TEXT or selection.include is None)
    ]
    assert sorted(tuple(row) for row in await rows(store, manifest)) == expected
    assert manifest.selection == selection


async def _exported_nothing(
    etcd: EtcdCluster, tmp_path: Path, error: type[Exception], words: str, **changes: object
) -> str:
    store = LocalSettings(path=tmp_path / "store")
    with pytest.raises(error, match=words) as caught:
        await take_snapshot(
            request(connection(etcd), store, tmp_path / "spool", **changes), Heard()
        )
    assert files(tmp_path / "store") == files(tmp_path / "spool") == []
    return str(caught.value)


async def test_a_namespace_that_is_not_there_is_named_with_those_that_are(
    odd: EtcdCluster, tmp_path: Path
) -> None:
    selection = Selection(include=Filter(namespaces=("shop", "team-0001")))
    said = await _exported_nothing(
        odd, tmp_path, NotFound, "no namespace shop", selection=selection
    )
    assert "there are empty" in said


async def test_a_namespace_without_objects_leaves_nothing_to_export(
    odd: EtcdCluster, tmp_path: Path
) -> None:
    selection = Selection(include=Filter(namespaces=("empty",)))
    await _exported_nothing(odd, tmp_path, NotFound, "nothing that was", selection=selection)


async def test_a_selector_that_cannot_be_meant(odd: EtcdCluster, tmp_path: Path) -> None:
    selection = Selection(include=Filter(label_selector="a in b"))
    await _exported_nothing(odd, tmp_path, InvalidInput, "label selector", selection=selection)


async def test_an_etcd_without_a_registry(tmp_path: Path) -> None:
    async with EtcdCluster(tmp_path / "etcd") as etcd:
        said = await _exported_nothing(etcd, tmp_path, NotFound, "nothing that was asked for")
        assert "--registry-prefix" in said
        await load(etcd, 100, root="/kubernetes.io")
        store, heard = LocalSettings(path=tmp_path / "store"), Heard()
        asked = request(connection(etcd), store, tmp_path / "spool")
        manifest = (await take_snapshot(asked, heard)).manifest
        assert manifest.live_keys == 100
        assert any("--etcd-prefix" in warning for warning in heard.warnings)
        assert manifest.warnings == tuple(heard.warnings)
        heard = Heard()
        asked = request(
            connection(etcd), store, tmp_path / "spool", registry_prefix="/kubernetes.io"
        )
        manifest = (await take_snapshot(asked, heard)).manifest
        assert not heard.warnings
        assert manifest.registry_prefix == "/kubernetes.io"
        assert manifest.proof is not None
        assert manifest.proof.registry is not None
        assert manifest.proof.registry.namespaces == 13


async def test_older_and_impossible_revisions(tmp_path: Path) -> None:
    async with EtcdCluster(tmp_path / "etcd") as etcd:
        await etcd.etcdctl("put", "/registry/a", "old")
        then = await etcd.revision()
        await etcd.etcdctl("put", "/registry/a", "new")
        store = LocalSettings(path=tmp_path / "store")
        asked = request(connection(etcd), store, tmp_path / "spool", revision=then)
        manifest = (await take_snapshot(asked, Heard())).manifest
        assert [row.value for row in await rows(store, manifest)] == [b"old"]
        await etcd.etcdctl("compact", str(then + 1))
        for revision, error, words in (
            (then, Compacted, f"compacted revision {then}"),
            (10**9, InvalidInput, "in the future: etcd is at"),
        ):
            asked = request(connection(etcd), store, tmp_path / "spool", revision=revision)
            with pytest.raises(error, match=words):
                await take_snapshot(asked, Heard())


async def _compact(etcd: EtcdCluster) -> None:
    """Forget every revision but a new one."""
    async with EtcdClient.connect(connection(etcd)) as client:
        put = await client.put(b"/registry/events/x", b"y")
        await client.compact(put.header.revision)


async def test_a_revision_compacted_meanwhile_is_left_for_a_newer_one(
    seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    settings = s3_settings(seaweedfs, bucket)
    async with (
        EtcdCluster(tmp_path / "etcd") as etcd,
        FaultProxy(etcd.members[0].client_port) as proxy,
    ):
        await load(etcd, 6_000, value_size=1000, namespaces=3, seed=5)
        through = connection(etcd, endpoints=(proxy.address(),))
        proxy.to_client.bytes_per_second = 2e6
        heard = Heard()

        async def reading() -> bool:
            return any(0 < step.raw_bytes < 4_000_000 for step in heard.steps)

        async def outrun() -> None:
            await wait_until(reading, "the first pages", timeout=60)
            await _compact(etcd)
            proxy.to_client.bytes_per_second = None

        async with asyncio.TaskGroup() as group:
            group.create_task(outrun())
            made = group.create_task(
                take_snapshot(request(through, settings, tmp_path / "spool"), heard)
            )
        manifest = made.result().manifest
        assert [warning for warning in heard.warnings if "begun again" in warning]
        assert manifest.warnings == tuple(heard.warnings)
        expected = [one for one in await contents(etcd, manifest.revision) if OWN not in one[0]]
    assert sorted(tuple(row) for row in await rows(settings, manifest)) == expected


async def test_an_etcd_that_compacts_faster_than_it_can_be_read(
    seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    async with (
        EtcdCluster(tmp_path / "etcd") as etcd,
        FaultProxy(etcd.members[0].client_port) as proxy,
    ):
        await load(etcd, 6_000, value_size=1000, namespaces=3, seed=5)
        through = connection(etcd, endpoints=(proxy.address(),))
        proxy.to_client.bytes_per_second = 2e6

        async def outrun() -> None:
            while True:
                await _compact(etcd)

        compacting = asyncio.create_task(outrun())
        with pytest.raises(Compacted, match="each of 3 revisions") as caught:
            await take_snapshot(
                request(through, s3_settings(seaweedfs, bucket), tmp_path / "spool"), Heard()
            )
        compacting.cancel()
        await asyncio.wait({compacting})
    assert caught.value.side == "etcd"
    assert not await seaweedfs.objects(bucket)
    assert files(tmp_path / "spool") == []


async def test_a_member_that_goes_is_replaced_by_the_others(
    seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    settings = s3_settings(seaweedfs, bucket)
    async with EtcdCluster(tmp_path / "etcd", members=3) as etcd:
        await load(etcd, 6_000, value_size=1000, namespaces=3, seed=6)
        leader = await etcd.leader()
        follower = next(one for one in etcd.members if one.id != leader.id)
        async with FaultProxy(follower.client_port) as proxy:
            through = connection(etcd, endpoints=(proxy.address(), leader.endpoint))
            proxy.to_client.bytes_per_second = 2e6
            heard = Heard()

            async def reading() -> bool:
                return any(step.raw_bytes > 0 for step in heard.steps)

            async def lose() -> None:
                await wait_until(reading, "the first pages", timeout=60)
                await proxy.refuse()
                await proxy.reset()

            async with asyncio.TaskGroup() as group:
                group.create_task(lose())
                made = group.create_task(
                    take_snapshot(request(through, settings, tmp_path / "spool"), heard)
                )
        manifest = made.result().manifest
        expected = [one for one in await contents(etcd, manifest.revision) if OWN not in one[0]]
    assert sorted(tuple(row) for row in await rows(settings, manifest)) == expected


async def test_a_flipped_bit_is_found(odd: EtcdCluster, tmp_path: Path) -> None:
    store = LocalSettings(path=tmp_path / "store")
    asked = request(connection(odd), store, tmp_path / "spool")
    manifest = (await take_snapshot(asked, Heard())).manifest
    path = tmp_path / "store" / manifest.folder / "registry.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)
    async with open_store(store) as opened:
        for level in (Level.DIGEST, Level.STRUCTURE):
            with pytest.raises(IntegrityError, match="stored bytes differ"):
                await verify(
                    opened, manifest, level, SpoolSettings(directory=tmp_path / "spool"), Heard()
                )
    registry = RegistryFile(LocalReadAt(path), stored=manifest.snapshot)
    with pytest.raises(IntegrityError):
        _ = list(registry.read())


async def test_the_command_line_exports_lists_shows_verifies_and_deletes(
    odd: EtcdCluster, tmp_path: Path
) -> None:
    store = f"--store=file://{tmp_path / 'store'}"
    spool = f"--spool-dir={tmp_path / 'spool'}"
    made = await steward(
        *odd.connection_flags(), "registry", "export", store, spool, "--name=weekly",
        "-n", "team-0001", "-n", "team-0002", "--exclude-resource", "secrets",
    )  # fmt: skip
    assert made.code == 0, made.err
    url = made.out.strip()
    taken = await steward(*odd.connection_flags(), "snapshot", "save", store, spool)
    assert taken.code == 0, taken.err

    listed = await steward("snapshot", "list", store)
    kinds = {line.split()[4]: line.split()[5] for line in listed.out.splitlines()[1:3]}
    assert set(kinds.values()) == {"Snapshot", "RegistryExport"}
    shown = await steward("snapshot", "show", url)
    assert "RegistryExport" in shown.out
    assert '"namespaces": ["team-0001", "team-0002"]' in shown.out
    assert "keys in 2 namespaces read" in shown.out
    verified = await steward("snapshot", "verify", url, spool)
    assert verified.code == 0, verified.err
    assert "keys in 2 namespaces read" in verified.out

    target = tmp_path / "registry.parquet"
    fetched = await steward("snapshot", "fetch", url, target)
    assert fetched.code == 0, fetched.err
    read = RegistryFile(LocalReadAt(target))
    assert read.namespaces() == ["team-0001", "team-0002"]

    refused = await steward(
        "restore", "cluster", url, "--name=a", f"--data-dir={tmp_path / 'data'}",
        "--initial-cluster=a=http://127.0.0.1:1", "--etcdutl", await binary("etcdutl"),
    )  # fmt: skip
    assert refused.code == 3
    assert "is a registry export" in refused.err
    assert "type Snapshot" in refused.err

    deleted = await steward("snapshot", "delete", "--yes", "--force", url)
    assert deleted.code == 0, deleted.err
    assert not [one for one in files(tmp_path / "store") if "weekly" in one]
