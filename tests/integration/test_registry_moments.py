"""A registry as it was: history up to a moment, and moments where no Lease is renewed."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.cli import Said, steward
from tests.testbed import EtcdCluster

MAINTENANCE = "/registry/etcdsteward.io/etcdmaintenances/etcd-steward/main"
KIND = ("etcdsteward.io/v1alpha1", "EtcdMaintenance")
AGO = (30, 20, 10)
"""Minutes before the end at which the operator looked."""


@dataclass(frozen=True, slots=True)
class Observed:
    """An etcd without Leases, which an operator observed; and its snapshots."""

    etcd: EtcdCluster
    looks: tuple[int, ...]
    """The revisions that the operator's looks were written at."""
    moments: tuple[datetime, ...]
    revision: int
    db: Path
    url: str
    """Of a snapshot in a store, with its sidecar."""

    def sources(self) -> tuple[list[str], ...]:
        return [], [f"--from={self.db}"], [f"--from={self.url}"]

    async def registry(self, *words: str | Path) -> Said:
        return await steward("registry", *words, *self.etcd.connection_flags())


@pytest.fixture(scope="module")
async def observed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Observed]:
    directory = tmp_path_factory.mktemp("observed")
    now = datetime.now(UTC).replace(microsecond=0)
    moments = tuple(now - timedelta(minutes=ago) for ago in AGO)
    async with EtcdCluster(directory / "etcd") as etcd:
        await _put(etcd, "namespaces/shop", "v1", "Namespace", "shop")
        await _put(etcd, MAINTENANCE.removeprefix("/registry/"), *KIND, "main")
        looks = []
        for number, moment in enumerate(moments):
            looks.append(await _look(etcd, moment))
            for _ in range(number + 1):
                await _put(etcd, f"configmaps/shop/c{number}", "v1", "ConfigMap", f"c{number}")
            await _look(etcd, moment, phase="Rewritten")  # by a task, long after it was seen
        revision = await etcd.revision()
        db = directory / "copy.db"
        await etcd.etcdctl("snapshot", "save", db)
        store = f"--store=file://{directory / 'store'}"
        saved = await steward("snapshot", "save", *etcd.connection_flags(), store)
        assert saved.code == 0, saved.err
        yield Observed(etcd, tuple(looks), moments, revision, db, saved.out.strip())


async def _put(etcd: EtcdCluster, path: str, version: str, kind: str, name: str) -> None:
    found = {"apiVersion": version, "kind": kind, "metadata": {"name": name}}
    await etcd.etcdctl("put", f"/registry/{path}", stdin=json.dumps(found).encode())


async def _look(etcd: EtcdCluster, moment: datetime, phase: str = "") -> int:
    """Write a status as the operator does; the revision that it is written at."""
    seen = {"time": f"{moment:%Y-%m-%dT%H:%M:%SZ}", "revision": await etcd.revision()}
    version, kind = KIND
    found = {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": "main", "namespace": "etcd-steward"},
        "status": {"etcd": seen, "phase": phase},
    }
    await etcd.etcdctl("put", MAINTENANCE, stdin=json.dumps(found).encode())
    return await etcd.revision()


def revisions(said: Said) -> dict[str, int]:
    assert said.code == 0, said.err
    return {one["object"]: one["revisions"] for one in said.json()}


async def test_history_is_counted_up_to_the_revision(observed: Observed) -> None:
    words = ("top", "--by=history", "--per=object", "-n=shop", "-o=json")
    at = f"--at={observed.looks[2] - 1}"
    for source in observed.sources():
        whole = await observed.registry(*words, *source)
        assert revisions(whole) == {f"configmaps/shop/c{n}": n + 1 for n in range(3)}, source
        then = await observed.registry(*words, at, *source)
        assert revisions(then) == {"configmaps/shop/c0": 1, "configmaps/shop/c1": 2}, source
        # The last mark before it.
        ago = await observed.registry(*words, "--ago=15m", *source)
        assert set(revisions(ago)) < set(revisions(whole)), source
        for revision, said in ((999999, "in the future"), (0, "0 is not in the range")):
            never = await observed.registry(*words, f"--at={revision}", *source)
            assert (never.code, said in never.err) == (2, True), (source, never.err)


async def test_what_is_compacted_has_no_history(tmp_path: Path) -> None:
    async with EtcdCluster(tmp_path / "etcd") as etcd:
        for _ in range(4):
            await _put(etcd, "configmaps/shop/a", "v1", "ConfigMap", "a")
        await etcd.etcdctl("compact", "4")
        await etcd.etcdctl("snapshot", "save", tmp_path / "copy.db")
        words = ("registry", "top", "--by=history", "--per=object", "-o=json")
        for source in (etcd.connection_flags(), [f"--from={tmp_path / 'copy.db'}"]):
            gone = await steward(*words, "--at=3", *source)
            assert (gone.code, "reaches back to revision 4" in gone.err) == (1, True), gone.err
            assert revisions(await steward(*words, "--at=4", *source)) == {"configmaps/shop/a": 1}
            assert revisions(await steward(*words, *source)) == {"configmaps/shop/a": 2}


