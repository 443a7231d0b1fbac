"""A bolt file as pages: its two metas, its freelist, and who refers to which page.

Written after etcd-io/bbolt 1.3 to 1.5 (`internal/common/{meta,page,inode}.go`, `db.go`, `tx.go`,
`tx_check.go`). No Python reader of the format exists, and bbolt's own check maps the file and holds
a Go map entry per page (1.6 GB for a file of 1.4 GB). Every number in the file is compared with the
file's own size before anything is read or allocated by it.

A file of a big-endian machine (s390x) is refused: bolt writes the machine's own byte order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from etcd_steward.errors import IntegrityError
from etcd_steward.models.ports import ReadAt
from etcd_steward.registry.lanes import Offsets, first_true, starts_of, within

HEADER: Final = 16
"""Bytes of a page's header: id 8, flags 2, count 2, overflow 4."""
ELEMENT: Final = 16
"""Bytes of an element in a branch page (pos 4, ksize 4, pgid 8) or leaf page (flags, pos, ksize,
vsize, 4 each)."""
BRANCH: Final = 0x01
LEAF: Final = 0x02
_META: Final = 0x04
_FREELIST: Final = 0x10
_MAGIC: Final = 0xED0CDAED
_VERSION: Final = 2
_NO_FREELIST: Final = 0xFFFFFFFFFFFFFFFF
_MAX_KEY: Final = 32768
_LARGE_BRANCH: Final = 1 << 20
"""bolt splits a page down to four elements, so a branch page of its largest keys has 128 KiB."""
_SMALLEST_PAGE: Final = 1024
_LARGEST_PAGE: Final = 1024 << 14
_DIGEST: Final = 32
_TELL: Final = 4 << 20
"""Progress is told after so many bytes."""
_NOBODY: Final = 0xFFFFFFFF
_FREE: Final = 0xFFFFFFFE
_HINT: Final = "Don't use this file; take a new snapshot, from another member if it happens again"


def damaged(what: str) -> IntegrityError:
    """The error for a file that is not what it must be."""
    return IntegrityError(f"the etcd snapshot is damaged: {what}", hint=_HINT)


def without_digest(file: ReadAt) -> int:
    """Bytes of bolt data in a file, without the SHA-256 behind a snapshot that was streamed.

    Told by the file's size, as etcdutl does (snapshot/v3_snapshot.go).
    """
    return file.size - (_DIGEST if file.size % 512 == _DIGEST else 0)


@dataclass(frozen=True, slots=True)
class Meta:
    """What a valid meta page says."""

    page_size: int
    root: int
    freelist: int
    pages: int
    """The high-water mark: pages from here on were never used."""
    txid: int


@dataclass(frozen=True, slots=True)
class Headers:
    """The headers of some pages, one array entry each."""

    flags: Offsets
    count: Offsets
    overflow: Offsets


@dataclass(frozen=True, slots=True)
class Table:
    """The elements of some pages, end to end in the pages' order.

    Offsets are in bytes from where the pages' `at` are counted.
    """

    first: Offsets
    """Per page, the index of its first element."""
    last: Offsets
    """Per page, the index of its last element."""
    owner: Offsets
    """Per element, the index of its page."""
    key: Offsets
    ksize: Offsets
    value: Offsets
    vsize: Offsets
    """0 in branch pages."""
    extra: Offsets
    """A branch element's child page, a leaf element's flags."""


