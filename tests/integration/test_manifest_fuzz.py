"""What vouches for a backup is changed, field by field: never a wrong answer, never a crash.

`STEWARD_FUZZ_SEED` repeats a run, `STEWARD_FUZZ_ROUNDS` makes it longer.
"""

import asyncio
import json
import os
import random
import secrets
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from etcd_steward.app import open_store, take_snapshot
from etcd_steward.engine.look import look_into_backup
from etcd_steward.engine.manifests import Backup, backups, get_backup
from etcd_steward.engine.sidecar import known_index
from etcd_steward.engine.sources import Wanted
from etcd_steward.engine.verify import verify
from etcd_steward.errors import IntegrityError, Refused, StewardError, Unsupported
from etcd_steward.models.connection import LocalSettings
from etcd_steward.models.layout import INDEX, MANIFEST, Folder
from etcd_steward.models.manifest import BackupRef, Level, RunRef
from etcd_steward.models.ports import Store
from etcd_steward.models.registry import Record
from etcd_steward.models.run import ExportRequest, SpoolSettings
from tests.support.cli import files, steward
from tests.support.runs import Heard, connection, snapshot_request
from tests.testbed import EtcdCluster
from tests.testbed.bulk import load

SEED = int(os.environ.get("STEWARD_FUZZ_SEED", random.SystemRandom().randrange(10**6)))
ROUNDS = int(os.environ.get("STEWARD_FUZZ_ROUNDS", "60"))
ODD: tuple[Any, ...] = (
    *(None, True, [], {}, [1], ["x"], {"a": 1}, 0, -1, 0.5, 1 << 31, 1 << 63, 10**30, 1e308),
    *("", "x", "0", "..", "/", "a/b", "\x00", "\ud7ff", "null", "Snapshot", "RegistryExport"),
    *("registry", "snapshot", "registry.parquet", "snapshot.db.zst", "manifest.json", "0" * 64),
    *("2026-11-22T12:00:00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"),
    *("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"),
)
Where = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """A store in a directory with a snapshot, its sidecar and an export of one revision."""

    root: Path
    spool: SpoolSettings
    truth: dict[Folder, tuple[int, list[Record]]]
    """Of each backup, its revision and all that is in it."""

    def folder(self, name: str) -> Folder:
        (found,) = [one for one in self.truth if one.name == name]
        return found


@pytest.fixture(scope="module")
async def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    directory = tmp_path_factory.mktemp("fuzzed")
    settings, spool = LocalSettings(path=directory / "store"), directory / "spool"
    async with EtcdCluster(directory / "etcd") as etcd:
        await load(etcd, 60, namespaces=3, seed=1)
        await load(etcd, 20, namespaces=3, seed=2)  # older revisions stay in the file
        where = connection(etcd)
        saved = snapshot_request(
            where, settings, spool, backup=BackupRef(namespace="_cli", name="saved")
        )
        exported = ExportRequest(
            etcd=where,
            store=settings,
            spool=SpoolSettings(directory=spool),
            backup=BackupRef(namespace="_cli", name="exported"),
            requester=RunRef(),
            run=secrets.token_hex(4),
            tick=datetime.now(UTC),
            timeout=120.0,
        )
        manifests = [(await take_snapshot(one, Heard())).manifest for one in (saved, exported)]
    found = Kept(settings.path, SpoolSettings(directory=spool), {})
    async with open_store(settings) as store:
        for manifest in manifests:
            folder = Folder.parse(manifest.folder)
            found.truth[folder] = manifest.revision, await look(found, store, folder)
            assert len(found.truth[folder][1]) == manifest.live_keys >= 60
    return found


async def look(kept: Kept, store: Store, folder: Folder, *, history: bool = False) -> list[Record]:
    """All that a backup is said to hold, by its sidecar or, with `history`, the snapshot."""
    async with AsyncExitStack() as stack:
        manifest = (await get_backup(store, folder)).manifest
        source = await look_into_backup(
            store, manifest, stack, kept.spool, Heard(), history=history
        )
        if folder in kept.truth:
            assert source.revision == kept.truth[folder][0]
        async with aclosing(source.records(Wanted())) as batches:
            return sorted([record async for batch in batches for record in batch])


def fields(found: Any, path: Where = ()) -> Iterator[Where]:  # noqa: ANN401  # JSON
    """Where there is something in a document."""
    items = found.items() if isinstance(found, dict) else enumerate(found)
    for name, value in items:
        yield (*path, name)
        if isinstance(value, dict | list):
            yield from fields(value, (*path, name))


def changed(text: str, rng: random.Random) -> tuple[str, str]:
    """A document with one of its fields changed, and in words which."""
    document = json.loads(text)
    path = rng.choice(list(fields(document)))
    inner = document
    for name in path[:-1]:
        inner = inner[name]
    last = path[-1]
    if rng.random() < 0.1:
        del inner[last]
        return json.dumps(document), f"{path} left out"
    inner[last] = rng.choice([*near(inner[last], rng), *ODD])
    return json.dumps(document), f"{path} = {inner[last]!r}"


