"""Restoring a cluster: what is refused before anything is fetched, and what remains to be done."""

import fcntl
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcd_steward.engine.checklist import NOT_IN_A_SNAPSHOT, steps
from etcd_steward.engine.data_dir import must_be_empty, workplace
from etcd_steward.engine.etcdutl import Etcdutl, numbers
from etcd_steward.engine.initial_cluster import InitialCluster
from etcd_steward.errors import InvalidInput, NotFound, OutOfSpace, Refused

PEERS = "a=https://10.0.0.1:2380,b=https://10.0.0.2:2380"


def tool(directory: Path, script: str) -> Path:
    """An etcdutl that says what a test wants."""
    path = directory / "etcdutl"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_members_and_their_urls() -> None:
    cluster = InitialCluster.parse(f"{PEERS},a=https://10.1.0.1:2380", "a")
    assert cluster.members == {
        "a": ("https://10.0.0.1:2380", "https://10.1.0.1:2380"),
        "b": ("https://10.0.0.2:2380",),
    }
    assert cluster.peer_urls == "https://10.0.0.1:2380,https://10.1.0.1:2380"
    assert [other.name for other in cluster.others] == ["b"]
    assert InitialCluster.parse(cluster.text, "b").members == cluster.members
    in_any_order = "https://10.1.0.1:2380, https://10.0.0.1:2380"
    assert InitialCluster.parse(cluster.text, "a", in_any_order) == cluster


@pytest.mark.parametrize(
    ("text", "name", "urls", "said"),
    [
        (PEERS, "c", None, "'c' is not in --initial-cluster, which names a, b"),
        ("", "c", None, "names nobody"),
        (PEERS, "a", "https://10.0.0.2:2380", "gives a https://10.0.0.1:2380"),
        ("a", "a", None, "'a' is no NAME=PEERURL"),
        ("=https://10.0.0.1:2380", "a", None, "no NAME=PEERURL"),
        ("a=10.0.0.1:2380", "a", None, "'10.0.0.1:2380' is no peer URL"),
        ("a=https://10.0.0.1", "a", None, "is no peer URL"),
        ("a=https://10.0.0.1:2380/x", "a", None, "is no peer URL"),
        ("a=https://10.0.0.1:99999", "a", None, "is no peer URL"),
        ("a=unix://localhost:1", "a", None, "is no peer URL"),
        (PEERS, "a", "", "is no peer URL"),
    ],
)
def test_members_that_cant_be_meant(text: str, name: str, urls: str | None, said: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        InitialCluster.parse(text, name, urls)
    assert said in raised.value.message
    assert raised.value.hint


NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)


@given(st.dictionaries(NAMES, st.lists(st.integers(1, 65535), min_size=1, max_size=3), min_size=1))
def test_what_is_read_is_what_is_written(ports: dict[str, list[int]]) -> None:
    text = ",".join(f"{name}=http://h:{port}" for name in ports for port in ports[name])
    name = next(iter(ports))
    cluster = InitialCluster.parse(text, name)
    assert cluster.text == text
    assert {len(one.others) for one in (cluster, *cluster.others)} == {len(ports) - 1}


async def test_no_etcdutl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotFound, match="etcdutl is not on PATH") as raised:
        await Etcdutl.find(None)
    assert "--etcdutl" in raised.value.hint
    with pytest.raises(NotFound, match="is not at"):
        await Etcdutl.find(tmp_path / "etcdutl")
    (tmp_path / "etcdutl").write_text("not to be run")
    with pytest.raises(NotFound, match="or can't be run"):
        await Etcdutl.find(tmp_path / "etcdutl")


@pytest.mark.parametrize("script", ["echo etcdctl version: 3.6.1", "exit 1", "echo; exit 0"])
async def test_another_program(tmp_path: Path, script: str) -> None:
    with pytest.raises(InvalidInput, match="does not say its version"):
        await Etcdutl.find(tool(tmp_path, script))


