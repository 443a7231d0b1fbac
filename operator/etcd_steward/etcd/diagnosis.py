"""Why no connection came about, in words.

gRPC says "Unavailable: failed to connect to all addresses" for a host that is down, a certificate
that expired and a web server alike; a client certificate that was refused it even reports as a
closed socket, for with TLS 1.3 that comes only after the handshake. So after a failure the same
connection is made once more by hand, and watched. A connection that works by hand explains nothing.
"""

import asyncio
import socket
import ssl

from etcd_steward.deadline import Deadline
from etcd_steward.errors import StewardError, Unavailable, Unsupported, Untrusted
from etcd_steward.etcd.address import Address
from etcd_steward.etcd.tls import Material

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # and empty SETTINGS
_FRAME_HEADER = 9
_SETTINGS = 4
_TLS_ALERT = b"\x15\x03"
_SECONDS = 2.0
"""How long to look, at most."""
_FIRST_WORD_SECONDS = 1.0
"""How long to wait for the other side to speak: its rejection follows the handshake at once."""
_NOT_ETCD = "Give the client URL of an etcd member (usually port 2379)"


async def diagnose(
    address: Address, material: Material | None, deadline: Deadline
) -> StewardError | None:
    """What is wrong with the way to `address`, or None if nothing is found before the deadline."""
    reached = False
    try:
        async with asyncio.timeout(deadline.within(_SECONDS).left()):
            unreachable = await _reach(address)
            if unreachable is not None:
                return unreachable
            reached = True
            if material is None:
                return await _plaintext(address)
            return await _secure(address, material)
    except TimeoutError:
        if reached or deadline.passed:
            return None
        return Unavailable(
            f"{address.url} does not answer: no connection in {_SECONDS:.0f} s",
            hint="Check the address, that the host is up, and firewalls between",
        )
    except OSError as error:
        return Unavailable(
            f"{address.url} has just gone away: {error.strerror or 'no connection any more'}",
            hint="Check that etcd runs there, and its log",
        )


async def _reach(address: Address) -> StewardError | None:
    """Name and TCP."""
    try:
        _, writer = await asyncio.open_connection(address.host, address.port)
    except socket.gaierror as error:
        return Unavailable(
            f"the name {address.host} of endpoint {address.url} can't be resolved: "
            f"{error.strerror}",
            hint="Check the endpoint's spelling and the DNS",
        )
    except ConnectionRefusedError:
        return Unavailable(
            f"nothing listens at {address.url}: connection refused",
            hint="Check that etcd runs there, and the port",
        )
    except OSError as error:
        return Unavailable(
            f"{address.url} can't be reached: {error.strerror or error}",
            hint="Check the address and the network",
        )
    writer.transport.abort()
    return None


async def _plaintext(address: Address) -> StewardError | None:
    """Speak HTTP/2 in the clear, as gRPC does, and see what comes back."""
    first = await _first_bytes(address)
    if len(first) >= _FRAME_HEADER and first[3] == _SETTINGS:
        return None
    if first.startswith(_TLS_ALERT) or await _speaks_tls(address):
        return Untrusted(
            f"{address.url} speaks TLS, and was asked in plaintext",
            hint=f"Write https://{address.authority} and give the CA",
        )
    return _no_etcd(address, first)


async def _secure(address: Address, material: Material) -> StewardError | None:
    """Make the handshake that gRPC made, and read the verdict on our certificate after it."""
    context = await asyncio.to_thread(material.context)
    name = material.tls.server_name or address.host
    try:
        http2 = await _handshake(address, context, name)
    except ssl.SSLCertVerificationError as error:
        return _their_certificate(address, name, error)
    except ssl.SSLError as error:
        reason = (error.reason or "").replace("_", " ").lower()
        if "alert" in reason:
            return _our_certificate(address, material, reason)
        return await _no_handshake(address, reason)
    except OSError as error:
        return await _no_handshake(address, error.strerror or "hung up")
    return None if http2 else _no_etcd(address, b"")


async def _handshake(address: Address, context: ssl.SSLContext, name: str) -> bool:
    """Whether the other side takes our certificate and agrees on HTTP/2."""
    reader, writer = await asyncio.open_connection(
        address.host, address.port, ssl=context, server_hostname=name
    )
    try:
        # Nothing is sent: a reset for unread bytes could overtake the alert that says why.
        async with asyncio.timeout(_FIRST_WORD_SECONDS):
            await reader.read(_FRAME_HEADER)
    except TimeoutError:
        pass  # silence: no objection
    finally:
        writer.transport.abort()
    return bool(writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2")


async def _no_handshake(address: Address, reason: str) -> StewardError:
    """The other side understood no TLS, or did not want to."""
    plain = await _first_bytes(address)
    if plain and not plain.startswith(_TLS_ALERT):
        return Untrusted(
            f"{address.url} does not speak TLS",
            hint=f"If it is an etcd without TLS, write http://{address.authority}",
        )
    return Unavailable(
        f"{address.url} broke off the TLS handshake: {reason}",
        hint="Look into etcd's own log for its reason",
    )


def _their_certificate(
    address: Address, name: str, error: ssl.SSLCertVerificationError
) -> StewardError:
    reason = error.verify_message.rstrip(".")
    if "expired" in reason:
        hint = "Renew the certificate of etcd"
    elif "mismatch" in reason or "not valid for" in reason:
        hint = f"It is not made for {name}: name the right one (server name), or the right endpoint"
    else:
        hint = (
            "Give the CA that signed etcd's certificate (kubeadm: /etc/kubernetes/pki/etcd/ca.crt)"
        )
    return Untrusted(f"the certificate of {address.url} can't be trusted: {reason}", hint=hint)


def _our_certificate(address: Address, material: Material, reason: str) -> StewardError:
    if material.own is None:
        return Untrusted(
            f"{address.url} wants a client certificate, and none was given",
            hint="Give a certificate and key that etcd's --trusted-ca-file signed",
        )
    name = material.own.subject.rfc4514_string()
    if material.expired_on is not None:
        return Untrusted(
            f"our client certificate {name} expired on {material.expired_on:%Y-%m-%d %H:%M} UTC, "
            f"and {address.url} refused it",
            hint="Renew it (kubeadm certs renew all), then restart or update the Secret",
        )
    return Untrusted(
        f"{address.url} refused our client certificate {name}: {reason}",
        hint="It must be signed by etcd's --trusted-ca-file and allow client authentication",
    )


def _no_etcd(address: Address, first: bytes) -> StewardError:
    if first.startswith(b"HTTP/1"):
        what = "it answers as a web server of HTTP/1"
    elif first:
        what = "it answers in another protocol than HTTP/2"
    else:
        what = "it does not speak HTTP/2"
    return Unsupported(f"{address.url} is not an etcd: {what}", hint=_NOT_ETCD)


async def _first_bytes(address: Address) -> bytes:
    """What is answered to gRPC's opening in the clear; empty for silence or hanging up."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(_PREFACE)
        async with asyncio.timeout(_FIRST_WORD_SECONDS):
            return await reader.read(_FRAME_HEADER)
    except (TimeoutError, OSError):
        return b""
    finally:
        writer.transport.abort()


async def _speaks_tls(address: Address) -> bool:
    """Whether a TLS handshake gets as far as certificates; nothing is sent and none is trusted."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(_FIRST_WORD_SECONDS):
            _, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
    except (TimeoutError, OSError):
        return False
    writer.transport.abort()
    return True
