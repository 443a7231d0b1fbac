"""What a plan must know of some kinds of objects beyond their metadata; nothing else is decoded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from etcd_steward.errors import Undecodable
from etcd_steward.models.registry import KeyPath
from etcd_steward.registry.decode import decode

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class JobFacts:
    """A Job."""

    finished: bool
    suspended: bool


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """A Service, and what of the cluster's it holds."""

    addresses: frozenset[str]
    node_ports: frozenset[tuple[str, int]]
    """Protocol and port: TCP and UDP have ports of their own."""
    type: str
    selects: bool
    """Whether its endpoints are a controller's."""


@dataclass(frozen=True, slots=True)
class ClaimFacts:
    """A PersistentVolumeClaim."""

    volume: str
    """Name of its PersistentVolume; empty while it has none."""


@dataclass(frozen=True, slots=True)
class VolumeFacts:
    """A PersistentVolume."""

    claim: tuple[str, str] | None
    """Namespace and name of the claim that it is bound to."""
    claim_uid: str | None
    reclaim_policy: str


@dataclass(frozen=True, slots=True)
class NamespaceFacts:
    """A Namespace."""

    terminating: bool


@dataclass(frozen=True, slots=True)
class DefinitionFacts:
    """A CustomResourceDefinition."""

    group: str
    plural: str
    kind: str
    versions: frozenset[str]
    stored: frozenset[str]
    """`status.storedVersions`."""


@dataclass(frozen=True, slots=True)
class QuotaFacts:
    """A ResourceQuota."""

    hard: Mapping[str, str]
    used: Mapping[str, str]
    scoped: bool
    """It counts only some objects, which this program does not follow."""


Facts = (
    JobFacts
    | ServiceFacts
    | ClaimFacts
    | VolumeFacts
    | NamespaceFacts
    | DefinitionFacts
    | QuotaFacts
)


def facts_of(path: KeyPath, value: bytes) -> Facts | None:
    """What must be known of an object; None of most kinds.

    Raises `Undecodable` where it can't be read.
    """
    read = _READERS.get((path.api_group, path.resource))
    if read is None:
        return None
    try:
        return read(decode(value).object)
    except (AttributeError, KeyError, TypeError) as error:
        raise Undecodable(
            f"this object is no {path.resource} as Kubernetes writes them ({error!r})",
            hint="Look at the same object in an older backup",
        ) from error


def _job(found: Json) -> JobFacts:
    conditions = found.get("status", {}).get("conditions") or ()
    ended = {"Complete", "Failed", "SuccessCriteriaMet", "FailureTarget"}
    finished = any(one["type"] in ended and one["status"] == "True" for one in conditions)
    return JobFacts(finished, bool(found.get("spec", {}).get("suspend")))


def _service(found: Json) -> ServiceFacts:
    spec = found.get("spec", {})
    addresses = {*(spec.get("clusterIPs") or ()), spec.get("clusterIP")}
    ports = {
        (port.get("protocol", "TCP"), port["nodePort"])
        for port in spec.get("ports") or ()
        if port.get("nodePort")
    }
    if spec.get("healthCheckNodePort"):
        ports.add(("TCP", spec["healthCheckNodePort"]))
    return ServiceFacts(
        frozenset(one for one in addresses if one and one != "None"),
        frozenset(ports),
        spec.get("type", "ClusterIP"),
        bool(spec.get("selector")),
    )


def _claim(found: Json) -> ClaimFacts:
    return ClaimFacts(found.get("spec", {}).get("volumeName") or "")


def _volume(found: Json) -> VolumeFacts:
    spec = found.get("spec", {})
    claim = spec.get("claimRef")
    return VolumeFacts(
        (claim.get("namespace", ""), claim.get("name", "")) if claim else None,
        claim.get("uid") if claim else None,
        spec.get("persistentVolumeReclaimPolicy", "Retain"),
    )


def _namespace(found: Json) -> NamespaceFacts:
    phase = found.get("status", {}).get("phase")
    leaving = found["metadata"].get("deletionTimestamp") is not None
    return NamespaceFacts(leaving or phase == "Terminating")


def _definition(found: Json) -> DefinitionFacts:
    spec = found["spec"]
    return DefinitionFacts(
        spec["group"],
        spec["names"]["plural"],
        spec["names"]["kind"],
        frozenset(one["name"] for one in spec.get("versions") or ()),
        frozenset(found.get("status", {}).get("storedVersions") or ()),
    )


def _quota(found: Json) -> QuotaFacts:
    spec, status = found.get("spec", {}), found.get("status", {})
    return QuotaFacts(
        spec.get("hard") or {},
        status.get("used") or {},
        bool(spec.get("scopes") or spec.get("scopeSelector")),
    )


_READERS: Final[Mapping[tuple[str, str], Callable[[Json], Facts]]] = {
    ("batch", "jobs"): _job,
    ("", "services"): _service,
    ("", "persistentvolumeclaims"): _claim,
    ("", "persistentvolumes"): _volume,
    ("", "namespaces"): _namespace,
    ("apiextensions.k8s.io", "customresourcedefinitions"): _definition,
    ("", "resourcequotas"): _quota,
}
