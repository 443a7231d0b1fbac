"""`etcd-steward snapshot …` on real etcds, S3 and directories, run as a process."""

import asyncio
import json
import re
import secrets
import signal
from pathlib import Path

import pytest
import yaml

from etcd_steward.models.manifest import Manifest
from tests.support.cli import files, s3_flags, started, steward
from tests.testbed import EtcdCluster, FaultProxy, SeaweedFS, wait_until

URL = re.compile(r"(s3|file)://\S+/[0-9a-f]{8,16}/_cli\.[a-z-]+/\d{8}T\d{6}Z-[0-9a-f]{8}(?=\n|$)")


async def test_a_snapshot_goes_to_s3_and_comes_back(
    etcd_mtls: EtcdCluster, seaweedfs: SeaweedFS, bucket: str, key_prefix: str, tmp_path: Path
) -> None:
    await etcd_mtls.etcdctl("put", f"{key_prefix}a", "b")
    revision = await etcd_mtls.revision()
    s3 = s3_flags(seaweedfs, bucket)
    env = seaweedfs.environment()
    spool = f"--spool-dir={tmp_path / 'spool'}"

    saved = await steward(
        *etcd_mtls.connection_flags(), "snapshot", "save", "--no-progress", *s3, spool, env=env
    )
    assert (saved.code, saved.err) == (0, "")
    assert URL.fullmatch(saved.out.strip())
    url = saved.out.strip()

    listed = await steward("snapshot", "list", *s3, env=env)
    header, row = listed.out.splitlines()
    assert header.split()[-1] == "URL"
    assert row.split()[-1] == url
    assert "Structure" in row
    assert len(await seaweedfs.objects(bucket)) == 5  # snapshot, manifest, proof, sidecar, index

    shown = await steward("snapshot", "show", url, *s3, "-o", "yaml", env=env)
    manifest = Manifest.model_validate(yaml.safe_load(shown.out)["manifest"])
    assert manifest.revision >= revision
    assert manifest.backup.name == "manual"

    verified = await steward("snapshot", "verify", *s3, spool, "-o", "json", env=env)
    assert verified.code == 0
    assert verified.json()["proof"]["level"] == "Structure"
    assert verified.json()["proof"]["readBack"] == "whole"
    assert len(await seaweedfs.objects(bucket)) == 6

    target = tmp_path / "etcd.db"
    fetched = await steward("snapshot", "fetch", f"s3://{bucket}/prod", target, *s3[1:], env=env)
    assert (fetched.code, fetched.out) == (0, f"{target}\n")
    assert f"Newest verified: {url}" in fetched.err
    assert target.stat().st_mode & 0o777 == 0o600
    assert not target.with_name("etcd.db.part").exists()
    status = json.loads(await etcd_mtls.etcdutl("snapshot", "status", target, "-w", "json"))
    assert status["revision"] == manifest.revision
    assert files(tmp_path / "spool") == []


async def test_fetch_overwrites_only_when_told(etcd: EtcdCluster, tmp_path: Path) -> None:
    store = f"--store=file://{tmp_path / 'store'}"
    saved = await steward("snapshot", "save", "--no-index", *etcd.connection_flags(), store)
    assert (saved.code, len(files(tmp_path / "store"))) == (0, 3)  # snapshot, manifest, proof
    url, target = saved.out.strip(), tmp_path / "etcd.db"
    target.write_text("precious")

    refused = await steward("snapshot", "fetch", url, target)
    assert refused.code == 1
    assert "is there already" in refused.err
    assert "--force" in refused.err
    assert target.read_text() == "precious"

    assert (await steward("snapshot", "fetch", url, target, "--force")).code == 0
    assert target.stat().st_size > 1000


async def test_json_is_the_manifest_on_save_and_lists_as_it_shows(
    etcd: EtcdCluster, tmp_path: Path
) -> None:
    store = f"--store=file://{tmp_path / 'store'}"
    saved = await steward(
        "-o=json", "snapshot", "save", "--name=before-upgrade", *etcd.connection_flags(), store
    )
    manifest = Manifest.model_validate(saved.json())
    assert manifest.backup.namespace == "_cli"
    assert manifest.backup.name == "before-upgrade"

    (listed,) = (await steward("snapshot", "list", store, "-ojson")).json()
    shown = (await steward("snapshot", "show", store, "-ojson")).json()
    assert listed == shown
    assert listed["manifest"] == saved.json()
    assert [proof["level"] for proof in listed["proofs"]] == ["Structure"]


