"""The structural proof of an etcd snapshot: what must hold before a backup is called complete.

Found is what bbolt's `Tx.Check` finds (the check in `etcdutl snapshot status`): page bounds, types
and identities, double references, lost and freed pages, keys out of order within and across pages.
Found beyond that:

- either meta page: a wrong magic, version, page size or checksum (`valid_metas`, see there);
- any element whose position or size changed, in every page and inline bucket: elements are packed;
- an empty page, a page with too many or too few overflow pages, an unknown element flag;
- in bucket `key`: a key that is no revision, a value that is no `mvccpb.KeyValue` to its last byte,
  one whose modification revision is not that of its key, creation after modification, version 0,
  and a tree whose leaves lie at different depths.

Not found, since nothing in the file contradicts it:

- changed bytes in a user's key or value, in a lease ID, or a creation revision or version that
  stays plausible: `HashKV` is the proof of those (and the snapshot's SHA-256 of its transport);
- changed bytes inside keys and values of the small buckets, and the sizes of the last element on
  one of their pages, as long as it stays on the page;
- a branch key that still lies between its neighbours' keys, which misleads no search;
- a reference that changed to a freed older copy of the very same page (copy on write keeps those),
  or a bucket's root that changed to a page below it, in a file without a freelist (etcd's): what
  is missing then looks free. `revision` and `live_keys` against the live member find that;
- a bucket in a bucket that is marked as one no more (etcd has none);
- anything in free pages, and in the unused rest of a page but its first byte.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from etcd_steward.models.ports import ReadAt
from etcd_steward.registry.bolt import Bolt, damaged, without_digest
from etcd_steward.registry.buckets import MANY, Bucket, check_bucket, root_buckets, values
from etcd_steward.registry.envelope import uid_of
from etcd_steward.registry.mvcc import FIRST, KeyBucket, KeyTotals, compacted
from etcd_steward.registry.wire import VARINT, Malformed, fields_of

KUBE_SYSTEM: Final = b"/registry/namespaces/kube-system"
"""Where kube-apiserver keeps the Namespace whose uid names the cluster's data."""
_LONG: Final = 1 << 20
_ALARMS: Final = {1: "NOSPACE", 2: "CORRUPT"}


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm stored in the file; it survives a restore and then caps the new cluster."""

    member_id: int
    kind: str
    """`NOSPACE` or `CORRUPT`."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the cluster as the file lists it."""

    member_id: int
    name: str
    """Empty if it never started."""


@dataclass(frozen=True, slots=True)
class StructureReport:
    """What a proven file holds. A cluster's ID is not among it: etcd keeps that in its WAL."""

    page_size: int
    """Bytes."""
    pages: int
    """Below the high-water mark."""
    reachable_pages: int
    free_pages: int
    valid_metas: int
    """2 in every snapshot that a server streamed; 1 is enough for bbolt to open a copied file."""
    revision: int
    """The revision at which etcd starts from this file: the newest of its last key and its two
    compaction marks (etcd 3.6 may keep none of the keys at its newest revision)."""
    compact_revision: int
    """History below this is gone, or goes as soon as etcd starts; 0 if never compacted."""
    records: int
    """Entries of bucket `key`, tombstones included."""
    tombstones: int
    live_keys: int
    """What a Range over all keys counts. `etcdutl snapshot status` (from 3.6) says one more where
    `bump_revision` is set: it takes the empty record for a key."""
    bump_revision: int | None
    """Set if the cluster once came from `etcdutl snapshot restore --bump-revision`."""
    buckets: tuple[str, ...]
    storage_version: str | None
    """etcd ≥ 3.6 only."""
    cluster_version: str | None
    consistent_index: int
    """Raft index up to which the file is applied."""
    term: int
    """Raft term of that entry; 0 before etcd 3.5."""
    alarms: tuple[Alarm, ...]
    members: tuple[Member, ...]
    kube_system_uid: str | None
    """None without such a Namespace, or where it is encrypted at rest."""


@dataclass(slots=True)
class _Found:
    """What the small buckets say."""

    meta: dict[bytes, bytes] = field(default_factory=dict)
    cluster: dict[bytes, bytes] = field(default_factory=dict)
    alarms: list[Alarm] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)
    keys: KeyTotals | None = None
    buckets: list[str] = field(default_factory=list)


