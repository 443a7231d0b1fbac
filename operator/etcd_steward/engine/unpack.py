"""Taking a snapshot out of its wrappings and into the spool, a piece at a time.

Compressed bytes are unpacked as they come. An archive must be read from its end, and age hands its
bytes on by itself: what they hold goes by way of a second file in the spool. Nobody knows how much
comes out of a compressed file, so room is reserved as it grows, and a file that gives back more
than its database counts ends there.
"""

import hashlib
import itertools
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Final

from etcd_steward.engine.age import Identity, decrypt
from etcd_steward.engine.archive import Member, open_archive
from etcd_steward.engine.compress import Decompressor
from etcd_steward.engine.given import Given
from etcd_steward.engine.recognise import HEAD, Wrapping, declared_size, recognise
from etcd_steward.engine.spool import Spool
from etcd_steward.engine.spoolfile import SPAN, SpoolFile
from etcd_steward.errors import (
    IntegrityError,
    InvalidInput,
    OutOfSpace,
    StewardError,
    Unsupported,
)

_PIECE: Final = 1 << 20
_STEP: Final = 64 << 20
"""Bytes that are reserved ahead."""
_SLACK: Final = 64 << 20
"""bolt grows its file 16 MiB at a time (`DB.AllocSize`), so a copied one is larger than it says."""
_DEEPEST: Final = 4
_GZIP: Final = 16 + zlib.MAX_WBITS
"""What zlib takes for "gzip, and nothing else"."""
_DIGEST: Final = hashlib.sha256().digest_size
_AGAIN: Final = "it was cut short or altered: copy it again, or use another snapshot"


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A snapshot in the spool, with a digest at its end as etcd writes one."""

    size: int
    sha256: str
    """Of the whole file, digest included."""
    had_digest: bool
    """False where the digest was added here."""
    wrappings: tuple[Wrapping, ...]
    """Outermost first."""
    member: Member | None
    """Which file of an archive it was."""


def unpack(
    given: Given, spool: Spool, target: SpoolFile, identities: Sequence[Identity]
) -> Unpacked:
    """Read `given` whole and write the snapshot in it to `target`; blocking.

    Its digest is compared where it has one. Raises `InvalidInput` or `Unsupported` for what is no
    snapshot, `IntegrityError` for a damaged one, `Unauthorized` if it can't be decrypted,
    `OutOfSpace` if the spool can't hold what is in it, and what `given` raises.
    """
    with ExitStack() as stack:
        return _Unpacking(given, spool, identities, stack).into(target)


class _Unpacking:
    def __init__(
        self, given: Given, spool: Spool, identities: Sequence[Identity], stack: ExitStack
    ) -> None:
        self._given = given
        self._spool = spool
        self._identities = identities
        self._stack = stack
        self._used = self._reserved = self._seconds = 0
        self._member: Member | None = None

    def into(self, target: SpoolFile) -> Unpacked:
        if self._given.size:
            self._room(self._given.size)
            self._used = 0
        wrappings: list[Wrapping] = []
        head, pieces = _beginning(self._given.chunks())
        while (wrapping := recognise(head, self._given.name)) is not None:
            if len(wrappings) == _DEEPEST:
                raise Unsupported(
                    f"{self._given.name} is wrapped more than {_DEEPEST} times",
                    hint="unpack it until it is an etcd database, and import that",
                )
            wrappings.append(wrapping)
            head, pieces = _beginning(self._unwrapped(wrapping, pieces))
        limit = declared_size(head)
        size, sha256, had_digest = self._write(pieces, target, limit)
        return Unpacked(size, sha256, had_digest, tuple(wrappings), self._member)

    def _unwrapped(self, wrapping: Wrapping, pieces: Iterator[bytes]) -> Iterator[bytes]:
        name = self._given.name
        match wrapping:
            case Wrapping.GZIP:
                return _inflated(pieces, name, gzip=True)
            case Wrapping.ZLIB:
                return _inflated(pieces, name, gzip=False)
            case Wrapping.ZSTD:
                return _unzstd(pieces, name)
            case Wrapping.ZIP:
                return self._unzipped(pieces)
            case Wrapping.AGE:
                return self._decrypted(pieces)

    def _room(self, size: int) -> None:
        """Reserve for `size` bytes more; a little ahead, where there is as much."""
        self._used += size
        if self._used <= self._reserved:
            return
        for wanted in (self._used + _STEP, self._used):
            try:
                self._spool.reserve(wanted)
            except OutOfSpace:
                if wanted == self._used:
                    raise
            else:
                self._reserved = wanted
                return

    def _second(self) -> SpoolFile:
        """A file for what can't be unpacked as it comes; gone when all is."""
        self._seconds += 1
        file = self._spool.create(f"wrapped-{self._seconds}")
        self._stack.callback(file.path.unlink)
        return self._stack.enter_context(closing(file))

    def append(self, file: SpoolFile, data: bytes) -> None:
        """Write to a second file, room permitting."""
        self._room(len(data))
        file.append([data])

    def _decrypted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        file = self._second()
        reader, writer = _Reader(pieces), _Writer(self, file)
        try:
            decrypt(self._given.name, reader, writer, self._identities)
        except StewardError as error:
            raise reader.failed or error from error
        writer.flush()
        return _spans(file)

    def _unzipped(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        name, file = self._given.name, self._second()
        for piece in pieces:
            self.append(file, piece)
        self._member, inside = self._stack.enter_context(open_archive(file.path, name))
        yield from inside

    def _write(
        self, pieces: Iterator[bytes], target: SpoolFile, declared: int | None
    ) -> tuple[int, str, bool]:
        """Write the database, and its digest where it has none: size, SHA-256, if it had one."""
        sha256, tail, name = hashlib.sha256(), b"", self._given.name
        most = None if declared is None else 2 * declared + _SLACK
        for piece in pieces:
            if most is not None and target.size + len(piece) > most:
                raise InvalidInput(
                    f"{name} holds much more than the {declared} bytes that its database counts",
                    hint="this is no snapshot of etcd",
                )
            self._room(len(piece))
            target.append([piece])
            if len(piece) < _DIGEST:
                piece, tail = tail + piece, b""  # noqa: PLW2901  # short pieces are joined
            sha256.update(tail)
            sha256.update(memoryview(piece)[:-_DIGEST])
            tail = piece[-_DIGEST:]
        return self._ended(target, sha256, tail)

    def _ended(
        self, target: SpoolFile, sha256: "hashlib._Hash", tail: bytes
    ) -> tuple[int, str, bool]:
        """Whether one is there is told by the size, as in etcdutl (snapshot/v3_snapshot.go)."""
        had_digest = target.size % 512 == _DIGEST
        if had_digest and sha256.digest() != tail:
            raise IntegrityError(
                f"{self._given.name} does not have the digest that etcd wrote at its end",
                hint=_AGAIN,
            )
        if not had_digest and target.size % 512:
            raise IntegrityError(
                f"{self._given.name} was cut short: its database has {target.size} bytes, which is "
                "no whole number of pages",
                hint="copy it again, or use another snapshot",
            )
        if not had_digest:
            sha256.update(tail)
            tail = sha256.digest()
            self._room(_DIGEST)
            target.append([tail])
        sha256.update(tail)
        return target.size, sha256.hexdigest(), had_digest


class _Reader:
    """Pieces, as a file to be read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._held = memoryview(b"")
        self.failed: Exception | None = None

    def read(self, size: int, /) -> bytes:
        try:
            while not self._held:
                self._held = memoryview(next(self._pieces))
        except StopIteration:
            return b""
        except Exception as error:
            self.failed = error  # pyrage makes an error of its own of it
            raise
        data, self._held = self._held[:size], self._held[size:]
        return bytes(data)


class _Writer:
    """A spool file, as a file to be written, in larger pieces than age's."""

    def __init__(self, unpacking: _Unpacking, file: SpoolFile) -> None:
        self._unpacking = unpacking
        self._file = file
        self._held = bytearray()

    def write(self, data: bytes, /) -> int:
        self._held += data
        if len(self._held) >= _PIECE:
            self.flush()
        return len(data)

    def flush(self) -> None:
        self._unpacking.append(self._file, bytes(self._held))
        self._held.clear()


def _beginning(pieces: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes, and all of them."""
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= HEAD:
            break
    return head, itertools.chain([head], pieces)


def _spans(file: SpoolFile) -> Iterator[bytes]:
    for offset in range(0, file.size, SPAN):
        yield from file.read_span(offset, min(SPAN, file.size - offset))


def _inflated(pieces: Iterator[bytes], name: str, *, gzip: bool) -> Iterator[bytes]:
    """A gzip file, of as many members as there are, or a zlib stream."""
    try:
        yield from _inflate(pieces, _GZIP if gzip else zlib.MAX_WBITS)
    except zlib.error as error:
        raise _damaged(name, "gzip file" if gzip else "zlib file", error) from error


def _inflate(pieces: Iterator[bytes], bits: int) -> Iterator[bytes]:
    stream = zlib.decompressobj(bits)
    for piece in pieces:
        data = piece
        while data:
            if stream.eof:
                data = data.lstrip(b"\0")  # tapes fill up what they write
                if data and bits != _GZIP:
                    raise zlib.error("something follows its end")
                stream = zlib.decompressobj(bits) if data else stream
                continue
            yield stream.decompress(data, _PIECE)
            data = stream.unconsumed_tail or stream.unused_data
    while not stream.eof:
        rest = stream.decompress(b"", _PIECE)  # held back for want of room
        if not rest:
            raise zlib.error("it ends too early")
        yield rest


def _unzstd(pieces: Iterator[bytes], name: str) -> Iterator[bytes]:
    decompressor = Decompressor()
    try:
        for piece in pieces:
            yield from decompressor.feed(piece)
        decompressor.close()
    except IntegrityError as error:
        raise _damaged(name, "zstd file", error.__cause__ or "it ends too early") from error


def _damaged(name: str, what: str, why: object) -> IntegrityError:
    return IntegrityError(f"{name} is a damaged {what}: {why}", hint=_AGAIN)
