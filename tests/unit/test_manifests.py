"""Reading back what this version, a later one, or somebody else has written."""

import json
from pathlib import Path

from etcd_steward.app import open_store
from etcd_steward.engine.manifests import Backup, Unreadable, backups, write_manifest
from etcd_steward.models.connection import LocalSettings
from etcd_steward.models.layout import Folder
from tests.support.backups import made as manifest


async def test_what_a_later_version_adds_hides_no_backup(tmp_path: Path) -> None:
    made = manifest()
    folder = tmp_path / made.folder
    async with open_store(LocalSettings(path=tmp_path)) as store:
        await write_manifest(store, made)
        (proof,) = (folder / "proofs").iterdir()
        known = json.loads(proof.read_text())
        (folder / "proofs" / "later.json").write_text(json.dumps(known | {"level": "Rehearsal"}))
        (folder / "proofs" / "more.json").write_text(json.dumps(known | {"restoredIn": "12 s"}))
        (folder / "proofs" / "broken.json").write_text("{")
        text = json.loads((folder / "manifest.json").read_text())
        text |= {"newField": 1, "backup": text["backup"] | {"policy": "x"}}
        (folder / "manifest.json").chmod(0o600)
        (folder / "manifest.json").write_text(json.dumps(text))

        (found,) = [one async for one in backups(store)]
        assert isinstance(found, Backup)
        assert found.manifest == made
        assert found.proofs == (made.proof, made.proof)
        assert found.verified

        (folder / "manifest.json").write_text(json.dumps(text | {"formatVersion": 2}))
        (found,) = [one async for one in backups(store)]
        assert isinstance(found, Unreadable)
        assert found.key == Folder.parse(made.folder).manifest
        assert found.error.reason == "Unsupported"
