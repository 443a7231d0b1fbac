"""Between Arrow's arrays and ours: the columns of a registry file, written and read.

Imports pyarrow, as `parquet` does: what is said there holds here too.
"""

from itertools import pairwise
from typing import Final

import numpy as np
import pyarrow as pa

from etcd_steward.models.registry import KeyPath
from etcd_steward.registry.columns import Group, Texts, Words
from etcd_steward.registry.lanes import Mask, Octets, Offsets

# Arrow's own allocator gives buffers of megabytes back to the system and takes them again, each
# time a fault a page; `memory` has settled that for the C library's.
pa.set_memory_pool(pa.system_memory_pool())

NUMBERS: Final = ("create_revision", "mod_revision", "version", "lease")
PATH: Final = ("resource", "api_group", "namespace", "name")
SAID: Final = ("api_version", "kind", "uid", "encoding")
FEW: Final = ("api_group", "resource", "namespace", "api_version", "kind", "encoding")
"""Columns of few different words."""
SCHEMA: Final = pa.schema(
    [
        pa.field("key", pa.binary(), nullable=False),
        pa.field("value", pa.binary(), nullable=False),
        *(pa.field(name, pa.int64(), nullable=False) for name in NUMBERS),
        *(pa.field(name, pa.string()) for name in ("api_group", "resource", "namespace", "name")),
        *(pa.field(name, pa.string()) for name in SAID),
    ]
)
WRITTEN: Final = pa.schema(
    [
        one if one.name not in FEW else one.with_type(pa.dictionary(pa.int32(), pa.string()))
        for one in SCHEMA
    ]
)
"""The same as it is handed to Arrow: words by number need not be looked up row by row."""

# From ours to Arrow -------------------------------------------------------------------------------


def to_table(group: Group) -> pa.Table:
    """A row group as it is written; its arrays are not copied."""
    decoded = group.decoded
    columns = [
        _binary(group.key, pa.binary()),
        _binary(group.value, pa.binary()),
        *(_numbers(getattr(group, name)) for name in NUMBERS),
        *(_words_or_texts(getattr(decoded, one.name)) for one in SCHEMA if one.nullable),
    ]
    return pa.Table.from_arrays(columns, schema=WRITTEN)


def _words_or_texts(column: Words | Texts) -> pa.Array:
    if isinstance(column, Texts):
        return _binary(column, pa.string())
    numbers = column.numbers.astype(np.int32)
    buffers = [_bitmap(numbers >= 0), pa.py_buffer(np.maximum(numbers, 0))]
    words = pa.array(column.words, pa.string())
    kind = pa.dictionary(pa.int32(), pa.string())
    return pa.DictionaryArray.from_buffers(kind, len(numbers), buffers, words)


def _binary(column: Texts, kind: pa.DataType) -> pa.Array:
    at = pa.py_buffer(column.at.astype(np.int32))
    buffers = [_bitmap(column.there), at, pa.py_buffer(column.data)]
    return pa.Array.from_buffers(kind, len(column.at) - 1, buffers)


def _numbers(column: Offsets) -> pa.Array:
    return pa.Array.from_buffers(pa.int64(), len(column), [None, pa.py_buffer(column)])


def _bitmap(there: Mask | None) -> pa.Buffer | None:
    if there is None or there.all():
        return None
    return pa.py_buffer(np.packbits(there, bitorder="little"))


# From Arrow to ours -------------------------------------------------------------------------------


# Without pyarrow.compute, and what imports it behind the scenes: that takes another 0.1 s.


def texts(column: pa.ChunkedArray) -> tuple[Octets, Offsets]:
    """Values end to end, and where each begins and the last ends."""
    octets, sizes = [np.zeros(0, dtype=np.uint8)], [np.zeros(1, dtype=np.int64)]
    for chunk in column.chunks:
        _, places, data = chunk.buffers()
        at = np.frombuffer(places, dtype=np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        octets.append(np.frombuffer(data or b"", dtype=np.uint8)[at[0] : at[-1]])
        sizes.append(np.diff(at).astype(np.int64))
    whole = octets[-1] if len(octets) <= 2 else np.concatenate(octets)  # one needs no copy
    return whole, np.cumsum(np.concatenate(sizes))


def blobs(column: pa.ChunkedArray) -> list[bytes]:
    """Values one by one."""
    octets, at = texts(column)
    text = octets.tobytes()
    return [text[one:other] for one, other in pairwise(at.tolist())]


def sizes_of(column: pa.ChunkedArray) -> list[int]:
    """Bytes of each value."""
    sizes: list[int] = np.diff(texts(column)[1]).tolist()
    return sizes


def integers(column: pa.ChunkedArray) -> list[int]:
    """Numbers one by one."""
    numbers: list[int] = column.to_numpy().tolist()
    return numbers


def words(column: pa.ChunkedArray) -> list[str | None]:
    """Texts; of those columns that are read as dictionaries, each different one is made once."""
    found: list[str | None] = []
    for chunk in column.chunks:
        if not pa.types.is_dictionary(chunk.type):
            found += chunk.to_pylist()
            continue
        known, codes = chunk.dictionary.to_pylist(), chunk.indices.to_pylist()
        found += [None if code is None else known[code] for code in codes]
    return found


def paths_of(table: pa.Table) -> list[KeyPath | None]:
    """What key and value tell together: which object each row is."""
    resources, api_groups, namespaces, names = (words(table[name]) for name in PATH)
    return [
        None if resource is None or name is None else KeyPath(resource, group or "", space, name)
        for resource, group, space, name in zip(
            resources, api_groups, namespaces, names, strict=True
        )
    ]
