"""`registry.parquet` on its way into a store: written in a thread, uploaded as it comes."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from etcd_steward.engine.folders import OUTSIDE, folder_of, resource_in
from etcd_steward.engine.piping import Piped
from etcd_steward.models.layout import REGISTRY
from etcd_steward.models.manifest import StoredFile
from etcd_steward.models.observation import OTHER
from etcd_steward.models.ports import ReadAt, Written
from etcd_steward.registry.paths import root_of
from etcd_steward.registry.selection import end_of
from etcd_steward.registry.table import Rows, groups

if TYPE_CHECKING:  # it brings pyarrow
    from etcd_steward.registry.parquet import Made

_PER_ROW: Final = 256
"""Bytes of a row beside key and value, at most, as far as a store must know beforehand."""
_LEAST: Final = 4 << 20
_NAMED: Final = 100


def written_registry(rows: Rows, file: ReadAt, *, revision: int, prefix: str) -> "Piped[Made]":
    """The bytes of a registry file whose values lie in `file`, as they are made.

    `prefix` is the API server's `--etcd-prefix`.
    """

    def write(out: Callable[[bytes], None]) -> "Made":
        from etcd_steward.registry import parquet  # noqa: PLC0415  # pyarrow: 70 MB

        return parquet.write(out, groups(rows, file, prefix), revision=revision, prefix=prefix)

    return Piped(write)


def size_at_most(rows: Rows) -> int:
    """Bytes that the file of these rows will not exceed."""
    return _LEAST + len(rows.keys) + int(rows.value_size.sum()) + _PER_ROW * len(rows)


def resource_bytes(rows: Rows, prefix: str) -> dict[str, int]:
    """Bytes of keys and values per resource: the largest hundred, and the sum of all others.

    Keys are in order, so a folder is one piece of them; only its ends are looked for.
    """
    root, found, row = root_of(prefix), Counter[str](), 0
    while row < len(rows):
        key, name, upto = rows.key(row), OUTSIDE, len(rows)
        if key.startswith(root):
            folder = folder_of(key, root)
            name, upto = resource_in(folder, prefix), _first(rows, end_of(folder), row + 1)
        elif key < root:
            upto = _first(rows, root, row + 1)
        size = rows.value_size[row:upto].sum() + rows.key_at[upto] - rows.key_at[row]
        found[name] += int(size)
        row = upto
    largest = dict(found.most_common(_NAMED))
    rest = sum(found.values()) - sum(largest.values())
    return {**largest, OTHER: rest} if rest else largest


def _first(rows: Rows, key: bytes, after: int) -> int:
    """The first row from `after` on whose key is not below this one."""
    return bisect_left(range(len(rows)), key, lo=after, key=rows.key)


def stored_registry(written: Written, made: "Made", sizes: dict[str, int]) -> StoredFile:
    """What index or manifest say of the file; `sizes` are its resources' bytes."""
    return StoredFile(
        name=REGISTRY,
        role="registry",
        size=written.size,
        sha256=made.sha256,
        crc32c=f"{written.crc32c:08x}",
        footer=made.footer,
        resource_bytes=sizes,
    )
