"""Connections to the test bed's etcds."""

from etcd_steward.models.connection import EtcdConnection, EtcdTLS
from tests.testbed import Authority, EtcdCluster, KeyPair


def tls_with(authority: Authority, pair: KeyPair | None) -> EtcdTLS:
    """Trust `authority`, and show `pair`."""
    return EtcdTLS.model_validate(
        {
            "ca": authority.ca_file.read_text(),
            "cert": pair.cert.read_text() if pair else None,
            "key": pair.key.read_text() if pair else None,
        }
    )


def connection_to(etcd: EtcdCluster, **changes: object) -> EtcdConnection:
    """A connection to all members, as root where there are users; `changes` replace fields."""
    fields: dict[str, object] = {"endpoints": tuple(etcd.endpoints)}
    if etcd.tls is not None:
        fields["tls"] = tls_with(etcd.tls.authority, etcd.tls.client)
    if etcd.auth is not None:
        fields |= {"user": "root", "password": etcd.auth.root_password}
    return EtcdConnection.model_validate(fields | changes)
