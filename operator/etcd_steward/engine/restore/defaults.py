"""What a restore leaves to others unless it is named, and what it never touches.

Controllers make endpoints, pods, Leases and events anew from what is restored; brought back as they
were, these would work against them. A Job would run again, and Pods would run beside those that
their controllers make.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from etcd_steward.engine.restore.drafts import Draft, Named
from etcd_steward.engine.restore.facts import JobFacts, ServiceFacts
from etcd_steward.models.registry import Filter, KeyPath, Selection
from etcd_steward.models.restore import RestoreOptions
from etcd_steward.registry import paths
from etcd_steward.registry.selection import Chosen

OWN_GROUP: Final = "etcdsteward.io"
_OWN_KEYS: Final = b"/etcdsteward.io/"
_COMPACTION: Final = b"compact_rev_key"

_NEVER: Final = {
    "ipaddresses.networking.k8s.io": "the API server makes it from its Service",
    "servicecidrs.networking.k8s.io": "it says which IPs the API server may give away now",
    "storageversions.internal.apiserver.k8s.io": "it says what the API servers write now",
}
_LEFT: Final = {
    "certificatesigningrequests.certificates.k8s.io": "who asked for it asks again",
    "csinodes.storage.k8s.io": "the kubelet makes it",
    "csistoragecapacities.storage.k8s.io": "its driver makes it",
    "events": "it tells of something that is over",
    "leasecandidates.coordination.k8s.io": "its holder makes it",
    "leases.coordination.k8s.io": "its holder renews it, and an old one would lie",
    "nodes": "the kubelet makes it",
    "podcertificaterequests.certificates.k8s.io": "the kubelet asks again",
    "pods": "its controller makes a new one",
    "resourceslices.resource.k8s.io": "its driver makes it",
    "volumeattachments.storage.k8s.io": "the attach controller makes it",
}
_WHEN_NAMED: Final = {
    "clusterrolebindings.rbac.authorization.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
    "customresourcedefinitions.apiextensions.k8s.io",
    "apiservices.apiregistration.k8s.io",
    "mutatingadmissionpolicies.admissionregistration.k8s.io",
    "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
    "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    "validatingadmissionpolicies.admissionregistration.k8s.io",
    "validatingadmissionpolicybindings.admissionregistration.k8s.io",
    "validatingwebhookconfigurations.admissionregistration.k8s.io",
}
_MANAGED_BY: Final = "endpointslice.kubernetes.io/managed-by"
_SLICE_CONTROLLERS: Final = {
    "endpointslice-controller.k8s.io",
    "endpointslicemirroring-controller.k8s.io",
}
_AUTOMANAGED: Final = "kube-aggregator.kubernetes.io/automanaged"
_GRANTS: Final = {
    "clusterrolebindings.rbac.authorization.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
    "roles.rbac.authorization.k8s.io",
}


@dataclass(frozen=True, slots=True)
class Naming:
    """What somebody named in so many words, and not by a `*` or by its namespace alone."""

    resource: Named
    by_name: bool
    """Objects are named, too: by names, or keys to the last letter."""

    @classmethod
    def of(cls, include: Filter, prefix: str) -> "Naming":
        """Read it out of what is asked for."""
        words = tuple(word for word in include.resources if "*" not in word)
        meant = Chosen(Selection(include=Filter(resources=words)), prefix) if words else None
        prefixes = tuple(one.encode() for one in include.key_prefixes)

        def named(path: KeyPath | None, key: bytes) -> bool:
            if meant is not None and meant.wants(path, key, dict):
                return True
            folder = folder_of(path, key)
            return any(one.startswith(folder) and key.startswith(one) for one in prefixes)

        return cls(named, bool(include.names))


def folder_of(path: KeyPath | None, key: bytes) -> bytes:
    """Where the objects of a key's resource lie, of all namespaces."""
    if path is None:
        return key
    return key.rsplit(b"/", 1 if path.namespace is None else 2)[0] + b"/"


