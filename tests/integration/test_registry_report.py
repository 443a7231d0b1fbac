"""A page of pictures, who writes, and the ways to a backup that are taken less often."""

import asyncio
import contextlib
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.cli import files, started, steward
from tests.support.looked import SECRET, Looked
from tests.testbed import ControlPlane, EtcdCluster
from tests.testbed.browser import Browser

LABELS = """[...document.querySelectorAll("svg text")].map((text) => {
    const [box, whole] = [text, text.ownerSVGElement].map((one) => one.getBoundingClientRect());
    return [text.textContent, box.width, box.left - whole.left, whole.right - box.right];
}).filter(([_, width]) => width)"""
"""Words that are seen in pictures: each with its width, and what is left at its sides."""
CRDS = Path(__file__).resolve().parents[2] / "crds"


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]
        if tag not in {"meta", "wbr"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, _attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


async def test_a_report_stands_by_itself(still: Looked, tmp_path: Path) -> None:
    page = tmp_path / "live.html"
    made = await still.registry("report", page, f"--store={still.store}")
    assert (made.code, made.out) == (0, f"{page}\n"), made.err
    text = page.read_text()
    parsed = Page(text)
    assert parsed.open == []
    assert not {"script", "link", "img", "iframe"} & set(parsed.tags)
    assert parsed.links == []
    assert not re.search(r"url\(|https?://", text)
    assert {"rect", "polyline", "table"} <= set(parsed.tags)
    assert "prefers-color-scheme: dark" in text
    assert "pods/<wbr>shop/<wbr>" in text
    for words in ("Database of etcd0", "Over the backups", "2 backups", "Kept revisions"):
        assert words in text
    assert SECRET not in text

    again = await still.registry("report", page)
    assert again.code == 1
    assert page.read_text() == text
    for place in (still.url, still.db):
        made = await steward("registry", "report", page, "--force", f"--from={place}")
        assert made.code == 0, made.err
        Page(page.read_text())
    assert "Older revisions" in page.read_text()


@pytest.mark.program("chromium")
async def test_a_report_in_a_browser(still: Looked, tmp_path: Path) -> None:
    """It fits a phone and a screen, is dark in the dark, and asks nobody for anything."""
    page = tmp_path / "live.html"
    made = await still.registry("report", page, f"--store={still.store}")
    assert made.code == 0, made.err
    brightness: dict[bool, int] = {}
    async with Browser(tmp_path / "browser") as browser:
        for width, dark in itertools.product((360, 1280), (False, True)):
            await browser.open(page.as_uri(), width=width, dark=dark)
            assert await browser.ask("document.title")
            assert await browser.ask("document.documentElement.scrollWidth") == width
            labels = await browser.ask(LABELS)
            assert isinstance(labels, list)
            assert len([word for word, *_ in labels if word]) > 4
            assert [one for one in labels if min(one[2:]) < -1] == []
            colour = await browser.ask("getComputedStyle(document.body).backgroundColor")
            brightness[dark] = sum(map(int, re.findall(r"\d+", str(colour))[:3]))
            assert browser.requested == [page.as_uri()]
    assert brightness[True] < 3 * 0x40 < 3 * 0xC0 < brightness[False]


async def test_top_tells_who_writes(tmp_path: Path) -> None:
    async with EtcdCluster(tmp_path) as etcd:
        words = ("registry", "top", "--by=writes", "--per=object", "--for=4s", "-o=json")
        async with started(*words, *etcd.connection_flags()) as watching:

            async def write() -> None:
                while True:
                    for name in ("busy", "busy", "quiet"):
                        await etcd.etcdctl("put", f"/registry/configmaps/shop/{name}", "x")

            writer = asyncio.create_task(write())
            said = await watching.end()
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer
        assert said.code == 0, said.err
        busy, quiet = json.loads(said.out)
        assert (busy["object"], quiet["object"]) == (
            "configmaps/shop/busy",
            "configmaps/shop/quiet",
        )
        assert busy["writes"] > quiet["writes"] > 0


async def test_top_tells_which_manager_writes(control_plane: ControlPlane, namespace: str) -> None:
    flags = (*control_plane.etcd.connection_flags(), f"-n={namespace}", "-o=json")
    where = ("configmap", "managed", f"--namespace={namespace}")
    patch = f"--patch={json.dumps({'data': {'a': 'c'}})}"

    async def write() -> None:
        while True:
            made = ("--from-literal=a=b", "--field-manager=gardener")
            await control_plane.kubectl("create", *where, *made)
            await asyncio.sleep(1.1)  # managedFields know seconds only
            await control_plane.kubectl("patch", *where, patch, "--field-manager=pruner")
            await control_plane.kubectl("delete", *where)

    words = ("registry", "top", "--by=writes", "--per=manager", "--for=8s")
    async with started(*words, *flags) as watching:
        writer = asyncio.create_task(write())
        said = await watching.end()
        writer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writer
    assert said.code == 0, said.err
    told = {one["manager"]: one for one in json.loads(said.out)}
    gardener, pruner = told["gardener"], told["pruner"]
    assert min(gardener["writes"], pruner["writes"]) > 0
    assert abs(gardener["writes"] - pruner["writes"]) <= 1
    assert gardener["bytes"] > gardener["writes"] * 100
    assert (gardener["deletions"], pruner["deletions"]) == (0, 0)
    # Who deletes something leaves no name: etcd tells of the key alone.
    assert told["(unknown)"]["deletions"] > 0


async def test_a_snapshot_that_was_never_indexed_is_read_whole(
    still: Looked, tmp_path: Path
) -> None:
    store = f"file://{tmp_path / 'store'}"
    imported = await steward("snapshot", "import", still.db, f"--store={store}")
    folder = tmp_path / "store" / imported.out.strip().removeprefix(f"{store}/")
    (folder / "index.json").unlink()
    spool = f"--spool-dir={tmp_path / 'spool'}"

    whole = await steward("registry", "ls", "-o=json", f"--from={store}", spool)
    assert "snapshot index" in whole.err
    indexed = await steward("registry", "ls", "-o=json", f"--from={still.url}", spool)
    assert whole.json() == indexed.json()
    assert files(tmp_path / "spool") == []


async def test_a_record_leads_to_its_backup(
    still: Looked, control_plane: ControlPlane, namespace: str
) -> None:
    await control_plane.kubectl("apply", "-k", CRDS)
    crd = "crd/etcdsnapshots.etcdsteward.io"
    await control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", crd)
    record = {
        "apiVersion": "etcdsteward.io/v1alpha1",
        "kind": "EtcdSnapshot",
        "metadata": {"name": "nightly-1", "namespace": namespace},
        "spec": {"backupName": "nightly"},
    }
    await control_plane.kubectl("apply", "--filename=-", stdin=json.dumps(record))
    # Kubernetes' client reads KUBECONFIG while it is imported: not from a fork.
    env = {"KUBECONFIG": str(control_plane.kubeconfig)}
    words = ("registry", "ls", "ns", f"--from=etcdsnapshot/{namespace}/nightly-1")
    async with started(*words, env=env) as running:
        none = await running.end()
    assert (none.code, "has left no backup" in none.err) == (1, True)

    artifact = {
        "url": still.url,
        "revision": 1,
        "liveKeys": 1,
        "rawBytes": 1,
        "storedBytes": 1,
        "size": "1 B",
        "rawSha256": "aa",
        "storedSha256": "aa",
        "clusterID": "a",
        "memberID": "a",
        "etcdVersion": "3.6.0",
    }
    patch = json.dumps({"status": {"artifact": artifact}})
    name = f"--namespace={namespace}"
    status = ("--subresource=status", "--type=merge", f"--patch={patch}")
    await control_plane.kubectl("patch", "esnap", "nightly-1", name, *status)
    async with started(*words, env=env) as running:
        found = await running.end()
    assert found.code == 0, found.err
    assert " shop " in found.out