async def test_an_export_has_no_history_before_it(observed: Observed, tmp_path: Path) -> None:
    exported = await observed.registry("export", f"--store=file://{tmp_path}")
    assert exported.code == 0, exported.err
    words = ("top", "--by=history", f"--from={exported.out.strip()}")
    then = await observed.registry(*words, f"--at={observed.looks[2]}")
    assert (then.code, "and no other" in then.err) == (1, True)


async def test_writes_have_no_moment(observed: Observed) -> None:
    for moment in ("--at=3", "--ago=20m"):
        got = await observed.registry("top", "--by=writes", "--for=1s", moment)
        assert got.code == 2, got.err
        assert "--by writes watches the live etcd from now on: leave out --at and --ago" in got.err


async def test_a_report_shows_the_history_of_its_revision(
    observed: Observed, tmp_path: Path
) -> None:
    for number, source in enumerate(observed.sources()):
        page, at = tmp_path / f"{number}.html", observed.looks[2] - 1
        made = await observed.registry("report", page, f"--at={at}", *source)
        assert made.code == 0, made.err
        kept = re.search(r": (\d+) revisions, [^,]+, of (\d+) live keys", page.read_text())
        assert kept is not None
        # Every revision but the first, which is etcd's own, wrote one key.
        assert (int(kept[1]), int(kept[2])) == (at - 1, 4), source
        told = f"{observed.moments[1]:%Y-%m-%d %H:%M:%S}Z or later, by the operator&#39;s observat"
        assert told in page.read_text(), source
        assert "Database" not in page.read_text(), source  # it is of now


async def test_where_no_lease_is_renewed_the_operator_has_observed(observed: Observed) -> None:
    for source in observed.sources():
        live = source == []
        # Of a snapshot, from its last moment: the last look.
        ago = "--ago=15m" if live else "--ago=5m"
        got = await observed.registry("keys", "/registry/configmaps/", ago, *source)
        assert got.code == 0, got.err
        told = re.match(
            r"Revision (\d+), of (\S+ \S+Z): exact to (\S+), by the (.*)\. The", got.err
        )
        assert told is not None, got.err
        assert int(told[1]) == observed.looks[1], source
        assert told[2] == f"{observed.moments[1]:%Y-%m-%d %H:%M:%S}Z"
        assert told[3] == "10m"
        assert told[4] == "operator's observations"
        assert f"reaches back to {observed.moments[0]:%Y-%m-%d %H:%M:%S}Z" in got.err
        assert got.out.split() == ["/registry/configmaps/shop/c0"]
        far = await observed.registry("ls", "--ago=999h", *source)
        assert (far.code, "reaches back to" in far.err) == (1, True)


async def test_a_restore_tells_that_a_moment_is_an_observation(observed: Observed) -> None:
    flags = (*observed.etcd.connection_flags(), "--plan", "--ago=15m")
    got = await steward("restore", "object", "cm/shop/c0", *flags)
    assert f"{observed.looks[1]}\n" in got.out, got.err
    assert "by the operator's observations" in got.err


async def test_a_resource_that_only_one_side_knows(tmp_path: Path) -> None:
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "gadgets.example.com"},
        "spec": {
            "group": "example.com",
            "names": {"plural": "gadgets", "kind": "Gadget", "shortNames": ["gd"]},
        },
    }
    async with EtcdCluster(tmp_path / "etcd") as etcd:
        before, after = tmp_path / "before.db", tmp_path / "after.db"
        await _put(etcd, "namespaces/shop", "v1", "Namespace", "shop")
        await etcd.etcdctl("snapshot", "save", before)
        key = "/registry/apiextensions.k8s.io/customresourcedefinitions/gadgets.example.com"
        await etcd.etcdctl("put", key, stdin=json.dumps(crd).encode())
        await _put(etcd, "example.com/gadgets/shop/one", "example.com/v1", "Gadget", "one")
        await etcd.etcdctl("snapshot", "save", after)

        for one, other, sign in ((before, after, "+"), (after, before, "-")):
            for word in ("gd", "gadget", "gadgets.example", "gadgets.example.com"):
                got = await steward("registry", "diff", one, other, f"--resource={word}")
                told = (got.code, got.out)
                assert told == (4, f"{sign} gadgets.example.com shop/one\n"), (word, got.err)
        none = await steward("registry", "diff", before, after, "--resource=gadgte")
        assert none.code == 1
        assert f"neither in Kubernetes nor by a CustomResourceDefinition in {before} or" in none.err
        assert "gadget" in none.err
