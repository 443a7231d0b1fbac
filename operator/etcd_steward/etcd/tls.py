"""PEM texts, checked and in the forms that gRPC and Python's ssl module want.

gRPC tells nobody what is wrong with a certificate that it can't use; `cryptography` does.
"""

import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from etcd_steward.errors import InvalidInput
from etcd_steward.models.connection import EtcdTLS

_SYSTEM_ROOTS = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Red Hat
    "/etc/ssl/ca-bundle.pem",  # SUSE
)


@dataclass(frozen=True, slots=True)
class Material:
    """Certificates and key that were read and fit together."""

    roots: str
    """PEM certificates to trust."""
    tls: EtcdTLS
    own: x509.Certificate | None
    """Our client certificate."""

    @property
    def expired_on(self) -> datetime | None:
        """When our own certificate expired; None while it has not, or without one."""
        if self.own is None or self.own.not_valid_after_utc > datetime.now(UTC):
            return None
        return self.own.not_valid_after_utc

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For a gRPC channel."""
        key, cert = self._pair()
        return grpc.ssl_channel_credentials(self.roots.encode(), key, cert)

    def context(self) -> ssl.SSLContext:
        """For a plain handshake like gRPC's. Blocking."""
        context = ssl.create_default_context(cadata=self.roots)
        context.set_alpn_protocols(["h2"])
        key, cert = self._pair()
        if key and cert:
            # Python's ssl reads a pair from files only; this one lies in memory, never on a disk.
            with os.fdopen(os.memfd_create("client-pair"), "wb", buffering=0) as file:
                file.write(cert + b"\n" + key)
                context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        return context

    def _pair(self) -> tuple[bytes | None, bytes | None]:
        if self.tls.key is None or self.tls.cert is None:
            return None, None
        return self.tls.key.get_secret_value().encode(), self.tls.cert.encode()


def load(tls: EtcdTLS) -> Material:
    """Check what was given. Blocking. Raises `InvalidInput`."""
    if tls.ca is not None:
        _certificates(tls.ca, "the CA")
    roots = _system_roots() if tls.ca is None else tls.ca
    if (tls.cert is None) != (tls.key is None):
        raise InvalidInput(
            "a client certificate and its key belong together, and one of them is missing",
            hint="Give both, or neither",
        )
    own = None
    if tls.cert is not None and tls.key is not None:
        own = _certificates(tls.cert, "the client certificate")[0]
        _check_key(own, tls.key.get_secret_value())
    return Material(roots, tls, own)


def _certificates(pem: str, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        raise InvalidInput(
            f"{what} for etcd holds no readable PEM certificate",
            hint="It must begin with -----BEGIN CERTIFICATE-----",
        ) from error


def _check_key(certificate: x509.Certificate, pem: str) -> None:
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError):
        raise InvalidInput(
            "the client key for etcd is no readable PEM private key",
            hint="Give it unencrypted, as etcdctl wants it",
        ) from None  # the cause might quote the key
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        raise InvalidInput(
            "the client key for etcd does not belong to the client certificate",
            hint="Give the key that the certificate was made for",
        )


def _system_roots() -> str:
    named = ssl.get_default_verify_paths().cafile
    for path in (*([named] if named else []), *_SYSTEM_ROOTS):
        if Path(path).is_file():
            return Path(path).read_text()
    raise InvalidInput(
        "this system has no file of trusted root certificates",
        hint="Give the CA of etcd's certificates (--cacert)",
    )
