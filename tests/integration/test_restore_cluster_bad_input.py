"""What `etcd-steward restore cluster` refuses, and that nothing is left of what was interrupted."""

import hashlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.cli import PROGRAM, files, started, steward
from tests.support.lost import PEER, Lost, lost_etcd, restore
from tests.testbed import binary, wait_until
from tests.testbed.process import run

OURS = ".etcd-steward-restore"


@pytest.fixture(scope="module")
async def lost(tmp_path_factory: pytest.TempPathFactory) -> Lost:
    return await lost_etcd(tmp_path_factory.mktemp("lost"), "3.6")


async def tool(directory: Path, restoring: str) -> Path:
    """The real etcdutl, but for what it does when it is to restore."""
    path, real = directory / "etcdutl", await binary("etcdutl")
    path.write_text(f'#!/bin/sh\n[ "$1" = version ] && exec {real} version\n{restoring}\n')
    path.chmod(0o755)
    return path


async def says_that_it_restores(directory: Path) -> Path:
    """One that begins, and then takes for ever."""
    begun = directory / "begun"
    return await tool(
        directory,
        'for word; do case "$word" in --data-dir=*) mkdir -p "${word#--data-dir=}/member";; '
        f"esac; done\necho $$ > {begun}.part; mv {begun}.part {begun}; exec sleep 600",
    )


def words(lost: Lost, target: Path, etcdutl: Path) -> Sequence[str | Path]:
    return (
        *("restore", "cluster", lost.url, "--name=etcd0", f"--initial-cluster=etcd0={PEER}"),
        *(f"--data-dir={target}", f"--etcdutl={etcdutl}"),
    )


async def test_no_etcdutl(lost: Lost, tmp_path: Path) -> None:
    command = words(lost, tmp_path / "etcd", tmp_path / "none")
    said = await steward(*command[:-1], env={"PATH": str(tmp_path)})
    assert said.code == 1
    assert "etcdutl is not on PATH" in said.err
    named = await steward(*command)
    assert named.code == 1
    assert f"is not at {tmp_path / 'none'}" in named.err
    assert files(tmp_path) == []


async def test_an_etcdutl_that_is_too_old(lost: Lost, tmp_path: Path) -> None:
    script = tmp_path / "etcdutl"
    script.write_text("#!/bin/sh\necho etcdutl version: 3.5.9\n")
    script.chmod(0o755)
    said = await restore(lost.url, tmp_path / "etcd", tool=script)
    assert said.code == 3
    assert "can't bump revisions" in said.err
    for source in (lost.url, lost.file):
        said = await restore(source, tmp_path / "etcd", tool="3.5")
        assert said.code == 3
        assert "older than the snapshot, which is of etcd 3.6" in said.err
    assert not (tmp_path / "etcd").exists()


async def test_a_data_directory_that_holds_something(lost: Lost, tmp_path: Path) -> None:
    (tmp_path / "etcd" / "member").mkdir(parents=True)
    (tmp_path / "etcd" / "member" / "precious").touch()
    said = await restore(lost.url, tmp_path / "etcd", more=("-ojson",))
    assert said.code == 3
    assert said.json()["error"]["reason"] == "Refused"
    assert "is not empty: it holds member" in said.err
    assert files(tmp_path) == ["etcd/member/precious"]
    missing = await restore(lost.url, tmp_path / "no" / "etcd")
    assert missing.code == 2
    assert "is its disk mounted" in missing.err.lower()


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--name=etcd7", "'etcd7' is not in --initial-cluster"),
        ("--initial-cluster=etcd0", "is no NAME=PEERURL"),
        ("--initial-advertise-peer-urls=http://127.0.0.1:9", "write the same in both"),
        ("--bump-revision=0", "write a number from 1"),
        ("--bump-revision=-1", "write a number from 1"),
        ("--bump-revision=9223372036854775807", "write a number from 1"),
        ("--bump-revision=soon", "not a valid integer"),
    ],
)
async def test_flags_that_cant_be_meant(lost: Lost, tmp_path: Path, flag: str, said: str) -> None:
    answer = await restore(lost.url, tmp_path / "etcd", more=(flag,))
    assert answer.code == 2
    assert said in answer.err.lower() or said in answer.err
    assert files(tmp_path) == []


async def test_a_bump_and_none(lost: Lost, tmp_path: Path) -> None:
    more = ("--bump-revision=5", "--no-mark-compacted")
    said = await restore(lost.url, tmp_path / "etcd", more=more)
    assert said.code == 2
    assert "--no-mark-compacted" in said.err


