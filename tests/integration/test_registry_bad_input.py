"""Looking into what can't be looked into: each time an error that says what to do."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from etcd_steward.etcd.client import EtcdClient
from tests.integration.etcd_connections import connection_to
from tests.support.cli import Said, files, steward
from tests.testbed import EtcdCluster

SECRET = "/registry/secrets/shop/db"
ENCRYPTED = b"k8s:enc:aescbc:v1:key-2024:\x00\xff\x80not-for-you"


@dataclass(frozen=True, slots=True)
class Odd:
    """An etcd with two objects, an encrypted one and a strange key; compacted."""

    etcd: EtcdCluster
    compacted: int
    db: Path

    async def registry(self, *words: str | Path) -> Said:
        return await steward("registry", *words, *self.etcd.connection_flags())


@pytest.fixture(scope="module")
async def odd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Odd]:
    directory = tmp_path_factory.mktemp("odd")
    async with EtcdCluster(directory / "etcd") as etcd:
        for name in ("shop", "billing"):
            value = b'{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"%s"}}'
            await etcd.etcdctl("put", f"/registry/namespaces/{name}", stdin=value % name.encode())
        await etcd.etcdctl("put", SECRET, stdin=ENCRYPTED)
        compacted = await etcd.revision()
        await etcd.etcdctl("compact", str(compacted))
        async with EtcdClient.connect(connection_to(etcd)) as client:
            await client.put("/other\\\u00e9\n".encode() + b"\xff\x00", b"b")
        db = directory / "copy.db"
        await etcd.etcdctl("snapshot", "save", db)
        yield Odd(etcd, compacted, db)


@pytest.mark.parametrize("place", ["live", "db"])
async def test_a_namespace_that_is_not_there(odd: Odd, place: str) -> None:
    source = [] if place == "live" else [f"--from={odd.db}"]
    for verb in (("ls",), ("get", "cm"), ("tree",), ("diff", str(odd.db))):
        if verb[0] == "diff":
            got = await odd.registry(*verb, "-n", "shopp")
        else:
            got = await odd.registry(*verb, "-n", "shopp", *source)
        assert got.code == 1, verb
        assert "there is no namespace 'shopp' in" in got.err
        assert "There are shop, billing" in got.err


@pytest.mark.parametrize("place", ["live", "db"])
async def test_a_revision_that_is_gone_or_yet_to_come(odd: Odd, place: str) -> None:
    source = [] if place == "live" else [f"--from={odd.db}"]
    gone = await odd.registry("ls", f"--at={odd.compacted - 1}", *source)
    assert gone.code == 1
    assert f"it reaches back to revision {odd.compacted}\n" in gone.err
    assert "snapshot list" in gone.err
    kept = await odd.registry("ls", f"--at={odd.compacted}", *source)
    assert kept.code == 0
    future = await odd.registry("ls", "--at=999999", *source)
    assert future.code == 2
    assert "revision 999999 is in the future" in future.err
    both = await odd.registry("ls", "--at=3", "--ago=3m", *source)
    assert (both.code, "give one of them" in both.err) == (2, True)
    timeless = await odd.registry("ls", "--ago=3m", *source)
    assert (timeless.code, "no Lease was renewed" in timeless.err) == (1, True)


async def test_an_etcd_without_a_registry(odd: Odd) -> None:
    for source in ([], [f"--from={odd.db}"]):
        got = await odd.registry("ls", "--registry-prefix=/elsewhere", *source)
        assert got.code == 1
        assert "there is no Kubernetes registry under /elsewhere in" in got.err
        assert "registry keys` shows" in got.err


@pytest.mark.parametrize("place", ["live", "db"])
async def test_an_encrypted_value_is_said_to_be_one(odd: Odd, place: str) -> None:
    source = [] if place == "live" else [f"--from={odd.db}"]
    got = await odd.registry("get", "secret/shop/db", *source)
    assert (got.code, got.out) == (1, "")
    assert "secrets/shop/db can't be shown" in got.err
    assert "aescbc:v1" in got.err
    assert "'key-2024'" in got.err
    assert "not-for-you" not in got.err
    some = await odd.registry("get", "--all", *source)
    assert some.code == 4
    assert some.out.count("kind: Namespace") == 2
    assert "secrets/shop/db is left out" in some.err
    listed = await odd.registry("ls", "secret", "-n=shop", *source)
    assert listed.code == 0


async def test_a_key_that_is_no_text_is_escaped(odd: Odd) -> None:
    for source in ([], [f"--from={odd.db}"]):
        got = await odd.registry("keys", "/other", *source)
        assert got.out == "/other\\\\\u00e9\\n\\xff\\x00\n"


async def test_files_that_are_no_snapshots(odd: Odd, tmp_path: Path) -> None:
    empty, text, cut = tmp_path / "empty.db", tmp_path / "notes.db", tmp_path / "cut.db"
    empty.touch()
    text.write_text("not a database at all\n" * 4000)
    cut.write_bytes(odd.db.read_bytes()[:9000])
    member = odd.etcd.members[0].data_dir / "member" / "snap" / "db"
    for path, code, words in (
        (empty, 2, "is empty"),
        (text, 2, "is no etcd snapshot"),
        (cut, 1, "damaged"),
        (tmp_path / "none.db", 1, "there is no file"),
        (tmp_path, 2, "is a directory"),
        (member, 3, "of an etcd that is running"),
    ):
        got = await steward("registry", "ls", f"--from={path}", f"--spool-dir={tmp_path}/spool")
        assert (got.code, got.out) == (code, ""), got.err
        assert words in got.err
        assert "Traceback" not in got.err
    assert files(tmp_path / "spool") == []


async def test_words_that_mean_nothing(odd: Odd) -> None:
    for words, code, said in (
        (("get",), 2, "say which objects"),
        (("get", "a/b/c/d"), 2, "names no object"),
        (("get", "wodget/shop/a"), 1, "no resource is called 'wodget'"),
        (("get", "cm/shop/a", "-n=billing"), 2, "is not in namespace"),
        (("ls", "-l", "a in"), 2, "label selector"),
        (("log", "cm"), 2, "is not one object"),
        (("log", "cm/shop/none"), 1, "was never seen"),
        (("top", "--by=writes", f"--from={odd.db}"), 2, "leave out --from"),
        (("get", "ns", "--from="), 2, "--from is empty"),
        (("report", f"{odd.db}"), 1, "is there already"),
        (("get", "ns", f"--from=file://{odd.db.parent}/nothing"), 1, "/nothing"),
    ):
        got = await odd.registry(*words)
        assert got.code == code, (words, got.err)
        assert said in got.err, words
