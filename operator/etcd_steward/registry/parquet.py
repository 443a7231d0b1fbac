"""`registry.parquet`: every live key with its value, sorted by namespace and key, read in place.

The format is described in docs/registry-file.md. Pages carry checksums, which are verified whenever
they are read; the footer has none, so whoever stores the file keeps the footer's digest elsewhere.

This and `arrow` are the only modules that import pyarrow (70 MB and a third of a second): import it
where it is needed, for work in threads or child processes.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import compress
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from etcd_steward.errors import IntegrityError
from etcd_steward.models.manifest import Footer, StoredFile
from etcd_steward.models.ports import ReadAt
from etcd_steward.models.registry import Record
from etcd_steward.registry.arrow import (
    FEW,
    NUMBERS,
    PATH,
    SAID,
    SCHEMA,
    WRITTEN,
    blobs,
    integers,
    paths_of,
    sizes_of,
    texts,
    to_table,
    words,
)
from etcd_steward.registry.columns import BEFORE_ALL, Group, last_place
from etcd_steward.registry.files import Fetched, Fetching, Sink, Span
from etcd_steward.registry.lanes import Octets, Offsets
from etcd_steward.registry.pages import check_pages
from etcd_steward.registry.table import Entry
from etcd_steward.registry.wire import Malformed

if TYPE_CHECKING:
    from etcd_steward.registry.selection import Chosen

ENCODINGS: Final = {
    "key": "DELTA_BYTE_ARRAY",
    "value": "DELTA_LENGTH_BYTE_ARRAY",
    "name": "DELTA_BYTE_ARRAY",
    "uid": "DELTA_LENGTH_BYTE_ARRAY",
    **dict.fromkeys(NUMBERS, "DELTA_BINARY_PACKED"),
}
"""Of the columns that are no few words."""
_NEVER_NULL: Final = ("key", "value", *NUMBERS)
_REVISION: Final = "etcdsteward.io/revision"
_PREFIX: Final = "etcdsteward.io/registry-prefix"
_MAGIC: Final = b"PAR1"
_TRAILER: Final = 8
"""Bytes behind the footer proper: its length, and the magic."""
_DECODED: Final = 2
"""Row groups that are decoded at a time."""
_LARGEST_FOOTER: Final = 256 << 20
_ARROWS: Final = pa.ArrowException, OSError, ValueError, LookupError, OverflowError, MemoryError
"""What Arrow, and what is done with its arrays, may raise for a damaged file."""
_HINT: Final = "make it anew with `etcd-steward snapshot index --force`, or use another backup"


@dataclass(frozen=True, slots=True)
class Made:
    """A registry file that was written."""

    rows: int
    size: int
    sha256: str
    footer: Footer


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows as arrays: keys and values end to end, and where each begins and the last ends."""

    keys: Octets
    key_at: Offsets
    values: Octets
    value_at: Offsets
    numbers: tuple[Offsets, ...]  # create revision, mod revision, version, lease


def write(
    out: Callable[[bytes], object], groups: Iterable[Group], *, revision: int, prefix: str
) -> Made:
    """Write a registry file to `out`, piece by piece; blocking.

    `groups` are in the order of the file and become its row groups; `revision` and `prefix` (the
    API server's `--etcd-prefix`) are noted in the file. While one group is compressed, the next one
    is made. Raises what `groups` and `out` raise; the file has no end then.
    """
    about = {_REVISION: str(revision), _PREFIX: prefix}
    sink, rows, last = Sink(out), 0, BEFORE_ALL
    writer = pq.ParquetWriter(
        sink,
        WRITTEN,
        compression="zstd",
        compression_level=1,
        use_dictionary=list(FEW),
        column_encoding=ENCODINGS,
        write_statistics=["namespace", "key"],
        write_page_checksum=True,
        store_schema=False,
    )
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="parquet") as threads:
            writing: Future[None] | None = None
            for group in groups:
                last = last_place(group, last)
                rows += len(group)
                if writing is not None:
                    writing.result()
                writing = threads.submit(_write, writer, group)
            if writing is not None:
                writing.result()
        writer.add_key_value_metadata(about)
        sink.begin_footer()
        writer.close()
    except BaseException:
        sink.abandon()  # the writer would write its footer when it is collected
        raise
    sink.end()
    digest = hashlib.sha256(sink.footer).hexdigest()
    return Made(rows, sink.size, sink.sha256, Footer(size=len(sink.footer), sha256=digest))


