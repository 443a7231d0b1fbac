"""Files against the members that they come from: the same hash, the same keys, at any revision."""

import asyncio
import gzip
import json
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from etcd_steward.deadline import Deadline
from etcd_steward.errors import Compacted
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.keys import EVERYTHING
from etcd_steward.etcd.member import Member
from etcd_steward.etcd.stubs import DeleteRangeRequest, PutRequest, RequestOp
from etcd_steward.models.registry import Record
from etcd_steward.registry.hashkv import KeysHash, hash_kv
from etcd_steward.registry.history import History
from etcd_steward.store.local_files import LocalReadAt
from tests.integration.etcd_connections import connection_to
from tests.support.cli import steward
from tests.testbed import EtcdCluster, wait_until

VERSIONS = ["3.5", "3.6", "3.7"]


@dataclass(frozen=True, slots=True)
class Live:
    """An etcd, its only member, and a place for its snapshots."""

    etcd: EtcdCluster
    client: EtcdClient
    member: Member
    folder: Path

    async def snapshot(self) -> Path:
        path = self.folder / f"{len(list(self.folder.iterdir()))}.db"
        await self.etcd.etcdctl("snapshot", "save", str(path))
        return path

    async def hash(self, revision: int = 0) -> KeysHash:
        told = await self.member.hash_kv(revision, deadline=Deadline.after(30))
        return KeysHash(told.hash, revision or told.revision, told.compact_revision)

    async def records(self, revision: int) -> list[Record]:
        answer = await self.client.range(b"\0", EVERYTHING, revision=revision)
        return [
            Record(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)
            for kv in answer.kvs
        ]


@asynccontextmanager
async def living(directory: Path, version: str, **flags: str) -> AsyncIterator[Live]:
    async with AsyncExitStack() as stack:
        etcd = EtcdCluster(directory / "etcd", version=version, flags=flags)
        await stack.enter_async_context(etcd)
        client = await stack.enter_async_context(EtcdClient.connect(connection_to(etcd)))
        (status,) = await client.members()
        (directory / "files").mkdir()
        yield Live(etcd, client, client.member(status), directory / "files")  # type: ignore[arg-type]


async def write(client: EtcdClient, seed: int) -> None:
    """Puts, overwrites, deletions, recreations, transactions of many keys, and odd keys."""
    rng = random.Random(seed)  # noqa: S311
    keys = [b"/k/%d" % number for number in range(30)] + [
        b"/odd\0",
        b"/odd",
        b"\xff\xfe",
        b"k" * 5000,
    ]
    for _ in range(40):
        some = rng.sample(keys, rng.randrange(1, 9))
        await client.txn(
            [],
            [
                RequestOp(request_delete_range=DeleteRangeRequest(key=key))
                if rng.random() < 0.3
                else RequestOp(
                    request_put=PutRequest(key=key, value=rng.randbytes(rng.randrange(900)))
                )
                for key in some
            ],
        )
    await client.put(b"/large", b"v" * 1_200_000)


async def same(live: Live, path: Path) -> None:
    """The file tells of every revision what the member tells, keys and hashes alike."""
    file = LocalReadAt(path)
    history = History(file)
    now = (await live.client.range(b"a")).header.revision
    assert history.revision == now
    oldest = await live.client.compact_revision()
    assert history.compact_revision == oldest
    assert hash_kv(file) == await live.hash()
    for revision in range(max(2, oldest), now + 1, 3):
        told = await live.hash(revision)
        if told.compact_revision == (oldest or -1):  # else it remembers one from before
            assert hash_kv(file, revision) == told
        found = [one for records in history.live(revision).records() for one in records]
        assert found == await live.records(revision)
    if oldest > 1:
        with pytest.raises(Compacted):
            hash_kv(file, oldest - 1)


async def compact(live: Live, revision: int) -> None:
    await live.client.compact(revision, physical=True, deadline=Deadline.after(30))


