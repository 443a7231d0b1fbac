"""Built-in resources by the words that kubectl takes for them: plural, singular, short name."""

from typing import Final

from etcd_steward.registry.paths import BUILTINS

_SHORT: Final = {
    "cj": "cronjobs",
    "cm": "configmaps",
    "crd": "customresourcedefinitions",
    "crds": "customresourcedefinitions",
    "csr": "certificatesigningrequests",
    "deploy": "deployments",
    "ds": "daemonsets",
    "ep": "endpoints",
    "ev": "events",
    "hpa": "horizontalpodautoscalers",
    "ing": "ingresses",
    "ip": "ipaddresses",
    "limits": "limitranges",
    "netpol": "networkpolicies",
    "no": "nodes",
    "ns": "namespaces",
    "pc": "priorityclasses",
    "pdb": "poddisruptionbudgets",
    "po": "pods",
    "pv": "persistentvolumes",
    "pvc": "persistentvolumeclaims",
    "quota": "resourcequotas",
    "rc": "replicationcontrollers",
    "rs": "replicasets",
    "sa": "serviceaccounts",
    "sc": "storageclasses",
    "sts": "statefulsets",
    "svc": "services",
    "vac": "volumeattributesclasses",
}
"""As `kubectl api-resources` lists them."""


def _singular(plural: str) -> str:
    """The singular that Kubernetes gives a plural: the kind in lower case."""
    if plural.endswith("ies"):
        return f"{plural[:-3]}y"
    if plural.endswith("sses"):
        return plural[:-2]
    return plural if plural == "endpoints" else plural.removesuffix("s")


BUILTIN_WORDS: Final = {
    **{_singular(plural): builtin for plural, builtin in BUILTINS.items()},
    **{short: BUILTINS[plural] for short, plural in _SHORT.items()},
    **BUILTINS,
}
