"""What the API server makes of an object between etcd and its answer.

It fills in defaults whenever it reads, and converts from the version that is stored to the one that
is asked for. Objects were defaulted before they were stored, so that little is left: what the proof
over a seeded cluster finds (`tests/integration/test_registry_builtin.py`). One kind is stored in a
version that nobody can ask for: CustomResourceDefinitions, at v1beta1.
"""

from collections.abc import Callable
from typing import Any, Final

Object = dict[str, Any]


def as_served(stored: Object) -> Object:
    """The object as an API server answers with it. `stored` may be changed."""
    change = _CHANGES.get((stored["apiVersion"], stored["kind"]))
    return change(stored) if change else stored


def _phase(default: str) -> Callable[[Object], Object]:
    """`SetDefaults_…` in Kubernetes' `pkg/apis/core/v1/defaults.go`."""

    def change(stored: Object) -> Object:
        status = stored.get("status") or {}
        return {**stored, "status": {**status, "phase": status.get("phase") or default}}

    return change


def _definition(stored: Object) -> Object:
    """`apiextensions/v1/conversion.go`, after the defaults of `apiextensions/v1beta1`."""
    spec = dict(stored.get("spec") or {})
    first = spec.pop("version", None)
    versions = spec.get("versions") or [{"name": first, "served": True, "storage": True}]
    for_all = {new: spec.pop(old) for old, new in _OF_VERSIONS.items() if spec.get(old) is not None}
    spec["versions"] = [_version({**version, **for_all}) for version in versions]
    spec["conversion"] = _conversion(spec.get("conversion") or {})
    spec.setdefault("scope", "Namespaced")
    if not spec.pop("preserveUnknownFields", True):
        return {**stored, "apiVersion": _V1, "spec": spec}
    return {**stored, "apiVersion": _V1, "spec": {**spec, "preserveUnknownFields": True}}


_V1: Final = "apiextensions.k8s.io/v1"
_OF_VERSIONS: Final = {
    "validation": "schema",
    "subresources": "subresources",
    "additionalPrinterColumns": "additionalPrinterColumns",
    "selectableFields": "selectableFields",
}
"""What v1beta1 says once where it is the same for all versions, and what v1 calls it in each."""


def _version(version: Object) -> Object:
    columns = version.get("additionalPrinterColumns")
    if not columns:
        return version
    renamed = [
        {("jsonPath" if name == "JSONPath" else name): value for name, value in column.items()}
        for column in columns
    ]
    return {**version, "additionalPrinterColumns": renamed}


def _conversion(old: Object) -> Object:
    strategy = old.get("strategy") or "None"
    client, reviews = old.get("webhookClientConfig"), old.get("conversionReviewVersions")
    if strategy == "Webhook":
        reviews = reviews or ["v1beta1"]
    if client is None and reviews is None:
        return {"strategy": strategy}
    webhook: Object = {"conversionReviewVersions": reviews}
    if client is not None:
        service = client.get("service")
        webhook["clientConfig"] = (
            {**client, "service": {"port": 443, **service}} if service else client
        )
    return {"strategy": strategy, "webhook": webhook}


_CHANGES: Final[dict[tuple[str, str], Callable[[Object], Object]]] = {
    ("apiextensions.k8s.io/v1beta1", "CustomResourceDefinition"): _definition,
    ("v1", "Namespace"): _phase("Active"),
    ("v1", "PersistentVolume"): _phase("Pending"),
    ("v1", "PersistentVolumeClaim"): _phase("Pending"),
}