async def test_snapshots_that_are_none(lost: Lost, tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    (tmp_path / "text.db").write_text("not a database\n" * 10000)
    cut = tmp_path / "cut.db.zst"
    cut.write_bytes(next(lost.folder.glob("*.zst")).read_bytes()[:-100])
    missing = f"{lost.store.as_uri()}/0000000a/_cli.manual/20261122T021700Z-7c1e04b2"
    for source, code, what in (
        (tmp_path / "none.db", 1, "none.db"),
        (tmp_path / "empty.db", 2, "is empty"),
        (tmp_path / "text.db", 2, "no etcd snapshot"),
        (cut, 1, "damaged zstd file"),
        (missing, 1, "there is no backup in"),
        (f"file://{tmp_path / 'no-store'}", 1, "no-store"),
    ):
        said = await restore(source, tmp_path / "etcd")
        assert (said.code, what in said.err) == (code, True), said.err
        assert not (tmp_path / "etcd").exists()


async def test_a_snapshot_that_was_altered_in_the_store(lost: Lost, tmp_path: Path) -> None:
    altered = lost.copy(tmp_path)
    path = altered.folder / "snapshot.db.zst"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    said = await restore(altered.url, tmp_path / "etcd", more=("--unproven",))
    assert said.code == 1
    assert "use another backup" in said.err.lower()
    assert not (tmp_path / "etcd").exists()


async def test_a_suspect_snapshot(lost: Lost, tmp_path: Path) -> None:
    suspect = lost.copy(tmp_path)
    suspect.alter_manifest(suspect="there was no leader")
    refused = await restore(suspect.url, tmp_path / "etcd")
    assert refused.code == 3
    assert "suspect: there was no leader" in refused.err
    assert "--unproven" in refused.err
    assert not (tmp_path / "etcd").exists()
    told = await restore(suspect.url, tmp_path / "etcd", more=("--unproven", "-ojson"))
    assert told.code == 0
    assert told.json()["proven"] is False
    assert "restored all the same: there was no leader" in told.err


async def test_a_manifest_that_says_something_else(lost: Lost, tmp_path: Path) -> None:
    other = lost.copy(tmp_path)
    other.alter_manifest(liveKeys=7)
    said = await restore(other.url, tmp_path / "etcd")
    assert said.code == 3
    assert "7 keys, the file holds" in said.err
    assert not (tmp_path / "etcd").exists()


async def test_a_file_without_a_digest(lost: Lost, tmp_path: Path) -> None:
    copied = tmp_path / "db"
    copied.write_bytes(lost.file.read_bytes()[:-32])
    refused = await restore(copied, tmp_path / "etcd")
    assert refused.code == 3
    assert "it carries no digest" in refused.err
    told = await restore(copied, tmp_path / "etcd", more=("--unproven", "-ojson"))
    assert told.code == 0, told.err
    assert (told.json()["proven"], told.json()["keys"]) == (False, len(lost.entries))


async def test_a_damaged_database_with_a_digest_of_the_damage(lost: Lost, tmp_path: Path) -> None:
    data = bytearray(lost.file.read_bytes()[:-32])
    for page in range(2, len(data) // 4096):  # the flags of every page, free ones and others
        data[page * 4096 + 8] ^= 0x40
    damaged = tmp_path / "etcd.db"
    damaged.write_bytes(data + hashlib.sha256(data).digest())
    said = await restore(damaged, tmp_path / "etcd")
    assert said.code == 3
    assert "is not proven" in said.err
    assert "--unproven" in said.err
    assert not (tmp_path / "etcd").exists()


async def test_a_damaged_database_that_somebody_insists_on(lost: Lost, tmp_path: Path) -> None:
    data = lost.file.read_bytes()[:-32]
    data = data.replace(b"\x0a\x07/key/05", b"\x0b\x07/key/05")  # a record that can't be decoded
    damaged = tmp_path / "etcd.db"
    damaged.write_bytes(data + hashlib.sha256(data).digest())
    refused = await restore(damaged, tmp_path / "etcd")
    assert refused.code == 3
    told = await restore(damaged, tmp_path / "etcd", more=("--unproven",))
    assert told.code == 0, told.err
    assert "what was restored is damaged as well" in told.err
    assert "none: restored unproven" in told.out
    assert [path.name for path in (tmp_path / "etcd").iterdir()] == ["member"]


async def test_a_snapshot_under_a_corrupt_alarm(tmp_path: Path) -> None:
    corrupt = await lost_etcd(tmp_path / "corrupt", "3.6", keys=3, alarm="CORRUPT")
    said = await restore(corrupt.file, tmp_path / "etcd")
    assert said.code == 3
    assert "CORRUPT alarm" in said.err
    stored = await restore(corrupt.url, tmp_path / "etcd")
    assert stored.code == 3
    assert "suspect" in stored.err


async def test_a_disk_that_is_too_small(lost: Lost, tmp_path: Path) -> None:
    huge = lost.copy(tmp_path)
    huge.alter_manifest(rawSize=10**15)
    said = await restore(huge.url, tmp_path / "etcd")
    assert said.code == 1
    assert "2000 TB are needed" in said.err
    assert not (tmp_path / "etcd").exists()


@pytest.mark.parametrize("limit", [8192, 1 << 20])
async def test_a_disk_that_runs_full(lost: Lost, tmp_path: Path, limit: int) -> None:
    """The first limit ends the download, the second etcdutl's log of 64 MB."""
    command = words(lost, tmp_path / "etcd", await binary("etcdutl"))
    said = await run("prlimit", f"--fsize={limit}", *PROGRAM, *command, timeout=90)
    assert said.status == 1, said.stderr
    assert b"does not fit" in said.stderr or b"could not restore" in said.stderr
    assert not (tmp_path / "etcd").exists()


async def test_etcdutls_own_words(lost: Lost, tmp_path: Path) -> None:
    fails = await tool(tmp_path, 'echo "{info}" >&2; echo "Error: boom" >&2; exit 1')
    said = await restore(lost.url, tmp_path / "etcd", tool=fails)
    assert said.code == 1
    assert f"{fails} 3.6" in said.err
    assert "could not restore: boom" in said.err
    assert not (tmp_path / "etcd").exists()


async def test_an_etcdutl_that_does_not_bump(lost: Lost, tmp_path: Path) -> None:
    forgetful = await tool(
        tmp_path,
        'for word; do shift; case "$word" in --bump*|--mark*) ;; *) set -- "$@" "$word";; esac; '
        f'done; exec {await binary("etcdutl")} "$@"',
    )
    said = await restore(lost.url, tmp_path / "etcd", tool=forgetful)
    assert said.code == 1
    assert "is below the bump" in said.err
    assert not (tmp_path / "etcd").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_stopped_midway(lost: Lost, tmp_path: Path, number: signal.Signals) -> None:
    etcdutl, target = await says_that_it_restores(tmp_path), tmp_path / "etcd"
    async with started(*words(lost, target, etcdutl)) as program:
        await begun(tmp_path)
        assert (target / OURS / "data" / "member").exists()
        program.send(number)
        said = await program.end()
    assert said.code == 128 + number
    assert "what was begun is removed" in said.err
    assert not target.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "begun").read_text()), 0)


