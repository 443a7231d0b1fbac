"""The reading verbs asked of a backup: they say what the etcd said from which it was taken."""

import re
import shlex
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from etcd_steward.etcd import stubs
from etcd_steward.etcd.client import EtcdClient
from tests.integration.etcd_connections import connection_to
from tests.support.cli import steward
from tests.support.etcdctl import in_process
from tests.support.watching import watching
from tests.testbed import EtcdCluster, wait_until

_HEADER = re.compile(
    rb'"cluster_id":\d+,"member_id":\d+,|,"raft_term":\d+|"[CMR]\w+(ID|Term)" : \d+\n'
)


@dataclass(frozen=True, slots=True)
class Taken:
    """An etcd that nobody changes any more, and its backups."""

    etcd: EtcdCluster
    file: Path
    store: str
    """With the file in it, and its registry.parquet."""
    parquet: Path
    compacted: int
    revision: int


@pytest.fixture(scope="module")
async def taken(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Taken]:
    """With namespaces whose keys lie apart, several versions, deletions, a compaction, a lease."""
    directory = tmp_path_factory.mktemp("taken")
    async with (
        EtcdCluster(directory / "etcd") as etcd,
        EtcdClient.connect(connection_to(etcd)) as client,
    ):
        lease = await client.grant_lease(3600)
        for resource in ("configmaps", "secrets", "services/specs"):
            for namespace in ("shop", "shop2", "default"):
                for number in range(4):
                    key = f"/registry/{resource}/{namespace}/{number}".encode()
                    await client.put(key, b"v%d" % (number % 3), lease=lease if number == 2 else 0)
        for key in (
            b"/registry/namespaces/shop",
            b"/registry/configmaps/shop/1/below",
            b"/\xff\x00",
        ):
            await client.put(key, b"")
        await client.put(b"/registry/secrets/shop/1", b"two\nlines\xff")
        await client.delete(b"/registry/secrets/shop/3")
        compacted = (await client.put(b"/k/a", b"1")).header.revision
        await client.compact(compacted, physical=True)
        for number in range(3):
            await client.put(b"/k/a", b"%d" % number)
        await client.put(b"/k/b", b"x")
        await client.delete(b"/k/b")
        await client.txn([], [_put(b"/k/b", b"y"), _put(b"/k/a", b"last"), _put(b"/k/c", b"z")])
        await client.delete(b"/registry/configmaps/default/0", b"/registry/configmaps/default/3")
        file = directory / "etcd.db"
        await etcd.etcdctl("snapshot", "save", file)
        store = f"file://{directory}/store"
        said = await steward("snapshot", "import", file, "--store", store, "--cluster", "1f0c")
        assert said.code == 0, said.err
        (parquet,) = (directory / "store").rglob("registry.parquet")
        yield Taken(etcd, file, store, parquet, compacted, await etcd.revision())


def _put(key: bytes, value: bytes) -> stubs.RequestOp:
    return stubs.RequestOp(request_put=stubs.PutRequest(key=key, value=value))


LINES = (
    "get /k/a",
    "get /k/none",
    "get ''",
    "get --prefix /k/",
    "get --prefix ''",
    "get --prefix '' --hex",
    "get --prefix /registry/secrets/shop/",
    "get --prefix /registry/secrets/shop",
    "get --prefix /registry/configmaps/shop/1",
    "get --prefix /registry/configmaps/ --keys-only",
    "get --from-key /registry/secrets/",
    "get /k/a /k/c",
    "get /k/c /k/a",
    "get /registry/configmaps/shop/1",
    "get --prefix /registry/ --limit=5",
    "get --prefix /registry/ --limit=5 -w json",
    "get --prefix /registry/ --order=DESCEND --limit=3",
    "get --prefix /registry/ --sort-by=VERSION --limit=7 -w fields",
    "get --prefix /registry/ --sort-by=CREATE --order=DESCEND",
    "get --prefix /registry/ --sort-by=MODIFY --order=DESCEND --limit=9 --keys-only",
    "get --prefix /registry/secrets/shop/ --sort-by=VALUE",
    "get --prefix /k/ --sort-by=VALUE --order=DESCEND --keys-only",
    "get --prefix /k/ --sort-by=KEY --order=DESCEND -w json",
    "get --prefix /registry/ --count-only -w fields",
    "get --prefix /none/ --count-only -w fields",
    "get --prefix /none/ -w json",
    "get --prefix /none/ --sort-by=VALUE",
    "get --prefix /k/ --sort-by=VALUE --min-mod-rev=999999",
    "get --prefix '' -w json",
    "get --prefix '' -w fields",
    "get --prefix /registry/secrets/ --print-value-only",
    "get --prefix /registry/ --min-mod-rev=9 --max-mod-rev=20",
    "get --prefix /registry/ --min-create-rev=9 --max-create-rev=20 --limit=2 -w json",
    "get --prefix /k --rev={now}",
    "get --prefix /k --rev={future}",
)
OF_HISTORY = (
    "get --prefix /k/ --rev={compacted}",
    "get --prefix /k/ --rev={middle}",
    "get --prefix '' --rev={middle} -w json",
    "get --prefix /registry --rev={middle} --count-only -w fields",
    "get --prefix /k --rev={old}",
)


