"""`registry.parquet`: what is written comes back exactly, in parts too; what is damaged never."""

import contextlib
import hashlib
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etcd_steward.engine.parquet_source import ParquetSource
from etcd_steward.errors import IntegrityError
from etcd_steward.models.manifest import StoredFile
from etcd_steward.models.registry import Filter, Record, Selection
from etcd_steward.registry import envelope, parquet, paths
from etcd_steward.registry.arrow import FEW, SCHEMA
from etcd_steward.registry.pages import check_pages, read_struct
from etcd_steward.registry.parquet import ENCODINGS as ENCODINGS_OF
from etcd_steward.registry.parquet import RegistryFile
from etcd_steward.registry.selection import Chosen
from etcd_steward.registry.table import GROUP_BYTES, GROUP_ROWS, Rows, RowsWriter, groups
from etcd_steward.registry.wire import Malformed

LARGEST = 1_500_000
"""Bytes: what etcd takes of a value by default."""


def noisy(seed: object) -> random.Random:
    return random.Random(str(seed))  # noqa: S311  # reproducible, not secret


@dataclass
class Memory:
    """`ReadAt` over bytes that counts what is read."""

    data: bytes = field(repr=False)
    reads: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.data)

    def read_at(self, offset: int, length: int) -> bytes:
        self.reads.append(length)
        return self.data[offset : offset + length]


def spooled(records: Iterable[Record], source: random.Random) -> tuple[Rows, Memory]:
    """The records as a spool has them: values in any order, with gaps between them."""
    known = sorted(records)
    places: dict[bytes, int] = {}
    data = bytearray()
    for record in source.sample(known, len(known)):
        data += bytes(source.choice([0, 3, 20_000]))
        places[record.key] = len(data)
        data += record.value
    rows = RowsWriter()
    for key, value, create, mod, version, lease in known:
        rows.add(key, create, mod, version, lease, places[key], len(value))
    return rows.rows(), Memory(bytes(data))


def written(records: Iterable[Record], *, prefix: str = "/registry") -> tuple[Memory, StoredFile]:
    pieces: list[bytes] = []
    rows, file = spooled(records, noisy(7))
    made = parquet.write(pieces.append, groups(rows, file, prefix), revision=42, prefix=prefix)
    data = b"".join(pieces)
    assert (made.rows, made.size) == (len(rows), len(data))
    assert made.sha256 == hashlib.sha256(data).hexdigest()
    stored = StoredFile(
        name="registry.parquet",
        role="registry",
        size=made.size,
        sha256=made.sha256,
        crc32c="00000000",
        footer=made.footer,
    )
    return Memory(data), stored


def json_object(kind: str, namespace: str | None, name: str, uid: str, **more: object) -> bytes:
    space = f'"namespace":"{namespace}",' if namespace else ""
    labels = ",".join(f'"{key}":"{value}"' for key, value in more.items())
    return (
        f'{{"apiVersion":"v1","kind":"{kind}","metadata":{{"name":"{name}",{space}"uid":"{uid}",'
        f'"labels":{{{labels}}}}}}}\n'
    ).encode()


