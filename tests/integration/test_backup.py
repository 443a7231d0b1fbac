"""The main job: a snapshot of a real etcd lies, proven, in a real S3, and etcdutl restores it."""

import hashlib
import json
from pathlib import Path

import pytest

from etcd_steward.app import open_store, take_snapshot
from etcd_steward.engine.announce import PREFIX
from etcd_steward.engine.fetch import fetch
from etcd_steward.engine.manifests import Backup, backups
from etcd_steward.engine.verify import verify
from etcd_steward.errors import AlreadyExists, IntegrityError, NoLeader, Refused
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.member import MemberStatus
from etcd_steward.models.connection import LocalSettings
from etcd_steward.models.layout import Folder
from etcd_steward.models.manifest import Level, Manifest
from etcd_steward.models.run import SpoolSettings
from tests.support.runs import (
    Heard,
    connection,
    contents,
    restored,
    s3_settings,
    snapshot_request,
    unzstd,
)
from tests.testbed import EtcdCluster, SeaweedFS, wait_until
from tests.testbed.bulk import churn, load
from tests.testbed.rpc import raise_alarm


@pytest.mark.parametrize("version", ["3.5", "3.6", "3.7"])
async def test_three_members_under_load_restore_to_the_same_keys(
    version: str, seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    async with EtcdCluster(tmp_path / "etcd", members=3, mtls=True, version=version) as etcd:
        await load(etcd, 5_000, value_size=1000, namespaces=10, seed=1)
        await etcd.etcdctl("put", "/leased", "x", "--lease", await _lease(etcd))
        async with churn(etcd) as background:
            await background.reached(200)
            request = snapshot_request(
                connection(etcd), s3_settings(seaweedfs, bucket), tmp_path / "spool"
            )
            heard = Heard()
            result = await take_snapshot(request, heard)
            writes_then = background.writes
            await background.reached(writes_then + 50)
        manifest = result.manifest
        assert background.failures == 0

        stored = await seaweedfs.read(bucket, f"prod/{manifest.folder}/snapshot.db.zst")
        assert hashlib.sha256(stored).hexdigest() == manifest.snapshot.sha256
        (tmp_path / "snapshot.db.zst").write_bytes(stored)
        snapshot = await unzstd(tmp_path / "snapshot.db.zst")
        assert hashlib.sha256(snapshot.read_bytes()).hexdigest() == manifest.raw_sha256

        status = json.loads(await etcd.etcdutl("snapshot", "status", snapshot, "-w", "json"))
        assert status["revision"] == manifest.revision >= manifest.read_revision
        async with await restored(snapshot, tmp_path / "restored", version) as copy:
            assert await contents(copy, manifest.revision) == await contents(
                etcd, manifest.revision
            )
            assert len(await contents(copy, manifest.revision)) == manifest.live_keys

    assert result.url == f"s3://{bucket}/prod/{manifest.folder}"
    assert manifest.etcd_version.startswith(version)
    assert manifest.proof is not None
    assert manifest.proof.level is Level.STRUCTURE
    steps = [progress.step for progress in heard.steps]
    assert steps[-1] == "Indexing"
    assert heard.steps[-1].stored_bytes == manifest.stored_size
    assert heard.steps[-1].raw_bytes == manifest.raw_size
    assert not heard.warnings
    assert not list((tmp_path / "spool").glob("*/"))


async def _lease(etcd: EtcdCluster) -> str:
    return (await etcd.etcdctl("lease", "grant", "600")).split()[1]


async def test_a_follower_is_read_and_the_announcement_withdrawn(
    etcd_mtls: EtcdCluster, seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    request = snapshot_request(
        connection(etcd_mtls), s3_settings(seaweedfs, bucket), tmp_path / "spool"
    )
    manifest = (await take_snapshot(request, Heard())).manifest
    leader = await etcd_mtls.leader()
    assert manifest.member_id in {f"{m.id:x}" for m in etcd_mtls.members} - {f"{leader.id:x}"}
    assert await etcd_mtls.etcdctl("get", "--prefix", PREFIX) == ""


async def test_one_of_three_down_is_a_warning(
    seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    """The leader: the announcement falls into the election, and is made again."""
    async with EtcdCluster(tmp_path / "etcd", members=3, mtls=True) as etcd:
        down = await etcd.leader()
        await down.kill()
        heard = Heard()
        request = snapshot_request(
            connection(etcd), s3_settings(seaweedfs, bucket), tmp_path / "spool"
        )
        manifest = (await take_snapshot(request, heard)).manifest
    assert len(heard.warnings) == 1
    assert down.endpoint in heard.warnings[0]
    assert manifest.warnings == tuple(heard.warnings)


async def test_without_a_leader_only_an_emergency_takes_what_is_left(
    seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    settings = s3_settings(seaweedfs, bucket)
    async with EtcdCluster(tmp_path / "etcd", members=3, mtls=True) as etcd:
        await etcd.etcdctl("put", "/a", "b")
        last, *others = etcd.members
        for member in others:
            await member.kill()
        await _until_leaderless(etcd, last.endpoint)
        request = snapshot_request(connection(etcd), settings, tmp_path / "spool")
        with pytest.raises(NoLeader, match="no leader"):
            await take_snapshot(request, Heard())
        assert not await seaweedfs.objects(bucket)

        emergency = request.model_copy(update={"emergency": True})
        manifest = (await take_snapshot(emergency, Heard())).manifest
    assert manifest.suspect is not None
    assert "no leader" in manifest.suspect
    async with open_store(settings) as store:
        (found,) = [one async for one in backups(store)]
        assert isinstance(found, Backup)
        assert not found.verified


async def _until_leaderless(etcd: EtcdCluster, endpoint: str) -> None:
    async def leaderless() -> bool:
        async with EtcdClient.connect(connection(etcd, endpoints=(endpoint,))) as client:
            (found,) = await client.members()
            return isinstance(found, MemberStatus) and not found.has_leader

    await wait_until(leaderless, "the last member to miss its leader", timeout=30)


async def test_a_corrupt_cluster_is_refused(
    seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    async with EtcdCluster(tmp_path / "etcd") as etcd:
        await raise_alarm(etcd, etcd.members[0], corrupt=True)
        request = snapshot_request(
            connection(etcd), s3_settings(seaweedfs, bucket), tmp_path / "spool"
        )
        with pytest.raises(Refused, match="CORRUPT"):
            await take_snapshot(request, Heard())
        assert not await seaweedfs.objects(bucket)
        emergency = request.model_copy(update={"emergency": True})
        manifest = (await take_snapshot(emergency, Heard())).manifest
    assert "CORRUPT" in (manifest.suspect or "")


async def test_a_full_etcd_is_backed_up_and_the_alarm_said(
    seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    async with EtcdCluster(tmp_path / "etcd") as etcd:
        await raise_alarm(etcd, etcd.members[0])
        heard = Heard()
        request = snapshot_request(
            connection(etcd), s3_settings(seaweedfs, bucket), tmp_path / "spool"
        )
        manifest = (await take_snapshot(request, heard)).manifest
    assert any("NOSPACE" in warning for warning in heard.warnings)
    assert manifest.proof is not None
    assert manifest.proof.structure is not None
    assert any("NOSPACE" in alarm for alarm in manifest.proof.structure.alarms)


async def test_the_endpoints_of_two_clusters_are_refused(
    seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    async with EtcdCluster(tmp_path / "one") as one, EtcdCluster(tmp_path / "two") as two:
        request = snapshot_request(
            connection(one, endpoints=(*one.endpoints, *two.endpoints)),
            s3_settings(seaweedfs, bucket),
            tmp_path / "spool",
        )
        with pytest.raises(Refused, match="more than one etcd cluster"):
            await take_snapshot(request, Heard())


async def _local_backup(etcd: EtcdCluster, directory: Path) -> tuple[LocalSettings, Manifest]:
    settings = LocalSettings(path=directory / "store")
    request = snapshot_request(connection(etcd), settings, directory / "spool")
    return settings, (await take_snapshot(request, Heard())).manifest


async def test_a_local_store_is_read_back_whole_and_fetched(
    etcd: EtcdCluster, tmp_path: Path
) -> None:
    settings, manifest = await _local_backup(etcd, tmp_path)
    assert manifest.proof is not None
    assert manifest.proof.read_back == "whole"
    target = tmp_path / "fetched.db"
    async with open_store(settings) as store:
        await fetch(store, manifest, target, Heard())
        assert target.stat().st_mode & 0o777 == 0o600
        assert hashlib.sha256(target.read_bytes()).hexdigest() == manifest.raw_sha256
        with pytest.raises(AlreadyExists, match="--force"):
            await fetch(store, manifest, target, Heard())


@pytest.mark.parametrize("level", list(Level))
async def test_verify_adds_a_proof_and_finds_one_flipped_bit(
    level: Level, etcd: EtcdCluster, tmp_path: Path
) -> None:
    settings, manifest = await _local_backup(etcd, tmp_path)
    room = SpoolSettings(directory=tmp_path / "spool")
    stored = settings.path / Folder.parse(manifest.folder).snapshot
    async with open_store(settings) as store:
        proof = await verify(store, manifest, level, room, Heard())
        assert proof.level is level
        (found,) = [one async for one in backups(store)]
        assert isinstance(found, Backup)
        assert len(found.proofs) == 2
        assert found.verified

        data = bytearray(stored.read_bytes())
        data[len(data) // 2] ^= 1
        stored.chmod(0o600)
        stored.write_bytes(data)
        with pytest.raises(IntegrityError):
            await verify(store, manifest, level, room, Heard())
        (found,) = [one async for one in backups(store)]
        assert isinstance(found, Backup)
        assert len(found.proofs) == 2
