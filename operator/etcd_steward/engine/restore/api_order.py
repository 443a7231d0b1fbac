"""In which order objects are created through the API server.

Velero's order (`defaultRestorePriorities` in its pkg/cmd/server/config/config.go), which users
know, with one thing before it: an owner comes before what it owns, since a dependent can only name
the uid that its owner has got.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from etcd_steward.models.restore import PlanItem
from etcd_steward.registry.objectmeta import ObjectMeta

_FIRST: Final = (
    "customresourcedefinitions.apiextensions.k8s.io",
    "namespaces",
    "storageclasses.storage.k8s.io",
    "priorityclasses.scheduling.k8s.io",
    "ingressclasses.networking.k8s.io",
    "runtimeclasses.node.k8s.io",
    "persistentvolumes",
    "persistentvolumeclaims",
    "clusterroles.rbac.authorization.k8s.io",
    "roles.rbac.authorization.k8s.io",
    "serviceaccounts",
    "clusterrolebindings.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
    "secrets",
    "configmaps",
    "limitranges",
    "resourcequotas",
    "services",
    "pods",
)
_LAST: Final = (
    "validatingadmissionpolicies.admissionregistration.k8s.io",
    "mutatingadmissionpolicies.admissionregistration.k8s.io",
    "validatingadmissionpolicybindings.admissionregistration.k8s.io",
    "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
    "validatingwebhookconfigurations.admissionregistration.k8s.io",
    "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    "apiservices.apiregistration.k8s.io",
)
_MIDDLE: Final = len(_FIRST)
_RANKS: Final = {name: rank for rank, name in enumerate(_FIRST)} | {
    name: _MIDDLE + 1 + rank for rank, name in enumerate(_LAST)
}


def ordered(items: Sequence[PlanItem], metas: Mapping[str, ObjectMeta]) -> list[PlanItem]:
    """The items in the order of their creation, `group` set: those of one go side by side.

    `metas` is the metadata in the source, by key.
    """
    depths = _depths(metas.values())
    places = {
        item.key: (
            _RANKS.get(item.resource, 0) > _MIDDLE,
            depths.get(metas[item.key].uid, 0) if item.key in metas else 0,
            _RANKS.get(item.resource, _MIDDLE),
        )
        for item in items
    }
    groups = {place: number for number, place in enumerate(sorted(set(places.values())))}
    numbered = (item.model_copy(update={"group": groups[places[item.key]]}) for item in items)
    return sorted(numbered, key=lambda item: (item.group, item.resource, item.key))


def _depths(metas: Iterable[ObjectMeta]) -> dict[str, int]:
    """How many owners stand above each object, by uid; 0 also in a ring, which nobody can make."""
    owners = {meta.uid: [one.uid for one in meta.owner_references] for meta in metas}
    depths: dict[str, int] = {}
    waiting = set(owners)
    for depth in range(len(owners)):
        free = {uid for uid in waiting if not waiting.intersection(owners[uid])}
        if not free:
            break
        depths |= dict.fromkeys(free, depth)
        waiting -= free
    return depths
