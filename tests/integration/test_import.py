"""`snapshot import` of what real etcds leave: into stores, and out again to `etcdutl`."""

import asyncio
import gzip
import hashlib
import os
import secrets
import zipfile
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from etcd_steward.models.manifest import Manifest
from tests.integration.imports import AT, IDENTITY, TICK, UID, Place, Taken, aged, take
from tests.support.cli import PROGRAM, files, s3_flags, started, steward
from tests.support.zstd import zstd
from tests.testbed import EtcdCluster, SeaweedFS
from tests.testbed.process import clean_environment, run


@pytest.fixture(scope="module", params=["3.5", "3.6", "3.7"])
async def each(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Taken]:
    """Of each version of etcd."""
    directory = tmp_path_factory.mktemp("taken")
    async with EtcdCluster(directory / "etcd", version=request.param) as etcd:
        yield await take(etcd, directory / "etcd.db")


@pytest.fixture(scope="module")
async def taken(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Taken]:
    """Of the version that most run."""
    directory = tmp_path_factory.mktemp("taken")
    async with EtcdCluster(directory / "etcd") as etcd:
        yield await take(etcd, directory / "etcd.db")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def test_a_snapshot_of_etcdctl_becomes_a_backup_and_restores(
    each: Taken, place: Place, tmp_path: Path
) -> None:
    said = await place.take_in(each.path)
    assert (said.code, said.err) == (0, "")
    url = said.out.strip()
    assert f"/{UID[:8]}/_cli.imported/" in url

    shown = (await steward("snapshot", "show", url, "-ojson")).json()
    manifest = Manifest.model_validate(shown["manifest"])
    assert manifest.revision == each.revision
    assert manifest.raw_sha256 == hashlib.sha256(each.data).hexdigest()
    assert manifest.kube_system_uid == UID
    assert (manifest.cluster_id, manifest.member_id, manifest.read_revision) == ("0", "0", 0)
    assert manifest.etcd_version == f"{each.etcd.version}.0"
    assert manifest.warnings == ()
    assert manifest.tick.timestamp() == int(each.path.stat().st_mtime)
    assert manifest.origin is not None
    assert manifest.origin.model_dump(exclude={"modified"}) == {
        "tool": "unknown",
        "name": "etcd.db",
        "size": len(each.data),
        "sha256": manifest.raw_sha256,
        "wrappings": (),
        "member": None,
        "had_digest": True,
        "time_from": "file",
    }
    assert [proof["level"] for proof in shown["proofs"]] == ["Structure"]

    listed = await steward("snapshot", "list", place.flags[0])
    assert url in listed.out
    verified = await steward("snapshot", "verify", url, place.flags[1])
    assert (verified.code, "Structure" in verified.out) == (0, True)
    target = tmp_path / "fetched.db"
    assert (await steward("snapshot", "fetch", url, target)).code == 0
    assert target.read_bytes() == each.data
    data_dir = tmp_path / "restored"
    await each.etcd.etcdutl("snapshot", "restore", target, "--data-dir", data_dir)
    assert (data_dir / "member/snap/db").exists()
    assert files(place.spool) == []


def zipped(data: bytes, path: Path) -> bytes:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"nightly-node1-{AT}", data)
    return path.read_bytes()


WRAPPED: list[tuple[str, Callable[[bytes, Path], bytes], str, tuple[str, ...]]] = [
    (f"Full-00000000-00000002-{AT}", lambda data, _: data, "etcdbrctl", ()),
    (f"Full-00000000-00000002-{AT}.gz", lambda d, _: gzip.compress(d), "etcdbrctl", ("gzip",)),
    (f"Full-00000000-00000002-{AT}.zlib", lambda d, _: zlib.compress(d), "etcdbrctl", ("zlib",)),
    (f"on-demand-server-0-{AT}", lambda data, _: data, "k3s or RKE2", ()),
    (f"nightly-node1-{AT}.zip", zipped, "k3s or RKE2", ("zip",)),
    ("renamed", zipped, "k3s or RKE2", ("zip",)),
    ("snapshot_2023-11-14_221320.db", lambda data, _: data, "OpenShift", ()),
    ("snapshot_2023-11-14_221320.db.zst", lambda d, _: zstd.compress(d), "OpenShift", ("zstd",)),
    ("talos.age", lambda d, _: aged(zstd.compress(d)), "unknown", ("age", "zstd")),
    ("k3s.age", lambda d, path: aged(zipped(d, path)), "k3s or RKE2", ("age", "zip")),
]


@pytest.mark.parametrize(("name", "wrap", "tool", "wrappings"), WRAPPED)
async def test_whatever_it_is_wrapped_in_comes_off(
    taken: Taken,
    place: Place,
    tmp_path: Path,
    name: str,
    wrap: Callable[[bytes, Path], bytes],
    tool: str,
    wrappings: tuple[str, ...],
) -> None:
    path, given = tmp_path / name, wrap(taken.data, tmp_path / "scratch")
    path.write_bytes(given)
    manifest = await place.adopt(path, identities=(IDENTITY,))
    assert manifest.raw_sha256 == hashlib.sha256(taken.data).hexdigest()
    assert manifest.revision == taken.revision
    assert manifest.origin is not None
    assert (manifest.origin.tool, manifest.origin.wrappings) == (tool, wrappings)
    assert manifest.origin.sha256 == hashlib.sha256(given).hexdigest()
    assert manifest.warnings == ()
    if tool != "unknown":
        assert f"/{TICK}-" in manifest.folder
        assert manifest.origin.time_from == "name"


