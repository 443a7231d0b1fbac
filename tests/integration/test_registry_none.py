"""Backups of an etcd that holds no Kubernetes registry, or nothing: every verb says so."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.cli import Said, files, steward
from tests.testbed import EtcdCluster


@dataclass(frozen=True, slots=True)
class Places:
    """Where an etcd can be looked into that holds one key of somebody else's."""

    etcd: EtcdCluster
    db: Path
    stored: str
    """A snapshot's URL, its sidecar beside it."""
    export: str
    empty: Path
    """A snapshot of an etcd that was never written to."""

    def source(self, name: str) -> list[str]:
        return [] if name == "live" else [f"--from={getattr(self, name)}"]


@pytest.fixture(scope="module")
async def places(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Places]:
    directory = tmp_path_factory.mktemp("none")
    db, empty, store = directory / "copy.db", directory / "empty.db", directory / "store"
    async with EtcdCluster(directory / "etcd") as etcd:
        await etcd.etcdctl("snapshot", "save", empty)
        await etcd.etcdctl("put", "app/config", "x")
        await etcd.etcdctl("snapshot", "save", db)
        flags = (*etcd.connection_flags(), f"--store=file://{store}")
        saved = await steward("snapshot", "save", *flags)
        exported = await steward("registry", "export", *flags)
        assert (saved.code, exported.code) == (0, 0), (saved.err, exported.err)
        assert "no key lies below /registry/" in exported.err
        stored = saved.out.strip()
        kept = files(Path(stored.removeprefix("file://")))
        assert {"index.json", "registry.parquet", "snapshot.db.zst"} <= set(kept)
        yield Places(etcd, db, stored, exported.out.strip(), empty)


async def registry(places: Places, source: list[str], *words: str | Path) -> Said:
    return await steward("registry", *words, *source, *places.etcd.connection_flags())


@pytest.mark.parametrize("place", ["live", "db", "stored", "export", "empty"])
async def test_objects_are_said_to_be_none(places: Places, place: str) -> None:
    source = places.source(place)
    for words in (
        ("ls",),
        ("ls", "pods"),
        ("ls", "-n", "shop"),
        ("ls", "--by=namespace"),
        ("tree",),
        ("tree", "-n", "shop"),
        ("get", "ns"),
        ("get", "cm/shop/a"),
        ("get", "--all"),
    ):
        got = await registry(places, source, *words)
        assert (got.code, got.out) == (1, ""), words
        assert got.err.startswith("Error: there is no Kubernetes registry under /registry in ")
        assert "`etcd-steward registry keys` shows what there is" in got.err
        assert "--registry-prefix" in got.err
    timeless = await registry(places, source, "ls", "--ago=1m")
    assert (timeless.code, "what time it was" in timeless.err) == (1, True)
    never = await registry(places, source, "log", "cm/shop/a")
    assert (never.code, "was never seen" in never.err) == (1, True)


@pytest.mark.parametrize("place", ["live", "db", "stored", "export"])
async def test_keys_are_still_shown(places: Places, place: str, tmp_path: Path) -> None:
    source = places.source(place)
    keys = await registry(places, source, "keys")
    assert keys.code == 0, keys.err
    found = keys.out.split()
    ours = [key for key in found if key.startswith("/etcdsteward.io/")]
    assert found == [*ours, "app/config"]
    none = await registry(places, source, "keys", "/registry/")
    assert (none.code, none.out, none.err) == (0, "", "")

    for flags in ((), ("--per=namespace",), ("--by=keys",)):
        top = await registry(places, source, "top", *flags)
        assert top.code == 0, top.err
        assert re.search(r"^\(outside of /registry/\) +1 +11 B ", top.out, re.MULTILINE), flags
    nobody = await registry(places, source, "top", "-n=shop", "-o=json")
    assert (nobody.code, nobody.json()) == (0, [])

    page = tmp_path / "page.html"
    made = await registry(places, source, "report", page)
    assert made.code == 0, made.err
    told = " ".join(re.sub(r"<[^>]+>|\s+", " ", page.read_text()).split())
    assert "Resources 0 Namespaces 0 " in told
    assert "(outside of /registry/)" in told


async def test_nothing_at_all_is_shown_as_nothing(places: Places, tmp_path: Path) -> None:
    source = places.source("empty")
    keys = await registry(places, source, "keys")
    assert (keys.code, keys.out, keys.err) == (0, "", "")
    for by in ("keys", "bytes", "history"):
        top = await registry(places, source, "top", f"--by={by}")
        assert (top.code, len(top.out.splitlines())) == (0, 1), top.err
        assert re.search(r"^0 (keys|revisions), 0 B in .*empty\.db at revision 1$", top.err.strip())
    page = tmp_path / "page.html"
    made = await registry(places, source, "report", page)
    assert made.code == 0, made.err
    assert " Keys 0 " in " ".join(re.sub(r"<[^>]+>|\s+", " ", page.read_text()).split())
    diff = await registry(places, [], "diff", places.empty, places.empty)
    assert (diff.code, "there is no Kubernetes registry" in diff.err) == (1, True)