def uid(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-000000000000"


def cluster(namespaces: int = 20, each: int = 300) -> list[Record]:
    """Config maps and Secrets of some namespaces, and the Namespaces themselves."""
    records, source = [], noisy(11)
    for number in range(namespaces):
        space = f"team-{number:03}"
        key = f"/registry/namespaces/{space}".encode()
        records.append(Record(key, json_object("Namespace", None, space, uid(number)), 1, 2, 3, 0))
        for index in range(each):
            kind = ("ConfigMap", "Secret")[index % 2]
            name = f"object-{index:05}"
            noise = source.randbytes(150).hex()
            value = json_object(kind, space, name, uid(index), app=f"a{index % 3}", noise=noise)
            key = f"/registry/{kind.lower()}s/{space}/{name}".encode()
            records.append(Record(key, value, index + 1, index + 2, 1, -index))
    return records


def in_order(records: Iterable[Record]) -> list[Record]:
    def place(record: Record) -> tuple[bool, str, bytes]:
        path = paths.parse(record.key)
        space = path.namespace if path is not None else None
        return space is not None, space or "", record.key

    return sorted(records, key=place)


def read(file: RegistryFile, chosen: Chosen | None = None) -> list[Record]:
    return [record for batch in file.read(chosen) for record in batch]


segments = st.one_of(
    st.sampled_from(
        ["registry", "pods", "services", "specs", "minions", "a.example.com", "things", "ns", ""]
    ),
    st.sampled_from([".", "..", "a%b", 'q"r', "back\\slash", "ü", "x"]),
    st.text(max_size=4),
)
keys = st.one_of(
    st.binary(min_size=1, max_size=20),
    st.lists(segments, min_size=1, max_size=6)
    .map(lambda some: "/" + "/".join(some))
    .map(str.encode),
    st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 30)).map(
        lambda some: f"/registry/configmaps/{some[0]}/name-{some[1]}".encode()
    ),
)
values = st.one_of(
    st.binary(max_size=50),
    st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 30), st.text(max_size=40)).map(
        lambda some: json_object("ConfigMap", some[0], f"name-{some[1]}", some[2])
    ),
    st.just(b"k8s:enc:aescbc:v1:key1:secret"),
)
int64 = st.integers(-(1 << 63), (1 << 63) - 1)
tables = st.dictionaries(keys, st.tuples(values, int64, int64, int64, int64), max_size=60).map(
    lambda some: [Record(key, *row) for key, row in some.items()]
)


@given(tables, st.sampled_from(["a", "b", "nowhere"]))
@settings(max_examples=40)
def test_every_record_comes_back_exactly_with_what_it_says(
    records: list[Record], space: str
) -> None:
    memory, stored = written(records)
    file = RegistryFile(memory, stored=stored)
    assert (file.rows, file.revision, file.prefix) == (len(records), 42, "/registry")
    ordered = in_order(records)
    assert read(file) == ordered
    check_entries(file, ordered)
    for chosen in (
        Chosen(Selection(include=Filter(namespaces=(space,)))),
        Chosen(Selection(include=Filter(key_prefixes=(f"/registry/configmaps/{space}/",)))),
    ):
        assert read(file, chosen) == [
            record
            for record in ordered
            if chosen.wants(paths.parse(record.key), record.key, lambda: None)
        ]


def check_entries(file: RegistryFile, ordered: list[Record]) -> None:
    """What is said of a key is what key and value say."""
    entries = [entry for batch in file.entries(sizes=True) for entry in batch]
    for entry, record in zip(entries, ordered, strict=True):
        encoding, api_version, kind, its_uid = envelope.header(record.value)
        path = paths.parse(record.key)
        if path is not None:
            path = paths.settle(path, api_version, kind)._replace(namespace=path.namespace)
        assert entry.path == path
        said = (entry.api_version, entry.kind, entry.uid, entry.encoding, entry.size)
        assert said == (api_version, kind, its_uid, encoding, len(record.value))
        assert (entry.key, entry.create_revision, entry.mod_revision) == (record.key, *record[2:4])
        assert (entry.version, entry.lease) == record[4:]
    spaces = {entry.path.namespace for entry in entries if entry.path is not None}
    assert file.namespaces() == sorted(space for space in spaces if space is not None)


@pytest.mark.parametrize("odd", ["name", "namespace", "kind", "uid", "short", "protobuf", "none"])
def test_one_object_that_begins_otherwise_than_its_neighbours(odd: str) -> None:
    """Neighbours are compared all at once; each still says its own."""
    values = [json_object("ConfigMap", "shop", f"name-{n}", uid(n)) for n in range(9)]
    values[5] = {
        "name": json_object("ConfigMap", "shop", "name-6", uid(5)),
        "namespace": json_object("ConfigMap", "other", "name-5", uid(5)),
        "kind": json_object("Secret", "shop", "name-5", uid(5)),
        "uid": json_object("ConfigMap", "shop", "name-5", 'not"one'),
        "short": values[5][:70],
        "protobuf": b"k8s:enc:kms:v2:mine:" + bytes(90),
        "none": values[5],
    }[odd]
    records = [
        Record(b"/registry/configmaps/shop/name-%d" % n, value, 1, 2, 3, 0)
        for n, value in enumerate(values)
    ]
    memory, stored = written(records)
    file = RegistryFile(memory, stored=stored)
    assert read(file) == records
    check_entries(file, records)


