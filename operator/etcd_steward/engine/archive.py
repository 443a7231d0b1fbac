"""The one snapshot in a zip archive, as k3s and RKE2 make them."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from etcd_steward.engine.recognise import HEAD, is_database
from etcd_steward.errors import IntegrityError, InvalidInput, Unsupported

_PIECE: Final = 1 << 20
_MEMBERS: Final = 64
"""An archive with more files is not one that k3s or RKE2 made."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive."""

    name: str
    modified: datetime | None


@contextmanager
def open_archive(path: Path, name: str) -> Iterator[tuple[Member, Iterator[bytes]]]:
    """The one file of an archive that is an etcd database, and its bytes; blocking.

    `name` is what to call the archive. Raises `InvalidInput` if there is no such file or several,
    `Unsupported` for what `zipfile` can't read, `IntegrityError` for a damaged archive, the latter
    also while the bytes are read.
    """
    with _explained(name):
        archive = zipfile.ZipFile(path)
    with archive:
        with _explained(name):
            info = _only(archive, name)
        yield Member(info.filename, _when(info)), _pieces(archive, info, name)


def _pieces(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> Iterator[bytes]:
    with _explained(name), archive.open(info) as stream:
        while piece := stream.read(_PIECE):
            yield piece


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise IntegrityError(
            f"{name} is a damaged zip archive: {error}",
            hint="it was cut short or altered: copy it again, or use another snapshot",
        ) from error
    except NotImplementedError as error:
        raise Unsupported(
            f"{name} is compressed in a way that can't be read: {error}",
            hint="unpack it with the program that made it, and import the file in it",
        ) from error


def _only(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """The one file of an archive that is an etcd database."""
    infos = [info for info in archive.infolist() if not info.is_dir()]
    if len(infos) > _MEMBERS:
        raise InvalidInput(
            f"{name} is an archive of {len(infos)} files", hint="unpack it and name the snapshot"
        )
    if any(info.flag_bits & 1 for info in infos):
        raise Unsupported(
            f"{name} is encrypted with a password", hint="unpack it and import the file in it"
        )
    found = [info for info in infos if _is_snapshot(archive, info)]
    if len(found) == 1:
        return found[0]
    if not found:
        inside = ", ".join(info.filename for info in infos[:5]) or "nothing"
        raise InvalidInput(
            f"{name} is an archive without an etcd snapshot in it: it holds {inside}",
            hint="name the archive that k3s or RKE2 made in its folder db/snapshots",
        )
    raise InvalidInput(
        f"{name} is an archive of {len(found)} snapshots: "
        f"{', '.join(info.filename for info in found[:5])}",
        hint="unpack it and import one after the other",
    )


def _is_snapshot(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    with archive.open(info) as stream:
        return is_database(stream.read(HEAD))


def _when(info: zipfile.ZipInfo) -> datetime | None:
    """When a member was changed, if the archive says it in UTC.

    The old field is in somebody's local time; Go, and so k3s, adds a UTC one (extra field 0x5455,
    "UT": flags, then seconds since 1970).
    """
    extra = info.extra
    while len(extra) >= 4:
        kind = int.from_bytes(extra[:2], "little")
        size = int.from_bytes(extra[2:4], "little")
        body, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == 0x5455 and len(body) >= 5 and body[0] & 1:
            return datetime.fromtimestamp(int.from_bytes(body[1:5], "little"), UTC)
    return None
