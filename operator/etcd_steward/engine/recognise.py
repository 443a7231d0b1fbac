"""What a file is by its first bytes, and which wrong file somebody took for a snapshot.

Names lie, first bytes seldom do: so the name of a file is used for hints alone.
"""

import re
from enum import StrEnum
from pathlib import Path
from typing import Final

from etcd_steward.engine.given import open_local
from etcd_steward.errors import InvalidInput, Unsupported
from etcd_steward.registry.bolt import parse_meta

HEAD: Final = (64 << 10) + 512
"""Bytes that must be known: bolt's second meta page begins at its page size, at most 64 KiB."""
_PAGE_SIZES: Final = tuple(4096 << power for power in range(5))
_BOLT: Final = (0xED0CDAED).to_bytes(4, "little")
_BOLT_AT: Final = 16
"""Of a meta page, behind the page's header."""
_AGE: Final = (b"age-encryption.org/v1\n", b"-----BEGIN AGE ENCRYPTED FILE-----")
_STATIC_PODS: Final = re.compile(r"static_kuberesources_(?P<time>[\d_-]+)\.tar\.gz")
_DELTA: Final = re.compile(r"Incr-\d+-\d+-\d+")


class Wrapping(StrEnum):
    """What a snapshot may be wrapped in, as a manifest calls it."""

    AGE = "age"
    GZIP = "gzip"
    ZIP = "zip"
    ZLIB = "zlib"
    ZSTD = "zstd"


def recognise(head: bytes, name: str) -> Wrapping | None:
    """The wrapping that begins with `head`; None for an etcd database.

    `name` is what to call the file. Raises `InvalidInput` or `Unsupported` for anything else, as
    far as possible saying what it is and what to do.
    """
    if is_database(head):
        return None
    wrapping = _wrapping(head)
    if wrapping is None:
        raise _stranger(head, name)
    return wrapping


def is_database(head: bytes) -> bool:
    """True if one of bolt's two meta pages is where it must be, whatever state it is in."""
    at = (_BOLT_AT, *(size + _BOLT_AT for size in _PAGE_SIZES))
    return any(head[start : start + 4] == _BOLT for start in at)


def is_database_file(path: Path) -> bool:
    """Whether a file of this host is a database as it is, wrapped in nothing.

    Raises `NotFound`, `Unauthorized`, `InvalidInput` for a directory, and `Refused` for the
    database of an etcd that is running.
    """
    with open_local(str(path)) as given:
        return given.size is not None and is_database(next(given.chunks(), b""))


def declared_size(head: bytes) -> int | None:
    """Bytes of the pages that a database counts; None where its first meta page is damaged."""
    meta = parse_meta(head)
    return None if meta is None else meta.pages * meta.page_size


def _wrapping(head: bytes) -> Wrapping | None:
    if head.startswith(b"\x1f\x8b"):
        return Wrapping.GZIP
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return Wrapping.ZSTD
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return Wrapping.ZIP
    if head.startswith(_AGE):
        return Wrapping.AGE
    # RFC 1950: method 8 with a window of 32 KiB, and a header that is a multiple of 31.
    if head[:1] == b"\x78" and int.from_bytes(head[:2], "big") % 31 == 0:
        return Wrapping.ZLIB
    return None


def _stranger(head: bytes, name: str) -> InvalidInput | Unsupported:
    if not head:
        return InvalidInput(f"{name} is empty", hint="nothing was ever written there, or not yet")
    if _DELTA.search(name) or (head.startswith(b"[{") and b'"etcdEvent"' in head):
        return Unsupported(
            f"{name} is an incremental snapshot of etcdbrctl: changes, not a database",
            hint="import the Full-… file before it; to have the changes as well, let `etcdbrctl "
            "compact` make a full snapshot of both",
        )
    if head[257:262] == b"ustar":
        return _tar(name)
    if name.endswith(".Z"):
        return Unsupported(
            f"{name} seems to be compressed by etcdbrctl with lzw, which few others read",
            hint="let `etcdbrctl compact` write it anew with --compression-policy=gzip",
        )
    for magic, what, hint in (
        (b"\xfd7zXZ\0", "compressed with xz", "pipe it: `xz -dc FILE | … snapshot import -`"),
        (b"BZh", "compressed with bzip2", "pipe it: `bzip2 -dc FILE | … snapshot import -`"),
        (b"\x04\x22\x4d\x18", "compressed with lz4", "pipe it: `lz4 -dc FILE | … import -`"),
        (
            b"SQLite format 3\0",
            "a SQLite database: the data of a k3s that runs without etcd",
            "copy that file while k3s is stopped; this program is about etcd",
        ),
    ):
        if head.startswith(magic):
            return Unsupported(f"{name} is {what}", hint=hint)
    return InvalidInput(
        f"{name} is no etcd snapshot: it does not begin as an etcd database does",
        hint="what can be imported: a database file, plain or in gzip, zlib, zstd, zip or age",
    )


def _tar(name: str) -> InvalidInput:
    if match := _STATIC_PODS.search(name):
        return InvalidInput(
            f"{name} holds the static pods of an OpenShift control plane, not etcd's data",
            hint=f"name the file beside it: snapshot_{match['time']}.db (and keep the tar: no "
            "snapshot of etcd holds what is in it)",
        )
    return InvalidInput(
        f"{name} is a tar archive", hint="unpack it, and name the snapshot file that was in it"
    )
