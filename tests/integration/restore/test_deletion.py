"""What etcd's own history tells of deletions: what was there right before each of them."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest

from etcd_steward.engine.live_source import LiveSource
from etcd_steward.engine.restore.deletion import BeforeDeletion, before_deletion
from etcd_steward.engine.restore.live import Live
from etcd_steward.engine.sources import Wanted
from etcd_steward.errors import Compacted, NoSuchNamespace, NotFound
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.models.registry import Filter, Record
from etcd_steward.models.restore import RestoreOptions
from tests.support.runs import connection
from tests.testbed import EtcdCluster

MARK = "2026-11-22T02:17:00Z"


@pytest.fixture(scope="module")
async def own_etcd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EtcdCluster]:
    """One that may be compacted."""
    async with EtcdCluster(tmp_path_factory.mktemp("deletions")) as cluster:
        yield cluster


@dataclass
class History:
    """What happens in a registry of a test's own."""

    client: EtcdClient
    prefix: str

    async def put(self, key: str, text: str = "", **metadata: Any) -> None:  # noqa: ANN401
        """Write an object whose data is `text`."""
        kind = "Namespace" if key.startswith("namespaces/") else "ConfigMap"
        meta = {"name": key.rpartition("/")[2], "uid": key, **metadata}
        value = {"apiVersion": "v1", "kind": kind, "metadata": meta, "data": {"text": text}}
        await self.client.put(f"{self.prefix}/{key}".encode(), json.dumps(value).encode())

    async def delete(self, *keys: str) -> None:
        """Delete them, one after the other."""
        for key in keys:
            await self.client.delete(f"{self.prefix}/{key}".encode())

    async def before(self, include: Filter) -> BeforeDeletion:
        """What is found."""
        source = await LiveSource.open(self.client, self.prefix)
        now = await Live.open(self.client, self.prefix)
        options = RestoreOptions(include=include)
        found, ref = await before_deletion(source, now, options, self.prefix)
        assert (ref.revision, ref.live) == (found.revision, True)
        return found

    async def texts(self, include: Filter, *, values: bool = True) -> dict[str, str]:
        """What would be restored."""
        source = await self.before(include)
        wanted = Wanted(include, prefix=self.prefix)
        found: dict[str, str] = {}
        async with aclosing(source.records(wanted, values=values)) as batches:
            async for records in batches:
                for one in records:
                    assert self.name(one) not in found
                    found[self.name(one)] = _text(one) if values else ""
        return found

    def name(self, record: Record) -> str:
        """A key below the prefix."""
        return record.key.decode().removeprefix(f"{self.prefix}/")


def _text(record: Record) -> str:
    return str(json.loads(record.value)["data"]["text"])


@pytest.fixture
async def history(own_etcd: EtcdCluster, key_prefix: str) -> AsyncIterator[History]:
    async with EtcdClient.connect(connection(own_etcd)) as client:
        yield History(client, key_prefix.rstrip("/"))


async def test_each_namespace_is_read_before_its_own_mark(history: History) -> None:
    for name in ("one", "two", "live"):
        await history.put(f"namespaces/{name}")
        await history.put(f"configmaps/{name}/a", "first")
    await history.put("configmaps/one/a", "second")
    await history.delete("configmaps/one/gone-before")
    await history.put("namespaces/one", deletionTimestamp=MARK)
    await history.put("configmaps/one/a", "emptied")
    await history.put("configmaps/two/a", "third")
    await history.delete("configmaps/one/a", "namespaces/one")
    await history.put("namespaces/two", deletionTimestamp=MARK)
    await history.delete("configmaps/two/a", "namespaces/two")
    await history.put("configmaps/live/a", "after")
    both = Filter(namespaces=("one", "two"))
    expected = {"configmaps/one/a": "second", "configmaps/two/a": "third"}
    assert await history.texts(both) == expected
    assert await history.texts(both, values=False) == dict.fromkeys(expected, "")
    assert await history.texts(Filter(namespaces=("*",))) == expected
    source = await history.before(both)
    keys = [f"{history.prefix}/namespaces/{name}".encode() for name in ("one", "two", "live")]
    assert sorted(await source.fetch(keys)) == sorted(keys)
    again = await history.before(both)
    assert again.revision == source.revision


async def test_what_was_deleted_by_itself_is_found_by_itself(history: History) -> None:
    await history.put("namespaces/shop")
    for name in ("kept", "gone", "marked", "again", "twice"):
        await history.put(f"configmaps/shop/{name}", "first", labels={"app": name})
    await history.put("configmaps/shop/gone", "second", labels={"app": "gone"})
    await history.delete("configmaps/shop/gone", "configmaps/shop/again")
    marked = {"deletionTimestamp": MARK, "finalizers": ["example.com/x"]}
    await history.put("configmaps/shop/marked", "going", **marked)
    await history.put("configmaps/shop/again", "new")
    await history.delete("configmaps/shop/twice")
    await history.put("configmaps/shop/twice", "second", labels={"app": "twice"})
    await history.delete("configmaps/shop/twice")
    await history.put("events/shop/e", "event")
    await history.delete("events/shop/e")
    expected = {
        "configmaps/shop/gone": "second",
        "configmaps/shop/marked": "first",
        "configmaps/shop/twice": "second",
    }
    assert await history.texts(Filter(namespaces=("shop",))) == expected
    assert await history.texts(Filter(resources=("configmaps",), names=("gone",))) == {
        "configmaps/shop/gone": "second"
    }
    assert await history.texts(Filter(label_selector="app=twice")) == {
        "configmaps/shop/twice": "second"
    }
    assert await history.texts(Filter(resources=("events",))) == {"events/shop/e": "event"}


async def test_a_namespace_that_is_there_again_counts_as_there(history: History) -> None:
    await history.put("namespaces/shop", uid="one")
    await history.put("configmaps/shop/a", "first")
    await history.put("namespaces/shop", uid="one", deletionTimestamp=MARK)
    await history.delete("configmaps/shop/a", "namespaces/shop")
    await history.put("namespaces/shop", uid="two")
    await history.put("configmaps/shop/b", "new")
    assert await history.texts(Filter(namespaces=("shop",))) == {"configmaps/shop/a": "first"}


async def test_what_is_compacted_away_or_was_never_deleted_is_told(history: History) -> None:
    await history.put("namespaces/shop")
    await history.put("configmaps/shop/a", "first")
    with pytest.raises(NotFound, match="nothing of what is asked for was deleted since"):
        await history.before(Filter(namespaces=("shop",)))
    with pytest.raises(NoSuchNamespace, match="no namespace shopp, and none was deleted") as wrong:
        await history.before(Filter(namespaces=("shopp", "shop")))
    assert (wrong.value.hint, wrong.value.names) == ("there are shop", ("shopp",))
    await history.delete("configmaps/shop/a")
    before = await history.before(Filter(namespaces=("shop",)))
    answer = await history.client.range(b"x")
    await history.client.compact(answer.header.revision)
    with pytest.raises(NotFound, match="when etcd was last compacted") as error:
        await history.before(Filter(namespaces=("shop",)))
    assert "snapshot list" in error.value.hint
    wanted = Wanted(Filter(namespaces=("shop",)), prefix=history.prefix)
    with pytest.raises(Compacted, match="while it was read"):
        await anext(before.records(wanted))
