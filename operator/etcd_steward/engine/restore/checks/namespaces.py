"""Namespaces that are missing or going, and what a restored one would roll back."""

from collections.abc import Iterable, Mapping
from typing import Final

from etcd_steward.engine.restore.drafts import Draft
from etcd_steward.engine.restore.facts import NamespaceFacts
from etcd_steward.registry.objectmeta import ObjectMeta

POD_SECURITY: Final = "pod-security.kubernetes.io/"


def check(
    drafts: Iterable[Draft], there: Mapping[str, tuple[NamespaceFacts, ObjectMeta] | None]
) -> None:
    """Block what has no namespace, or one that goes. `there`: None where none is live."""
    every = list(drafts)
    planned = {one.name: one for one in every if one.resource == "namespaces"}
    for one in planned.values():
        _itself(one, there.get(one.name))
    for one in every:
        if one.namespace is None or not one.write:
            continue
        name = one.namespace
        found = there.get(name)
        own = planned.get(name)
        if found is not None and found[0].terminating:
            one.block(
                "NamespaceTerminating",
                f"namespace {name} is being deleted: what is put into it now goes with it. Wait "
                f"until it is gone (kubectl wait --for=delete namespace/{name}) and plan again",
            )
        elif found is None and (own is None or own.settled):
            why = f" ({own.message})" if own is not None else ""
            one.block(
                "NoNamespace",
                f"there is no namespace {name}, and the plan brings none{why}: create it first",
            )


def _itself(draft: Draft, found: tuple[NamespaceFacts, ObjectMeta] | None) -> None:
    if not draft.write or draft.meta is None:
        return
    if found is not None and found[0].terminating:
        draft.block("NamespaceTerminating", "it is being deleted: wait until it is gone")
        return
    then = _pod_security(draft.meta)
    if found is None:
        if then:
            draft.notes.append(f"Pod Security as it was then: {_words(then)}")
        return
    now = _pod_security(found[1])
    if now != then:
        draft.notes.append(
            f"rolls back Pod Security: from {_words(now) or 'none'} to {_words(then) or 'none'}"
        )


def _pod_security(meta: ObjectMeta) -> dict[str, str]:
    return {
        name.removeprefix(POD_SECURITY): value
        for name, value in sorted(meta.labels.items())
        if name.startswith(POD_SECURITY)
    }


def _words(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in labels.items())
