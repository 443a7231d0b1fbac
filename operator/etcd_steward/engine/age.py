"""Opening files that are encrypted with age (https://age-encryption.org/v1), by pyrage.

Keys are age's own (`age-keygen`) or SSH's; a passphrase is not taken, since nobody types one at two
in the morning.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import pyrage

from etcd_steward.errors import IntegrityError, InvalidInput, Unauthorized

Identity: TypeAlias = Any
"""`pyrage.x25519.Identity` or `pyrage.ssh.Identity`, which have no types."""
_KEY_LIMIT = 1 << 16
"""Bytes; an identity file is a few lines."""


class Reader(Protocol):
    """Encrypted bytes."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""
        ...


class Writer(Protocol):
    """Takes decrypted bytes, each piece authenticated."""

    def write(self, data: bytes, /) -> int:
        """Take all of `data`; its length."""
        ...


def read_identities(path: Path) -> tuple[Identity, ...]:
    """The private keys in a file of `age-keygen`, or the one in an OpenSSH key file.

    Raises `InvalidInput`, which never repeats what the file holds.
    """
    hint = "name a file that age-keygen made, or an SSH private key without a passphrase"
    try:
        with path.open("rb") as file:
            data = file.read(_KEY_LIMIT)
    except OSError as error:
        raise InvalidInput(
            f"the identity file {path} can't be read: {error.strerror}", hint=hint
        ) from error
    try:
        if b"PRIVATE KEY-----" in data:
            return (pyrage.ssh.Identity.from_buffer(data),)
        lines = (line.strip() for line in data.decode().splitlines())
        found = tuple(
            pyrage.x25519.Identity.from_str(line)
            for line in lines
            if line and not line.startswith("#")
        )
    except (pyrage.IdentityError, UnicodeDecodeError):
        found = ()
    if not found:
        raise InvalidInput(f"{path} holds no identity that age files open with", hint=hint)
    return found


def decrypt(name: str, reader: Reader, writer: Writer, identities: Sequence[Identity]) -> None:
    """Decrypt all of a file, binary or armoured; blocking.

    Raises `Unauthorized` if none of the identities fits, `IntegrityError` if the file was cut short
    or altered, and whatever `writer` raises; what `reader` raises becomes any of these.
    """
    try:
        pyrage.decrypt_io(reader, writer, list(identities))
    except pyrage.DecryptError as error:
        if "No matching keys" not in str(error):
            raise _damaged(name, error) from error
        what = "none of the identities opens it" if identities else "no identity was given"
        raise Unauthorized(
            f"{name} is encrypted with age, and {what}",
            hint="name the private key's file by --identity (a passphrase can't be used: decrypt "
            "such a file with `age --decrypt` and pipe it to `snapshot import -`)",
        ) from error
    except OSError as error:  # what pyrage makes of a chunk that is not authentic
        if error.errno is not None:
            raise
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> IntegrityError:
    return IntegrityError(
        f"{name} is encrypted with age and damaged: {error}",
        hint="it was cut short or altered: copy it again, or use another snapshot",
    )