def prove_structure(
    file: ReadAt,
    *,
    size: int | None = None,
    namespace_key: bytes | None = KUBE_SYSTEM,
    progress: Callable[[int], None] | None = None,
) -> StructureReport:
    """Read the whole file once and prove its structure; blocking, for a worker thread.

    `size` is the bytes of bolt data, without the 32 bytes of digest behind a streamed snapshot;
    left out, the digest is told by the file's size as etcd does (`size % 512 == 32`). The object
    at `namespace_key` gives `kube_system_uid`. `progress` is called with the bytes read so far,
    every few megabytes; what it raises ends the proof.

    Memory (Python and numpy included): 60 MB, and 8 bytes per record and some 30 per page. Raises
    `IntegrityError` naming the first damage and its page, and whatever `file` raises.
    """
    bolt = Bolt(file, without_digest(file) if size is None else size, progress)
    found = _Found()
    for bucket in root_buckets(bolt):
        found.buckets.append(bucket.name)
        _read_bucket(bolt, bucket, found, namespace_key)
    if found.keys is None or "meta" not in found.buckets:
        raise damaged("it has no buckets `key` and `meta`, so it is not etcd's")
    reachable, free = bolt.finish()
    return _report(bolt, found, found.keys, (reachable, free))


def _report(bolt: Bolt, found: _Found, keys: KeyTotals, pages: tuple[int, int]) -> StructureReport:
    compact_revision = compacted(found.meta)
    return StructureReport(
        page_size=bolt.page_size,
        pages=bolt.pages,
        reachable_pages=pages[0],
        free_pages=pages[1],
        valid_metas=bolt.valid_metas,
        revision=max(FIRST, keys.newest, compact_revision),
        compact_revision=compact_revision,
        records=keys.records,
        tombstones=keys.tombstones,
        live_keys=keys.live_keys,
        bump_revision=keys.bumped,
        buckets=tuple(found.buckets),
        storage_version=_text(found.meta.get(b"storageVersion")),
        cluster_version=_text(found.cluster.get(b"clusterVersion")),
        consistent_index=_number(found.meta, b"consistent_index"),
        term=_number(found.meta, b"term"),
        alarms=tuple(found.alarms),
        members=tuple(found.members),
        kube_system_uid=uid_of(keys.watched) if keys.watched is not None else None,
    )


def _read_bucket(bolt: Bolt, bucket: Bucket, found: _Found, watch: bytes | None) -> None:
    match bucket.name:
        case "key":
            found.keys = KeyBucket(bolt, watch).read(bucket)
        case "meta":
            found.meta = values(bucket)
        case "cluster":
            found.cluster = values(bucket)
        case "alarm":
            _read_alarms(bucket, found.alarms)
        case "members":
            _read_members(bucket, found.members)
        case _:
            check_bucket(bucket)


def _read_alarms(bucket: Bucket, alarms: list[Alarm]) -> None:
    """The key is an `etcdserverpb.AlarmMember` {memberID = 1, alarm = 2}, the value empty."""
    for entry in bucket.entries():
        try:
            numbers = {one: value for one, kind, value, _ in fields_of(entry.key) if kind == VARINT}
        except Malformed as error:
            raise damaged(f"bucket alarm, page {entry.page}: {error}") from error
        if len(alarms) == MANY:
            raise damaged(f"it has more than {MANY} alarms")
        kind = numbers.get(2, 0)
        alarms.append(Alarm(numbers.get(1, 0), _ALARMS.get(kind, str(kind))))


def _read_members(bucket: Bucket, members: list[Member]) -> None:
    """The key is the member's ID in hex, the value JSON of etcd's `membership.Member`."""
    for entry in bucket.entries():
        try:
            member_id = int(entry.key, 16)
            document = json.loads(entry.value(_LONG))
        except (ValueError, RecursionError) as error:
            raise damaged(f"bucket members, page {entry.page}: {error}") from error
        name = document.get("name") if isinstance(document, dict) else None
        if len(members) == MANY:
            raise damaged(f"it has more than {MANY} members")
        members.append(Member(member_id, name if isinstance(name, str) else ""))


def _number(meta: dict[bytes, bytes], name: bytes) -> int:
    value = meta.get(name, bytes(8))
    if len(value) != 8:
        raise damaged(f"bucket meta: {name.decode()} has {len(value)} bytes")
    return int.from_bytes(value, "big")


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="backslashreplace")