def test_the_largest_values_strange_keys_and_ciphertext_are_exact() -> None:
    source = noisy(1)
    records = [
        Record(f"/registry/secrets/shop/{i}".encode(), source.randbytes(LARGEST), 1, 2, 3, 4)
        for i in range(7)
    ]
    records += [
        Record(b"/registry/configmaps/shop/\xff\xfe", b"", 1, 2, 3, 0),
        Record(b"\x00", b"\x00", 1, 2, 3, 0),
        Record(b"/registry/secrets/shop/enc", b"k8s:enc:kms:v2:mine:" + bytes(300), 1, 2, 3, 0),
        Record(b"/registry/configmaps/" + b"k" * 20_000, b"x", 1, 2, 3, 0),
    ]
    for number in range(4):
        value = json_object(f"{number}" * 700_000, "shop", f"long-{number}", uid(number))
        records.append(Record(b"/registry/configmaps/shop/long-%d" % number, value, 1, 2, 3, 0))
    memory, stored = written(records)
    file = RegistryFile(memory, stored=stored)
    assert read(file) == in_order(records)
    entries = {entry.key: entry for batch in file.entries() for entry in batch}
    strange = entries[b"/registry/configmaps/shop/\xff\xfe"]
    assert (strange.path, strange.encoding, strange.size) == (None, "other", None)
    encrypted = entries[b"/registry/secrets/shop/enc"]
    assert encrypted.path is not None
    assert (encrypted.path.resource, encrypted.path.namespace) == ("secrets", "shop")
    assert (encrypted.encoding, encrypted.api_version, encrypted.uid) == ("encrypted", None, None)
    assert (encrypted.create_revision, encrypted.lease) == (1, 0)
    assert entries[b"/registry/configmaps/shop/long-3"].kind == "3" * 700_000


def test_an_empty_registry_is_a_file_too() -> None:
    memory, stored = written([])
    file = RegistryFile(memory, stored=stored)
    assert (file.rows, file.namespaces(), read(file)) == (0, [], [])


def test_the_format_is_what_the_documentation_says() -> None:
    records = cluster()
    memory, _ = written(records)
    whole = pq.ParquetFile(pa.BufferReader(memory.data), page_checksum_verification=True)
    assert whole.schema_arrow.names == [
        *("key", "value", "create_revision", "mod_revision", "version", "lease"),
        *("api_group", "resource", "namespace", "name", "api_version", "kind", "uid", "encoding"),
    ]
    assert [str(one.type) for one in whole.schema_arrow] == [
        *["binary"] * 2, *["int64"] * 4, *["string"] * 8,
    ]  # fmt: skip
    assert [one.nullable for one in whole.schema_arrow] == [False] * 6 + [True] * 8
    groups_found = [whole.metadata.row_group(i) for i in range(whole.num_row_groups)]
    assert all(group.num_rows <= GROUP_ROWS for group in groups_found)
    assert all(group.column(1).total_uncompressed_size < 2 * GROUP_BYTES for group in groups_found)
    assert {group.column(1).compression for group in groups_found} == {"ZSTD"}
    assert all(group.column(0).statistics.has_min_max for group in groups_found)
    assert not any(group.column(1).is_stats_set for group in groups_found)
    table = whole.read()
    spaces = [space or "" for space in table["namespace"].to_pylist()]
    assert spaces == sorted(spaces)
    assert whole.metadata.metadata[b"etcdsteward.io/revision"] == b"42"


def test_a_namespace_is_read_without_its_neighbours() -> None:
    records = cluster(namespaces=30, each=1030)
    memory, stored = written(records)
    file = RegistryFile(memory, stored=stored)
    memory.reads.clear()
    found = read(file, Chosen(Selection(include=Filter(namespaces=("team-017",)))))
    assert len(found) == 1030
    assert {record.key.split(b"/")[3] for record in found} == {b"team-017"}
    assert len(memory.reads) <= 3
    assert sum(memory.reads) < 0.04 * memory.size
    memory.reads.clear()
    only = Selection(include=Filter(resources=("secrets",), namespaces=("team-003",)))
    assert len(read(file, Chosen(only))) == 515
    memory.reads.clear()
    assert len(read(file, Chosen(Selection(include=Filter(resources=("namespaces",)))))) == 30
    assert sum(memory.reads) < 0.04 * memory.size
    memory.reads.clear()
    assert len(file.namespaces()) == 30
    assert sum(memory.reads) < 0.01 * memory.size


