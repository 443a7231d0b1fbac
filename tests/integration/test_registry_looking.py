"""Looking into one registry by all ways: the live etcd, an export, a snapshot, files."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import steward
from tests.support.looked import DELETED, SECRET, Looked


def documents(text: str) -> list[str]:
    """The documents of a YAML stream, in the order of their text."""
    return sorted(text.removesuffix("\n").split("\n---\n"))


def named(found: dict[str, Any]) -> tuple[str, str, str]:
    metadata = found["metadata"]
    return found["kind"], metadata.get("namespace", ""), metadata["name"]


async def test_every_object_is_the_same_wherever_it_is_read(still: Looked, tmp_path: Path) -> None:
    exported = await still.registry("export", f"--store=file://{tmp_path}")
    assert exported.code == 0, exported.err
    live = await still.registry("get", "--all")
    assert (live.code, live.err) == (0, "")
    texts = documents(live.out)
    assert len(texts) > 700
    for place in (exported.out.strip(), still.url, still.db, still.gz):
        got = await steward("registry", "get", "--all", f"--from={place}", "--no-progress")
        assert got.code == 0, got.err
        assert documents(got.out) == texts, place


async def test_it_is_what_the_api_server_says(still: Looked) -> None:
    got = await still.registry("get", "--all", "-o", "json")
    listed = json.loads(got.out)
    assert (listed["kind"], listed["apiVersion"]) == ("List", "v1")
    found = {named(one): one for one in listed["items"]}

    assert len(still.told) > 500
    for told in still.told:
        assert found[named(told)] == told


async def test_a_name_is_understood_as_kubectl_does(still: Looked) -> None:
    texts = set()
    for words in (
        ("deployments.apps/shop/api",),
        ("deploy/shop/api",),
        ("Deployment", "api", "-n", "shop"),
        ("deployments.v1.apps/api", "-n=shop"),
        ("deploy/api", "--namespace=shop", "-o", "yaml"),
    ):
        got = await still.registry("get", *words)
        assert (got.code, got.err) == (0, ""), words
        texts.add(got.out)
    (text,) = texts
    assert text.startswith("apiVersion: apps/v1\nkind: Deployment\nmetadata:\n")
    assert '    deployment.kubernetes.io/revision: "2"\n' in text
    for word in ("widget", "widgets.testbed", "widgets.testbed.etcdsteward.io"):
        assert "kind: Widget" in (await still.registry("get", f"{word}/shop/widget-1")).out
    assert "kind: Node\n" not in (await still.registry("get", "ns/shop")).out


async def test_a_selection_is_a_list(still: Looked) -> None:
    got = await still.registry("get", "po", "-n", "shop", "-l", "app=api", "-o", "json")
    assert {one["metadata"]["labels"]["app"] for one in got.json()["items"]} == {"api"}
    raw = await steward("registry", "get", "widget/shop/widget-1", "-o=raw", f"--from={still.db}")
    assert json.loads(raw.out)["kind"] == "Widget"
    several = await still.registry("get", "widgets", "-n=shop", "-o=raw")
    assert (several.code, "prints one value" in several.err) == (2, True)


@pytest.mark.parametrize("place", ["live", "url", "db"])
async def test_ls_counts_and_lists(still: Looked, place: str) -> None:
    source = [] if place == "live" else [f"--from={getattr(still, place)}"]
    every = await still.registry("ls", *source, "-o", "json")
    counts = {one["resource"]: one["objects"] for one in every.json()}
    assert counts["namespaces"] == 10
    assert counts["widgets.testbed.etcdsteward.io"] == 30

    shop = await still.registry("ls", *source, "-n", "shop", "-o", "json")
    assert {one["resource"]: one["objects"] for one in shop.json()}["services"] == 4
    by_namespace = await still.registry("ls", *source, "--by", "namespace", "-o=json")
    sums = {one["namespace"]: one["objects"] for one in by_namespace.json()}
    assert sums["shop"] == sum(one["objects"] for one in shop.json())
    assert sum(sums.values()) == sum(counts.values())

    rows = (await still.registry("ls", "svc", "-n", "shop", *source)).out.splitlines()
    assert rows[0].split() == ["NAMESPACE", "RESOURCE", "NAME", "REVISION", "CHANGES"]
    assert [row.split()[2] for row in rows[1:]] == ["api", "cache", "frontend", "worker"]


async def test_tree_shows_owners(still: Looked) -> None:
    whole = await still.registry("tree", "-n", "shop", f"--from={still.url}")
    assert re.search(
        r"^deployments\.apps/api\n├── replicasets\.apps/api-\w+\n", whole.out, re.MULTILINE
    )
    assert re.search(r"^│   └── pods/api-\w+-\w+$", whole.out, re.MULTILINE)
    one = await still.registry("tree", "deploy/shop/api", f"--from={still.url}", "-o=json")
    (deployment,) = one.json()
    assert deployment["name"] == "api"
    assert {inner["resource"] for inner in deployment["owns"]} == {"replicasets.apps"}
    every = await still.registry("tree")
    assert re.search(r"^shop  \d+ objects\n├── configmaps +9\n", every.out, re.MULTILINE)


@pytest.mark.parametrize("place", ["live", "url", "db"])
async def test_keys_are_those_that_etcdctl_shows(still: Looked, place: str) -> None:
    source = [] if place == "live" else [f"--from={getattr(still, place)}"]
    got = await still.registry("keys", "/registry/", *source)
    shown = await still.etcd.etcdctl("get", "--prefix", "--keys-only", "/registry/")
    assert got.out.split() == shown.split()
    some = await still.registry("keys", "/registry/ranges/", *source, "-o=json")
    assert {one["other"] for one in some.json()} == {"service node ports"}


async def test_diff_tells_what_changed_and_masks_secrets(still: Looked) -> None:
    got = await still.registry("diff", still.before, still.url, "-n", "shop")
    assert got.code == 4
    assert f"- configmaps shop/{DELETED}\n" in got.out
    assert "+ configmaps shop/new\n" in got.out
    assert (
        "    spec.template.spec.containers[api].image: "
        '"registry.example.com/shop/api:1.0" -> "registry.example.com/api:2"\n'
    ) in got.out
    assert "! services shop/cache\n    another object of the same name" in got.out
    assert '    data.password: (nothing) -> "(hidden, ' in got.out
    assert "Leases" in got.err

    shown = await still.registry(
        "diff", still.before, still.db, "--resource=secret", "--show-secrets", "-o", "json"
    )
    assert shown.code == 4
    (secret,) = shown.json()
    assert (secret["fate"], secret["name"]) == ("changed", "token-1")
    assert [field["path"] for field in secret["fields"]] == ["data.password"]

    same = await still.registry("diff", still.url, still.db)
    assert (same.code, same.out) == (0, "")
    live = await still.registry("diff", still.url)
    assert (live.code, live.out) == (0, "")
    assert SECRET not in got.out + got.err


@pytest.mark.parametrize("place", ["live", "db"])
async def test_history_shows_what_was_before(still: Looked, place: str) -> None:
    source = [] if place == "live" else [f"--from={still.db}"]
    log = await still.registry("log", f"cm/shop/{DELETED}", *source, "-o=json")
    created, deleted = log.json()
    assert (created["state"], created["version"]) == ("present", 1)
    assert (deleted["state"], deleted["exact"]) == ("absent", True)
    assert deleted["revision"] > created["revision"]

    at = f"--at={deleted['revision'] - 1}"
    before = await still.registry("get", f"cm/shop/{DELETED}", at, *source)
    assert f"  name: {DELETED}\n" in before.out
    after = await still.registry("get", f"cm/shop/{DELETED}", *source)
    assert after.code == 1
    assert f"there is no configmaps '{DELETED}' in namespace shop" in after.err
    assert "settings-2" in after.err


async def test_log_goes_over_all_backups_of_a_store(still: Looked) -> None:
    store = f"--store={still.store}"
    log = await still.registry("log", "deploy/shop/api", store)
    assert "spec.template.spec.containers[api].image" in log.out
    assert "by kubectl-set" in log.out
    assert "seen in manual of 20" in log.out
    assert "Looked at: the live etcd, manual of" in log.err

    nowhere = ["--endpoints=127.0.0.1:1", "--dial-timeout=1s"]
    dead = await steward("registry", "log", f"cm/shop/{DELETED}", store, *nowhere, "-o=json")
    created, gone = dead.json()
    assert created["seenIn"]
    assert (gone["exact"], gone["presentAtRevision"] < gone["revision"]) == (False, True)
    assert "the live etcd is left out" in dead.err
    secret = await still.registry("log", "secret/shop/token-1", store)
    assert "data.password" in secret.out
    assert SECRET not in secret.out


async def test_ago_is_told_by_leases(still: Looked) -> None:
    newest = await still.registry("ls", "ns", "--ago=1ms", f"--from={still.db}")
    said = re.match(r"Revision (\d+), of \S+ \S+Z: exact to \S+ s, by the renewals of", newest.err)
    assert said is not None, newest.err
    assert int(said[1]) <= still.revision

    # A little later than the renewal, so that the API server's own Leases don't matter.
    ago = f"--ago={(still.last_at - still.before_at).total_seconds() - 0.001:.3f}s"
    for place in (still.db, still.url):  # of the latter, the history is downloaded
        then = await still.registry("get", f"cm/shop/{DELETED}", ago, f"--from={place}")
        assert then.code == 0, then.err
        assert f"  name: {DELETED}\n" in then.out
    far = await still.registry("ls", "--ago=999h", f"--from={still.url}")
    assert far.code == 1
    assert re.search(r"reaches back to 20\S+ \S+Z only", far.err)


async def test_top_adds_up(still: Looked) -> None:
    got = await still.registry("top", "--by=keys", "--per=namespace", "-o=json")
    counts = {one["namespace"]: one["keys"] for one in got.json()}
    ls = await still.registry("ls", "--by=namespace", "-o=json")
    assert {one["namespace"]: one["objects"] for one in ls.json()}.items() <= counts.items()

    sizes = {}
    for source in ([], [f"--from={still.url}"], [f"--from={still.db}"]):
        top = await still.registry("top", "--by=bytes", *source, "-n=shop", "-o=json")
        sizes[str(source)] = top.json()
    first, *others = sizes.values()
    assert all(other == first for other in others)
    assert first[0]["bytes"] >= first[1]["bytes"]

    managers = await still.registry("top", "--per=manager", f"--from={still.url}")
    assert "\ntestbed " in managers.out
    history = {}
    for name, source in (("live", []), ("db", [f"--from={still.db}"])):
        flags = ("--by=history", "--per=object", "-n=shop", "-o=json")
        top = await still.registry("top", *flags, *source)
        history[name] = top.json()
    assert history["live"] == history["db"]
    assert history["db"][0]["revisions"] > 1
