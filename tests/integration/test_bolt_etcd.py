"""The proof against real files: etcd of each version, and etcdutl's own word on each of them."""

import asyncio
import json
import random
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from etcd_steward.errors import IntegrityError
from etcd_steward.registry.proof import StructureReport, prove_structure
from tests.boltfile import BoltFile, BytesFile, History, Items
from tests.testbed import Auth, EtcdCluster, TestbedError
from tests.testbed.bulk import load
from tests.testbed.rpc import raise_alarm

VERSIONS = ["3.5", "3.6", "3.7", pytest.param("3.4", marks=pytest.mark.etcd34)]


async def snapshot(etcd: EtcdCluster, path: Path) -> StructureReport:
    await etcd.etcdctl("snapshot", "save", str(path))
    return prove_structure(BytesFile(await asyncio.to_thread(path.read_bytes)))


async def status(etcd: EtcdCluster, path: Path) -> dict[str, Any]:
    answer = json.loads(await etcd.etcdutl("snapshot", "status", str(path), "-w", "json"))
    assert isinstance(answer, dict)
    return answer


async def counted(etcd: EtcdCluster) -> int:
    """What a Range over all keys counts."""
    fields = await etcd.etcdctl("get", "", "--prefix", "--count-only", "-w", "fields")
    return int(next(line for line in fields.splitlines() if line.startswith('"Count"')).split()[-1])


async def write_history(etcd: EtcdCluster) -> None:
    """Puts, overwrites, deletes, a lease, a transaction, binary keys, large keys and values."""
    rng = random.Random(11)  # noqa: S311
    for number in range(20):
        await etcd.etcdctl("put", f"/k/{number % 13}", "x" * rng.randrange(900))
    await etcd.etcdctl("del", "/k/1", "/k/4")
    lease = (await etcd.etcdctl("lease", "grant", "600")).split()[1]
    await etcd.etcdctl("put", "/leased", "1", f"--lease={lease}")
    puts = "".join(f'put /txn/{number} "{number}"\n' for number in range(100))
    await etcd.etcdctl("txn", stdin=f"\n{puts}\n\n".encode())
    await etcd.etcdctl("put", "/empty", "")
    await etcd.etcdctl("put", "/large", stdin=b"v" * 1_300_000)
    await etcd.etcdctl("put", "k" * 100_000, "large key")
    await etcd.etcdctl("put", "/bin/\x01\x7f\u00ff\ud7ff", "binary")
    await etcd.etcdctl("del", "/k/7")


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_history_is_read_as_etcd_reads_it(version: str, tmp_path: Path) -> None:
    async with EtcdCluster(tmp_path / "etcd", version=version) as etcd:
        await write_history(etcd)
        await etcd.etcdctl("put", "/registry/namespaces/kube-system", '{"metadata":{"uid":"u-1"}}')
        await etcd.etcdctl("compact", "0")  # which etcd takes, and notes
        for step in range(3):
            path = tmp_path / f"{step}.db"
            report = await snapshot(etcd, path)
            said = await status(etcd, path)
            assert report.revision == await etcd.revision()
            assert report.live_keys == await counted(etcd)
            if version in {"3.6", "3.7"}:
                assert report.live_keys == said["totalKey"]
                assert report.storage_version == f"{version}.0"
            else:
                assert report.records < said["totalKey"]  # which counts all buckets
                assert report.storage_version is None
            assert report.valid_metas == 2
            assert report.kube_system_uid == "u-1"
            assert [member.member_id for member in report.members] == [etcd.members[0].id]
            assert report.pages * report.page_size == path.stat().st_size - 32
            assert {"key", "meta", "lease", "alarm", "auth", "members"} <= set(report.buckets)
            if not step:
                assert (report.compact_revision, report.tombstones) == (0, 7)
            else:
                assert report.compact_revision > 0
            # A last revision that is a tombstone, compacted away: etcd keeps it in `meta` alone.
            await etcd.etcdctl("del", ("/large", "/leased", "/empty")[step])
            await etcd.etcdctl("compact", str(await etcd.revision()), "--physical")


async def test_users_and_alarms_are_in_the_file(tmp_path: Path) -> None:
    async with EtcdCluster(tmp_path / "etcd", auth=Auth()) as etcd:
        member = etcd.members[0]
        report = await snapshot(etcd, tmp_path / "before.db")
        assert report.alarms == ()
        await raise_alarm(etcd, member)
        await raise_alarm(etcd, member, corrupt=True)
        report = await snapshot(etcd, tmp_path / "after.db")
        assert {(alarm.member_id, alarm.kind) for alarm in report.alarms} == {
            (member.id, "NOSPACE"),
            (member.id, "CORRUPT"),
        }
        assert {"authUsers", "authRoles"} <= set(report.buckets)


