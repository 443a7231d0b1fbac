"""Backups of etcds that are gone, and restoring them as a person would."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support.cli import Said, steward
from tests.support.runs import unzstd
from tests.testbed import EtcdCluster, binary
from tests.testbed.compare import Entry, entries
from tests.testbed.rpc import raise_alarm

PEER = "http://127.0.0.1:1"
BUMP = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Lost:
    """A backup in a directory; nobody runs any more."""

    store: Path
    url: str
    file: Path
    """The same snapshot, uncompressed."""
    entries: dict[bytes, Entry]
    revision: int

    @property
    def folder(self) -> Path:
        """The backup's own."""
        return Path(self.url.removeprefix("file://"))

    def copy(self, directory: Path) -> "Lost":
        """The same backup in a store that a test may spoil."""
        store = directory / "store"
        shutil.copytree(self.store, store)
        return replace(self, store=store, url=self.url.replace(str(self.store), str(store)))

    def alter_manifest(self, **changes: object) -> None:
        """Change fields by hand."""
        path = self.folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


async def lost_etcd(
    directory: Path, version: str, *, keys: int = 30, alarm: str | None = None
) -> Lost:
    """Start an etcd, write and compact, take a snapshot whatever its alarms, and stop it."""
    store = directory / "store"
    async with EtcdCluster(directory / "etcd", version=version) as etcd:
        for number in range(keys):
            await etcd.etcdctl("put", f"/key/{number:02}", f"value {number}")
        await etcd.etcdctl("del", "/key/00")
        await etcd.etcdctl("compact", str(await etcd.revision()))
        if alarm is not None:
            await raise_alarm(etcd, etcd.members[0], corrupt=alarm == "CORRUPT")
        saved = await steward(
            *("snapshot", "save", *etcd.connection_flags(), f"--store=file://{store}", "-ojson"),
            *(f"--spool-dir={directory / 'spool'}", "--emergency"),
        )
        assert saved.code in {0, 4}, saved.err
        manifest = saved.json()
        found = await entries(etcd, revision=manifest["revision"])
    folder = store / manifest["folder"]
    packed = Path(shutil.copy(folder / "snapshot.db.zst", directory / "etcd.db.zst"))
    file = await unzstd(packed)
    return Lost(store, folder.as_uri(), file, found, manifest["revision"])


async def restore(
    source: str | Path,
    target: Path,
    *,
    peers: str = f"etcd0={PEER}",
    tool: str | Path = "3.6",
    more: Sequence[str] = (),
) -> Said:
    """Restore member `etcd0`; `tool` is an etcdutl, or the version of one."""
    etcdutl = tool if isinstance(tool, Path) else await binary("etcdutl", tool)
    return await steward(
        *("restore", "cluster", source, "--name=etcd0", f"--initial-cluster={peers}"),
        *(f"--data-dir={target}", f"--etcdutl={etcdutl}", *more),
    )
