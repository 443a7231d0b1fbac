"""Records that came in any order, as rows in the order of their keys.

etcd answers in the order of keys; a registry.parquet is sorted by namespace first.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np

from etcd_steward.errors import IntegrityError
from etcd_steward.models.registry import Record
from etcd_steward.registry.history import Columns, Index, Rows
from etcd_steward.registry.strings import Strings
from etcd_steward.registry.table import RowsWriter

_NEWEST: Final = 0
"""Nobody asks this index for older revisions: it has one of each key."""


class Appended(Protocol):
    """A file that grows at its end."""

    @property
    def size(self) -> int:
        """Bytes written so far."""
        ...

    def append(self, blobs: Sequence[bytes], /) -> None:
        """Write these, one behind the other."""
        ...

    def read_at(self, offset: int, length: int, /) -> bytes:
        """Bytes from `offset`; short only at the end."""
        ...


class Gatherer:
    """Collects records of one revision: their values in a file, all else in memory. All blocks."""

    def __init__(self, file: Appended) -> None:
        self._file = file
        self._rows = RowsWriter()

    def add(self, records: Sequence[Record]) -> None:
        """Some more, each of a key that has not come yet."""
        at = self._file.size
        for key, value, create, mod, version, lease in records:
            self._rows.add(key, create, mod, version, lease, at, len(value))
            at += len(value)
        self._file.append([record.value for record in records])

    def rows(self) -> Rows:
        """All of them, ascending; nothing can be added afterwards."""
        found = self._rows.rows()
        keys = Strings.join([found.keys.tobytes()], np.diff(found.key_at))
        order = keys.order()
        count = len(order)
        columns = Columns(
            main=found.mod_revision[order],
            rest=np.zeros(count, dtype=np.uint32),
            create=found.create_revision[order],
            version=found.version[order],
            lease=found.lease[order],
            value_at=found.value_at[order],
            value_size=found.value_size[order].astype(np.uint32),
        )
        each = np.arange(count + 1, dtype=np.int64)
        index = Index(keys.take(order), each, columns, _NEWEST)
        return Rows(index, _Values(self._file), each[:-1])


class _Values:
    """What was appended, read back."""

    def __init__(self, file: Appended) -> None:
        self._file = file

    def bytes_at(self, offset: int, length: int) -> bytes:
        """Exactly these bytes. Raises `IntegrityError` where the file has become shorter."""
        data = self._file.read_at(offset, length)
        if len(data) != length:
            raise IntegrityError("the spool gives back fewer bytes than were written to it")
        return data