@pytest.mark.parametrize("version", ["3.5", "3.6", "3.7"])
async def test_a_cluster_that_was_restored_with_a_bump(version: str, tmp_path: Path) -> None:
    async with EtcdCluster(tmp_path / "etcd", version=version) as etcd:
        await write_history(etcd)
        before = await snapshot(etcd, tmp_path / "before.db")
        await etcd.etcdutl(
            "snapshot", "restore", str(tmp_path / "before.db"), f"--data-dir={tmp_path / 'new'}",
            "--bump-revision=1000000000", "--mark-compacted",
        )  # fmt: skip
        bumped = 1_000_000_000 + before.revision
        file = tmp_path / "new" / "member" / "snap" / "db"
        report = prove_structure(BytesFile(await asyncio.to_thread(file.read_bytes)))
        assert (report.revision, report.compact_revision, report.bump_revision) == (bumped,) * 3
        assert report.live_keys == before.live_keys
        said = await status(etcd, file)
        assert said["revision"] == bumped
        if version != "3.5":
            assert said["totalKey"] == before.live_keys + 1


async def test_100_000_keys(tmp_path: Path) -> None:
    async with EtcdCluster(tmp_path / "etcd") as etcd:
        await load(etcd, 100_000, value_size=100, namespaces=20)
        await load(etcd, 20_000, value_size=300, namespaces=20, seed=1)
        await etcd.etcdctl("del", "--prefix", "/registry/pods/")
        await etcd.etcdctl("compact", str(await etcd.revision() - 50), "--physical")
        path = tmp_path / "large.db"
        report, said = await snapshot(etcd, path), await status(etcd, path)
        assert report.revision == said["revision"]
        assert report.live_keys == said["totalKey"] == await counted(etcd)
        assert report.records >= report.live_keys > 50_000


# The files that the unit tests make, and etcdutl's verdict on them --------------------------------


def made(page_size: int, *, freelist: bool, damage: Callable[[bytearray], None] | None) -> bytes:
    history = History()
    for number in range(40):
        history.txn((b"/k/%d" % (number % 9), b"v" * (number * 31 % 700)), (b"/z/%d" % number, b""))
        history.txn((b"/k/%d" % (number % 5), None))
    lease: Items = {struct.pack(">Q", number): b"lease" * 9 for number in range(60)}
    file = BoltFile(page_size, per_leaf=5, per_branch=4, freelist=freelist)
    data = bytearray(file.build(history.buckets(lease=lease)))
    if damage is not None:
        damage(data)
    return bytes(data)


@pytest.fixture(scope="module")
async def judge(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[bytes], Awaitable[dict[str, Any] | None]]:
    """Etcdutl's `snapshot status` of a file; None where its check finds damage, or dies of it."""
    folder = tmp_path_factory.mktemp("judged")
    etcd = EtcdCluster(folder / "etcd")

    async def judged(data: bytes) -> dict[str, Any] | None:
        path = folder / "file.db"
        path.write_bytes(data)
        try:
            return await status(etcd, path)
        except TestbedError:
            return None

    return judged


Judge = Callable[[bytes], Awaitable[dict[str, Any] | None]]


@pytest.mark.parametrize("page_size", [1024, 4096, 16384, 65536])
@pytest.mark.parametrize("freelist", [False, True])
async def test_etcdutl_accepts_what_the_tests_make(
    judge: Judge, page_size: int, freelist: bool
) -> None:
    data = made(page_size, freelist=freelist, damage=None)
    report, said = prove_structure(BytesFile(data)), await judge(data)
    assert said is not None
    assert (said["revision"], said["totalKey"]) == (report.revision, report.live_keys)
    assert report.page_size == page_size


@pytest.mark.parametrize("seed", range(60))
async def test_whatever_etcdutl_finds_is_found(judge: Judge, seed: int) -> None:
    """A random byte of the first 64 of a random page is changed, where most of the structure is."""
    rng = random.Random(seed)  # noqa: S311

    def damage(data: bytearray) -> None:
        page = rng.randrange(2, len(data) // 1024)
        data[page * 1024 + rng.randrange(64)] ^= 1 << rng.randrange(8)

    data = made(1024, freelist=bool(seed % 2), damage=damage)
    try:
        report = prove_structure(BytesFile(data))
    except IntegrityError:
        return  # that we find more than etcdutl is the unit tests' business
    said = await judge(data)
    assert said is not None
    assert (said["revision"], said["totalKey"]) == (report.revision, report.live_keys)