async def test_the_newest_verified_one_is_meant_and_can_be_narrowed(
    etcd: EtcdCluster, tmp_path: Path
) -> None:
    store = f"--store=file://{tmp_path / 'store'}"
    urls = {}
    for name in ("first", "second"):
        saved = await steward("snapshot", "save", f"--name={name}", *etcd.connection_flags(), store)
        urls[name] = saved.out.strip()

    async def newest(*words: str) -> str:
        said = await steward("snapshot", "show", store, "-ojson", *words)
        return str(said.json()["url"])

    assert await newest() == urls["second"]
    assert await newest("--backup=first") == urls["first"]
    assert await newest("--backup=_cli.first") == urls["first"]
    cluster = urls["first"].split("/")[-3]
    listed = await steward("snapshot", "list", store, "-ojson", f"--cluster={cluster}")
    assert [one["url"] for one in listed.json()] == list(urls.values())

    nothing = await steward("snapshot", "show", store, "--backup=third")
    assert nothing.code == 1
    assert "there is no snapshot in file://" in nothing.err


async def test_snapshots_of_two_clusters_are_not_guessed_between(
    etcd: EtcdCluster, etcd_mtls: EtcdCluster, tmp_path: Path
) -> None:
    store = f"--store=file://{tmp_path / 'store'}"
    for cluster in (etcd, etcd_mtls):
        assert (await steward("snapshot", "save", *cluster.connection_flags(), store)).code == 0

    said = await steward("snapshot", "show", store)
    assert said.code == 1
    assert "snapshots of 2 clusters" in said.err
    assert "--cluster" in said.err


async def test_an_empty_store_is_no_failure_and_a_missing_one_is(tmp_path: Path) -> None:
    store = f"--store=file://{tmp_path}"
    said = await steward("snapshot", "list", store)
    assert (said.code, said.out) == (0, "")
    assert "No snapshots found" in said.err
    assert (await steward("snapshot", "list", store, "-ojson")).json() == []

    missing = await steward("snapshot", "list", f"--store=file://{tmp_path / 'typo'}", "-ojson")
    assert missing.code == 1
    assert missing.json()["error"]["reason"] == "NotFound"


async def test_a_damaged_snapshot_is_found_and_never_fetched(
    etcd: EtcdCluster, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    saved = await steward("snapshot", "save", *etcd.connection_flags(), f"--store=file://{store}")
    folder = Path(saved.out.strip().removeprefix("file://"))
    file = folder / "snapshot.db.zst"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)

    for words in (("verify", "--level=digest"), ("verify",)):
        said = await steward("snapshot", words[0], saved.out.strip(), *words[1:], "-ojson")
        assert said.code == 1
        assert said.json()["error"]["reason"] == "IntegrityError"
    assert len(list((folder / "proofs").iterdir())) == 1

    target = tmp_path / "etcd.db"
    assert (await steward("snapshot", "fetch", saved.out.strip(), target)).code == 1
    assert not target.exists()
    assert not target.with_name("etcd.db.part").exists()


