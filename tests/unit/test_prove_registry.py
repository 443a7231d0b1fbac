"""What a proof of a registry file finds: every difference to what was read from etcd."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcd_steward.engine.prove_registry import compare_registry, prove_registry
from etcd_steward.engine.spoolfile import SpoolFile
from etcd_steward.errors import IntegrityError
from etcd_steward.registry.parquet import RegistryFile, write
from etcd_steward.registry.table import Rows, RowsWriter, groups

NAMES = st.sampled_from(["a", "b", "shop", "web-1", "web-2"])
PATHS = st.builds(
    lambda resource, rest: "/".join(["/registry", resource, *rest]).encode(),
    st.sampled_from(["pods", "secrets", "nodes", "x.example.com/widgets"]),
    st.lists(NAMES, min_size=1, max_size=2),
)
KEYS = st.one_of(PATHS, st.binary(min_size=1, max_size=5))


class Bytes:
    """A file in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read_at(self, offset: int, length: int) -> bytes:
        """As of a file."""
        return self.data[offset : offset + length]


def spooled(path: Path, entries: dict[bytes, bytes]) -> tuple[Rows, SpoolFile]:
    """Rows and values as an export keeps them."""
    path.unlink(missing_ok=True)
    file, rows, at = SpoolFile(path), RowsWriter(), 0
    for number, (key, value) in enumerate(sorted(entries.items()), 1):
        rows.add(key, number, number + 1, 1, -number, at, len(value))
        at += len(value)
    file.append([value for _, value in sorted(entries.items())])
    return rows.rows(), file


def stored(rows: Rows, file: SpoolFile) -> RegistryFile:
    """The registry file that is made of them."""
    out: list[bytes] = []
    write(out.append, groups(rows, file), revision=9, prefix="/registry")
    return RegistryFile(Bytes(b"".join(out)))


@given(st.dictionaries(KEYS, st.binary(max_size=30), max_size=60))
def test_what_was_written_is_what_was_read(
    tmp_path_factory: pytest.TempPathFactory, entries: dict[bytes, bytes]
) -> None:
    rows, file = spooled(tmp_path_factory.getbasetemp() / "values", entries)
    registry = stored(rows, file)
    compared, proven = compare_registry(registry, "it", rows, file), prove_registry(registry, "it")
    assert compared == proven
    assert compared.rows == len(entries)
    assert compared.value_bytes == sum(map(len, entries.values()))
    file.close()


@pytest.fixture
def some(tmp_path: Path) -> Iterator[tuple[Rows, SpoolFile]]:
    """Some rows of two namespaces and of none."""
    entries = {
        f"/registry/{resource}/{space}name-{number}".encode(): b"value %d" % number
        for resource in ("configmaps", "secrets")
        for space in ("one/", "two/", "")
        for number in range(40)
    }
    rows, file = spooled(tmp_path / "values", entries)
    yield rows, file
    file.close()


@pytest.mark.parametrize("field", ["create_revision", "mod_revision", "version", "lease"])
def test_a_number_that_differs(some: tuple[Rows, SpoolFile], field: str) -> None:
    rows, file = some
    registry = stored(rows, file)
    other = getattr(rows, field).copy()
    other[77] += 1
    with pytest.raises(IntegrityError, match="does not hold what was read"):
        compare_registry(registry, "it", replace(rows, **{field: other}), file)


def test_a_key_or_value_that_differs(some: tuple[Rows, SpoolFile], tmp_path: Path) -> None:
    rows, file = some
    registry = stored(rows, file)
    keys = rows.keys.copy()
    keys[rows.key_at[78] - 1] ^= 1
    with pytest.raises(IntegrityError, match="does not hold what was read"):
        compare_registry(registry, "it", replace(rows, keys=keys), file)
    altered = SpoolFile(tmp_path / "altered")
    data = bytearray(file.read_at(0, file.size))
    data[500] ^= 1
    altered.append([bytes(data)])
    with pytest.raises(IntegrityError, match="does not hold what was read"):
        compare_registry(registry, "it", rows, altered)
    altered.close()


def test_a_row_that_is_missing_or_too_many(some: tuple[Rows, SpoolFile]) -> None:
    rows, file = some
    count = len(rows) - 1
    fewer = Rows(
        rows.keys[: rows.key_at[count]],
        rows.key_at[: count + 1],
        *(
            getattr(rows, name)[:count]
            for name in (
                *("create_revision", "mod_revision", "version", "lease"),
                *("value_at", "value_size"),
            )
        ),
    )
    for there, here in ((rows, fewer), (fewer, rows)):
        with pytest.raises(IntegrityError, match="does not hold what was read"):
            compare_registry(stored(there, file), "it", here, file)


@pytest.mark.parametrize("when", ["before it is stored", "afterwards"])
def test_a_spool_whose_disk_alters_bits(some: tuple[Rows, SpoolFile], when: str) -> None:
    rows, file = some
    registry = stored(rows, file)
    with file.path.open("r+b") as raw:
        raw.seek(300)
        raw.write(b"\0")
    if when == "before it is stored":
        registry = stored(rows, file)
    with pytest.raises(IntegrityError, match="other bytes than were written") as raised:
        compare_registry(registry, "it", rows, file)
    assert raised.value.side == "host"