async def test_a_cluster_scoped_key_is_fetched_without_the_namespaces() -> None:
    memory, stored = written(cluster(namespaces=30, each=1030))
    source = ParquetSource(RegistryFile(memory, stored=stored), "a file")
    memory.reads.clear()
    found = await source.fetch([b"/registry/namespaces/team-007", b"/registry/namespaces/no"])
    assert list(found) == [b"/registry/namespaces/team-007"]
    assert sum(memory.reads) < 0.04 * memory.size


def test_entries_fetch_no_values() -> None:
    memory, stored = written(cluster())
    file = RegistryFile(memory, stored=stored)
    memory.reads.clear()
    assert sum(len(batch) for batch in file.entries()) == 20 * 301
    assert sum(memory.reads) < 0.2 * memory.size


def test_labels_choose() -> None:
    records = cluster(namespaces=3, each=30)
    memory, stored = written(records)
    file = RegistryFile(memory, stored=stored)
    chosen = Chosen(Selection(include=Filter(label_selector="app=a1")))
    found = read(file, chosen)
    assert found == [one for one in in_order(records) if b'"app":"a1"' in one.value]
    assert len(found) == 30
    assert [entry.key for batch in file.entries(chosen) for entry in batch] == [
        record.key for record in found
    ]


def test_values_are_gathered_in_few_reads() -> None:
    rows, file = spooled(cluster(), noisy(3))
    for _ in groups(rows, file):
        pass
    assert len(file.reads) < len(rows)
    assert max(file.reads) <= 5 << 20


def test_a_spool_that_is_cut_short_is_noticed() -> None:
    rows, file = spooled(cluster(namespaces=2), noisy(3))
    file.data = file.data[:-1]
    with pytest.raises(IntegrityError, match="end at byte"):
        list(groups(rows, file))


def test_rows_out_of_order_are_refused() -> None:
    rows, file = spooled(cluster(namespaces=2), noisy(3))
    (whole,) = list(groups(rows, file))
    with pytest.raises(IntegrityError, match="ascending"):
        parquet.write(lambda _: None, [whole, whole], revision=1, prefix="/registry")


def test_a_sink_that_fails_gets_no_footer() -> None:
    source = noisy(3)
    large = [Record(b"/%d" % n, source.randbytes(1 << 20), 1, 2, 3, 0) for n in range(4)]
    rows, file = spooled(large, source)
    pieces: list[bytes] = []

    def full(piece: bytes) -> None:
        if pieces:
            raise OSError("full")
        pieces.append(piece)

    with pytest.raises(OSError, match="full"):
        parquet.write(full, groups(rows, file), revision=1, prefix="/registry")
    assert len(pieces) == 1
    with pytest.raises(IntegrityError):
        RegistryFile(Memory(pieces[0]))


# Damage ------------------------------------------------------------------------------------------


def everything(data: bytes, stored: StoredFile | None) -> tuple[list[Record], object]:
    file = RegistryFile(Memory(data), stored=stored)
    entries = [entry for batch in file.entries(sizes=True) for entry in batch]
    return read(file), (entries, file.namespaces(), file.revision)


