"""`etcd-steward restore cluster` by real etcdutls of every version, and what becomes of it."""

import asyncio
import gzip
import json
import shutil
from pathlib import Path

import pytest

from tests.support.cli import Said, files, steward
from tests.support.lost import BUMP, PEER, Lost, lost_etcd, restore
from tests.testbed import EtcdCluster, binary
from tests.testbed.compare import compare, entries
from tests.testbed.process import run


@pytest.fixture(scope="module")
async def lost(tmp_path_factory: pytest.TempPathFactory) -> Lost:
    return await lost_etcd(tmp_path_factory.mktemp("lost"), "3.6")


async def compacted(etcd: EtcdCluster, revision: int) -> bool:
    """Whether a watch from `revision` ends with "compacted" instead of waiting."""
    etcdctl = await binary("etcdctl", etcd.version)
    watch = ("watch", "--prefix", "/key", f"--rev={revision}")
    said = await run(etcdctl, *etcd.connection_flags(), *watch, timeout=20)
    return b"required revision has been compacted" in said.stderr


@pytest.mark.parametrize(
    ("version", "tool"),
    [
        ("3.5", "3.5"),
        ("3.5", "3.7"),
        ("3.6", "3.6"),
        ("3.6", "3.7"),
        ("3.7", "3.7"),
    ],
)
async def test_etcd_starts_from_what_each_etcdutl_restores(
    version: str, tool: str, tmp_path: Path
) -> None:
    old = await lost_etcd(tmp_path / "old", version)
    said = await restore(old.url, tmp_path / "etcd0.etcd", tool=tool, more=("-ojson",))
    assert said.code == 0, said.err
    done = said.json()
    assert (done["snapshotRevision"], done["keys"]) == (old.revision, len(old.entries))
    assert done["revision"] >= BUMP + old.revision - 1  # the newest key's, not a compaction's
    assert done["proven"] is True
    assert (tmp_path / "etcd0.etcd").stat().st_mode & 0o777 == 0o700

    async with EtcdCluster(tmp_path, version=version) as etcd:
        difference = compare(old.entries, await entries(etcd))
        assert difference.equal == len(old.entries)
        assert (difference.missing, difference.extra, difference.altered) == ((), (), ())
        await etcd.etcdctl("put", "/key/new", "value")
        assert await etcd.revision() > done["revision"] > BUMP
        assert await compacted(etcd, old.revision + 5)


async def test_people_read_what_is_next(lost: Lost, tmp_path: Path) -> None:
    target = tmp_path / "etcd"
    peers = f"etcd0={PEER},etcd1=http://127.0.0.1:2,etcd2=http://127.0.0.1:3"
    said = await restore(lost.store.as_uri(), target, peers=peers)
    assert said.code == 0
    assert said.err == f"Newest verified: {lost.url}\n"
    assert f"Restored:  etcd0, into {target}" in said.out
    assert f"the snapshot ends at {lost.revision}" in said.out
    for name in ("etcd1", "etcd2"):
        # the exact snapshot, not "the newest": there may be a newer one by then
        assert f"etcd-steward restore cluster {lost.url} --name={name}" in said.out
    assert said.out.count("--bump-revision=1000000000") == 2
    for word in ("alarm list", "kubelet", "PKI", "encryption configuration", "token of k3s"):
        assert word in said.out
    assert files(tmp_path / "etcd")[-1].startswith("member/")
    assert [path.name for path in target.iterdir()] == ["member"]


async def test_a_snapshot_in_a_file(lost: Lost, tmp_path: Path) -> None:
    packed = tmp_path / "etcd.db.gz"
    packed.write_bytes(gzip.compress(lost.file.read_bytes()))
    stored = next(lost.folder.glob("*.zst"))
    sources: list[str | Path] = [lost.file, packed, stored, lost.url]
    tokens = set()
    for number, source in enumerate(sources):
        said = await restore(source, tmp_path / str(number), more=("-ojson",))
        assert said.code == 0, said.err
        assert said.json()["keys"] == len(lost.entries)
        tokens.add(said.json()["initialClusterToken"])
    # Whichever way it came, members of one snapshot form one cluster.
    assert len(tokens) == 1


async def test_members_of_different_restores_never_form_a_cluster(
    lost: Lost, tmp_path: Path
) -> None:
    later = await lost_etcd(tmp_path / "later", "3.6", keys=3)
    tokens = []
    asked: list[tuple[str, tuple[str, ...]]] = [
        (lost.url, ()),
        (later.url, ()),
        (lost.url, ("--bump-revision=2000000000",)),
    ]
    for number, (source, more) in enumerate(asked):
        said = await restore(source, tmp_path / str(number), more=(*more, "-ojson"))
        tokens.append(said.json()["initialClusterToken"])
    assert len(set(tokens)) == 3
    own = ("--initial-cluster-token=mine", "-ojson")
    said = await restore(lost.url, tmp_path / "own", more=own)
    assert said.json()["initialClusterToken"] == "mine"