async def test_a_name_that_promises_more_than_the_file_holds_is_said(
    taken: Taken, place: Place, tmp_path: Path
) -> None:
    path = tmp_path / f"Full-00000000-00900000-{AT}"
    path.write_bytes(taken.data)
    (warning,) = (await place.manifest(path)).warnings
    assert "promises revision 900000" in warning


async def test_a_copy_of_a_data_directory_gets_a_digest(place: Place, tmp_path: Path) -> None:
    async with EtcdCluster(tmp_path / "etcd") as etcd:
        await take(etcd, tmp_path / "etcd.db")
        database = tmp_path / "etcd/etcd0.etcd/member/snap/db"
        running = await place.take_in(database)
        assert running.code == 3
        assert "an etcd that is running" in running.err
        assert place.left() == []

        await etcd.members[0].stop()
        manifest = await place.manifest(database)
        assert manifest.origin is not None
        assert not manifest.origin.had_digest
        assert manifest.origin.size == database.stat().st_size == manifest.raw_size - 32
        assert "carries no digest" in manifest.warnings[0]
        assert manifest.kube_system_uid == UID

        target = tmp_path / "fetched.db"
        assert (await steward("snapshot", "fetch", f"file://{place.store}", target)).code == 0
        assert target.read_bytes()[:-32] == database.read_bytes()
        await etcd.etcdutl("snapshot", "restore", target, "--data-dir", tmp_path / "restored")


async def test_the_same_snapshot_is_stored_once(taken: Taken, place: Place, tmp_path: Path) -> None:
    first = await place.take_in(taken.path)
    before = files(place.store)
    again = await place.take_in(taken.path)
    assert (again.code, again.out) == (0, first.out)
    assert "nothing was stored" in again.err
    copies = {"other.gz": gzip.compress(taken.data), "without-digest.db": taken.data[:-32]}
    for name, data in copies.items():
        (tmp_path / name).write_bytes(data)
        said = await place.take_in(tmp_path / name, "-ojson")
        assert said.code == 0
        assert said.json()["folder"] in first.out
    assert files(place.store) == before

    other = await place.take_in(taken.path, "--name=other")
    assert "_cli.other" in other.out
    assert len(files(place.store)) == 2 * len(before)


async def test_it_comes_from_a_bucket_and_goes_to_another(
    taken: Taken, seaweedfs: SeaweedFS, bucket: str, place: Place
) -> None:
    source = await seaweedfs.create_bucket(f"old-{secrets.token_hex(6)}")
    key = f"main/v2/Full-00000000-00000002-{AT}.gz"
    await seaweedfs.write(source, key, gzip.compress(taken.data))
    flags, env = s3_flags(seaweedfs, bucket), seaweedfs.environment()
    words = ("snapshot", "import", "--no-progress", *flags, place.flags[1])
    said = await steward(*words, f"s3://{source}/{key}", env=env)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"s3://{bucket}/prod/{UID[:8]}/_cli.imported/{TICK}-")
    assert len(await seaweedfs.objects(bucket)) == 5

    missing = await steward(*words, f"s3://{source}/main/nothing", env=env)
    assert missing.code == 1
    assert f"there is no object s3://{source}/main/nothing" in missing.err
    await seaweedfs.delete_bucket(source)


async def test_it_comes_through_a_pipe(taken: Taken, place: Place, tmp_path: Path) -> None:
    done = await run(
        *PROGRAM,
        *("snapshot", "import", "-", *place.flags, "--no-progress", "-ojson"),
        "--taken-at=2025-03-04T05:06:07+01:00",
        env=clean_environment(),
        stdin=gzip.compress(taken.data),
    )
    manifest = Manifest.model_validate_json(done.stdout)
    assert manifest.origin is not None
    assert (manifest.origin.name, manifest.origin.time_from) == ("standard input", "flag")
    assert "/20250304T040607Z-" in manifest.folder

    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    words = (*place.flags, "--name=fifo", "--no-progress", "-ojson")
    async with started("snapshot", "import", fifo, *words) as program:
        await asyncio.to_thread(fifo.write_bytes, taken.data)
        said = await program.end()
    assert said.code == 0
    assert said.json()["rawSha256"] == manifest.raw_sha256
    assert said.json()["origin"]["timeFrom"] == "import"
    assert "--taken-at" in said.err


async def test_the_namespace_is_found_where_openshift_keeps_it(
    place: Place, tmp_path: Path
) -> None:
    async with EtcdCluster(tmp_path / "etcd") as etcd:
        openshift = await take(etcd, tmp_path / "etcd.db", "/kubernetes.io")
    assert (await place.manifest(openshift.path)).kube_system_uid == UID
    elsewhere = await place.take_in(openshift.path, "--registry-prefix=/kcp", "--name=kcp")
    assert elsewhere.code == 2
    assert "--cluster" in elsewhere.err
    named = await place.manifest(
        openshift.path, "--registry-prefix=/kcp", "--name=kcp", "--cluster=CDF818194E3A8C32"
    )
    assert (named.cluster, named.cluster_id) == ("cdf818194e3a8c32", "cdf818194e3a8c32")
    assert named.kube_system_uid is None


async def test_a_uid_that_is_none_never_becomes_a_path(place: Place, tmp_path: Path) -> None:
    async with EtcdCluster(tmp_path / "etcd") as etcd:
        await etcd.etcdctl(
            *("put", "/registry/namespaces/kube-system"), '{"metadata":{"uid":"../../../x"}}'
        )
        await etcd.etcdctl("snapshot", "save", tmp_path / "etcd.db")
    assert (await place.take_in(tmp_path / "etcd.db")).code == 2
    manifest = await place.manifest(tmp_path / "etcd.db", "--cluster=1")
    assert manifest.cluster == "0000000000000001"