def near(value: Any, rng: random.Random) -> list[Any]:  # noqa: ANN401  # JSON
    """What looks as if it could be right."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1, -value, value * 2, value << 40, str(value), float(value)]
    if isinstance(value, str) and value:
        at = rng.randrange(len(value))
        flipped = "0" if value[at] != "0" else "1"
        other = value[:at] + flipped + value[at + 1 :]
        return [other, other, value[:-1], value + "0", value.upper(), f"../{value}", value * 999]
    if isinstance(value, list):
        return [value * 2, value[:-1], [*value, None]]
    return []


@contextmanager
def changing(path: Path, salt: str) -> Iterator[Callable[[], None]]:
    """What changes a document, each time from what it was, which it is again in the end."""
    print(f"STEWARD_FUZZ_SEED={SEED}")  # noqa: T201  # shown if the test fails
    rng = random.Random(f"{SEED}{salt}")  # noqa: S311  # to be repeated
    text = path.read_text()

    def change() -> None:
        wrong, what = changed(text, rng)
        print(what)  # noqa: T201
        path.write_text(wrong)

    try:
        yield change
    finally:
        path.write_text(text)


@pytest.mark.parametrize(
    ("name", "file"), [("saved", MANIFEST), ("saved", INDEX), ("exported", MANIFEST)]
)
async def test_a_changed_field_never_makes_a_wrong_answer(kept: Kept, name: str, file: str) -> None:
    folder = kept.folder(name)
    truth, refused = kept.truth[folder][1], 0
    with changing(kept.root / str(folder) / file, f"{name}{file}") as change:
        for _ in range(ROUNDS):
            change()
            async with asyncio.timeout(30), open_store(LocalSettings(path=kept.root)) as store:
                refused += await every_way(kept, store, folder, truth)
    assert 0 < refused < ROUNDS
    assert files(kept.spool.directory) == []
    async with open_store(LocalSettings(path=kept.root)) as store:
        assert await look(kept, store, folder) == truth


async def every_way(kept: Kept, store: Store, folder: Folder, truth: list[Record]) -> bool:
    """Read a backup by every way; whether any refused it. None may say anything else than truth."""
    refused = False
    for history in (False, True):
        try:
            assert await look(kept, store, folder, history=history) == truth
        except StewardError:
            refused = True
    listed = [one async for one in backups(store)]
    assert len(listed) == 2
    for one in listed:
        if not isinstance(one, Backup):
            assert isinstance(one.error, IntegrityError | Unsupported | Refused)
            continue
        await known_index(store, one.manifest)
        for level in Level:
            with suppress(StewardError):
                proof = await verify(store, one.manifest, level, kept.spool, Heard())
                await store.delete(Folder.parse(one.manifest.folder).proof(proof.at))
    return refused


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("files",), []),
        (("tick",), "2026-11-22T12:00:00"),
        (("finishedAt",), "0001-01-01T00:00:00+23:59"),
        (("proof", "at"), "9999-12-31T23:59:59-23:59"),
        (("proof", "at"), "2026-11-22T12:00:00"),
    ],
)
async def test_a_manifest_that_we_never_write_is_none(kept: Kept, path: Where, value: Any) -> None:  # noqa: ANN401
    folder = kept.folder("saved")
    file = kept.root / str(folder) / MANIFEST
    text = file.read_text()
    document = json.loads(text)
    inner = document
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    file.write_text(json.dumps(document))
    try:
        async with open_store(LocalSettings(path=kept.root)) as store:
            with pytest.raises(IntegrityError, match="1 fields are wrong"):
                await look(kept, store, folder, history=True)
    finally:
        file.write_text(text)


async def test_the_command_line_says_what_is_wrong(kept: Kept) -> None:
    folder, url = kept.folder("exported"), f"file://{kept.root}"
    whole = await steward("registry", "keys", f"--from={url}/{folder}")
    assert whole.code == 0
    with changing(kept.root / str(folder) / MANIFEST, "cli") as change:
        for _ in range(ROUNDS // 6):
            change()
            for words in (
                ("registry", "keys", f"--from={url}/{folder}"),
                ("registry", "top", f"--from={url}"),
                ("snapshot", "list", f"--store={url}"),
                ("snapshot", "list", f"--store={url}", "-o=json"),
                ("snapshot", "show", f"{url}/{folder}"),
                ("snapshot", "prune", f"--store={url}", "--keep-last=1", "--dry-run"),
            ):
                got = await steward(*words)
                assert "Traceback" not in got.err, (words, got.err)
                assert got.code in {0, 1, 2, 3, 4}, (words, got.err)
                if words[1] == "keys":
                    assert got.out == (whole.out if got.code == 0 else ""), got.err