def by_key(draft: Draft, naming: Naming, root: bytes) -> None:
    """Leave out what its key alone says is not to be restored: its value is not read, then."""
    if draft.key == _COMPACTION or draft.key.startswith(_OWN_KEYS):
        draft.exclude("Never", "it is no part of what a restore brings back: it guards etcd itself")
    elif not draft.text:
        draft.exclude("NotText", "its key is not text, which a plan can't show")
    elif draft.path is None and draft.key.startswith(root):
        what = paths.other(draft.key, root.decode())
        draft.exclude("Never", f"it is no API object ({what}); the API server keeps it itself")
    elif draft.path is None:
        if not naming.resource(None, draft.key):
            draft.exclude("NotNamed", "it is not the API server's: name it by a key prefix")
    else:
        _by_resource(draft, naming)


def _by_resource(draft: Draft, naming: Naming) -> None:
    if draft.path is not None and draft.path.api_group == OWN_GROUP:
        draft.exclude(
            "Never", "etcd-steward's own resources are not restored: they follow the store"
        )
    elif draft.resource in _NEVER:
        draft.exclude("Never", _NEVER[draft.resource])
    elif naming.resource(draft.path, draft.key):
        return
    elif draft.resource in _LEFT:
        draft.exclude("LeftToOthers", f"{_LEFT[draft.resource]}; it is restored when it is named")
    elif draft.resource in _WHEN_NAMED:
        draft.exclude("NotNamed", "what rules the whole cluster is restored only when it is named")


def by_value(draft: Draft, naming: Naming, options: RestoreOptions) -> None:
    """The same, where its metadata and a few fields decide."""
    meta = draft.meta
    if meta is None or draft.path is None:
        return
    raw = options.via == "Registry"
    if draft.resource == "pods" and raw:
        draft.block(
            "PodByRegistry",
            "a Pod written past the API server would run where it ran, beside the one that its "
            "controller made since; restore it through the API (via: API)",
        )
    if draft.resource == "jobs.batch":
        _job(draft, naming, options)
    if (
        draft.resource == "endpointslices.discovery.k8s.io"
        and meta.labels.get(_MANAGED_BY) in _SLICE_CONTROLLERS
        and not naming.resource(draft.path, draft.key)
    ):
        draft.exclude("LeftToOthers", "its controller makes it from the Service")
    if draft.resource == "apiservices.apiregistration.k8s.io" and _AUTOMANAGED in meta.labels:
        draft.exclude("LeftToOthers", "the API server makes it")
    if draft.resource in _GRANTS:
        draft.notes.append("grants rights (RBAC)")
    if draft.resource == "serviceaccounts":
        draft.notes.append("an identity: tokens that were bound to its uid are valid again")
    if draft.resource == "cronjobs.batch" and options.workloads == "AsBackedUp":
        draft.notes.append("starts work: it may run at once if its last time is past")


def _job(draft: Draft, naming: Naming, options: RestoreOptions) -> None:
    assert draft.meta is not None  # noqa: S101  # the caller looked
    facts = draft.facts
    if naming.resource(draft.path, draft.key):
        runs = isinstance(facts, JobFacts) and not facts.finished and not facts.suspended
        if runs and options.workloads == "AsBackedUp":
            draft.notes.append("starts work: its pods run again")
        return
    if any(owner.kind == "CronJob" for owner in draft.meta.owner_references):
        draft.exclude("OwnedByCronJob", "its CronJob makes new ones")
    elif isinstance(facts, JobFacts) and facts.finished:
        draft.exclude("FinishedJob", "it has run to its end, and its pods are gone")
    elif isinstance(facts, JobFacts) and (facts.suspended or options.workloads == "Suspended"):
        return
    else:
        draft.block(
            "UnfinishedJob",
            "its pods would run again: name it (resources: jobs), or bring it back at rest "
            "(workloads: Suspended)",
        )


def endpoints_of(drafts: Iterable[Draft], naming: Naming) -> None:
    """Leave Endpoints to the controller, but those of Services that select no pods."""
    every = list(drafts)
    by_hand = {
        (one.namespace, one.name)
        for one in every
        if isinstance(one.facts, ServiceFacts) and not one.facts.selects
    }
    for one in every:
        if one.resource != "endpoints" or (one.namespace, one.name) in by_hand:
            continue
        if not naming.resource(one.path, one.key):
            one.exclude("LeftToOthers", "its controller makes it from the Service")
