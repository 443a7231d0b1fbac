"""What is changed in a value on its way back: workloads put to rest, deletions taken back.

Nobody checks such a value any more on its way into etcd, so as little as can be is written anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from google.protobuf.message import DecodeError

from etcd_steward.errors import Undecodable
from etcd_steward.models.registry import KeyPath
from etcd_steward.registry import builtin, objectmeta
from etcd_steward.registry.documents import document_of, with_members
from etcd_steward.registry.envelope import Envelope, open_envelope

_AT_REST: Final[Mapping[tuple[str, str], tuple[str, object]]] = {
    ("", "replicationcontrollers"): ("replicas", 0),
    ("apps", "deployments"): ("replicas", 0),
    ("apps", "replicasets"): ("replicas", 0),
    ("apps", "statefulsets"): ("replicas", 0),
    ("batch", "cronjobs"): ("suspend", True),
    ("batch", "jobs"): ("suspend", True),
}
"""The member of `spec` that stops a workload."""
_DEFAULTS: Final = {"replicas": 1, "suspend": False}


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A value, and what is new in it, for people."""

    value: bytes
    note: str = ""


def at_rest(path: KeyPath, value: bytes) -> Rewritten:
    """A workload with no replicas, or suspended; any other value as it is.

    Its generation counts up, as the API server would do. Raises `Undecodable`.
    """
    stop = _AT_REST.get((path.api_group, path.resource))
    if stop is None:
        running = path.api_group == "apps" and path.resource == "daemonsets"
        return Rewritten(value, "starts pods: a DaemonSet can't be suspended" if running else "")
    member, wanted = stop
    envelope = open_envelope(value)
    written = (_protobuf if envelope.encoding == "protobuf" else _document)(
        value, envelope, member, wanted
    )
    if written is None:
        return Rewritten(value)
    before, stopped = written
    return Rewritten(
        objectmeta.rewrite(stopped, _counted_up),
        f"at rest: {member} {_said(before)} becomes {_said(wanted)}",
    )


def _counted_up(meta: objectmeta.ObjectMeta) -> objectmeta.ObjectMeta:
    return replace(meta, generation=meta.generation + 1) if meta.generation else meta


def undeleted(value: bytes) -> bytes:
    """A value that is not marked for deletion. Raises `Undecodable`."""
    return objectmeta.rewrite(
        value,
        lambda meta: replace(meta, deletion_timestamp=None, deletion_grace_period_seconds=None),
    )


def _protobuf(
    value: bytes, envelope: Envelope, member: str, wanted: object
) -> tuple[object, bytes] | None:
    kind = builtin.type_of(envelope.api_version or "", envelope.kind or "")
    if kind is None:
        raise Undecodable(f"{envelope.kind} of {envelope.api_version} can't be put to rest")
    try:
        message: Any = kind.FromString(envelope.body)
    except DecodeError as error:
        raise Undecodable(f"this {envelope.kind} is damaged: {error}") from error
    before = getattr(message.spec, member) if message.spec.HasField(member) else _DEFAULTS[member]
    if before == wanted:
        return None
    setattr(message.spec, member, wanted)
    body: bytes = message.SerializeToString(deterministic=True)
    return before, objectmeta.with_body(value, body)


def _document(
    value: bytes, _: Envelope, member: str, wanted: object
) -> tuple[object, bytes] | None:
    spec = (document_of(value) or {}).get("spec")
    if not isinstance(spec, dict):
        raise Undecodable("this workload has no spec")
    before = spec.get(member, _DEFAULTS[member])
    return None if before == wanted else (before, with_members(value, "spec", {member: wanted}))


def _said(value: object) -> str:
    return str(value).lower()
