"""Proofs of a registry file: all of it is read back, as whoever uses it will."""

from bisect import bisect_left
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from etcd_steward.engine.spoolfile import SPAN, SpoolFile
from etcd_steward.errors import IntegrityError
from etcd_steward.models.manifest import RegistryStructure
from etcd_steward.registry import paths
from etcd_steward.registry.table import Rows

if TYPE_CHECKING:  # it brings pyarrow
    from etcd_steward.registry.parquet import Piece, RegistryFile


def prove_registry(registry: "RegistryFile", name: str) -> RegistryStructure:
    """Read every row; blocking. `name` is what to call the file.

    The reader compares the checksum of each page. Raises `IntegrityError` if a row is missing or
    out of order: whoever reads one namespace would miss keys.
    """
    prefix, namespaces = registry.prefix, set[str | None]()
    rows = key_bytes = value_bytes = 0
    last = (False, b"", b"")
    for records in registry.read():
        keys = [record.key for record in records]
        known = [paths.parse(key, prefix) for key in keys]
        spaces = [None if path is None else path.namespace for path in known]
        places = [
            (space is not None, (space or "").encode(), key)
            for space, key in zip(spaces, keys, strict=True)
        ]
        if not all(one < other for one, other in pairwise([last, *places])):
            raise IntegrityError(
                f"{name} is not in the order of namespaces and keys", hint="use another backup"
            )
        last = places[-1]
        namespaces.update(spaces)
        rows += len(keys)
        key_bytes += sum(map(len, keys))
        value_bytes += sum(len(record.value) for record in records)
    return RegistryStructure(
        rows=rows,
        namespaces=len(namespaces - {None}),
        key_bytes=key_bytes,
        value_bytes=value_bytes,
    )


def compare_registry(
    registry: "RegistryFile", name: str, rows: Rows, file: SpoolFile
) -> RegistryStructure:
    """Compare every row with what was read from etcd; blocking.

    `rows` and `file` hold the latter, and the file's own checksums, kept since its bytes came, are
    compared too. The order of the rows is the writer's business: it stores no others. Raises
    `IntegrityError` if a single bit differs, or a row is missing or there twice.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="spool") as threads:
        checking = threads.submit(_check, file)
        try:
            _compare(registry, name, rows, file)
        finally:
            checking.result()  # a spool that alters bits explains any difference
    return RegistryStructure(
        rows=len(rows),
        namespaces=len(registry.namespaces()),
        key_bytes=len(rows.keys),
        value_bytes=int(rows.value_size.sum()),
    )


def _check(file: SpoolFile) -> None:
    for offset in range(0, file.size, SPAN):
        for _ in file.read_span(offset, min(SPAN, file.size - offset)):
            pass


def _compare(registry: "RegistryFile", name: str, rows: Rows, file: SpoolFile) -> None:
    seen = np.zeros(len(rows), dtype=np.bool_)
    for piece in registry.pieces():
        for first, begin, count in _runs(piece, rows, name):
            span = slice(begin, begin + count)
            if seen[span].any() or not _equal(piece, first, rows, span, file):
                raise _differs(name)
            seen[span] = True
    if not seen.all():
        raise _differs(name)


def _runs(piece: "Piece", rows: Rows, name: str) -> Iterator[tuple[int, int, int]]:
    """Rows that follow each other both in the file and in etcd: first there, first here, how many.

    Raises `IntegrityError` for a key that was not read from etcd.
    """
    first, total = 0, len(piece.key_at) - 1
    while first < total:
        key = piece.keys[piece.key_at[first] : piece.key_at[first + 1]].tobytes()
        begin = bisect_left(range(len(rows)), key, key=rows.key)
        if begin == len(rows) or rows.key(begin) != key:
            raise _differs(name)
        most = min(total - first, len(rows) - begin)
        ours = rows.key_at[begin : begin + most + 1] - rows.key_at[begin]
        theirs = piece.key_at[first : first + most + 1] - piece.key_at[first]
        same = _leading(ours == theirs) - 1
        one = rows.keys[rows.key_at[begin] : rows.key_at[begin] + ours[same]]
        other = piece.keys[piece.key_at[first] : piece.key_at[first] + theirs[same]]
        alike = _leading(one == other)
        count = int(np.searchsorted(ours[: same + 1], alike, side="right")) - 1
        yield first, begin, count
        first += count


def _leading(equal: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> int:
    """How many are set before the first that is not."""
    return len(equal) if equal.all() else int(equal.argmin())


def _equal(piece: "Piece", first: int, rows: Rows, span: slice, file: SpoolFile) -> bool:
    """Whether these rows have the same values and numbers here and there."""
    there = slice(first, first + span.stop - span.start)
    ours = (rows.create_revision, rows.mod_revision, rows.version, rows.lease)
    for one, other in zip(ours, piece.numbers, strict=True):
        if not np.array_equal(one[span], other[there]):
            return False
    at, size = rows.value_at[span], rows.value_size[span]
    ends = piece.value_at[first : there.stop + 1]
    if not np.array_equal(np.diff(ends), size):
        return False
    spooled = file.read_at(int(at[0]), int(size.sum()))
    return np.array_equal(piece.values[ends[0] : ends[-1]], np.frombuffer(spooled, np.uint8))


def _differs(name: str) -> IntegrityError:
    return IntegrityError(
        f"{name} does not hold what was read from etcd",
        hint="nothing was recorded. Memory or disk of this host alter data; or report this",
    )
