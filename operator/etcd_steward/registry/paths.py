"""Which API object a key of etcd belongs to, told from the key alone.

An API server keeps an object at `<prefix>/<resource>[/<namespace>]/<name>`, or with
`<group>/<resource>` for the resource: for every custom one, for CustomResourceDefinitions and for
APIServices (apiserver `storage_factory.go`, `ResourcePrefix`; the paths of the built-in ones are in
Kubernetes' `test/integration/etcd/data.go`). A CRD's group has a dot and a built-in plural has
none, and no name holds a `/`, so the way to read a key is unambiguous.
"""

from functools import lru_cache
from typing import Final, NamedTuple

from etcd_steward.models.registry import KeyPath

_NAMESPACED: Final = {
    "": "configmaps endpoints events limitranges persistentvolumeclaims pods podtemplates "
    "replicationcontrollers resourcequotas secrets serviceaccounts services",
    "apps": "controllerrevisions daemonsets deployments replicasets statefulsets",
    "autoscaling": "horizontalpodautoscalers",
    "batch": "cronjobs jobs",
    "certificates.k8s.io": "podcertificaterequests",
    "coordination.k8s.io": "leasecandidates leases",
    "discovery.k8s.io": "endpointslices",
    "networking.k8s.io": "ingresses networkpolicies",
    "policy": "poddisruptionbudgets",
    "rbac.authorization.k8s.io": "rolebindings roles",
    "resource.k8s.io": "resourceclaims resourceclaimtemplates",
    "scheduling.k8s.io": "podgroups workloads",
    "storage.k8s.io": "csistoragecapacities",
}
_CLUSTER_SCOPED: Final = {
    "": "namespaces nodes persistentvolumes",
    "admissionregistration.k8s.io": "mutatingadmissionpolicies mutatingadmissionpolicybindings "
    "mutatingwebhookconfigurations validatingadmissionpolicies validatingadmissionpolicybindings "
    "validatingwebhookconfigurations",
    "apiextensions.k8s.io": "customresourcedefinitions",
    "apiregistration.k8s.io": "apiservices",
    "certificates.k8s.io": "certificatesigningrequests clustertrustbundles",
    "flowcontrol.apiserver.k8s.io": "flowschemas prioritylevelconfigurations",
    "internal.apiserver.k8s.io": "storageversions",
    "networking.k8s.io": "ingressclasses ipaddresses servicecidrs",
    "node.k8s.io": "runtimeclasses",
    "policy": "podsecuritypolicies",
    "rbac.authorization.k8s.io": "clusterrolebindings clusterroles",
    "resource.k8s.io": "deviceclasses devicetaintrules resourcepoolstatusrequests resourceslices",
    "scheduling.k8s.io": "priorityclasses",
    "storage.k8s.io": "csidrivers csinodes storageclasses volumeattachments "
    "volumeattributesclasses",
    "storagemigration.k8s.io": "storageversionmigrations",
}
_OWN_PATH: Final = {
    "apiservices": "apiregistration.k8s.io/apiservices",
    "customresourcedefinitions": "apiextensions.k8s.io/customresourcedefinitions",
    "endpoints": "services/endpoints",
    "ingresses": "ingress",
    "nodes": "minions",
    "podsecuritypolicies": "podsecuritypolicy",
    "replicationcontrollers": "controllers",
    "services": "services/specs",
}
"""Where a built-in resource lies, if not under its plural."""

FORMER_GROUPS: Final = frozenset({"extensions", "events.k8s.io"})
"""Groups that built-in resources were or are also served under: `extensions` until 1.22 for what is
in apps, networking.k8s.io and policy now; core events and events.k8s.io are one resource."""


class Builtin(NamedTuple):
    """A resource that comes with Kubernetes."""

    path: str
    """Where its objects lie below the prefix."""
    resource: str
    api_group: str
    namespaced: bool


def _builtins() -> dict[str, Builtin]:
    return {
        resource: Builtin(_OWN_PATH.get(resource, resource), resource, group, namespaced)
        for namespaced, groups in ((True, _NAMESPACED), (False, _CLUSTER_SCOPED))
        for group, resources in groups.items()
        for resource in resources.split()
    }


BUILTINS: Final = _builtins()
"""Every built-in resource that is stored, by its plural."""
_BY_PATH: Final = {builtin.path: builtin for builtin in BUILTINS.values()}
_BY_LAST_WORD: Final = BUILTINS | {path.rpartition("/")[2]: b for path, b in _BY_PATH.items()}