async def test_a_manifest_that_cannot_be_read_is_left_out_and_said(
    etcd: EtcdCluster, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    for _ in range(2):
        await steward("snapshot", "save", *etcd.connection_flags(), f"--store=file://{store}")
    broken = min(store.glob("*/*/*/manifest.json"))
    broken.write_text("{}")

    said = await steward("snapshot", "list", f"--store=file://{store}", "-ojson")
    assert said.code == 4
    assert len(said.json()) == 1
    assert "Warning:" in said.err
    assert str(broken.relative_to(store)) in said.err


async def test_two_endpoints_may_lead_to_one_member(etcd: EtcdCluster, tmp_path: Path) -> None:
    async with (
        FaultProxy(etcd.members[0].client_port) as one,
        FaultProxy(etcd.members[0].client_port) as other,
    ):
        said = await steward(
            "snapshot",
            "save",
            f"--endpoints={one.address()},{other.address()}",
            f"--store=file://{tmp_path}",
            "--no-progress",
            "-ojson",
        )
    assert (said.code, said.err) == (0, "")
    assert said.json()["memberID"] == f"{etcd.members[0].id:x}"


@pytest.fixture
async def filled(tmp_path: Path) -> EtcdCluster:
    """What a cluster needs to keep an upload busy; to be entered by the test."""
    return EtcdCluster(tmp_path / "filled")


async def fill(etcd: EtcdCluster) -> None:
    """Make the compressed snapshot some 6 MB large."""
    for number in range(12):
        await etcd.etcdctl("put", f"/{number}", stdin=secrets.token_hex(500_000).encode())


async def uploading(spool: Path) -> None:
    """Wait until the upload has begun: it is journalled before its first byte."""

    async def begun() -> bool:
        return await asyncio.to_thread(lambda: any(spool.glob("*/journal.json")))

    await wait_until(begun, "the upload has begun", timeout=90)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_save_leaves_nothing(
    number: signal.Signals,
    filled: EtcdCluster,
    seaweedfs: SeaweedFS,
    bucket: str,
    tmp_path: Path,
) -> None:
    spool = tmp_path / "spool"
    async with filled as etcd, FaultProxy(seaweedfs.port) as slow:
        await fill(etcd)
        slow.to_server.bytes_per_second = 1e6
        async with started(
            *("snapshot", "save", *etcd.connection_flags(), f"--spool-dir={spool}"),
            *s3_flags(seaweedfs, bucket, endpoint=slow.address()),
            env=seaweedfs.environment(),
        ) as program:
            await uploading(spool)
            program.send(number)
            said = await program.end()

    assert said.code == 128 + number
    assert "Stopping" in said.err
    assert "Traceback" not in said.err
    assert said.out == ""
    assert await seaweedfs.open_uploads(bucket) == {}
    assert await seaweedfs.objects(bucket) == {}
    assert files(spool) == []


async def test_a_second_signal_ends_it_at_once_and_the_next_run_cleans_up(
    filled: EtcdCluster, seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    async with filled as etcd, FaultProxy(seaweedfs.port) as stalled:
        await fill(etcd)
        stalled.to_server.bytes_per_second = 1e6
        save = ("snapshot", "save", *etcd.connection_flags(), f"--spool-dir={spool}")
        s3 = s3_flags(seaweedfs, bucket, endpoint=stalled.address())
        async with started(*save, *s3, env=seaweedfs.environment()) as program:
            await uploading(spool)
            stalled.to_server.stall()
            program.send(signal.SIGINT)
            program.send(signal.SIGTERM)
            said = await program.end(timeout=10)
        assert said.code in {130, 143}  # two signals at once come in any order
        assert "Stopped at once" in said.err
        assert len(await seaweedfs.open_uploads(bucket)) == 1

        stalled.to_server.resume()
        stalled.to_server.bytes_per_second = None
        again = await steward(*save, *s3, env=seaweedfs.environment())
        assert again.code == 0
        assert await seaweedfs.open_uploads(bucket) == {}
        assert len(await seaweedfs.objects(bucket)) == 5
        assert files(spool) == []


async def test_a_long_save_without_a_terminal_says_now_and_then_how_far_it_is(
    filled: EtcdCluster, seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    async with filled as etcd, FaultProxy(seaweedfs.port) as slow:
        await fill(etcd)
        slow.to_server.bytes_per_second = 1e6
        save = ("snapshot", "save", *etcd.connection_flags(), f"--spool-dir={tmp_path / 'spool'}")
        s3 = s3_flags(seaweedfs, bucket, endpoint=slow.address())
        said = await steward(*save, *s3, env=seaweedfs.environment())
        assert said.code == 0
        steps = (
            *("Reading from etcd", "Uploading", "Proving", "Reading back", "Recording"),
            "Indexing",
        )
        assert said.err != ""
        assert all(line.startswith(steps) for line in said.err.splitlines())
        quiet = await steward(*save, *s3, "--no-progress", env=seaweedfs.environment())
        assert (quiet.code, quiet.err) == (0, "")
