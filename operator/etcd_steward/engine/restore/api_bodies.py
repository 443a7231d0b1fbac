"""A stored object as an API server should get it that never knew it.

What belonged to the object's former life (uid, versions, times, what controllers and allocators
entered) is left out, as Velero's users expect it. A built-in object that needs nothing else keeps
its very bytes: protobuf with only its ObjectMeta rewritten, so that fields newer than this program
survive. The few types below whose spec must change go as JSON.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from etcd_steward.kube_client import Object
from etcd_steward.kube_discovery import ApiResource
from etcd_steward.models.restore import PlanItem
from etcd_steward.registry import objectmeta
from etcd_steward.registry.decode import decode
from etcd_steward.registry.envelope import PROTOBUF
from etcd_steward.registry.objectmeta import ObjectMeta, OwnerReference

NAMESPACES: Final = "namespaces"
ACCOUNTS: Final = "serviceaccounts"
DEFAULT_ACCOUNT: Final = "default"
"""A ServiceAccount that every namespace has, so that its like is added to and never replaced."""
_DELETION: Final = frozenset({"foregroundDeletion", "orphan"})
"""Finalizers of a deletion that the garbage collector had under way."""
_NAME_LABEL: Final = "kubernetes.io/metadata.name"
"""On each Namespace, by the API server; another name makes another label."""
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_SA_UID: Final = "kubernetes.io/service-account.uid"
_SA_TOKEN: Final = "kubernetes.io/service-account-token"  # noqa: S105
_TOKEN_VOLUME: Final = "kube-api-access-"  # noqa: S105
_BINDING: Final = (
    "pv.kubernetes.io/bind-completed",
    "pv.kubernetes.io/bound-by-controller",
    "volume.beta.kubernetes.io/storage-provisioner",
    "volume.kubernetes.io/selected-node",
    "volume.kubernetes.io/storage-provisioner",
)
_JOB_LABELS: Final = ("controller-uid", "batch.kubernetes.io/controller-uid")

Mapped = Mapping[str, str]
"""Which namespace becomes which."""


def target_of(item: PlanItem, mapping: Mapped) -> tuple[str | None, str]:
    """Namespace and name that an object of the plan gets."""
    if item.resource == NAMESPACES:
        return None, mapping.get(item.name, item.name)
    if item.namespace is None:
        return None, item.name
    return mapping.get(item.namespace, item.namespace), item.name


def body_of(
    value: bytes,
    resource: ApiResource,
    target: tuple[str | None, str],
    owners: tuple[OwnerReference, ...],
    mapping: Mapped,
) -> Object | bytes:
    """What to send to create the object. CPU-bound. Raises `Undecodable`."""
    namespace, name = target

    def fresh(meta: ObjectMeta) -> ObjectMeta:
        return replace(
            meta,
            name=name,
            namespace=namespace or "",
            uid="",
            generation=0,
            creation_timestamp=None,
            deletion_timestamp=None,
            deletion_grace_period_seconds=None,
            labels={label: text for label, text in meta.labels.items() if label != _NAME_LABEL},
            owner_references=owners,
            finalizers=tuple(one for one in meta.finalizers if one not in _DELETION),
        )

    bare = objectmeta.rewrite(value, fresh)
    change = _CHANGES.get(resource.name)
    if change is None and bare.startswith(PROTOBUF):
        return bare
    found = decode(bare).object
    metadata = found["metadata"]
    for useless in ("managedFields", "generation", "creationTimestamp", "resourceVersion"):
        metadata.pop(useless, None)
    if resource.status:
        found.pop("status", None)
    if change is not None:
        change(found, mapping)
    return found


def comparable(body: Object | bytes) -> Object:
    """A body as JSON, without what the API server fills in: what must be there afterwards."""
    found = dict(decode(body).object if isinstance(body, bytes) else body)
    meta = found.pop("metadata")
    kept = ("labels", "annotations", "finalizers")
    found["metadata"] = {name: meta[name] for name in kept if meta.get(name)}
    found.pop("status", None)
    return found


def holds(live: Any, wanted: Any) -> bool:  # noqa: ANN401  # JSON
    """Whether all that is wanted is there; the API server's defaults may stand beside it."""
    if isinstance(wanted, dict):
        return (isinstance(live, dict) or not wanted) and all(
            holds((live or {}).get(name), inner) for name, inner in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(live, list)
            and len(live) == len(wanted)
            and all(holds(*both) for both in zip(live, wanted, strict=True))
        ) or (not wanted and live is None)
    return bool(live == wanted) or (live is None and wanted in (0, "", False))


def over(body: Object | bytes, live: Object) -> Object:
    """A body to replace what is there with. CPU-bound.

    What a claim is bound to stays: nobody may change it. (A Service's addresses the API server
    takes over by itself.)
    """
    found = decode(body).object if isinstance(body, bytes) else body
    found.pop("status", None)
    found["metadata"].pop("managedFields", None)
    if found["kind"] == "PersistentVolumeClaim" and live["spec"].get("volumeName"):
        found["spec"]["volumeName"] = live["spec"]["volumeName"]
    return found


def additions(live: Object, body: Object | bytes) -> Object:
    """What a ServiceAccount lacks that a restored one had, as a patch (RFC 7386)."""
    wanted = comparable(body)
    change: Object = {"metadata": {}}
    for name in ("labels", "annotations"):
        if wanted["metadata"].get(name):
            change["metadata"][name] = wanted["metadata"][name]
    for name in ("imagePullSecrets", "secrets"):
        there = live.get(name) or []
        new = [one for one in wanted.get(name) or () if one not in there]
        if new:
            change[name] = [*there, *new]
    return change


