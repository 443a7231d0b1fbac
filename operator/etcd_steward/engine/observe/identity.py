"""What of an etcd hardly ever changes: whose registry it holds, certificates, quotas told apart.

Looked at once an hour: each takes a handshake, or a page of metrics that takes longer to read than
all the rest of a look together.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509

from etcd_steward.deadline import Deadline
from etcd_steward.engine.certificates import presented
from etcd_steward.engine.maintenance.facts import quota_of
from etcd_steward.errors import StewardError
from etcd_steward.etcd.address import Address
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.member import MemberStatus
from etcd_steward.etcd.tls import load
from etcd_steward.models.connection import EtcdConnection, EtcdTLS
from etcd_steward.models.maintenance import MaintenanceOptions
from etcd_steward.models.observation import WatchedCluster
from etcd_steward.registry.envelope import uid_of

_READ = 10.0
"""Seconds to read one key."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What was found; what was not is None or missing."""

    kube_system_uid: str | None = None
    client_certificate: datetime | None = None
    ca_certificate: datetime | None = None
    member_certificates: Mapping[str, datetime] = field(default_factory=dict)
    """By endpoint."""
    quotas: Mapping[int, int] = field(default_factory=dict)
    """By member ID, from metrics pages: only of members whose Status does not tell."""
    warnings: tuple[str, ...] = ()
    """What could not be found out, and why."""


async def identify(wanted: WatchedCluster, client: EtcdClient) -> Identity:
    """Find out what can be found out; nothing that fails is an error. Never raises `StewardError`.

    The one value that is read is the kube-system Namespace's, for its uid.
    """
    warnings: list[str] = []
    found = Identity()
    try:
        found = await _certificates(wanted.etcd)
    except StewardError as error:
        warnings.append(str(error))
    uid, quotas = None, dict[int, int]()
    members = [one for one in await client.members() if isinstance(one, MemberStatus)]
    if not members:
        warnings.append("whose registry it holds could not be asked yet")
    else:
        try:
            uid = await _kube_system_uid(wanted, client, members[0])
        except StewardError as error:
            warnings.append(str(error))
        if any(quota_of(one, {}, MaintenanceOptions()) is None for one in members):
            quotas, failed = await _quotas(wanted)
            warnings += failed
    return Identity(
        kube_system_uid=uid,
        client_certificate=found.client_certificate,
        ca_certificate=found.ca_certificate,
        member_certificates=found.member_certificates,
        quotas=quotas,
        warnings=tuple(warnings),
    )


async def _kube_system_uid(
    wanted: WatchedCluster, client: EtcdClient, status: MemberStatus
) -> str | None:
    key = f"{wanted.registry_prefix}/namespaces/kube-system".encode()
    answer = await client.member(status).range(
        key, serializable=True, deadline=Deadline.after(_READ)
    )
    return uid_of(answer.kvs[0].value) if answer.kvs else None


async def _quotas(wanted: WatchedCluster) -> tuple[dict[int, int], list[str]]:
    if not wanted.metrics_endpoints:
        return {}, []
    # aiohttp takes 20 MB, and hardly any installation needs it.
    from etcd_steward.engine.maintenance.metrics_page import read_metrics  # noqa: PLC0415

    pages, failed = await read_metrics(wanted.metrics_endpoints)
    quotas = {id_: page.quota_bytes for id_, page in pages.items() if page.quota_bytes is not None}
    return quotas, [str(error) for error in failed]


async def _certificates(connection: EtcdConnection) -> Identity:
    """When each ends. A member's that can't be reached or trusted is missing.

    Raises `InvalidInput` for certificates that can't be read.
    """
    addresses = [
        Address.parse(text, secure=connection.tls is not None) for text in connection.endpoints
    ]
    secure = [address for address in addresses if address.secure]
    if not secure:
        return Identity()
    tls = connection.tls or EtcdTLS()
    material = await asyncio.to_thread(load, tls)
    shown = await asyncio.gather(
        *(presented(address, material, connection.dial_timeout) for address in secure)
    )
    return Identity(
        client_certificate=material.own.not_valid_after_utc if material.own else None,
        ca_certificate=_first_to_end(tls.ca),
        member_certificates={
            address.url: certificate.not_valid_after_utc
            for address, certificate in zip(secure, shown, strict=True)
            if certificate is not None
        },
    )


def _first_to_end(pem: str | None) -> datetime | None:
    if pem is None:
        return None
    cas = x509.load_pem_x509_certificates(pem.encode())
    return min(ca.not_valid_after_utc for ca in cas)
