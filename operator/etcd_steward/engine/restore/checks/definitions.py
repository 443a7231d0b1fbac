"""Custom resources whose definition is missing, or may drop the version that they are in.

A custom resource in a version that its definition drops some day makes the list of its kind fail,
and with it the deletion of every namespace, garbage collection and quotas. A version that is in
`status.storedVersions` can't be dropped.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from etcd_steward.engine.restore.drafts import Draft
from etcd_steward.engine.restore.facts import DefinitionFacts
from etcd_steward.registry.paths import BUILTINS

if TYPE_CHECKING:  # aiohttp: slow
    from etcd_steward.kube_discovery import Served

DEFINITIONS = "customresourcedefinitions.apiextensions.k8s.io"


def custom(draft: Draft) -> bool:
    """Whether it is an object of a resource that does not come with Kubernetes."""
    if draft.path is None:
        return False
    known = BUILTINS.get(draft.path.resource)
    return known is None or known.api_group != draft.path.api_group


def check(
    drafts: Iterable[Draft], definitions: Mapping[str, DefinitionFacts], served: "Served | None"
) -> None:
    """Block what nobody could read. `definitions`: by name, those live and those of the plan."""
    for one in drafts:
        if not one.write or not custom(one) or one.path is None:
            continue
        found = definitions.get(one.resource)
        version = (one.header[1] or "").rpartition("/")[2]
        if found is None:
            if served is not None and served.find(one.resource) is not None:
                continue  # newer than our table, or an aggregated API server's
            if f"/{one.path.api_group}/".encode() not in one.key:  # no custom resource's key
                one.block(
                    "UnknownResource",
                    f"nobody here knows {one.resource}, and no API server says that it serves it",
                )
                continue
            one.block(
                "NoDefinition",
                f"there is no CustomResourceDefinition {one.resource}: restore it first, or with "
                f"it (resources: customresourcedefinitions, names: {one.resource})",
            )
        elif version not in found.versions:
            one.block(
                "VersionGone",
                f"it is stored as {version}, which its definition has no more (it has "
                f"{_list(found.versions)}): all {one.resource} would become unreadable. Restore "
                "it through the API (via: API), from a backup whose version is still served",
            )
        elif version not in found.stored:
            one.block(
                "VersionNotStored",
                f"it is stored as {version}, which its definition may drop at any time (stored "
                f"are {_list(found.stored)}): restore it through the API (via: API)",
            )


def _list(words: Iterable[str]) -> str:
    return ", ".join(sorted(words)) or "none"