class Bolt:
    """A bolt file that was opened: geometry, reading, and the book of who refers to a page.

    Raises `IntegrityError` wherever the file contradicts itself, and what its `ReadAt` raises.
    """

    def __init__(
        self, file: ReadAt, size: int, progress: Callable[[int], None] | None = None
    ) -> None:
        self._file = file
        self._size = size
        self._progress = progress
        self._read = 0
        self._told = 0
        self.meta, self.valid_metas = self._open()
        self.page_size = self.meta.page_size
        self.pages = self.meta.pages
        self._referrer: NDArray[np.uint32] = np.full(self.pages, _NOBODY, dtype=np.uint32)
        self._referrer[:2] = 0
        self._has_freelist = self.meta.freelist != _NO_FREELIST
        if self._has_freelist:
            self._load_freelist(self.meta.freelist)
        self.claim(np.array([self.meta.root]), np.zeros(1, dtype=np.int64))

    # Reading ------------------------------------------------------------------------------------

    def read(self, page: int, count: int) -> bytes:
        """`count` whole pages from `page` on; the caller has checked that they are in the file."""
        return self.bytes_at(page * self.page_size, count * self.page_size)

    def bytes_at(self, offset: int, length: int) -> bytes:
        """Exactly these bytes. Raises `IntegrityError` where the file is shorter than it said."""
        data = self._file.read_at(offset, length)
        if len(data) != length or offset + length > self._size:
            raise damaged(f"it ends before byte {offset + length}")
        self._read += length
        if self._progress is not None and self._read - self._told >= _TELL:
            self._told = self._read
            self._progress(self._read)
        return data

    # Metas --------------------------------------------------------------------------------------

    def _open(self) -> tuple[Meta, int]:
        found = self._any_meta()
        page_size = found.page_size
        if self._size % page_size or self._size < 2 * page_size:
            raise damaged(
                f"its {self._size} bytes are not a whole number of {page_size} byte pages"
            )
        valid = []
        for page in (0, 1):
            data = self._file.read_at(page * page_size, _SMALLEST_PAGE)
            identity, flags = (
                int.from_bytes(data[:8], "little"),
                int.from_bytes(data[8:10], "little"),
            )
            if identity != page or flags != _META:
                raise damaged(f"page {page} calls itself page {identity} with flags {flags:#x}")
            meta = parse_meta(data)
            if meta is not None:
                valid.append(meta)
        # bbolt opens with one valid meta, and takes the newer one of two (`DB.meta`).
        newest = max(valid, key=lambda meta: meta.txid)
        if any(meta.page_size != page_size for meta in valid):
            raise damaged("its two meta pages differ in page size")
        if not 2 < newest.pages <= self._size // page_size:
            raise damaged(
                f"its meta page counts {newest.pages} pages, but it has "
                f"{self._size // page_size} of {page_size} bytes"
            )
        if newest.pages >= _FREE:
            raise damaged(f"its meta page counts {newest.pages} pages, more than etcd ever writes")
        return newest, len(valid)

    def _any_meta(self) -> Meta:
        """The first meta that is valid, looked for where bbolt looks (`DB.getPageSize`)."""
        if not self._size:
            raise damaged("it is empty")
        for offset in (0, *(_SMALLEST_PAGE << power for power in range(15))):
            if offset + _SMALLEST_PAGE > self._size:
                break
            meta = parse_meta(self._file.read_at(offset, _SMALLEST_PAGE))
            if meta is None or (offset and meta.page_size != offset):
                continue
            size = meta.page_size
            if not _SMALLEST_PAGE <= size <= _LARGEST_PAGE or size & (size - 1):
                raise damaged(f"its meta page says that pages have {size} bytes")
            return meta
        raise damaged("neither of its two meta pages is valid, so it is not an etcd database")

    # The book of references ---------------------------------------------------------------------

    def claim(self, ids: Offsets, parents: Offsets) -> None:
        """Note that each of `parents` refers to the page in `ids` at the same place.

        Raises `IntegrityError` if a page is out of the file, free, or referred to already.
        """
        bad = first_true((ids < 2) | (ids >= self.pages))
        if bad is not None:
            parent = int(parents[bad])
            raise damaged(
                f"{'the freelist' if parent == _FREE else f'page {parent}'} refers to page "
                f"{int(ids[bad]) % (1 << 64)}, but its pages are 2 to {self.pages - 1}"
            )
        before = self._referrer.take(ids)
        bad = first_true(before != _NOBODY)
        if bad is not None:
            raise self._twice(int(ids[bad]), int(before[bad]), int(parents[bad]))
        self._referrer[ids] = parents.astype(np.uint32)
        order = ids.argsort(kind="stable")
        same = first_true(ids[order[1:]] == ids[order[:-1]])
        if same is not None:
            one, other = int(order[same]), int(order[same + 1])
            raise self._twice(int(ids[one]), int(parents[one]), int(parents[other]))

    def claim_overflow(self, ids: Offsets, overflow: Offsets) -> None:
        """Note the pages that continue these claimed pages, which must ascend by id."""
        large = np.flatnonzero(overflow)
        if not len(large):
            return
        ends = ids + overflow
        clash = first_true(ends[:-1] >= ids[1:])
        if clash is not None:
            raise damaged(
                f"page {ids[clash]} with its {overflow[clash]} overflow pages runs into "
                f"page {ids[clash + 1]}"
            )
        # Disjoint and within the file (`headers`), so their sum is at most the number of pages.
        counts, heads = overflow[large], ids[large]
        run = np.repeat(heads + 1, counts) + within(counts, starts_of(counts))
        self.claim(run, np.repeat(self._referrer.take(heads).astype(np.int64), counts))

    def finish(self) -> tuple[int, int]:
        """How many pages are in use and how many free, once everything was claimed.

        Without a stored freelist (etcd writes none) the free pages are those nobody refers to.
        Raises `IntegrityError` where a stored freelist leaves a page out.
        """
        nobody = self._referrer == _NOBODY
        free = int(np.count_nonzero(self._referrer == _FREE))
        lost = first_true(nobody)
        if self._has_freelist and lost is not None:
            raise damaged(f"page {lost} is neither in use nor on the freelist")
        free += int(np.count_nonzero(nobody))
        return self.pages - free, free

    def _twice(self, page: int, one: int, other: int) -> IntegrityError:
        if _FREE in {one, other}:
            user = other if one == _FREE else one
            if user == _FREE:
                return damaged(f"page {page} is on the freelist twice")
            return damaged(f"page {page} is on the freelist, but page {user} refers to it")
        return damaged(f"page {page} is referenced twice (by pages {one} and {other})")

    def _load_freelist(self, page: int) -> None:
        if not 2 <= page < self.pages:
            raise damaged(
                f"its freelist is at page {page}, but its pages are 2 to {self.pages - 1}"
            )
        words = np.frombuffer(self.read(page, 1), dtype="<i8")
        identity, packed = int(words[0]), int(words[1])
        flags, count, overflow = packed & 0xFFFF, packed >> 16 & 0xFFFF, packed >> 32 & 0xFFFFFFFF
        if identity != page or flags != _FREELIST:
            raise damaged(f"its freelist page {page} calls itself {identity} with flags {flags:#x}")
        if page + overflow >= self.pages:
            raise damaged(f"its freelist page {page} has {overflow} overflow pages, past the end")
        at, end = HEADER, (overflow + 1) * self.page_size
        if count == 0xFFFF:  # the true count is the first entry
            count = int(words[2])
            at += 8
        if not 0 <= count <= (end - at) // 8:
            raise damaged(f"its freelist page {page} has no room for {count} entries")
        self._referrer[page : page + overflow + 1] = 0
        start = page * self.page_size
        stop = at + 8 * count
        for begin in range(at, stop, 1 << 22):
            ids = np.frombuffer(
                self.bytes_at(start + begin, min(1 << 22, stop - begin)), dtype="<i8"
            ).astype(np.int64)
            self.claim(ids, np.full(len(ids), _FREE, dtype=np.int64))

    # Pages --------------------------------------------------------------------------------------

    def headers(self, words: Offsets, at: Offsets, ids: Offsets) -> Headers:
        """The headers of pages lying at bytes `at` of `words`, checked by themselves."""
        word = at >> 3
        packed = words[word + 1]
        flags, count = packed & 0xFFFF, (packed >> 16) & 0xFFFF
        overflow = (packed >> 32) & 0xFFFFFFFF
        bad = first_true(words[word] != ids)
        if bad is not None:
            raise damaged(
                f"page {ids[bad]} (which page {self._referrer[ids[bad]]} refers to) calls itself "
                f"page {int(words[word[bad]]) % (1 << 64)}"
            )
        bad = first_true((flags != LEAF) & (flags != BRANCH))
        if bad is not None:
            raise damaged(f"page {ids[bad]} has flags {flags[bad]:#x}: neither branch nor leaf")
        bad = first_true(ids + overflow >= self.pages)
        if bad is not None:
            raise damaged(f"page {ids[bad]} has {overflow[bad]} overflow pages, past the end")
        size = (overflow + 1) * self.page_size
        bad = first_true((count == 0) | (HEADER + ELEMENT * count > size))
        if bad is not None:
            raise damaged(f"page {ids[bad]} of {size[bad]} bytes says it has {count[bad]} elements")
        bad = first_true((flags == BRANCH) & (overflow * self.page_size > _LARGE_BRANCH))
        if bad is not None:
            raise damaged(f"branch page {ids[bad]} has {overflow[bad]} overflow pages")
        return Headers(flags, count, overflow)

    def table(
        self, words: Offsets, at: Offsets, ids: Offsets, headers: Headers, *, leaf: bool
    ) -> Table:
        """The elements of these pages, all branches or all leaves.

        bolt packs keys and values without gaps behind the elements, gives a page just as many
        overflow pages as it needs, and fills it up with zeros (`tx.write` clears pages before they
        are used again). Holding a page to that finds what bbolt's check does not: any one size or
        position that changed. `words` need hold no more of a page than its elements.
        """
        table = elements(words, at, headers.count, leaf=leaf)
        expected = np.empty_like(table.key)
        expected[1:] = (table.value + table.vsize)[:-1]
        expected[table.first] = at + HEADER + ELEMENT * headers.count
        bad = first_true((table.key != expected) | (table.ksize < 1) | (table.ksize > _MAX_KEY))
        if bad is not None:
            page = table.owner[bad]
            raise damaged(
                f"page {ids[page]}, element {bad - table.first[page]}: its key of "
                f"{table.ksize[bad]} bytes lies at byte {table.key[bad] - at[page]} of the page, "
                f"not at {expected[bad] - at[page]}"
            )
        used = (table.value + table.vsize)[table.last] - at
        # A page filled to its last byte has one overflow page more in files of boltdb up to 2019.
        most = used // self.page_size
        least = (used - 1) // self.page_size
        bad = first_true((headers.overflow < least) | (headers.overflow > most))
        if bad is not None:
            raise damaged(
                f"page {ids[bad]} has {headers.overflow[bad]} overflow pages, "
                f"but its elements end at byte {used[bad]}"
            )
        end = at + used
        rest = words.view(np.uint8).take(end, mode="clip")
        bad = first_true((rest != 0) & (used % self.page_size != 0) & (end < words.nbytes))
        if bad is not None:
            self.check_rest(int(ids[bad]), int(used[bad]), int(rest[bad]))
        return table

    def check_rest(self, page: int, end: int, octet: int) -> None:
        """The byte behind a page's last element must be 0.

        If the last size shrank, what it left out lies there; and where a record still reads as
        whole, that begins with the tag of its next field, which is not zero.
        """
        if octet:
            raise damaged(f"page {page} goes on behind its last element, at byte {end}")