def flipped(data: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    return bytes(changed)


def unnoticed(memory: Memory, stored: StoredFile, places: Iterable[tuple[int, int]]) -> list[str]:
    """The bits that change what is read, and nobody says so."""
    good = everything(memory.data, stored)
    wrong = []
    for place, bit in places:
        # What nobody reads may change: the magic, and statistics in the headers of pages.
        with contextlib.suppress(IntegrityError):
            if everything(flipped(memory.data, place, bit), stored) != good:
                wrong.append(f"byte {place}, bit {bit}")
    return wrong


def test_no_flipped_bit_goes_unnoticed() -> None:
    memory, stored = written(cluster(namespaces=2, each=12))
    source = noisy(3)
    places = source.sample(range(memory.size), 300)
    assert unnoticed(memory, stored, [(place, source.randrange(8)) for place in places]) == []


def test_no_flipped_bit_of_a_page_header_goes_unnoticed() -> None:
    """No checksum covers those: a bit of them may name another encoding of the same data."""
    memory, stored = written(cluster(namespaces=2, each=12))
    about = pq.read_metadata(pa.BufferReader(memory.data))
    left: list[tuple[int, int]] = []
    for index, name in enumerate(SCHEMA.names):
        column = about.row_group(0).column(index)
        begin = column.dictionary_page_offset or column.data_page_offset
        chunk = memory.data[begin : begin + column.total_compressed_size]
        for place, bit in product(headers_of(chunk, column.num_values), range(8)):
            try:
                check_pages(
                    memoryview(flipped(chunk, place, bit)),
                    rows=about.num_rows,
                    encoding="RLE_DICTIONARY" if name in FEW else ENCODINGS_OF[name],
                    uncompressed=column.total_uncompressed_size,
                )
            except Malformed:
                continue
            left.append((begin + place, bit))
    # What is left are checksums, statistics, and how many words a dictionary has.
    assert 500 < len(left) < 3000
    assert unnoticed(memory, stored, left[::7]) == []


def headers_of(chunk: bytes, rows: int) -> Iterator[int]:
    """The bytes of a column chunk that are its pages' headers."""
    at = values = 0
    while values < rows:
        header, behind = read_struct(memoryview(chunk), at)
        yield from range(at, behind)
        at = behind + header[3]
        values += header[5][1] if 5 in header else 0
    assert at == len(chunk)


def test_a_file_that_is_cut_short_is_refused() -> None:
    memory, stored = written(cluster(namespaces=2, each=12))
    for size in [0, 1, 3, 4, 8, 11, 12, *noisy(5).sample(range(memory.size), 60)]:
        for known in (stored, None, stored.model_copy(update={"size": size})):
            with pytest.raises(IntegrityError):
                everything(memory.data[:size], known)


def test_another_size_or_footer_than_was_written_is_refused() -> None:
    memory, stored = written(cluster(namespaces=2, each=12))
    other, others = written(cluster(namespaces=2, each=13))
    with pytest.raises(IntegrityError, match="had"):
        RegistryFile(other, stored=stored)
    wrong = others.model_copy(update={"footer": stored.footer})
    with pytest.raises(IntegrityError, match="footer"):
        RegistryFile(other, stored=wrong)
    assert stored.footer is not None
    for size in (0, 8, 1 << 40, -1):
        footer = stored.footer.model_copy(update={"size": size})
        with pytest.raises(IntegrityError, match="footer"):
            RegistryFile(memory, stored=stored.model_copy(update={"footer": footer}))


@pytest.mark.parametrize("change", ["lacking", "more", "type", "nullable", "order", "other"])
def test_another_schema_is_refused(change: str) -> None:
    memory, _ = written(cluster(namespaces=2, each=3))
    table = pq.read_table(pa.BufferReader(memory.data))
    match change:
        case "lacking":
            table = table.drop_columns(["uid"])
        case "more":
            table = table.append_column("more", table["uid"])
        case "type":
            at = table.schema.get_field_index("lease")
            table = table.set_column(
                at, pa.field("lease", pa.int32(), nullable=False), table["lease"].cast(pa.int32())
            )
        case "nullable":
            table = table.cast(pa.schema([pa.field(one.name, one.type) for one in table.schema]))
        case "order":
            table = table.select([*table.column_names[1:], "key"])
        case _:
            table = pa.table({"a": [1, 2]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    with pytest.raises(IntegrityError, match="column"):
        RegistryFile(Memory(sink.getvalue().to_pybytes()))


@pytest.mark.parametrize(
    "data", [b"", b"PAR1", b"PAR1" * 5, b"{}", bytes(100), b"PAR1\xff\xff\xff\x7fPAR1"]
)
def test_what_is_no_parquet_file_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        RegistryFile(Memory(data))
