"""Resources by the words that kubectl takes: plural, singular, kind, short name, with a group too.

Those of custom resources come from the CustomResourceDefinitions of the same registry.
"""

import re
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from etcd_steward.engine.sources import Source, Wanted
from etcd_steward.errors import NotFound, Undecodable
from etcd_steward.models.registry import Filter
from etcd_steward.registry.decode import decode
from etcd_steward.registry.nicknames import BUILTIN_WORDS
from etcd_steward.registry.paths import FORMER_GROUPS, Builtin

_VERSION: Final = re.compile(r"\.v\d+((alpha|beta)\d+)?(\.|$)")
"""kubectl takes a version, too: `deployments.v1.apps`. A key does not tell it."""


@dataclass(frozen=True, slots=True)
class _Custom:
    """A custom resource as its definition names it."""

    words: frozenset[str]
    resource: str
    group: str


async def resource_named(word: str, source: Source, *, prefix: str, at: int) -> str:
    """The resource that a word means, as filters take it: `pods`, `deployments.apps`.

    What has a `*`, or a group that is defined nowhere, is taken as it is. Raises `NotFound` with
    the nearest words.
    """
    return (await resources_named(word, (source,), prefix=prefix, at=at))[0]


async def resources_named(
    word: str, sources: Sequence[Source], *, prefix: str, at: int
) -> tuple[str, ...]:
    """The same for several sources, of which each may define what others don't: all it means."""
    wanted = word.lower()
    if "*" in wanted:
        return (wanted,)
    plain, _, group = _VERSION.sub(".", wanted, count=1).rstrip(".").partition(".")
    builtin = BUILTIN_WORDS.get(plain)
    if builtin is not None and _of_group(builtin, group):
        return (f"{builtin.resource}.{builtin.api_group}".rstrip("."),)
    defined = [await _custom(source, prefix, at) for source in sources]
    found = (_meant(custom, plain, group) for custom in defined)
    if meant := tuple(dict.fromkeys(one for one in found if one is not None)):
        return meant
    if group:
        return (wanted,)
    known = [*BUILTIN_WORDS, *(word for custom in defined for one in custom for word in one.words)]
    near = ", ".join(get_close_matches(plain, known, n=3))
    raise NotFound(
        f"no resource is called {word!r}, neither in Kubernetes nor by a CustomResourceDefinition "
        f"in {' or '.join(source.name for source in sources)}",
        hint=f"do you mean {near}?" if near else "`etcd-steward registry ls` shows what there is",
    )


def _meant(custom: Iterable[_Custom], plain: str, group: str) -> str | None:
    for one in custom:
        if plain in one.words and one.group.startswith(group):
            return f"{one.resource}.{one.group}"
    return None


def _of_group(builtin: Builtin, group: str) -> bool:
    return not group or group in FORMER_GROUPS or bool(builtin.api_group.startswith(group))


async def _custom(source: Source, prefix: str, at: int) -> list[_Custom]:
    wanted = Wanted(
        Filter(resources=("customresourcedefinitions.apiextensions.k8s.io",)), prefix=prefix
    )
    found: list[_Custom] = []
    async with aclosing(source.records(wanted, at=at)) as batches:
        async for batch in batches:
            found += [one for record in batch if (one := _defined(record.value)) is not None]
    return found


def _defined(value: bytes) -> _Custom | None:
    try:
        spec: Any = decode(value).object.get("spec", {})
        names, group = spec["names"], spec["group"]
        words = (names["plural"], names.get("singular", ""), names["kind"].lower())
        short = names.get("shortNames") or ()
        return _Custom(frozenset({*words, *short} - {""}), names["plural"], group)
    except (Undecodable, KeyError, TypeError, AttributeError):  # no definition that could be used
        return None
