"""Who owns what in a plan, and what the garbage collector would take again.

It deletes an object all of whose owners are gone, and gone is an owner that is not there under its
name or has another uid (kubernetes `pkg/controller/garbagecollector/garbagecollector.go`,
`isDangling`).
"""

from collections.abc import Iterable, Mapping
from typing import Final

from etcd_steward.engine.restore.drafts import Draft
from etcd_steward.engine.restore.facts import DefinitionFacts
from etcd_steward.engine.restore.live import Live
from etcd_steward.registry.nicknames import BUILTIN_WORDS
from etcd_steward.registry.objectmeta import OwnerReference

_SHOWN: Final = 3


async def solid_uids(
    drafts: Iterable[Draft], live: Live, definitions: Mapping[str, DefinitionFacts]
) -> frozenset[str]:
    """The owners' uids that are there now."""
    wanted: dict[bytes, set[str]] = {}
    for draft in drafts:
        for owner in draft.meta.owner_references if draft.meta else ():
            for key in _keys_of(owner, draft.namespace, live.root, definitions):
                wanted.setdefault(key, set()).add(owner.uid)
    seen = await live.look(sorted(wanted))
    return frozenset(
        one.uid for key, one in seen.items() if one.uid is not None and one.uid in wanted[key]
    )


def _keys_of(
    owner: OwnerReference,
    namespace: str | None,
    root: bytes,
    definitions: Mapping[str, DefinitionFacts],
) -> list[bytes]:
    """Where an owner may lie: in its dependent's namespace, or in none."""
    group = owner.api_version.rpartition("/")[0]
    known = BUILTIN_WORDS.get(owner.kind.lower())
    if known is not None and known.api_group == group:
        within = f"{namespace}/" if known.namespaced else ""
        return [root + f"{known.path}/{within}{owner.name}".encode()]
    return [
        root + f"{group}/{one.plural}/{within}{owner.name}".encode()
        for one in definitions.values()
        if (one.group, one.kind) == (group, owner.kind)
        for within in {f"{namespace}/" if namespace else "", ""}
    ]


def check(drafts: Iterable[Draft], solid: frozenset[str]) -> None:
    """Block what has owners and none that will be there."""
    every = list(drafts)
    owned = [one for one in every if one.meta and one.meta.owner_references]
    while True:
        there = _there(every, solid)
        gone = [one for one in owned if one.verdict == "create" and not _held(one, there)]
        if not gone:
            return
        for one in gone:
            _leave(one)


def notes(drafts: Iterable[Draft], solid: frozenset[str]) -> None:
    """Tell of owners that are gone where others are left; once everything else is decided."""
    every = list(drafts)
    check(every, solid)
    there = _there(every, solid)
    for one in every:
        if one.write and one.meta:
            missing = [owner for owner in one.meta.owner_references if owner.uid not in there]
            if missing:
                one.notes.append(f"an owner of it is gone: {_names(missing)}")


def _there(drafts: Iterable[Draft], solid: frozenset[str]) -> frozenset[str]:
    """The uids that will be there."""
    return solid | {
        one.uid
        for one in drafts
        if one.uid and (one.write or one.verdict in {"identical", "differs"})
    }


def _held(draft: Draft, there: frozenset[str]) -> bool:
    return any(owner.uid in there for owner in draft.meta.owner_references) if draft.meta else True


def _leave(draft: Draft) -> None:
    assert draft.meta is not None  # noqa: S101  # it has owners
    owners = draft.meta.owner_references
    if all(owner.kind in {"Pod", "Job", "Node"} for owner in owners):
        draft.exclude("LeftToOthers", f"it goes with {_names(owners)}, which is not there any more")
        return
    draft.block(
        "DanglingOwner",
        f"its owner is neither there nor restored ({_names(owners)}): the garbage collector would "
        "take it again. Restore the owner with it",
    )


def _names(owners: Iterable[OwnerReference]) -> str:
    names = [f"{owner.kind} {owner.name}" for owner in owners]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
