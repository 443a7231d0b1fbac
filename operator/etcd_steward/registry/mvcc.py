"""etcd's `key` bucket, the history of all user keys: checked and counted in one pass."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from etcd_steward.errors import Compacted, InvalidInput
from etcd_steward.models.ports import ReadAt
from etcd_steward.registry.bolt import Bolt, damaged, without_digest
from etcd_steward.registry.buckets import Bucket, root_buckets, values
from etcd_steward.registry.liveness import KeyHash, LiveKeys
from etcd_steward.registry.records import Record, revision
from etcd_steward.registry.walk import Leaves, Single, leaves
from etcd_steward.registry.wire import Peek

FIRST: Final = 1
"""The revision of an etcd that was never written to (server/storage/mvcc/kvstore.go)."""
PIECE: Final = 1 << 20
"""What is too long for a window is read in pieces of so many bytes."""
_NOTHING: Final = bytes(8) + b"_" + bytes(8)
"""The mark that `compact 0` leaves, which etcd takes while it was never compacted."""
_LARGEST_VALUE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class KeyTotals:
    """What the `key` bucket holds."""

    records: int
    tombstones: int
    live_keys: int
    newest: int
    """Main revision of its last key; 0 if it is empty."""
    bumped: int | None
    """The revision to which `etcdutl snapshot restore --bump-revision` once jumped."""
    watched: bytes | None
    """The value of the key that was asked for, where that key lives."""


def compacted(meta: Mapping[bytes, bytes]) -> int:
    """The compact revision that bucket `meta` tells; 0 if there is none.

    etcd resumes a scheduled compaction as soon as it starts (`store.restore`).
    """
    marks = [0]
    for name in (b"scheduledCompactRev", b"finishedCompactRev"):
        if meta.get(name, _NOTHING) != _NOTHING:
            at = revision(meta[name])
            if at is None:
                raise damaged(f"bucket meta: {name.decode()} is no revision")
            marks.append(at[0])
    return max(marks)


@dataclass(frozen=True, slots=True)
class Database:
    """A file that was opened for its keys alone."""

    bolt: Bolt
    keys: Bucket
    compact_revision: int
    """History below this is gone, or goes as soon as etcd starts; 0 if never compacted."""

    def revision(self, newest: int) -> int:
        """The revision at which etcd starts from a file whose last key is `newest`."""
        return max(FIRST, newest, self.compact_revision)

    def revision_at(self, at: int, newest: int) -> int:
        """The revision that `at` means; 0 is the newest.

        Raises `Compacted` or `InvalidInput` for one that the file can't show (`store.hashByRev`).
        """
        last = self.revision(newest)
        held = f"it holds {max(FIRST, self.compact_revision)} to {last}"
        if not 0 <= at <= last:
            raise InvalidInput(f"revision {at} is not in the file, which ends at {last}", hint=held)
        if 0 < at < self.compact_revision:
            raise Compacted(
                f"revision {at} is not in the file any more: etcd has compacted its history up to "
                f"{self.compact_revision}",
                hint=f"{held}; an older snapshot may hold more",
            )
        return at or last


def open_database(
    file: ReadAt, size: int | None = None, progress: Callable[[int], None] | None = None
) -> Database:
    """Open a file of etcd's; `size` and `progress` as in `prove_structure`.

    Raises `IntegrityError` if it is none.
    """
    bolt = Bolt(file, without_digest(file) if size is None else size, progress)
    buckets = {bucket.name: bucket for bucket in root_buckets(bolt)}
    if "key" not in buckets or "meta" not in buckets:
        raise damaged("it has no buckets `key` and `meta`, so it is not etcd's")
    return Database(bolt, buckets["key"], compacted(values(buckets["meta"])))


class KeyBucket:
    """Reads the `key` bucket of one file; `watch` is a user key whose value is wanted."""

    def __init__(self, bolt: Bolt, watch: bytes | None) -> None:
        self._bolt = bolt
        self._hash = KeyHash()
        self._live = LiveKeys()
        self._watch = watch
        self._watch_hash = self._hash.of_chunks([watch]) if watch else None
        self._watch_at = (0, 0)
        self._watch_value: bytes | None = None
        self._newest = 0
        self._bumped: int | None = None
        self._records = 0
        self._tombstones = 0

    def read(self, bucket: Bucket) -> KeyTotals:
        """Read it through. Raises `IntegrityError` for whatever is not as etcd writes it."""
        for part in leaves(self._bolt, bucket):
            if isinstance(part, Single):
                self._single(part)
            else:
                self._leaves(part)
            del part  # or it would stay while the next one is being read
        return KeyTotals(
            records=self._records,
            tombstones=self._tombstones,
            live_keys=self._live.count(),
            newest=self._newest,
            bumped=self._bumped,
            watched=self._watch_value,
        )

    def _leaves(self, part: Leaves) -> None:
        keys, table, bump = part.keys, part.table, part.bumps()
        fields = part.fields(bump)
        tombstone = keys.tombstone
        self._records += len(bump)
        self._tombstones += int(np.count_nonzero(tombstone))
        self._newest = max(self._newest, int(keys.main[table.last].max()))
        kept = np.flatnonzero(~bump)
        if len(kept) < len(bump):
            self._bumped = max(self._bumped or 0, int(keys.main[bump].max()))
        if not len(kept):
            return
        counts = np.bincount(table.owner[kept], minlength=len(part.ids))
        hashes = self._hash(part.words, fields.key_at[kept], fields.key_size[kept])
        first = table.first
        self._live.add(hashes, tombstone[kept], counts, keys.main[first], keys.rest[first])
        if self._watch_hash is not None:
            for index in kept[hashes == np.uint64(self._watch_hash)].tolist():
                at = (int(keys.main[index]), int(keys.rest[index]))
                self._watched(part.peek, part.record(index), at)

    def _watched(self, peek: Peek, record: Record, at: tuple[int, int]) -> None:
        if at < self._watch_at or record.key_size != len(self._watch or b""):
            return
        if peek(record.key_at, record.key_size) != self._watch:
            return
        self._watch_at, self._watch_value = at, None
        if not at[1] & 1 and record.value_size <= _LARGEST_VALUE:
            self._watch_value = peek(record.value_at, record.value_size)

    def _single(self, part: Single) -> None:
        at = part.at
        self._records += 1
        self._newest = max(self._newest, at[0])
        if part.bump:
            self._bumped = max(self._bumped or 0, at[0])
            return
        peek, record = self._bolt.bytes_at, part.record()
        number = hash_single(self._hash, peek, record)
        one = np.ones(1, dtype=np.int64)
        self._tombstones += at[1] & 1
        self._live.add(
            np.array([number], dtype=np.uint64),
            np.array([bool(at[1] & 1)]),
            one,
            one * at[0],
            np.array([at[1]], dtype=np.uint32),
        )
        if number == self._watch_hash:
            self._watched(peek, record, at)


def hash_single(keys: KeyHash, peek: Peek, record: Record) -> int:
    """The hash of a user key that may be long."""
    end = record.key_at + record.key_size
    return keys.of_chunks(peek(at, min(PIECE, end - at)) for at in range(record.key_at, end, PIECE))
