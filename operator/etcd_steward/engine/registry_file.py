"""`registry.parquet` on its way into a store: written in a thread, uploaded as it comes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from etcd_steward.engine.piping import Piped
from etcd_steward.models.layout import REGISTRY
from etcd_steward.models.manifest import StoredFile
from etcd_steward.models.ports import ReadAt, Written
from etcd_steward.registry.table import Rows, groups

if TYPE_CHECKING:  # it brings pyarrow
    from etcd_steward.registry.parquet import Made

_PER_ROW: Final = 256
"""Bytes of a row beside key and value, at most, as far as a store must know beforehand."""
_LEAST: Final = 4 << 20


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


def stored_registry(written: Written, made: "Made") -> StoredFile:
    """What index or manifest say of the file."""
    return StoredFile(
        name=REGISTRY,
        role="registry",
        size=written.size,
        sha256=made.sha256,
        crc32c=f"{written.crc32c:08x}",
        footer=made.footer,
    )