def elements(words: Offsets, at: Offsets, count: Offsets, *, leaf: bool) -> Table:
    """The element tables of pages at bytes `at` as they stand; only the tables are read."""
    first = starts_of(count)
    owner = np.repeat(np.arange(len(at), dtype=np.int64), count)
    element = np.repeat(at + HEADER - ELEMENT * first, count)
    element += ELEMENT * np.arange(len(element), dtype=np.int64)
    one, two = words[element >> 3], words[(element >> 3) + 1]
    if leaf:
        extra, position = one & 0xFFFFFFFF, (one >> 32) & 0xFFFFFFFF
        ksize, vsize = two & 0xFFFFFFFF, (two >> 32) & 0xFFFFFFFF
    else:
        extra, position = two, one & 0xFFFFFFFF
        ksize, vsize = (one >> 32) & 0xFFFFFFFF, np.zeros_like(one)
    key = element + position
    return Table(first, first + count - 1, owner, key, ksize, key + ksize, vsize, extra)


def parse_meta(data: bytes) -> Meta | None:
    """The meta in a meta page's first bytes; None where bbolt's `Meta.Validate` would refuse it."""
    body = data[HEADER : HEADER + 64]
    if len(body) < 64:
        return None
    magic, version, page_size = (int.from_bytes(body[i : i + 4], "little") for i in (0, 4, 8))
    root, freelist, pages, txid, checksum = (
        int.from_bytes(body[i : i + 8], "little") for i in (16, 32, 40, 48, 56)
    )
    if magic != _MAGIC or version != _VERSION or checksum != _fnv64a(body[:56]):
        return None
    return Meta(page_size, root, freelist, pages, txid)


def _fnv64a(data: bytes) -> int:
    """FNV-1a, which no library at hand has; 56 bytes are hashed twice per file."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value
