"""`registry.parquet`: what is written comes back exactly, in parts too; what is damaged never."""

import contextlib
import hashlib
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etcd_steward.errors import IntegrityError
from etcd_steward.models.manifest import StoredFile
from etcd_steward.models.registry import Filter, Record, Selection
from etcd_steward.registry import envelope, parquet, paths
from etcd_steward.registry.parquet import RegistryFile
from etcd_steward.registry.selection import Chosen
from etcd_steward.registry.table import GROUP_BYTES, GROUP_ROWS, Rows, RowsWriter, groups

LARGEST = 1_500_000
"""Bytes: what etcd takes of a value by default."""
SEED = random.SystemRandom().randrange(1 << 32)


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
        data += source.randbytes(source.choice([0, 3, 5000]))
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
    records = []
    for number in range(namespaces):
        space = f"team-{number:03}"
        key = f"/registry/namespaces/{space}".encode()
        records.append(Record(key, json_object("Namespace", None, space, uid(number)), 1, 2, 3, 0))
        for index in range(each):
            kind = ("ConfigMap", "Secret")[index % 2]
            name = f"object-{index:05}"
            noise = noisy(f"{space}{name}").randbytes(150).hex()
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


@given(tables)
@settings(max_examples=150)
def test_every_record_comes_back_exactly_and_in_order(records: list[Record]) -> None:
    memory, stored = written(records)
    file = RegistryFile(memory, stored=stored)
    assert (file.rows, file.revision, file.prefix) == (len(records), 42, "/registry")
    assert read(file) == in_order(records)


@given(tables)
@settings(max_examples=150)
def test_what_is_said_of_a_key_is_what_key_and_value_say(records: list[Record]) -> None:
    memory, stored = written(records)
    file = RegistryFile(memory, stored=stored)
    entries = [entry for batch in file.entries(sizes=True) for entry in batch]
    for entry, record in zip(entries, in_order(records), strict=True):
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


@given(tables, st.sampled_from(["a", "b", "nowhere"]))
def test_a_part_that_is_read_is_that_part_of_the_whole(records: list[Record], space: str) -> None:
    memory, stored = written(records)
    file = RegistryFile(memory, stored=stored)
    for chosen in (
        Chosen(Selection(include=Filter(namespaces=(space,)))),
        Chosen(Selection(include=Filter(key_prefixes=(f"/registry/configmaps/{space}/",)))),
    ):
        expected = [
            record
            for record in in_order(records)
            if chosen.wants(paths.parse(record.key), record.key, lambda: None)
        ]
        assert read(file, chosen) == expected


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
    records = cluster(namespaces=40, each=1500)
    memory, stored = written(records)
    file = RegistryFile(memory, stored=stored)
    memory.reads.clear()
    found = read(file, Chosen(Selection(include=Filter(namespaces=("team-017",)))))
    assert len(found) == 1500
    assert {record.key.split(b"/")[3] for record in found} == {b"team-017"}
    assert len(memory.reads) <= 3
    assert sum(memory.reads) < 0.03 * memory.size
    memory.reads.clear()
    only = Selection(include=Filter(resources=("secrets",), namespaces=("team-003",)))
    assert len(read(file, Chosen(only))) == 750
    memory.reads.clear()
    assert len(read(file, Chosen(Selection(include=Filter(resources=("namespaces",)))))) == 40
    assert sum(memory.reads) < 0.03 * memory.size
    memory.reads.clear()
    assert len(file.namespaces()) == 40
    assert sum(memory.reads) < 0.01 * memory.size


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
    assert max(file.reads) <= 8 << 20


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


def test_no_flipped_bit_goes_unnoticed() -> None:
    memory, stored = written(cluster(namespaces=2, each=12))
    good = everything(memory.data, stored)
    source = noisy(SEED)
    places = source.sample(range(memory.size), min(memory.size, 2500))
    for place in places:
        bit = source.randrange(8)
        data = bytearray(memory.data)
        data[place] ^= 1 << bit
        # Unnoticed is what nobody reads: the magic, and what Arrow passes over in pages' headers.
        with contextlib.suppress(IntegrityError):
            assert everything(bytes(data), stored) == good, f"seed {SEED}, byte {place}, bit {bit}"


def test_a_file_that_is_cut_short_is_refused() -> None:
    memory, stored = written(cluster(namespaces=2, each=12))
    source = noisy(SEED)
    for size in [0, 1, 3, 4, 8, 11, 12, *source.sample(range(memory.size), 60)]:
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
        case "other":
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