async def test_a_log_of_its_own(lost: Lost, tmp_path: Path) -> None:
    (log := tmp_path / "wal").mkdir()
    said = await restore(lost.url, tmp_path / "etcd0.etcd", more=(f"--wal-dir={log}",))
    assert said.code == 0, said.err
    assert [path.suffix for path in log.iterdir()] == [".wal"]
    assert not (tmp_path / "etcd0.etcd" / "member" / "wal").exists()
    async with EtcdCluster(tmp_path, flags={"wal-dir": str(log)}) as etcd:
        assert compare(lost.entries, await entries(etcd)).equal == len(lost.entries)

    again = await restore(lost.url, tmp_path / "other", more=(f"--wal-dir={log}",))
    assert again.code == 3
    assert "--wal-dir" in again.err
    assert not (tmp_path / "other").exists()


async def test_a_disk_of_its_own(lost: Lost, tmp_path: Path) -> None:
    (tmp_path / "etcd0.etcd" / "lost+found").mkdir(parents=True)
    said = await restore(lost.url, tmp_path / "etcd0.etcd")
    assert said.code == 0, said.err
    async with EtcdCluster(tmp_path) as etcd:
        assert compare(lost.entries, await entries(etcd)).equal == len(lost.entries)


async def test_without_the_bump_watches_wait_in_silence(lost: Lost, tmp_path: Path) -> None:
    said = await restore(lost.url, tmp_path / "etcd0.etcd", more=("--no-mark-compacted", "-ojson"))
    assert said.code == 0
    assert "is fooled" in said.err
    assert said.json()["bumpRevision"] is None
    async with EtcdCluster(tmp_path) as etcd:
        assert await etcd.revision() == lost.revision
        etcdctl = await binary("etcdctl")
        watch = ("watch", "--prefix", "/key", f"--rev={lost.revision + 5}")
        watching = asyncio.create_task(run(etcdctl, *etcd.connection_flags(), *watch, timeout=60))
        for number in range(8):  # the first four go unnoticed
            await etcd.etcdctl("put", "/key/new", f"value {number}")
        done, _ = await asyncio.wait({watching}, timeout=1)
        assert not done
        watching.cancel()
        await asyncio.wait({watching})


async def test_an_old_snapshot_needs_a_larger_bump(lost: Lost, tmp_path: Path) -> None:
    old = lost.copy(tmp_path)
    old.alter_manifest(tick="2024-01-01T00:00:00Z")
    said = await restore(old.url, tmp_path / "etcd")
    assert said.code == 0
    enough = said.err.partition("With --bump-revision ")[2].partition(",")[0]
    assert int(enough) > 86400 * 365 * 1500
    quiet = await restore(old.url, tmp_path / "etcd-2", more=(f"--bump-revision={enough}",))
    assert (quiet.code, quiet.err) == (0, "")


async def test_alarms_are_on_the_checklist(tmp_path: Path) -> None:
    full = await lost_etcd(tmp_path / "full", "3.6", alarm="NOSPACE")
    said = await restore(full.url, tmp_path / "etcd", more=("-ojson",))
    assert said.code == 0, said.err
    assert said.json()["alarms"] == ["NOSPACE"]
    assert any("etcdctl alarm disarm" in step["commands"] for step in said.json()["next"])


async def test_json_says_all_that_the_others_need(lost: Lost, tmp_path: Path) -> None:
    peers = f"etcd0={PEER},etcd1=http://127.0.0.1:2"
    said: Said = await restore(
        lost.store.as_uri(), tmp_path / "etcd", peers=peers, more=("-ojson", "--unproven")
    )
    done = said.json()
    assert done["snapshot"] == lost.url
    assert done["dataDir"] == str(tmp_path / "etcd")
    assert done["initialCluster"] == peers
    assert len(done["notInSnapshot"]) >= 5
    command = done["others"]["etcd1"].split()
    assert command[:4] == ["etcd-steward", "restore", "cluster", lost.url]
    assert f"--initial-cluster-token={done['initialClusterToken']}" in command
    assert "--unproven" in command
    assert not any(word.startswith(("--output", "--store")) for word in command)

    # It is a command: run it as it stands, on what is a second host but for its directory.
    await asyncio.to_thread(shutil.rmtree, tmp_path / "etcd")
    other = await steward(*command[1:], "-ojson")
    assert other.code == 0, other.err
    assert other.json()["name"] == "etcd1"
    assert json.dumps(other.json()["initialClusterToken"]) in said.out