@pytest.mark.parametrize("line", [*LINES, *OF_HISTORY])
def test_get_from_a_backup_is_get_at_its_time(taken: Taken, line: str) -> None:
    words = shlex.split(line.format(**_revisions(taken)))
    live = _said([*words, *taken.etcd.connection_flags()])
    backups = [str(taken.file), taken.store, *([str(taken.parquet)] if line in LINES else [])]
    for backup in backups:
        assert _said([*words, "--from", backup, "--no-progress"]) == live, backup


def test_a_file_of_one_revision_says_so_of_others(taken: Taken) -> None:
    words = ["get", "/k/a", f"--rev={taken.revision - 1}", "--from", str(taken.parquet)]
    code, out, err = in_process(words)
    assert (code, out) == (1, b"")
    assert b"Error: etcdserver: mvcc: required revision has been compacted\n" in err
    code, out, err = in_process(["watch", "/k/a", "--rev=1", "--from", str(taken.parquet)])
    assert (code, out) == (1, b"")
    assert b"no history" in err


@pytest.mark.parametrize(
    "line",
    [
        "watch --prefix /k/ --rev={compacted} --prev-kv",
        "watch --prefix /k/ --rev={middle}",
        "watch /k/b --rev={middle} --prev-kv",
        "watch /registry/a /registry/z --rev={compacted} --prev-kv",
    ],
)
async def test_watch_from_a_backup_replays_what_was_told(
    taken: Taken, etcdctls: Mapping[str, Path], line: str
) -> None:
    words = shlex.split(line.format(**_revisions(taken)))
    said = await steward(*words, "--from", taken.file, "--no-progress")
    assert said.code == 0, said.err
    replayed = said.out.encode()
    live = [*words, *taken.etcd.connection_flags()]
    async with watching([etcdctls["3.7"]], *live) as program:

        async def same() -> bool:
            return program.out == replayed

        await wait_until(same, replayed.decode(), timeout=60)


def test_a_watch_of_no_keys_is_refused_as_etcd_refuses_it(taken: Taken) -> None:
    words = ["watch", "b", "a", "--rev=5"]
    for form in ("simple", "json", "fields"):
        live = _said([*words, f"-w={form}", *taken.etcd.connection_flags()])
        assert live[0] == 5
        assert _said([*words, f"-w={form}", "--from", str(taken.file), "--no-progress"]) == live


async def test_a_watch_that_no_backup_can_answer(taken: Taken) -> None:
    said = await steward("watch", "/k/a", f"--rev={taken.compacted - 1}", "--from", taken.store)
    assert (said.code, said.out) == (5, "")
    assert "watch was canceled (etcdserver: mvcc: required revision has been compacted)" in said.err
    assert "Error: watch is canceled by the server" in said.err
    said = await steward("watch", "/k/a", f"--rev={taken.revision + 5}", "--from", taken.store)
    assert (said.code, said.out) == (0, "")
    said = await steward("watch", "/k/a", "--from", taken.file)
    assert said.code == 128
    assert "say by --rev" in said.err
    said = await steward("watch", "-i", "--from", taken.file)
    assert said.code == 128


def _revisions(taken: Taken) -> dict[str, int]:
    return {
        "now": taken.revision,
        "future": taken.revision + 1,
        "compacted": taken.compacted,
        "middle": taken.compacted + 2,
        "old": taken.compacted - 1,
    }


def _said(words: list[str]) -> tuple[int, bytes, list[bytes]]:
    code, out, err = in_process(words)
    errors = [line for line in err.splitlines() if line.startswith(b"Error:")]
    return code, _HEADER.sub(b"", out), errors
