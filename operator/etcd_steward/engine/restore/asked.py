"""What is asked for: whether it can be meant, is there, and is this cluster's."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

from etcd_steward.engine.objects import Reference, explain_absence
from etcd_steward.engine.objects import namespaces as namespaces_of
from etcd_steward.engine.restore.drafts import Draft
from etcd_steward.engine.restore.live import Live
from etcd_steward.engine.sources import Source, Wanted
from etcd_steward.errors import InvalidInput, NoSuchNamespace, Refused
from etcd_steward.models.registry import Filter
from etcd_steward.models.restore import RestoreOptions, SourceRef
from etcd_steward.registry import envelope

_TOLD: Final = 20
_IDENTITY: Final = b"namespaces/kube-system"
"""The Namespace whose uid follows a cluster's data wherever it goes."""


def check(options: RestoreOptions) -> None:
    """Raise `InvalidInput` for options that can't be meant."""
    if options.include == Filter():
        raise InvalidInput(
            "nothing is named that should come back",
            hint="name namespaces, resources, names or key prefixes; a whole cluster is restored "
            "by `etcd-steward restore cluster`",
        )
    if options.namespace_mapping and options.via == "Registry":
        raise InvalidInput(
            "raw keys can't be restored into another namespace: it is in the values, too",
            hint="restore through the API: via: API",
        )


def narrowed(include: Filter) -> bool:
    """Whether less than whole namespaces is asked for."""
    return bool(
        include.names or include.resources or include.label_selector or include.key_prefixes
    )


async def same_cluster(
    source: Source, ref: SourceRef, live: Live, options: RestoreOptions
) -> list[str]:
    """What to know of a source that is not surely of this cluster.

    Raises `Refused` for one that is of another, unless that is what is meant.
    """
    if ref.live:
        return []
    key = live.root + _IDENTITY
    here = (await live.get([key])).get(key)
    uid = envelope.header(here.value)[3] if here is not None else None
    theirs = ref.kube_system_uid
    if theirs is None:
        at = ref.revision if ref.revision != source.revision else 0
        record = (await source.fetch([key], at=at)).get(key)
        theirs = envelope.header(record.value)[3] if record is not None else None
    if uid is not None and theirs is not None:
        if uid == theirs:
            return []
        told = f"it is of the cluster whose kube-system has the uid {theirs}; here it has {uid}"
    elif ref.cluster_id == live.cluster_id:
        return []
    elif ref.cluster_id is not None:
        told = f"it is of etcd cluster {ref.cluster_id}; this one is {live.cluster_id}"
    else:
        return [f"nothing in {ref.name} tells which cluster it is of: be sure that it is this one"]
    if options.other_cluster:
        return [f"{ref.name} is another cluster's: {told}"]
    raise Refused(
        f"{ref.name} is another cluster's: {told}",
        hint="its uids, addresses and volumes mean nothing here. If it is what you mean, say so "
        "(--other-cluster, or otherCluster: true)",
    )


async def found(
    source: Source, options: RestoreOptions, drafts: Sequence[Draft], prefix: str, at: int
) -> None:
    """Raise `NotFound` where what is asked for is not in the source, and say what is."""
    include = options.include
    seen = {one.namespace for one in drafts}
    seen |= {one.name for one in drafts if one.resource == "namespaces"}
    missing = [one for one in include.namespaces if "*" not in one and one not in seen]
    where = f"{source.name} at revision {at or source.revision}"
    if missing:
        what = f"there is no namespace {', '.join(missing)} in {where}"
        raise await no_such_namespace(what, missing, source, prefix, at)
    if all(one.related for one in drafts) and (narrowed(include) or not drafts):
        reference = Reference(*(words[0] if words else None for words in _words(include)))
        raise await explain_absence(source, reference, Wanted(include, prefix=prefix), at)


async def no_such_namespace(
    what: str, missing: Sequence[str], source: Source, prefix: str, at: int
) -> NoSuchNamespace:
    """An error that says which namespaces there are, those first that are like the missing."""
    known = await namespaces_of(source, prefix, at)
    near = [alike for one in missing for alike in get_close_matches(one, known, n=3)]
    names = list(dict.fromkeys([*near, *known]))
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    error = NoSuchNamespace(what, hint=f"there are {', '.join(names[:_TOLD]) or 'none'}{more}")
    error.names = tuple(missing)
    return error


def _words(include: Filter) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    return include.resources, include.namespaces, include.names
