"""Manifests and proofs that were read before, so that a listing need not fetch them again.

An SQLite file for this user alone. The store stays the truth: what lies here counts only for the
very ETag that the store's listing shows now. A cache that is damaged, locked, somebody else's or
full is no error: the objects are fetched.
"""

import asyncio
import hashlib
import os
import sqlite3
import stat
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

from etcd_steward.models.ports import ObjectInfo, Store

LIMIT: Final = 256 << 20
"""Bytes of objects; those not asked for the longest go first."""
_LARGEST: Final = 64 << 10
"""Bytes; a manifest has a few thousand."""
_NAME: Final = "manifests.db"
_PATIENCE: Final = 5.0
"""Seconds to wait for another process that writes."""
_DAY: Final = 86400
_VERSION: Final = 1
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS object (
    store TEXT NOT NULL, key TEXT NOT NULL, etag TEXT NOT NULL, digest BLOB NOT NULL,
    body BLOB NOT NULL, day INTEGER NOT NULL, PRIMARY KEY (store, key)
)
"""
_EVICT: Final = """
DELETE FROM object WHERE rowid IN (
    SELECT rowid FROM (
        SELECT rowid, SUM(LENGTH(body)) OVER (ORDER BY day DESC, rowid DESC) AS total FROM object
    ) WHERE total > ?
)
"""


def _today() -> int:
    return int(time.time() // _DAY)


class ManifestCache:
    """What one store's listing remembers, from `load` to `save`."""

    def __init__(self, directory: Path, store: Store, *, limit: int = LIMIT) -> None:
        self._directory = directory
        self._store = store.identity
        self._limit = limit
        self._known: dict[str, tuple[str, bytes]] = {}
        self._new: dict[str, tuple[str, bytes]] = {}
        self._old: set[str] = set()
        """Those known that nobody has asked for today."""
        self._used: set[str] = set()
        """Those of them that were asked for now."""

    async def load(self, prefix: str) -> None:
        """Read what is remembered of the keys under `prefix`."""
        await asyncio.to_thread(self._load, prefix)

    async def save(self) -> None:
        """Remember what was fetched meanwhile."""
        await asyncio.to_thread(self._save)

    def get(self, info: ObjectInfo) -> bytes | None:
        """The object, if it is remembered as the listing shows it now."""
        etag, body = self._known.get(info.key, ("", b""))
        if etag != info.etag or len(body) != info.size:
            return None
        if info.key in self._old:
            self._used.add(info.key)
        return body

    def put(self, info: ObjectInfo, body: bytes) -> None:
        """Remember an object that was fetched just now.

        One that was replaced since it was listed is not the one that `info` tells of; where its
        size gives that away it is not kept, and else its ETag will differ at the next listing.
        """
        if len(body) == info.size <= _LARGEST:
            self._new[info.key] = info.etag, body

    def _load(self, prefix: str) -> None:
        today = _today()
        try:
            with closing(self._open()) as database:
                rows = database.execute(
                    "SELECT key, etag, digest, body, day FROM object WHERE store = ?"
                    " AND key >= ? AND key < ?",
                    (self._store, prefix, f"{prefix}\U0010ffff"),
                )
                for key, etag, digest, body, day in rows:
                    if digest == self._digest(key, etag, body):
                        self._known[key] = etag, body
                        if day < today:
                            self._old.add(key)
        except (sqlite3.Error, OSError, TypeError, AttributeError):  # damaged, or somebody else's
            self._known = {}

    def _save(self) -> None:
        if not self._new and not self._used:
            return
        day = _today()
        try:
            with closing(self._open()) as database, database:
                database.executemany(
                    "INSERT OR REPLACE INTO object VALUES (?, ?, ?, ?, ?, ?)",
                    self._rows(self._new, day),
                )
                database.executemany(
                    "UPDATE object SET day = ? WHERE store = ? AND key = ? AND day < ?",
                    ((day, self._store, key, day) for key in self._used),
                )
                database.execute(_EVICT, (self._limit,))
        except sqlite3.OperationalError:  # locked, or the disk is full
            return
        except sqlite3.DatabaseError:  # damaged: begin anew the next time
            (self._directory / _NAME).unlink(missing_ok=True)
        except OSError:
            return

    def _rows(
        self, objects: Mapping[str, tuple[str, bytes]], day: int
    ) -> Iterable[tuple[str, str, str, bytes, bytes, int]]:
        for key, (etag, body) in objects.items():
            yield self._store, key, etag, self._digest(key, etag, body), body, day

    def _digest(self, key: str, etag: str, body: bytes) -> bytes:
        """Damage that SQLite does not see must not become a manifest."""
        parts = (self._store.encode(), key.encode(), etag.encode(), body)
        return hashlib.sha256(b"\0".join(parts)).digest()

    def _open(self) -> sqlite3.Connection:
        """The database; `OSError` where the directory is not ours alone."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self._directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise PermissionError(f"{self._directory} is not for this user alone")
        path = self._directory / _NAME
        path.touch(mode=0o600)
        database = sqlite3.connect(path, timeout=_PATIENCE)
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version not in {0, _VERSION}:
            database.close()
            raise PermissionError(f"{path} is of another version")
        if version == 0:
            database.execute(_TABLE)
            database.execute(f"PRAGMA user_version = {_VERSION}")
        return database