_API_SERVERS_OWN: Final = {
    "health": "health check of an API server",
    "masterleases": "lease of an API server",
    "peerserverleases": "lease of an API server",
    "ranges": "allocations of service IPs and node ports",
}
_RANGES: Final = {
    "serviceips": "service IP ranges",
    "secondaryserviceips": "secondary service IP ranges",
    "servicenodeports": "service node ports",
}
_OTHERS: Final = {
    b"compact_rev_key": "compaction mark of an API server",
    b"/etcdsteward.io/": "etcd-steward's own",
    b"/calico/": "Calico's own",
    b"cilium/": "Cilium's own",
    b"/coreos.com/network/": "flannel's own",
    b"/bootstrap/": "k3s bootstrap data",
}


@lru_cache(maxsize=64)
def root_of(prefix: str) -> bytes:
    """What every key of an API server begins with that has this `--etcd-prefix`."""
    words = "/".join(word for word in prefix.split("/") if word)
    return f"/{words}/".encode() if words else b"/"


_places: dict[tuple[bytes, str], tuple[str, str, str | None] | None] = {}
_PLACES_REMEMBERED: Final = 1 << 16


def parse(key: bytes, prefix: str = "/registry") -> KeyPath | None:
    """The API object that a key belongs to; None if it is none, and `other` says what it is.

    Of a resource that this table does not know the group is empty unless the key has it: `settle`
    asks the value.
    """
    folder, _, name = key.rpartition(b"/")
    try:
        place = _places[folder, prefix]
    except KeyError:
        place = _place_of(folder, prefix)
        if len(_places) >= _PLACES_REMEMBERED:
            _places.clear()
        _places[folder, prefix] = place
    if place is None:
        return None
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return None
    # What a name can't be (apimachinery `path.IsValidPathSegmentName`).
    if "%" in text or text in {"", ".", ".."}:
        return None
    return KeyPath(place[0], place[1], place[2], text)


def _place_of(folder: bytes, prefix: str) -> tuple[str, str, str | None] | None:
    """Resource, group and namespace of the objects right below a folder; None if none lie there."""
    root = root_of(prefix)
    try:
        text = folder[len(root) :].decode()
    except UnicodeDecodeError:
        return None
    parts = text.split("/")
    if not folder.startswith(root) or "%" in text or {"", ".", ".."}.intersection(parts):
        return None
    width = 2 if "." in parts[0] or parts[0] == "services" else 1
    word, left = "/".join(parts[:width]), parts[width:]
    known = _BY_PATH.get(word)
    if len(parts) < width or len(left) > 1 or parts[0] in _API_SERVERS_OWN:
        return None
    if known:
        if known.namespaced != bool(left):
            return None
        return known.resource, known.api_group, left[0] if left else None
    group, _, resource = word.rpartition("/")
    return (resource, group, left[0] if left else None) if group != "services" else None


def settle(path: KeyPath, api_version: str | None, kind: str | None) -> KeyPath:
    """`path` with the group that the value's apiVersion and kind give it.

    They decide where the key can't: for resources newer than this table, those of aggregated API
    servers, and keys that another API server's longer prefix makes look like a custom resource's.
    A built-in resource that is stored in a group it has left keeps the one that it has now.
    """
    if not api_version or not kind or api_version.count("/") > 1:
        return path
    group = api_version.rpartition("/")[0]
    if group == path.api_group:
        return path
    known = _BY_LAST_WORD.get(path.resource)
    if known and (group == known.api_group or group in FORMER_GROUPS):
        return path._replace(resource=known.resource, api_group=known.api_group)
    return path._replace(api_group=group)


def other(key: bytes, prefix: str = "/registry") -> str:
    """What a key is that `parse` finds no API object in, in a few words."""
    root = root_of(prefix)
    for beginning, name in _OTHERS.items():
        if key.startswith(beginning) and (beginning.endswith(b"/") or key == beginning):
            return name
    if not key.startswith(root):
        return f"outside of {root.decode()}"
    try:
        word, _, rest = key[len(root) :].decode().partition("/")
    except UnicodeDecodeError:
        return "not UTF-8"
    if word == "ranges" and rest in _RANGES:
        return _RANGES[rest]
    return _API_SERVERS_OWN.get(word, "no known layout")
