"""Quotas that a restore would exceed: nobody enforces them on what is written past the API."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from etcd_steward.engine.restore.drafts import Draft
from etcd_steward.engine.restore.facts import QuotaFacts

_PLAIN: Final = {
    "configmaps",
    "persistentvolumeclaims",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
}
"""Resources that a quota counts under their own name; the others as `count/deployments.apps`."""


def check(drafts: Iterable[Draft], quotas: Mapping[tuple[str, str], QuotaFacts]) -> Iterator[str]:
    """A warning for each quota that would be exceeded. `quotas`: live, by namespace and name."""
    new: Counter[tuple[str, str]] = Counter()
    for one in drafts:
        if one.write and one.verdict == "create" and one.namespace is not None:
            new[one.namespace, f"count/{one.resource}"] += 1
            if one.resource in _PLAIN:
                new[one.namespace, one.resource] += 1
    for (namespace, name), quota in sorted(quotas.items()):
        if quota.scoped:
            continue
        for what, most in sorted(quota.hard.items()):
            used = int(quota.used.get(what, "0")) if _counts(quota.used.get(what)) else 0
            after = used + new[namespace, what]
            if new[namespace, what] and _counts(most) and after > int(most):
                yield (
                    f"the quota {name} of namespace {namespace} would be exceeded: {what} {after} "
                    f"of {most}. What is written is kept, but nothing more can be created there"
                )


def _counts(quantity: str | None) -> bool:
    return quantity is not None and quantity.isascii() and quantity.isdigit()