def status_of(value: bytes, resource: ApiResource) -> Object | None:
    """The status to put back; None where there is none, or where it would be a lie.

    The built-in types' own controllers work out what is so now, and a former status leads them
    astray: an old `lastScheduleTime` fires a CronJob at once, an old address of a load balancer is
    somebody else's. What custom resources' statuses say may be known nowhere else.
    """
    if not resource.status or resource.name in _LIVING_STATUS:
        return None
    found = decode(value).object.get("status")
    return found if isinstance(found, dict) and found else None


_LIVING_STATUS: Final = frozenset(
    {
        "apiservices.apiregistration.k8s.io",
        "certificatesigningrequests.certificates.k8s.io",
        "cronjobs.batch",
        "customresourcedefinitions.apiextensions.k8s.io",
        "daemonsets.apps",
        "deployments.apps",
        "horizontalpodautoscalers.autoscaling",
        "ingresses.networking.k8s.io",
        "jobs.batch",
        "namespaces",
        "nodes",
        "persistentvolumeclaims",
        "persistentvolumes",
        "poddisruptionbudgets.policy",
        "pods",
        "replicasets.apps",
        "replicationcontrollers",
        "resourceclaims.resource.k8s.io",
        "resourcequotas",
        "services",
        "statefulsets.apps",
        "volumeattachments.storage.k8s.io",
    }
)
"""Types whose status is what their own controller finds, and nothing to be told from outside."""


def notes_of(value: bytes, resource: ApiResource) -> tuple[str, ...]:
    """What to know before the object is approved: what it loses on its way."""
    notes = [_NOTES[resource.name]] if resource.name in _NOTES else []
    if resource.name in _CHANGES and value.startswith(PROTOBUF):
        notes += decode(value).notes
    return tuple(notes)


_NOTES: Final = {
    "services": "gets a cluster IP and node ports of the target's, but for ports that were asked "
    "for by number",
    "persistentvolumeclaims": "is bound anew: to a new, empty volume, where one is provisioned",
    "jobs.batch": "runs again from the beginning",
    "persistentvolumes": "names a disk that another cluster may still use",
}


# What must change in a spec --------------------------------------------------------------------


def _service(found: Object, _: Mapped) -> None:
    spec = found["spec"]
    asked = _applied_ports(found)
    if spec.get("clusterIP") != "None":
        spec.pop("clusterIP", None)
        spec.pop("clusterIPs", None)
    spec.pop("healthCheckNodePort", None)
    for port in spec.get("ports") or ():
        if port.get("nodePort") not in asked:
            port.pop("nodePort", None)


def _applied_ports(found: Object) -> set[int]:
    """Node ports that somebody asked for by number, as `kubectl apply` remembers it."""
    annotations = found["metadata"].get("annotations") or {}
    try:
        ports = json.loads(annotations[_LAST_APPLIED])["spec"]["ports"]
        return {port["nodePort"] for port in ports if "nodePort" in port}
    except (KeyError, TypeError, ValueError):
        return set()


def _claim(found: Object, _: Mapped) -> None:
    found["spec"].pop("volumeName", None)
    annotations = found["metadata"].get("annotations") or {}
    for name in _BINDING:
        annotations.pop(name, None)


def _volume(found: Object, mapping: Mapped) -> None:
    claim = found["spec"].get("claimRef")
    if claim:
        namespace = claim.get("namespace", "")
        kept = {"namespace": mapping.get(namespace, namespace), "name": claim.get("name")}
        found["spec"]["claimRef"] = kept
    annotations = found["metadata"].get("annotations") or {}
    for name in _BINDING:
        annotations.pop(name, None)


def _job(found: Object, _: Mapped) -> None:
    """`generateSelector` in Kubernetes' pkg/registry/batch/job/strategy.go makes these anew."""
    spec = found["spec"]
    if spec.get("manualSelector"):
        return
    spec.pop("selector", None)
    for meta in (found["metadata"], spec["template"].get("metadata") or {}):
        for label in _JOB_LABELS:
            (meta.get("labels") or {}).pop(label, None)


def _pod(found: Object, _: Mapped) -> None:
    spec = found["spec"]
    for name in ("nodeName", "ephemeralContainers", "priority"):
        spec.pop(name, None)
    spec["volumes"] = [one for one in spec.get("volumes") or () if not _is_token(one)]
    for container in (*spec.get("containers", ()), *(spec.get("initContainers") or ())):
        mounts = container.get("volumeMounts") or ()
        container["volumeMounts"] = [one for one in mounts if not _is_token(one)]


def _is_token(named: Object) -> bool:
    """A volume, or its mount, that the ServiceAccount admission adds to each new Pod."""
    return str(named.get("name", "")).startswith(_TOKEN_VOLUME)


def _binding(found: Object, mapping: Mapped) -> None:
    for subject in found.get("subjects") or ():
        namespace = subject.get("namespace")
        if namespace in mapping:
            subject["namespace"] = mapping[namespace]


def _secret(found: Object, _: Mapped) -> None:
    """A token is of a ServiceAccount's uid; the tokens controller fills in a new one."""
    if found.get("type") == _SA_TOKEN:
        found["data"] = {}
        (found["metadata"].get("annotations") or {}).pop(_SA_UID, None)


_CHANGES: Final[Mapping[str, Callable[[Object, Mapped], None]]] = {
    "clusterrolebindings.rbac.authorization.k8s.io": _binding,
    "customresourcedefinitions.apiextensions.k8s.io": lambda *_: None,  # stored as v1beta1
    "jobs.batch": _job,
    "persistentvolumeclaims": _claim,
    "persistentvolumes": _volume,
    "pods": _pod,
    "rolebindings.rbac.authorization.k8s.io": _binding,
    "secrets": _secret,
    "services": _service,
}
