"""How long the certificates on the way to etcd are still good: ours, the CA's, the members'."""

import asyncio
import ipaddress
import ssl
from datetime import UTC, datetime, timedelta

from cryptography import x509

from etcd_steward.engine.findings import Finding, failure, ok, warning
from etcd_steward.etcd.address import Address
from etcd_steward.etcd.tls import Material, load
from etcd_steward.models.connection import EtcdConnection, EtcdTLS

_SOON = timedelta(days=30)
_CHECK = "certificates"


async def check_certificates(connection: EtcdConnection) -> list[Finding]:
    """Look at each certificate's end. Raises `InvalidInput` for ones that can't be read.

    A member that can't be reached, or whose certificate can't be trusted, is left out: the endpoint
    itself is found to fail then, in better words.
    """
    addresses = [
        Address.parse(text, secure=connection.tls is not None) for text in connection.endpoints
    ]
    findings = [
        warning(
            _CHECK,
            f"{address.url} is spoken to in plaintext: whoever listens in reads every Secret",
            "let etcd listen with TLS",
        )
        for address in addresses
        if not address.secure and not _loopback(address.host)
    ]
    secure = [address for address in addresses if address.secure]
    if not secure:
        return findings or [ok(_CHECK, "none are needed: etcd is asked in plaintext on this host")]
    tls = connection.tls or EtcdTLS()
    material = await asyncio.to_thread(load, tls)
    if material.own is not None:
        findings.append(_expiry(f"our own, {_name(material.own)},", material.own, "renew it"))
    if tls.ca is not None:
        findings += [
            _expiry(f"the CA {_name(ca)}", ca, "a new CA takes planning: begin")
            for ca in x509.load_pem_x509_certificates(tls.ca.encode())
        ]
    theirs = await asyncio.gather(
        *(presented(address, material, connection.dial_timeout) for address in secure)
    )
    for address, certificate in zip(secure, theirs, strict=True):
        if certificate is not None:
            findings.append(_expiry(f"{address.url}'s", certificate, "renew it on that host"))
    return findings


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()


async def presented(
    address: Address, material: Material, timeout: float
) -> x509.Certificate | None:
    """The certificate that a member shows, if it can be trusted."""
    context = await asyncio.to_thread(material.context)
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(
                address.host,
                address.port,
                ssl=context,
                server_hostname=material.tls.server_name or address.host,
            )
    except (OSError, TimeoutError):
        return None
    try:
        connection: ssl.SSLObject = writer.get_extra_info("ssl_object")
        der = connection.getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
    return x509.load_der_x509_certificate(der) if der else None


def _expiry(what: str, certificate: x509.Certificate, hint: str) -> Finding:
    end = certificate.not_valid_after_utc
    left = end - datetime.now(UTC)
    if left < timedelta():
        return failure(_CHECK, f"{what} expired on {end:%Y-%m-%d %H:%M} UTC", hint)
    message = f"{what} is valid until {end:%Y-%m-%d}, {left.days} days more"
    return warning(_CHECK, message, hint) if left < _SOON else ok(_CHECK, message)
