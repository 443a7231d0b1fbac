"""Taking snapshots out of whatever they are wrapped in, and refusing what is none."""

import asyncio
import bz2
import gzip
import hashlib
import io
import lzma
import random
import tarfile
import zipfile
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pyrage
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, PublicFormat
from hypothesis import given as samples
from hypothesis import settings
from hypothesis import strategies as st

from etcd_steward.engine.age import decrypt, read_identities
from etcd_steward.engine.archive import Member
from etcd_steward.engine.given import Given, open_local
from etcd_steward.engine.spool import Spool
from etcd_steward.engine.unpack import Unpacked, unpack
from etcd_steward.errors import (
    IntegrityError,
    InvalidInput,
    OutOfSpace,
    StewardError,
    Unauthorized,
    Unsupported,
)
from etcd_steward.models.run import SpoolSettings
from tests.boltfile import BoltFile, History
from tests.support.cli import files
from tests.support.zstd import zstd

RANDOM = random.Random(4)  # noqa: S311
IDENTITY = pyrage.x25519.Identity.generate()


def database(size: int = 40) -> bytes:
    """A database as it lies in a data directory; values that hardly compress."""
    history = History()
    for number in range(size):
        history.txn((f"/k/{number}".encode(), RANDOM.randbytes(900)))
    return BoltFile().build(history.buckets())


DATA = database()
SNAPSHOT = DATA + hashlib.sha256(DATA).digest()


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return out.getvalue()


def aged(data: bytes, *, armored: bool = False) -> bytes:
    return bytes(pyrage.encrypt(data, [IDENTITY.to_public()], armored=armored))


WRAPPERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "zlib": zlib.compress,
    "zstd": zstd.compress,
    "age": aged,
    "zip": lambda data: zipped(("on-demand-node1-1700000000", data)),
}


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    settings = SpoolSettings(directory=tmp_path / "spool")
    async with Spool.open(settings, "test") as opened:
        yield opened


def unpacked(
    spool: Spool, data: bytes, name: str = "file", *, pieces: int = 1 << 20, size: bool = True
) -> tuple[Unpacked, bytes]:
    """What comes out of `data` that is handed over in pieces."""
    parts = [data[at : at + pieces] for at in range(0, len(data), pieces)]
    given = Given(name, len(data) if size else None, None, lambda _: iter(parts))
    with closing(spool.create("snapshot.db")) as file:
        try:
            found = unpack(given, spool, file, [IDENTITY])
            assert (given.taken, given.sha256) == (len(data), hashlib.sha256(data).hexdigest())
            assert files(spool.directory) == ["lock", "reserved", "snapshot.db"]
            return found, file.read_at(0, file.size)
        finally:
            file.path.unlink()


@pytest.mark.parametrize("wrapper", WRAPPERS)
async def test_each_wrapping_comes_off(spool: Spool, wrapper: str) -> None:
    found, data = unpacked(spool, WRAPPERS[wrapper](SNAPSHOT), pieces=1000)
    assert data == SNAPSHOT
    assert found.wrappings == (wrapper,)
    assert found.had_digest
    assert found.size == len(SNAPSHOT)
    assert found.sha256 == hashlib.sha256(SNAPSHOT).hexdigest()
    assert (found.member is not None) == (wrapper == "zip")