async def etcdutl_says(live: Live, path: Path, revision: int = 0) -> KeysHash:
    """Of a copy: it rewrites the file that it is given."""
    copy = live.folder / "copy"
    await asyncio.to_thread(shutil.copyfile, path, copy)
    said = await live.etcd.etcdutl("hashkv", str(copy), f"--rev={revision}", "-w", "json")
    copy.unlink()
    told = json.loads(said)
    return KeysHash(told["hash"], told["hashRevision"], told["compactRevision"])


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_file_tells_what_its_member_tells(version: str, tmp_path: Path) -> None:
    async with living(tmp_path, version) as live:
        client = live.client
        await write(client, 1)
        lease = int((await live.etcd.etcdctl("lease", "grant", "600")).split()[1], 16)
        await client.put(b"/leased", b"1", lease=lease)
        await same(live, await live.snapshot())
        now = (await client.range(b"a")).header.revision
        await compact(live, now - 11)
        await same(live, await live.snapshot())
        await write(client, 2)
        await same(live, path := await live.snapshot())
        if version == "3.7":  # 3.6's panics where a key has a lease, and 3.5 has none
            assert await etcdutl_says(live, path) == hash_kv(LocalReadAt(path))
        # A last revision that is a deletion, compacted away: 3.6 keeps its tombstone, 3.5 did not.
        await client.delete(b"/large")
        now = (await client.range(b"a")).header.revision
        await compact(live, now)
        await same(live, await live.snapshot())
        await client.put(b"/large", b"again")
        await same(live, await live.snapshot())
        # Nothing lives any more.
        await client.delete(b"\0", EVERYTHING)
        await same(live, await live.snapshot())
        await compact(live, (await client.range(b"a")).header.revision)
        await same(live, await live.snapshot())


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_compaction_that_is_not_finished(version: str, tmp_path: Path) -> None:
    """It has begun, a record at a time: what it has not yet taken is not shown nor hashed."""
    old = "experimental-" if version == "3.5" else ""
    flags = {f"{old}compaction-batch-limit": "1", f"{old}compaction-sleep-interval": "300ms"}
    async with living(tmp_path, version, **flags) as live:
        await write(live.client, 3)
        now = (await live.client.range(b"a")).header.revision
        await live.client.compact(now - 5)
        await write(live.client, 4)
        path = await live.snapshot()
        history = History(LocalReadAt(path))
        below = [one for one in history.changes().mod_revision.tolist() if one < now - 5]
        assert len(below) > len(history.live(now - 5)), "the compaction was too fast"
        await same(live, path)
        if version == "3.5":
            return
        assert await etcdutl_says(live, path) == hash_kv(LocalReadAt(path))
        copy = tmp_path / "bumped"
        await live.etcd.etcdutl(
            "snapshot", "restore", str(path), f"--data-dir={copy}", "--bump-revision=1000",
            "--mark-compacted",
        )  # fmt: skip
        bumped = copy / "member" / "snap" / "db"
        assert await etcdutl_says(live, bumped) == hash_kv(LocalReadAt(bumped))
        shown = History(LocalReadAt(bumped)).live()
        assert [one for records in shown.records() for one in records] == await live.records(0)


# The command line --------------------------------------------------------------------------------


async def test_the_database_of_an_etcd_that_runs_is_refused(etcd: EtcdCluster) -> None:
    path = etcd.directory / f"{etcd.members[0].name}.etcd" / "member" / "snap" / "db"
    said = await steward("hashkv", path, "-o", "json")
    assert said.code == 3, said
    assert "running" in said.err
    assert "snapshot save" in said.json()["error"]["hint"]


async def test_of_a_file_alone(etcd: EtcdCluster, key_prefix: str, tmp_path: Path) -> None:
    await etcd.etcdctl("put", f"{key_prefix}a", "1")
    path = tmp_path / "etcd.db"
    await etcd.etcdctl("snapshot", "save", str(path))
    before = path.read_bytes()
    said = await steward("hashkv", path)
    assert said.code == 0, said
    expected = hash_kv(LocalReadAt(path))
    header, row = said.out.splitlines()
    assert header.split() == ["SOURCE", "MEMBER", "HASH", "REVISION", "COMPACTED"]
    assert row.split()[:3] == [str(path), str(expected.hash), str(expected.hash_revision)]
    wrapped = tmp_path / "wrapped.db.gz"
    await asyncio.to_thread(_gzip, path, wrapped)
    told = (await steward("hashkv", wrapped, "-o", "json")).json()
    assert told["hashes"][0]["hash"] == expected.hash
    assert path.read_bytes() == before
    (tmp_path / "empty.db").touch()
    said = await steward("hashkv", tmp_path / "empty.db")
    assert (said.code, "is empty" in said.err) == (2, True)
    said = await steward("hashkv", path, "--rev", str(expected.hash_revision + 1))
    assert said.code == 2
    assert f"ends at {expected.hash_revision}" in said.err


def _gzip(path: Path, target: Path) -> None:
    target.write_bytes(gzip.compress(path.read_bytes(), 1))


def _rename(path: Path, old: str, new: str) -> None:
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))


async def test_of_members_and_a_file_beside_them(
    etcd_mtls: EtcdCluster, key_prefix: str, tmp_path: Path
) -> None:
    await etcd_mtls.etcdctl("put", f"{key_prefix}a", "1")
    flags = etcd_mtls.connection_flags()
    said = await steward("hashkv", *flags, "-o", "json")
    assert said.code == 0, said
    told = said.json()
    assert told["verdict"] == "Same"
    assert {one["member"] for one in told["hashes"]} == {m.name for m in etcd_mtls.members}
    assert len({one["hash"] for one in told["hashes"]}) == 1
    path = tmp_path / "etcd.db"
    await etcd_mtls.etcdctl("snapshot", "save", str(path), endpoints=etcd_mtls.endpoints[:1])
    await etcd_mtls.etcdctl("put", f"{key_prefix}a", "2")
    said = await steward("hashkv", path, *flags)
    assert said.code == 0, said
    assert "They hold the same data" in said.out
    # A key that has changed on disk, in freed pages too: the structure is sound, the hash is not.
    _rename(path, f"{key_prefix}a", f"{key_prefix}b")
    said = await steward("hashkv", path, *flags)
    assert said.code == 4, said
    assert "DIFFERENT" in said.out


async def test_a_member_that_is_away(tmp_path: Path) -> None:
    async with EtcdCluster(tmp_path / "etcd", members=3) as etcd:
        await etcd.etcdctl("put", "/a", "1")
        flags = etcd.connection_flags()
        await etcd.members[2].stop()
        said = await steward("hashkv", *flags)
        assert said.code == 4, said
        assert "Those that have answered" in said.out
        assert etcd.members[2].endpoint in said.err
        await etcd.members[1].kill()
        await etcd.members[0].kill()

        async def gone() -> bool:
            return (await steward("hashkv", *flags)).code == 1

        await wait_until(gone, "nobody answers", timeout=30)