def _write(writer: pq.ParquetWriter, group: Group) -> None:
    writer.write_table(to_table(group), row_group_size=len(group))


class RegistryFile:
    """A registry file, of which only what is asked for is read; all methods block.

    Raises `IntegrityError` wherever the file is not what it must be, and what its `ReadAt` raises.
    Any number of threads may read at a time.
    """

    def __init__(
        self, file: ReadAt, *, name: str = "registry.parquet", stored: StoredFile | None = None
    ) -> None:
        """`name` is for messages; `stored` is what vouches for the footer, where there is that."""
        self._file = file
        self._name = name
        tail = self._tail(stored)
        self._end = file.size - len(tail)
        with self._explained():
            self._about = pq.read_metadata(pa.BufferReader(tail))
            found = self._about.schema.to_arrow_schema()
        self._check_schema(found)
        self._said: dict[bytes, bytes] = self._about.metadata or {}
        self._ours = _REVISION.encode() in self._said

    @property
    def rows(self) -> int:
        """Live keys."""
        return int(self._about.num_rows)

    @property
    def revision(self) -> int | None:
        """The revision of etcd that it shows; None in a file that others have written."""
        said = self._said.get(_REVISION.encode(), b"")
        return int(said) if said.isdigit() else None

    @property
    def prefix(self) -> str:
        """The API server's `--etcd-prefix` that its keys were read by."""
        return self._said.get(_PREFIX.encode(), b"/registry").decode(errors="replace")

    def namespaces(self) -> list[str]:
        """Every namespace in which there is a key, in order."""
        known: set[str] = set()
        unknown = []
        for group in range(self._about.num_row_groups):
            low, high, only_nulls = self._bounds(group, "namespace")
            if low is not None and low == high:
                known.add(low)
            elif not only_nulls:
                unknown.append(group)
        for table in self._tables(unknown, ("namespace",)):
            known.update(filter(None, words(table["namespace"])))
        return sorted(known)

    def read(self, chosen: "Chosen | None" = None) -> Iterator[list[Record]]:
        """The keys that are chosen, with their values, in the order of the file, in batches."""
        columns = ("key", "value", *NUMBERS, *(PATH if chosen is not None else ()))
        for table in self._tables(self._groups(chosen), columns):
            with self._explained():
                keys, values = blobs(table["key"]), blobs(table["value"])
                numbers = [integers(table[name]) for name in NUMBERS]
                records = list(map(Record, keys, values, *numbers))
                paths = paths_of(table) if chosen is not None else ()
            if chosen is not None:
                wanted = map(chosen.wants, paths, keys, map(_labels_of, values))
                records = list(compress(records, wanted))
            if records:
                yield records

    def pieces(self) -> Iterator[Piece]:
        """All rows in the order of the file, in batches, with nothing made of them."""
        for table in self._tables(self._groups(None), ("key", "value", *NUMBERS)):
            with self._explained():
                numbers = tuple(table[name].to_numpy() for name in NUMBERS)
                yield Piece(*texts(table["key"]), *texts(table["value"]), numbers)

    def entries(
        self, chosen: "Chosen | None" = None, *, sizes: bool = False
    ) -> Iterator[list[Entry]]:
        """The keys that are chosen, without their values, in the order of the file, in batches.

        Values are fetched only for their `sizes`, or where labels choose.
        """
        by_labels = chosen is not None and chosen.by_labels
        columns = ("key", *NUMBERS, *PATH, *SAID, *(("value",) if sizes or by_labels else ()))
        for table in self._tables(self._groups(chosen), columns):
            with self._explained():
                keys, paths = blobs(table["key"]), paths_of(table)
                numbers = [integers(table[name]) for name in NUMBERS]
                said = [words(table[name]) for name in SAID]
                size = sizes_of(table["value"]) if sizes else [None] * len(keys)
                entries = list(map(Entry, keys, paths, *numbers, *said, size))
                values = blobs(table["value"]) if by_labels else [b""] * len(keys)
            if chosen is not None:
                wanted = map(chosen.wants, paths, keys, map(_labels_of, values))
                entries = list(compress(entries, wanted))
            if entries:
                yield entries

    def _tail(self, stored: StoredFile | None) -> bytes:
        """The footer with its trailer, compared with what vouches for it."""
        size = self._file.size
        footer = stored.footer if stored is not None else None
        if stored is not None and size != stored.size:
            raise self._damaged(f"it has {size} bytes, and had {stored.size} when it was made")
        if footer is not None:
            length = footer.size
        else:
            trailer = self._file.read_at(max(0, size - _TRAILER), _TRAILER)
            if len(trailer) != _TRAILER or trailer[4:] != _MAGIC:
                raise self._damaged("it does not end as a Parquet file does")
            length = int.from_bytes(trailer[:4], "little") + _TRAILER
        if not _TRAILER < length <= min(size - len(_MAGIC), _LARGEST_FOOTER):
            raise self._damaged(f"its footer can't have {length} bytes")
        tail = self._file.read_at(size - length, length)
        if footer is not None and hashlib.sha256(tail).hexdigest() != footer.sha256:
            raise self._damaged("its footer is not the one that was written")
        if len(tail) != length or int.from_bytes(tail[-8:-4], "little") + _TRAILER != length:
            raise self._damaged("its footer is cut short")
        return tail

    def _check_schema(self, found: pa.Schema) -> None:
        for index, field in enumerate(SCHEMA):
            there = found.field(index) if index < len(found) else None
            if there is None or not there.equals(field):
                raise self._damaged(
                    f"its column {index + 1} is {'missing' if there is None else there}, "
                    f"and must be {field}"
                )
        if len(found) > len(SCHEMA):
            raise self._damaged(f"it has {len(found)} columns, and must have {len(SCHEMA)}")

    def _damaged(self, what: str) -> IntegrityError:
        return IntegrityError(f"{self._name} can't be trusted: {what}", hint=_HINT)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what Arrow says, which never repeats what is in a value, as an error of ours."""
        try:
            yield
        except _ARROWS as error:
            what = str(error).partition("\n")[0][:200]
            raise self._damaged(f"Arrow can't read it: {what}") from error

    def _groups(self, chosen: "Chosen | None") -> list[int]:
        """The row groups that can hold what is chosen."""
        every = range(self._about.num_row_groups)
        if chosen is None:
            return list(every)
        namespaces, ranges = chosen.namespaces(), chosen.ranges()
        if chosen.cluster_scoped():  # they come first, and so does all that has no namespace
            every = range(next(filter(self._namespaced, every), len(every)) + 1)[: len(every)]
        return [
            group
            for group in every
            if self._holds_namespace(group, namespaces) and self._holds_key(group, ranges)
        ]

    def _namespaced(self, group: int) -> bool:
        """Whether a row group holds something that belongs to a namespace."""
        low, _, only_nulls = self._bounds(group, "namespace")
        return low is not None and not only_nulls

    def _holds_namespace(self, group: int, wanted: frozenset[str] | None) -> bool:
        if wanted is None:
            return True
        low, high, only_nulls = self._bounds(group, "namespace")
        if only_nulls or low is None:
            return not only_nulls
        return any(low.encode() <= one.encode() <= high.encode() for one in wanted)

    def _holds_key(self, group: int, wanted: list[tuple[bytes, bytes]] | None) -> bool:
        if wanted is None:
            return True
        low, high, _ = self._bounds(group, "key")
        return low is None or any(
            begin <= high and (end == b"\0" or low < end) for begin, end in wanted
        )

    def _bounds(self, group: int, column: str) -> tuple[Any, Any, bool]:
        """Least and greatest value (None: not known), and whether there are only nulls."""
        with self._explained():
            index = SCHEMA.get_field_index(column)
            found = self._about.row_group(group).column(index).statistics
            if found is None:
                return None, None, False
            if found.has_min_max:
                return found.min, found.max, False
            rows = self._about.row_group(group).num_rows
            return None, None, found.has_null_count and found.null_count == rows

    def _chunks(self, group: int, columns: Sequence[str]) -> Iterator[Span]:
        """Where these columns of a row group lie."""
        about = self._about.row_group(group)
        for name in columns:
            column = about.column(SCHEMA.get_field_index(name))
            begin = column.data_page_offset
            if column.has_dictionary_page and 0 < column.dictionary_page_offset < begin:
                begin = column.dictionary_page_offset
            end = begin + column.total_compressed_size
            if not len(_MAGIC) <= begin < end <= self._end:
                raise self._damaged(f"row group {group}: column {name} lies outside of the file")
            yield begin, end

    def _tables(self, groups: Sequence[int], columns: Sequence[str]) -> Iterator[pa.Table]:
        """These columns of these row groups, in order; while one is used, two are decoded."""
        chunks = [sorted(self._chunks(group, columns)) for group in groups]
        with (
            ThreadPoolExecutor(_DECODED, thread_name_prefix="parquet") as threads,
            Fetching(self._file, chunks) as fetching,  # ends first: nobody decodes what is unwanted
        ):
            coming = deque[Future[pa.Table]]()
            for group in groups:
                ready = coming.popleft().result() if len(coming) == _DECODED else None
                coming.append(threads.submit(self._decoded, fetching.next(), group, columns))
                if ready is not None:
                    yield ready
            while coming:
                yield coming.popleft().result()

    def _decoded(self, source: Fetched, group: int, columns: Sequence[str]) -> pa.Table:
        """These columns of one row group, all of it checked."""
        source.wait()
        with self._explained():
            parquet = pq.ParquetFile(
                source,
                metadata=self._about,
                read_dictionary=list(FEW),
                pre_buffer=False,
                page_checksum_verification=True,
            )
        if self._ours:
            self._check_pages(source, group, columns)
        return self._table(parquet, group, columns)

    def _check_pages(self, source: Fetched, group: int, columns: Sequence[str]) -> None:
        """Check what no page's checksum covers."""
        about = self._about.row_group(group)
        for name, (begin, end) in zip(columns, self._chunks(group, columns), strict=True):
            column = about.column(SCHEMA.get_field_index(name))
            encoding = "RLE_DICTIONARY" if name in FEW else ENCODINGS[name]
            try:
                check_pages(
                    source.peek(begin, end),
                    rows=about.num_rows,
                    encoding=encoding,
                    uncompressed=column.total_uncompressed_size,
                )
            except Malformed as error:
                raise self._damaged(f"row group {group}, column {name}: {error}") from error

    def _table(self, parquet: pq.ParquetFile, group: int, columns: Sequence[str]) -> pa.Table:
        with self._explained():
            table = parquet.read_row_group(group, columns=list(columns), use_threads=False)
            rows = self._about.row_group(group).num_rows
            lengths = {table.num_rows, *map(len, table.columns)}
            nulls = sum(table[name].null_count for name in columns if name in _NEVER_NULL)
        if lengths != {rows} or nulls or table.num_columns != len(columns):
            raise self._damaged(f"row group {group} does not have the {rows} rows it must have")
        return table


def _labels_of(value: bytes) -> Callable[[], Mapping[str, str] | None]:
    # It brings the descriptors of all built-in types, and few selections ask for labels.
    from etcd_steward.registry import objectmeta  # noqa: PLC0415

    return partial(objectmeta.labels, value)