@samples(
    st.lists(st.sampled_from(["gzip", "zlib", "zstd", "age"]), max_size=3),
    st.booleans(),
    st.booleans(),
    st.integers(1, 100_000),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_any_pile_of_wrappings_in_any_pieces(
    pile: list[str], archived: bool, digest: bool, pieces: int, size: bool
) -> None:
    import tempfile  # noqa: PLC0415  # hypothesis takes no function-scoped fixture

    data = SNAPSHOT if digest else DATA
    for wrapper in (["zip"] if archived else []) + pile:
        data = WRAPPERS[wrapper](data)

    async def work(directory: Path) -> tuple[Unpacked, bytes]:
        async with Spool.open(SpoolSettings(directory=directory / "spool"), "test") as opened:
            return unpacked(opened, data, pieces=pieces, size=size)

    with tempfile.TemporaryDirectory() as directory:
        found, result = asyncio.run(work(Path(directory)))
    assert result == SNAPSHOT
    assert found.had_digest == digest
    assert list(found.wrappings) == [*reversed(pile), *(["zip"] if archived else [])]


@pytest.mark.parametrize("wrapper", ["gzip", "zlib", "zstd", "age", "zip"])
async def test_a_file_that_was_cut_short_is_damaged(spool: Spool, wrapper: str) -> None:
    data = WRAPPERS[wrapper](SNAPSHOT)
    for end in (len(data) - 1, len(data) // 2, 300):
        with pytest.raises(IntegrityError, match="file"):
            unpacked(spool, data[:end])


@pytest.mark.parametrize("wrapper", ["gzip", "zlib", "zstd", "age", "zip"])
async def test_a_flipped_bit_in_the_middle_is_found(spool: Spool, wrapper: str) -> None:
    data = bytearray(WRAPPERS[wrapper](SNAPSHOT))
    data[len(data) // 2] ^= 4
    with pytest.raises(IntegrityError, match="file"):
        unpacked(spool, bytes(data))


async def test_a_wrong_digest_is_found(spool: Spool) -> None:
    with pytest.raises(IntegrityError, match="does not have the digest"):
        unpacked(spool, DATA + hashlib.sha256(DATA[1:]).digest())


async def test_no_whole_number_of_pages_is_a_truncated_file(spool: Spool) -> None:
    with pytest.raises(IntegrityError, match="cut short"):
        unpacked(spool, SNAPSHOT[:-100])


async def test_several_gzip_members_and_padding_are_one_file(spool: Spool) -> None:
    half = len(SNAPSHOT) // 2
    data = gzip.compress(SNAPSHOT[:half]) + gzip.compress(SNAPSHOT[half:]) + bytes(700)
    for pieces in (1, 17, 1 << 20):
        assert unpacked(spool, data, pieces=pieces)[1] == SNAPSHOT
    with pytest.raises(IntegrityError, match="gzip"):
        unpacked(spool, data + b"x")
    with pytest.raises(IntegrityError, match="zlib"):
        unpacked(spool, zlib.compress(SNAPSHOT) + b"x")


async def test_an_armoured_age_file_is_decrypted(spool: Spool) -> None:
    assert unpacked(spool, aged(gzip.compress(SNAPSHOT), armored=True))[1] == SNAPSHOT


async def test_an_age_file_for_somebody_else_is_said_to_be_so(spool: Spool) -> None:
    other = pyrage.x25519.Identity.generate()
    data = bytes(pyrage.encrypt(SNAPSHOT, [other.to_public()]))
    with pytest.raises(Unauthorized, match="none of the identities opens it") as error:
        unpacked(spool, data)
    assert "--identity" in error.value.hint
    with pytest.raises(Unauthorized):
        unpacked(spool, bytes(pyrage.passphrase.encrypt(SNAPSHOT, "secret")))


def test_identities_are_read_from_what_age_keygen_writes(tmp_path: Path) -> None:
    path = tmp_path / "key.txt"
    path.write_text(f"# created: today\n# public key: {IDENTITY.to_public()}\n{IDENTITY}\n\n")
    assert [str(one) for one in read_identities(path)] == [str(IDENTITY)]
    for wrong in ("", "# nothing\n", "AGE-SECRET-KEY-1SECRET", "-----BEGIN X PRIVATE KEY-----\n"):
        path.write_text(wrong)
        with pytest.raises(InvalidInput, match="holds no identity") as error:
            read_identities(path)
        assert "SECRET" not in str(error.value)
    with pytest.raises(InvalidInput, match="can't be read"):
        read_identities(tmp_path / "missing")


def test_an_ssh_key_opens_what_is_encrypted_for_it(tmp_path: Path) -> None:
    key, path = Ed25519PrivateKey.generate(), tmp_path / "id_ed25519"
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, serialization.NoEncryption())
    )
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    data = pyrage.encrypt(b"hello", [pyrage.ssh.Recipient.from_str(public)])
    out = io.BytesIO()
    decrypt("file", io.BytesIO(data), out, read_identities(path))
    assert out.getvalue() == b"hello"


TAR = io.BytesIO()
with tarfile.open(fileobj=TAR, mode="w:gz") as _tar:
    _tar.addfile(tarfile.TarInfo("static-pod-resources/etcd.yaml"))
DELTA = b'[{"etcdEvent":{"Type":0},"time":"2026-11-22T02:17:00Z"}]' + bytes(32)
STRANGERS: list[tuple[bytes, str, type[StewardError], str]] = [
    (b"", "etcd.db", InvalidInput, "etcd.db is empty"),
    (b"hello", "etcd.db", InvalidInput, "no etcd snapshot"),
    (bytes(1 << 20), "etcd.db", InvalidInput, "no etcd snapshot"),
    (gzip.compress(b""), "x.gz", InvalidInput, "is empty"),
    (gzip.compress(gzip.compress(b"no")), "x.gz", InvalidInput, "no etcd snapshot"),
    (gzip.compress(bytes(50 << 20)), "x.gz", InvalidInput, "no etcd snapshot"),
    (DELTA, "Incr-00000001-00000009-1700000000", Unsupported, "incremental"),
    (gzip.compress(DELTA), "renamed", Unsupported, "incremental"),
    (TAR.getvalue(), "backup.tar.gz", InvalidInput, "tar archive"),
    (
        TAR.getvalue(),
        "static_kuberesources_2026-11-22_021700.tar.gz",
        InvalidInput,
        "name the file beside it: snapshot_2026-11-22_021700.db",
    ),
    (b"\x01\x02", "Full-00000000-00000009-1700000000.Z", Unsupported, "lzw"),
    (lzma.compress(SNAPSHOT), "x.xz", Unsupported, "xz -dc"),
    (bz2.compress(SNAPSHOT), "x.bz2", Unsupported, "bzip2 -dc"),
    (b"SQLite format 3\0" + bytes(80), "state.db", Unsupported, "k3s"),
    (zipped(), "x.zip", InvalidInput, "holds nothing"),
    (zipped(("README", b"no")), "x.zip", InvalidInput, "without an etcd snapshot.*README"),
    (zipped(("a.db", SNAPSHOT), ("b.db", DATA)), "x.zip", InvalidInput, "2 snapshots: a.db, b.db"),
    (zipped(*((str(n), b"") for n in range(65))), "x.zip", InvalidInput, "65 files"),
    (b"PK\x03\x04" + bytes(100), "x.zip", IntegrityError, "damaged zip"),
]


@pytest.mark.parametrize(
    ("data", "name", "kind", "words"), STRANGERS, ids=[words for *_, words in STRANGERS]
)
async def test_what_is_no_snapshot_is_named_for_what_it_is(
    spool: Spool, data: bytes, name: str, kind: type[StewardError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        unpacked(spool, data, name)


async def test_the_one_snapshot_among_other_files_of_an_archive_is_taken(spool: Spool) -> None:
    data = zipped(("notes/", b""), ("notes/README", b"no"), ("etcd", SNAPSHOT))
    found, result = unpacked(spool, data)
    assert result == SNAPSHOT
    assert found.member is not None
    assert found.member.name == "etcd"
    assert found.member.modified is None  # in somebody's local time


async def test_the_time_of_an_archive_that_says_it_in_utc_is_known(spool: Spool) -> None:
    """As Go's archive/zip writes it, and so k3s."""
    out, at = io.BytesIO(), datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    info = zipfile.ZipInfo("etcd.db", (2001, 1, 1, 0, 0, 0))
    info.extra = b"XX\x01\x00." + b"UT\x05\x00\x01" + int(at.timestamp()).to_bytes(4, "little")
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(info, SNAPSHOT)
    found, _ = unpacked(spool, out.getvalue())
    assert found.member == Member("etcd.db", at)


async def test_an_archive_with_a_password_is_refused(spool: Spool) -> None:
    data = bytearray(zipped(("etcd.db", SNAPSHOT)))
    for header, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(header) + at] |= 1
    with pytest.raises(Unsupported, match="password"):
        unpacked(spool, bytes(data))


async def test_more_wrappings_than_anybody_needs_are_refused(spool: Spool) -> None:
    data = SNAPSHOT
    for _ in range(5):
        data = gzip.compress(data)
    with pytest.raises(Unsupported, match="more than 4 times"):
        unpacked(spool, data)


@pytest.mark.parametrize("wrapper", ["gzip", "zlib", "zstd", "zip", "age"])
async def test_a_bomb_ends_where_the_spool_does(tmp_path: Path, wrapper: str) -> None:
    """A database at its beginning, and then zeros without end."""
    limit = 8 << 20
    bomb = WRAPPERS[wrapper](DATA + bytes(40 << 20))
    settings = SpoolSettings(directory=tmp_path / "spool", limit=limit)
    async with Spool.open(settings, "test") as opened:
        with pytest.raises(OutOfSpace, match=r"8 MiB are free|MiB are needed"):
            unpacked(opened, bomb, size=False)
        assert files(opened.directory) == ["lock", "reserved"]


async def test_a_file_that_holds_far_more_than_its_database_counts_ends_there(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etcd_steward.engine.unpack._SLACK", 1 << 20)
    with pytest.raises(InvalidInput, match="much more than"):
        unpacked(spool, gzip.compress(DATA + bytes(20 << 20)))
    grown = DATA + bytes(512 << 10)  # as bolt leaves it
    assert unpacked(spool, gzip.compress(grown))[1][: len(grown)] == grown


async def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "etcd.db"
    path.write_bytes(SNAPSHOT)
    with open_local(str(path)) as given:
        assert (given.name, given.size) == ("etcd.db", len(SNAPSHOT))
        assert given.modified == datetime.fromtimestamp(path.stat().st_mtime, UTC)
        chunks = given.chunks()
        next(chunks)
        path.write_bytes(SNAPSHOT + b"x")
        with pytest.raises(StewardError, match="changed while it was read"):
            list(chunks)
