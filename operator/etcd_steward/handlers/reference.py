"""Events: what they are about, and how they are posted."""

import contextvars
from typing import Literal

import kopf

from etcd_steward.handlers.context import Context
from etcd_steward.kube import Key
from etcd_steward.models.kinds import API_VERSION

Kind = Literal["Normal", "Warning"]


def reference(kind: str, key: Key, uid: str) -> kopf.Body:
    """An object as kopf wants it for an event: its name and uid suffice."""
    return kopf.Body(
        {
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": {"namespace": key.namespace, "name": key.name, "uid": uid},
        }
    )


def announce(context: Context, about: kopf.Body, kind: Kind, reason: str, message: str) -> None:
    """Post an event, from a handler or from a loop of our own."""
    surroundings = context.surroundings or contextvars.copy_context()
    surroundings.run(kopf.event, about, type=kind, reason=reason, message=message)
