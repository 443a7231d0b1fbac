"""A run whose folder or record is not as it should be: nothing is written twice, or lost."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from etcd_steward.app import open_etcd, take_snapshot
from etcd_steward.engine.backup import back_up
from etcd_steward.engine.report import Tracker
from etcd_steward.engine.spool import Spool
from etcd_steward.errors import (
    AlreadyExists,
    IntegrityError,
    StewardError,
    Unauthorized,
    Unavailable,
)
from etcd_steward.etcd.member import MemberStatus
from etcd_steward.models.connection import LocalSettings
from etcd_steward.models.manifest import Manifest, RunRef
from etcd_steward.models.run import SnapshotRequest
from etcd_steward.store.local import LocalStore
from tests.support.cli import files
from tests.support.runs import Heard, connection, snapshot_request
from tests.testbed import EtcdCluster

UID = "abcd0009-0000-0000-0000-000000000000"


@pytest.fixture
def request_of(etcd: EtcdCluster, tmp_path: Path) -> SnapshotRequest:
    """A run of the operator's, with its store and spool in the test's directory."""
    return snapshot_request(
        connection(etcd),
        LocalSettings(path=tmp_path / "store"),
        tmp_path / "spool",
        run="abcd0009",
        requester=RunRef(name="r", uid=UID, requested_by="test"),
        tick=datetime(2026, 11, 22, 2, 17, tzinfo=UTC),
    )


async def test_a_complete_folder_of_its_own_is_adopted(
    request_of: SnapshotRequest, tmp_path: Path
) -> None:
    first = await take_snapshot(request_of, Heard())
    before = files(tmp_path / "store")
    heard = Heard()
    assert await take_snapshot(request_of, heard) == first
    assert heard.journals == []
    assert files(tmp_path / "store") == before


async def test_the_announcement_comes_before_the_revision_is_read(
    request_of: SnapshotRequest,
) -> None:
    async with open_etcd(request_of.etcd) as client:
        (status,) = [one for one in await client.members() if isinstance(one, MemberStatus)]
    result = await take_snapshot(request_of, Heard())
    assert result.manifest.read_revision == status.revision + 1


async def test_data_of_another_cluster_is_refused(
    request_of: SnapshotRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a virtual IP that leads to several clusters."""
    uid = "1f0c9a3e-0000-0000-0000-000000000000"
    thing = json.dumps({"kind": "Namespace", "metadata": {"uid": uid}})
    key = b"/registry/namespaces/kube-system"
    async with open_etcd(request_of.etcd) as client:
        await client.put(key, thing.encode())
        monkeypatch.setattr("etcd_steward.engine.attempt._kube_system_uid", _another)
        with pytest.raises(IntegrityError, match=uid):
            await take_snapshot(request_of, Heard())
        await client.delete(key)
    assert files(tmp_path / "store") == []


async def _another(*_: object) -> str:
    return "deadbeef-0000-0000-0000-000000000000"


async def test_a_folder_of_another_run_is_never_written_to(
    request_of: SnapshotRequest, tmp_path: Path
) -> None:
    await take_snapshot(request_of, Heard())
    before = files(tmp_path / "store")
    other = request_of.model_copy(update={"requester": RunRef(uid="another")})
    heard = Heard()
    with pytest.raises(AlreadyExists, match="another run"):
        await take_snapshot(other, heard)
    assert heard.journals == []
    assert files(tmp_path / "store") == before


async def test_a_later_attempt_settles_without_any_journal(
    request_of: SnapshotRequest, tmp_path: Path
) -> None:
    second = request_of.model_copy(update={"run": "abcd0009.2"})
    heard = Heard()
    result = await take_snapshot(second, heard)  # into a directory that is not there yet
    assert heard.settlements == 1
    third = request_of.model_copy(update={"run": "abcd0009.3"})
    assert await take_snapshot(third, Heard()) == result
    assert not list((tmp_path / "spool").glob("*/"))


class Failing(LocalStore):
    """A directory in which writing the manifest fails, with or without effect."""

    error: StewardError
    written: bool

    async def put_new(self, key: str, data: bytes) -> None:
        recording = key.endswith("manifest.json")
        if self.written or not recording:
            await super().put_new(key, data)
        if recording:
            raise self.error


async def attempt(
    request: SnapshotRequest, heard: Heard, error: StewardError, *, written: bool
) -> Manifest:
    assert isinstance(request.store, LocalSettings)
    store = Failing(request.store, part_size=1 << 20)
    store.error, store.written = error, written
    async with (
        Spool.open(request.spool, request.run) as spool,
        open_etcd(request.etcd) as client,
    ):
        return await back_up(client, store, spool, request, Tracker(heard))


async def test_a_manifest_whose_answer_was_lost_is_a_success(
    request_of: SnapshotRequest, tmp_path: Path
) -> None:
    made = await attempt(request_of, Heard(), Unavailable("lost"), written=True)
    assert len(files(tmp_path / "store")) == 3
    assert made.run.uid == UID
    assert files(tmp_path / "spool") == []


async def test_a_manifest_that_was_refused_leaves_nothing(
    request_of: SnapshotRequest, tmp_path: Path
) -> None:
    heard = Heard()
    with pytest.raises(Unauthorized):
        await attempt(request_of, heard, Unauthorized("denied"), written=False)
    assert heard.settlements == 1
    assert files(tmp_path / "store") == []
    assert files(tmp_path / "spool") == []


async def test_a_manifest_that_may_yet_come_is_left_to_be_settled(
    request_of: SnapshotRequest, tmp_path: Path
) -> None:
    heard = Heard()
    with pytest.raises(Unavailable):
        await attempt(request_of, heard, Unavailable("lost"), written=False)
    assert heard.settlements == 0
    assert [Path(name).name for name in files(tmp_path / "store")] == ["snapshot.db.zst"]
    second = request_of.model_copy(update={"run": "abcd0009.2", "earlier": tuple(heard.journals)})
    result = await take_snapshot(second, Heard())
    assert all(result.manifest.folder in name for name in files(tmp_path / "store"))
