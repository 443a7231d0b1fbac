"""What an event is about."""

import kopf

from etcd_steward.kube import Key
from etcd_steward.models.kinds import API_VERSION


def reference(kind: str, key: Key, uid: str) -> kopf.Body:
    """An object as kopf wants it for an event: its name and uid suffice."""
    return kopf.Body(
        {
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": {"namespace": key.namespace, "name": key.name, "uid": uid},
        }
    )