async def test_killed_midway(lost: Lost, tmp_path: Path) -> None:
    etcdutl, target = await says_that_it_restores(tmp_path), tmp_path / "etcd"
    async with started(*words(lost, target, etcdutl)) as program:
        await begun(tmp_path)
        program.send(signal.SIGKILL)
        await program.end()
    orphan = int((tmp_path / "begun").read_text())
    try:
        # Nothing that etcd would take for its data; and nobody disturbs what still works there.
        assert [path.name for path in target.iterdir()] == [OURS]
        meanwhile = await restore(lost.url, target)
        assert meanwhile.code == 3
        assert "is under way" in meanwhile.err
    finally:
        os.kill(orphan, signal.SIGKILL)
    again = await restore(lost.url, target, more=("-ojson",))
    assert again.code == 0, again.err
    assert again.json()["keys"] == len(lost.entries)
    assert [path.name for path in target.iterdir()] == ["member"]


async def begun(directory: Path) -> None:
    async def there() -> bool:
        return (directory / "begun").exists()

    await wait_until(there, "etcdutl has begun", timeout=60)


async def test_progress_where_it_takes_long(lost: Lost, tmp_path: Path) -> None:
    slow = await tool(tmp_path, f'sleep 4; exec {await binary("etcdutl")} "$@"')
    said = await restore(lost.url, tmp_path / "etcd", tool=slow)
    assert said.code == 0
    steps = ("Fetching", "Proving", "Restoring ...", "Checking ...")
    assert said.err != ""
    assert all(line.startswith(steps) for line in said.err.splitlines())
    quiet = await restore(lost.url, tmp_path / "etcd-2", tool=slow, more=("--no-progress",))
    assert (quiet.code, quiet.err) == (0, "")


async def test_which_store(lost: Lost, tmp_path: Path) -> None:
    etcdutl = await binary("etcdutl")
    flags = words(lost, tmp_path / "etcd", etcdutl)[3:]
    said = await steward("restore", "cluster", *flags)
    assert said.code == 2
    assert "--store" in said.err
    by_variable = await steward(
        "restore", "cluster", *flags, env={"ETCD_STEWARD_STORE": lost.store.as_uri()}
    )
    assert by_variable.code == 0, by_variable.err
