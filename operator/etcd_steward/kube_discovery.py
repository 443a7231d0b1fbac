"""What an API server says that it serves: each type in each of its versions.

By aggregated discovery, which is two requests for all of it (Kubernetes 1.27 and newer), see
https://kubernetes.io/docs/concepts/overview/kubernetes-api/#aggregated-discovery.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from etcd_steward.errors import Unsupported
from etcd_steward.kube_client import Object

ACCEPT: Final = ",".join(
    f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
    for version in ("v2", "v2beta1")
)


@dataclass(frozen=True, slots=True)
class ApiResource:
    """A type in one of the versions that the API server serves it in."""

    group: str
    """Empty for the core group."""
    version: str
    plural: str
    kind: str
    namespaced: bool
    verbs: frozenset[str]
    status: bool
    """Whether it has the subresource `status`."""

    @property
    def name(self) -> str:
        """As kubectl names it: `deployments.apps`, `secrets`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        """`apps/v1`, `v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str | None = None, subresource: str = "") -> str:
        """The path of an object, or of all of them, below the API server's address.

        `namespace` None with a namespaced type: those of all namespaces.
        """
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"
        within = f"/namespaces/{quote(namespace)}" if self.namespaced and namespace else ""
        one = f"/{quote(name, safe='')}" if name is not None else ""
        return f"{root}{within}/{self.plural}{one}{subresource and '/' + subresource}"

    def label(self, namespace: str | None, name: str) -> str:
        """An object in messages: `deployments.apps shop/web`."""
        return f"{self.name} {namespace}/{name}" if self.namespaced else f"{self.name} {name}"


@dataclass(frozen=True, slots=True)
class Served:
    """What an API server serves: each type in each of its versions, the preferred one first."""

    resources: tuple[ApiResource, ...]
    stale: frozenset[str] = frozenset()
    """`group/version`s of aggregated API servers that can't be reached: their types may be old."""

    def versions(self, name: str) -> tuple[ApiResource, ...]:
        """A type (`deployments.apps`), in every version; empty where it is not served."""
        return tuple(one for one in self.resources if one.name == name)

    def find(self, name: str, api_version: str | None = None) -> ApiResource | None:
        """A type in that version (`apps/v1`), or in the preferred one."""
        for one in self.versions(name):
            if api_version in (None, one.api_version):
                return one
        return None

    def of_kind(self, api_version: str, kind: str) -> ApiResource | None:
        """The type that an object or an ownerReference means by `apiVersion` and `kind`."""
        for one in self.resources:
            if (one.api_version, one.kind) == (api_version, kind):
                return one
        return None


def served(*documents: Object) -> Served:
    """What the answers of `/api` and `/apis` say. Raises `Unsupported` for an older server's."""
    for document in documents:
        if document.get("kind") != "APIGroupDiscoveryList":
            raise Unsupported(
                "this API server does not tell all that it serves at once",
                hint="Kubernetes 1.27 and newer do",
            )
    groups = [group for document in documents for group in document["items"] or ()]
    return Served(
        tuple(one for group in groups for one in _resources(group)),
        frozenset(one for group in groups for one in _stale(group)),
    )


def _resources(group: Object) -> Iterator[ApiResource]:
    for version in group["versions"]:
        for one in version.get("resources") or ():
            yield ApiResource(
                group=group["metadata"].get("name") or "",
                version=version["version"],
                plural=one["resource"],
                kind=one["responseKind"]["kind"],
                namespaced=one["scope"] == "Namespaced",
                verbs=frozenset(one["verbs"]),
                status=any(sub["subresource"] == "status" for sub in one.get("subresources") or ()),
            )


def _stale(group: Object) -> Iterator[str]:
    name = group["metadata"].get("name") or ""
    for version in group["versions"]:
        if version.get("freshness") == "Stale":
            yield f"{name}/{version['version']}"
