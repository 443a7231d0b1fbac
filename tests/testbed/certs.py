"""A certificate authority made on the spot, for servers on loopback and their clients."""

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, as PEM files (the key 0600)."""

    cert: Path
    key: Path


def write_private(path: Path, data: bytes) -> Path:
    """Write a file that only its owner can read."""
    path.touch(mode=0o600)
    path.write_bytes(data)
    return path


def _name(common_name: str, organization: str | None = None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


class Authority:
    """A CA whose files lie in `directory`: `<name>.crt`, and a pair for each certificate issued."""

    def __init__(
        self, directory: Path, name: str, key: ec.EllipticCurvePrivateKey, cert: x509.Certificate
    ) -> None:
        self.directory = directory
        self.ca_file = directory / f"{name}.crt"
        self._key = key
        self._cert = cert

    @classmethod
    def create(cls, directory: Path, name: str = "ca") -> Self:
        """Make a new CA. A second one of another name is a *foreign* CA to tests."""
        directory.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(f"etcd-steward test bed {name}")
        now = dt.datetime.now(dt.UTC)
        cert = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + 3650 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(_ca_usage(), critical=True)
            .sign(key, hashes.SHA256())
        )
        authority = cls(directory, name, key, cert)
        authority.ca_file.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        return authority

    def issue(
        self,
        common_name: str,
        *,
        organization: str | None = None,
        addresses: Sequence[str] = (),
        names: Sequence[str] = (),
        valid_from: dt.timedelta = -DAY,
        valid_for: dt.timedelta = 365 * DAY,
    ) -> KeyPair:
        """Issue `<common_name>.crt` and `.key`, good on loopback as server and as client.

        `addresses` and `names` (of DNS) are what it is good for besides. Both times count from now;
        `valid_for=timedelta(minutes=-1)` makes an expired certificate.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        hosts = [ipaddress.ip_address(address) for address in ("127.0.0.1", *addresses)]
        cert = (
            x509.CertificateBuilder()
            .subject_name(_name(common_name, organization))
            .issuer_name(self._cert.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + valid_from)
            .not_valid_after(now + valid_for)
            .add_extension(
                x509.SubjectAlternativeName(
                    [*map(x509.DNSName, ("localhost", *names)), *map(x509.IPAddress, hosts)]
                ),
                critical=False,
            )
            .add_extension(
                x509.ExtendedKeyUsage(
                    # etcd members are each other's clients, and its gateway is its own
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        pair = KeyPair(self.directory / f"{common_name}.crt", self.directory / f"{common_name}.key")
        pair.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        write_private(pair.key, _pem(key))
        return pair


def _ca_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A bare key pair, as kube-apiserver signs ServiceAccount tokens with."""

    public: Path
    private: Path


def signing_key(directory: Path) -> SigningKey:
    """Make `sa.pub` and `sa.key`."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    pair = SigningKey(directory / "sa.pub", directory / "sa.key")
    pair.public.write_bytes(public)
    write_private(pair.private, _pem(key))
    return pair
