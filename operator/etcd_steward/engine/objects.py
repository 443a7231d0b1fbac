"""Objects as a person reads them: found by the words that kubectl takes, printed as it prints."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from etcd_steward.engine.sources import Source, Wanted, place
from etcd_steward.engine.words import resource_named
from etcd_steward.errors import InvalidInput, NotFound, Undecodable
from etcd_steward.models.registry import Filter, KeyPath, Record
from etcd_steward.registry.decode import decode

_TOLD = 20
"""Names in an error."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Which objects somebody means, in their own words."""

    resource: str | None = None
    namespace: str | None = None
    name: str | None = None

    @classmethod
    def parse(cls, words: Sequence[str], namespace: str | None) -> "Reference":
        """`RESOURCE`, `RESOURCE NAME`, `RESOURCE/NAME` or `RESOURCE/NAMESPACE/NAME`."""
        parts = [part for word in words for part in word.split("/")]
        if len(parts) > 3 or not all(parts):
            raise InvalidInput(
                f"{' '.join(words)!r} names no object",
                hint="write RESOURCE/NAMESPACE/NAME, such as deploy/shop/api, or RESOURCE NAME",
            )
        if len(parts) == 3:
            if namespace not in {None, parts[1]}:
                raise InvalidInput(f"{' '.join(words)!r} is not in namespace {namespace!r}")
            return cls(parts[0], parts[1], parts[2])
        resource, name = [*parts, None, None][:2]
        return cls(resource, namespace, name)

    async def wanted(
        self, source: Source, *, prefix: str, at: int, selector: str | None = None
    ) -> Wanted:
        """The keys that are meant. Raises `NotFound` for a resource that nobody knows."""
        resources: tuple[str, ...] = ()
        if self.resource is not None:
            resources = (await resource_named(self.resource, source, prefix=prefix, at=at),)
        include = Filter(
            resources=resources,
            namespaces=() if self.namespace is None else (self.namespace,),
            names=() if self.name is None else (self.name,),
            label_selector=selector,
        )
        return Wanted(include, prefix=prefix)


def printable(record: Record) -> tuple[dict[str, Any], tuple[str, ...]]:
    """An object as `kubectl get -o json` has it, and what could not be shown of it.

    Raises `Undecodable` where the value is encrypted, no object, or can't be printed.
    """
    decoded = decode(record.value)
    try:
        json.dumps(decoded.object, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Undecodable("a text in it holds half a character, which can't be printed") from error
    metadata = decoded.object.get("metadata")
    shown = dict(metadata) if isinstance(metadata, dict) else {}
    shown["resourceVersion"] = str(record.mod_revision)
    return {**decoded.object, "metadata": shown}, decoded.notes


async def objects(
    source: Source, wanted: Wanted, at: int, *, values: bool = True
) -> AsyncGenerator[tuple[KeyPath, Record], None]:
    """Every object that is meant, in the source's order; without `values`, with empty ones."""
    async with aclosing(source.records(wanted, at=at, values=values)) as batches:
        async for batch in batches:
            for record in batch:
                path = place(record.key, record.value, wanted.prefix)
                if path is not None:
                    yield path, record


async def namespaces(source: Source, prefix: str, at: int) -> list[str]:
    """The namespaces that a source knows: by their own objects, or else by what lies in them."""
    names = {
        path.name async for path in _paths(source, Filter(resources=("namespaces",)), prefix, at)
    }
    if not names:  # an export may have left them out
        names = {
            path.namespace
            async for path in _paths(source, Filter(names=("*",)), prefix, at)
            if path.namespace is not None
        }
    return sorted(names)


async def _paths(
    source: Source, include: Filter, prefix: str, at: int
) -> AsyncGenerator[KeyPath, None]:
    """Where the objects are that a filter lets in."""
    found = objects(source, Wanted(include, prefix=prefix), at, values=False)
    async with aclosing(found) as pairs:
        async for path, _ in pairs:
            yield path


async def explain_absence(
    source: Source, reference: Reference, wanted: Wanted, at: int
) -> NotFound:
    """Why nothing was found, in words that help to find it."""
    where = f"{source.name} at revision {at or source.revision}"
    known = await namespaces(source, wanted.prefix, at)
    if not known and not await _holds_objects(source, wanted.prefix, at):
        return NotFound(
            f"there is no Kubernetes registry under {wanted.prefix} in {where}",
            hint="`etcd-steward registry keys` shows what there is; name the API server's "
            "--etcd-prefix by --registry-prefix",
        )
    if reference.namespace is not None and reference.namespace not in known:
        return NotFound(
            f"there is no namespace {reference.namespace!r} in {where}",
            hint=f"there are {_some(known, reference.namespace)}",
        )
    what = wanted.include.resources[0] if wanted.include.resources else "object"
    within = f" in namespace {reference.namespace}" if reference.namespace else ""
    if reference.name is None:
        return NotFound(f"there are no {what}{within} in {where}")
    others = wanted.include.model_copy(update={"names": (), "label_selector": None})
    names = {path.name async for path in _paths(source, others, wanted.prefix, at)}
    return NotFound(
        f"there is no {what} {reference.name!r}{within} in {where}",
        hint=f"there are {_some(sorted(names), reference.name)}" if names else "",
    )


async def _holds_objects(source: Source, prefix: str, at: int) -> bool:
    async with aclosing(_paths(source, Filter(names=("*",)), prefix, at)) as found:
        async for _ in found:
            return True
    return False


def _some(names: Sequence[str], near: str) -> str:
    """Names, those first that are like what was said."""
    alike = get_close_matches(near, names, n=3)
    ordered = [*alike, *(name for name in names if name not in alike)]
    more = f" and {len(ordered) - _TOLD} more" if len(ordered) > _TOLD else ""
    return ", ".join(ordered[:_TOLD]) + more if ordered else "none"
