"""In which order keys are written, and which of them in one transaction.

Controllers act on what they see at once: a Deployment without its ReplicaSet gets a new one, a
Namespace without its default ServiceAccount, too, and a volume without its claim is released, which
with the policy Delete deletes the disk. So what goes together is written together, and the rest
after what it needs.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from etcd_steward.engine.restore.drafts import Draft
from etcd_steward.engine.restore.facts import ClaimFacts

_STEPS: Final = tuple(
    line.split()
    for line in """
    customresourcedefinitions.apiextensions.k8s.io
    namespaces
    priorityclasses.scheduling.k8s.io storageclasses.storage.k8s.io csidrivers.storage.k8s.io \
    volumeattributesclasses.storage.k8s.io deviceclasses.resource.k8s.io \
    runtimeclasses.node.k8s.io ingressclasses.networking.k8s.io \
    clusterroles.rbac.authorization.k8s.io clusterrolebindings.rbac.authorization.k8s.io
    serviceaccounts roles.rbac.authorization.k8s.io rolebindings.rbac.authorization.k8s.io
    secrets configmaps
    resourcequotas limitranges
    persistentvolumeclaims persistentvolumes
    services endpoints endpointslices.discovery.k8s.io
    *
    horizontalpodautoscalers.autoscaling poddisruptionbudgets.policy \
    ingresses.networking.k8s.io networkpolicies.networking.k8s.io
    mutatingadmissionpolicies.admissionregistration.k8s.io \
    mutatingadmissionpolicybindings.admissionregistration.k8s.io \
    mutatingwebhookconfigurations.admissionregistration.k8s.io \
    validatingadmissionpolicies.admissionregistration.k8s.io \
    validatingadmissionpolicybindings.admissionregistration.k8s.io \
    validatingwebhookconfigurations.admissionregistration.k8s.io
    """.strip().splitlines()
)
"""`*`: what is not named here; workloads and custom resources above all, which own others."""
_STEP: Final = {word: step for step, words in enumerate(_STEPS) for word in words}
_OWNERS_STEP: Final = _STEPS.index(["*"])
_WITH_NAMESPACE: Final = {("serviceaccounts", "default"), ("configmaps", "kube-root-ca.crt")}


def ordered(drafts: Sequence[Draft]) -> list[Draft]:
    """What is written, by groups and owners first, and behind it the rest, by key."""
    writes = sorted((one for one in drafts if one.write), key=_place)
    rest = sorted((one for one in drafts if not one.write), key=lambda one: one.key)
    depths = _depths(writes)
    groups: dict[bytes, list[Draft]] = {}
    for one, root in zip(writes, _roots(writes), strict=True):
        groups.setdefault(root.key, []).append(one)
    roots = {one.key: one for one in writes}
    found = []
    for number, key in enumerate(sorted(groups, key=lambda key: _place(roots[key])), 1):
        for one in sorted(groups[key], key=lambda one: (*_within(one), depths[one.key], one.key)):
            one.group = number
            found.append(one)
    return found + rest


def _within(draft: Draft) -> tuple[bool, bool]:
    """A Namespace after what it must find in it, a volume after its claim."""
    return draft.resource == "namespaces", draft.resource == "persistentvolumes"


def _place(draft: Draft) -> tuple[int, str, bytes]:
    return _STEP.get(draft.resource, _OWNERS_STEP), draft.namespace or "", draft.key


def _roots(writes: Sequence[Draft]) -> list[Draft]:
    """Of each one, the first of its group: what owns it at the top, or what it goes with."""
    by_uid = _by_uid(writes)
    namespaces = {one.name: one for one in writes if one.resource == "namespaces"}
    claims = {
        one.facts.volume: one
        for one in writes
        if isinstance(one.facts, ClaimFacts) and one.facts.volume
    }
    found = []
    for one in writes:
        if (one.resource, one.name) in _WITH_NAMESPACE and one.namespace in namespaces:
            found.append(namespaces[one.namespace])
        elif one.resource == "persistentvolumes":
            found.append(claims.get(one.name, one))
        else:
            found.append(_top(one, by_uid))
    return found


def _by_uid(writes: Iterable[Draft]) -> dict[str, Draft]:
    return {one.uid: one for one in writes if one.uid}


def _top(draft: Draft, by_uid: dict[str, Draft]) -> Draft:
    passed = {draft.key}
    while (owner := _owner(draft, by_uid)) is not None and owner.key not in passed:
        passed.add(owner.key)
        draft = owner
    return draft


def _owner(draft: Draft, by_uid: dict[str, Draft]) -> Draft | None:
    """Its controller, or its first owner, if that is written, too; but no namespace."""
    references = draft.meta.owner_references if draft.meta else ()
    for one in sorted(references, key=lambda owner: not owner.controller):
        owner = by_uid.get(one.uid)
        if owner is not None and owner.resource not in {"namespaces", *_STEPS[0]}:
            return owner
    return None


def _depths(writes: Iterable[Draft]) -> dict[bytes, int]:
    """How many owners above each one are written, too."""
    every = list(writes)
    by_uid = _by_uid(every)
    depths = {}
    for one in every:
        depth, passed, at = 0, {one.key}, one
        while (owner := _owner(at, by_uid)) is not None and owner.key not in passed:
            passed.add(owner.key)
            depth, at = depth + 1, owner
        depths[one.key] = depth
    return depths