@pytest.mark.parametrize(
    ("version", "needed", "bumps", "said"),
    [
        ("3.5.9", "3.5.9", True, "can't bump revisions"),
        ("3.5.9", "3.5.9", False, None),
        ("3.5.10", "3.5.33", True, None),
        ("3.6.0", "3.5.12", True, None),
        ("3.7.3", "3.6.0", True, None),
        ("3.5.35", "3.6.0", True, "is older than the snapshot, which is of etcd 3.6"),
        ("3.6.16", "3.7.1", False, "is older than the snapshot, which is of etcd 3.7"),
        ("3.10.0", "3.9.0", True, None),
        ("3.6.16", "", True, None),
    ],
)
async def test_versions(
    tmp_path: Path, version: str, needed: str, bumps: bool, said: str | None
) -> None:
    found = await Etcdutl.find(tool(tmp_path, f"echo etcdutl version: {version}"))
    assert found.version == numbers(version)
    if said is None:
        found.must_suit(needed, bumps=bumps)
        return
    with pytest.raises(Refused, match=said) as raised:
        found.must_suit(needed, bumps=bumps)
    assert raised.value.exit_code == 3


def test_directories_that_can_be_filled(tmp_path: Path) -> None:
    must_be_empty(tmp_path / "new", "--data-dir")
    (tmp_path / "disk" / "lost+found").mkdir(parents=True)
    must_be_empty(tmp_path / "disk", "--data-dir")
    with workplace(tmp_path / "disk"):
        must_be_empty(tmp_path / "disk", "--data-dir")


def test_directories_that_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"there is no .*is its disk mounted"):
        must_be_empty(tmp_path / "no" / "data", "--data-dir")
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="is no directory"):
        must_be_empty(tmp_path / "file", "--wal-dir")
    (tmp_path / "data" / "member").mkdir(parents=True)
    with pytest.raises(
        Refused, match=r"--data-dir: .*data is not empty: it holds member"
    ) as raised:
        must_be_empty(tmp_path / "data", "--data-dir")
    assert "before-restore" in raised.value.hint


def test_what_was_made_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "data"

    def fail() -> None:
        with workplace(target) as work:
            (work.path / "made" / "member").mkdir(parents=True)
            work.must_hold(10**18)

    with pytest.raises(OutOfSpace):
        fail()
    assert not target.exists()

    with workplace(target) as work:
        (work.path / "made" / "member").mkdir(parents=True)
        (work.path / "rest").touch()
        assert target.stat().st_mode & 0o777 == 0o700
        work.place(work.path / "made")
    assert [path.name for path in target.iterdir()] == ["member"]


def test_a_directory_that_was_there_stays(tmp_path: Path) -> None:
    with workplace(tmp_path) as work:
        (work.path / "rest").touch()
    assert list(tmp_path.iterdir()) == []


def test_two_restores_into_one_directory(tmp_path: Path) -> None:
    with workplace(tmp_path) as work:
        (work.path / "precious").touch()
        with pytest.raises(Refused, match="is under way"), workplace(tmp_path):
            pass
        assert (work.path / "precious").exists()


def test_what_a_killed_restore_left_is_removed_once_its_child_is_gone(tmp_path: Path) -> None:
    left = tmp_path / ".etcd-steward-restore"
    (left / "data" / "member").mkdir(parents=True)
    child = os.open(left / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(child, fcntl.LOCK_EX)  # as an etcdutl whose parent was killed holds it
    with pytest.raises(Refused, match="is under way"), workplace(tmp_path):
        pass
    assert (left / "data" / "member").exists()
    os.close(child)
    with workplace(tmp_path) as work:
        assert not (work.path / "data").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small(tmp_path: Path) -> None:
    with workplace(tmp_path) as work:
        work.must_hold(1)
        with pytest.raises(OutOfSpace, match="1000 TB are needed") as raised:
            work.must_hold(10**15)
    assert "side by side" in raised.value.hint


def test_the_checklist_names_every_member_and_each_alarm() -> None:
    plain = steps({"b": "etcd-steward restore b"}, "/var/lib/etcd", ())
    alarmed = steps({"b": "etcd-steward restore b"}, "/var/lib/etcd", ("NOSPACE",))
    assert ("etcd-steward restore b",) in [step.commands for step in plain]
    assert len(alarmed) == len(plain) + 1
    assert any("NOSPACE" in step.what for step in alarmed)
    assert not any("NOSPACE" in step.what for step in plain)


@pytest.mark.parametrize(
    "thing", ["PKI", "service account keys", "encryption", "KMS", "static Pods", "token of k3s"]
)
def test_what_no_snapshot_holds(thing: str) -> None:
    assert any(thing in line for line in NOT_IN_A_SNAPSHOT)
