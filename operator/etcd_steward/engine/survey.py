"""All figures of a registry in one pass over its keys: what `registry report` draws."""

from collections import defaultdict
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass
from heapq import heappush, heapreplace
from typing import Final

from etcd_steward.engine.sources import Source, Wanted
from etcd_steward.engine.top import Per, Tallies, Tally, named, resource_and_namespace

LARGEST: Final = 15
"""Objects that are named."""


@dataclass(slots=True)
class Survey:
    """What a source holds."""

    resources: dict[str, Tally]
    """The largest first; so are the others."""
    namespaces: dict[str, Tally]
    cells: dict[str, dict[str, int]]
    """Per resource, the bytes of each namespace."""
    largest: list[tuple[str, int]]
    """Objects and their bytes."""
    total: Tally


async def survey(source: Source, at: int, prefix: str) -> Survey:
    """Read all keys and the sizes of their values; memory is bounded by resources x namespaces."""
    tallies: dict[tuple[str, str], Tally] = {}
    heap: list[tuple[int, bytes]] = []
    async with aclosing(source.sizes(Wanted(prefix=prefix), at=at)) as batches:
        async for batch in batches:
            for one in batch:
                weight = len(one.key) + one.size
                tally = tallies.setdefault(resource_and_namespace(one.key, prefix), Tally())
                tally.count, tally.size = tally.count + 1, tally.size + weight
                if len(heap) < LARGEST:
                    heappush(heap, (weight, one.key))
                elif weight > heap[0][0]:
                    heapreplace(heap, (weight, one.key))
    cells: dict[str, dict[str, int]] = defaultdict(dict)
    for (resource, namespace), tally in tallies.items():
        cells[resource][namespace] = tally.size
    return Survey(
        _summed((resource, tally) for (resource, _), tally in tallies.items()),
        _summed((namespace, tally) for (_, namespace), tally in tallies.items()),
        dict(cells),
        [(named(key, prefix), weight) for weight, key in sorted(heap, reverse=True)],
        _added(tallies.values()),
    )


def _summed(parts: Iterable[tuple[str, Tally]]) -> dict[str, Tally]:
    sums: dict[str, list[Tally]] = defaultdict(list)
    for name, tally in parts:
        sums[name].append(tally)
    added = {name: _added(tallies) for name, tallies in sums.items()}
    return dict(sorted(added.items(), key=lambda item: (-item[1].size, item[0])))


def _added(tallies: Iterable[Tally]) -> Tally:
    whole = Tally()
    for tally in tallies:
        whole.count, whole.size = whole.count + tally.count, whole.size + tally.size
    return whole


async def history_of(source: Source, at: int, prefix: str) -> Tallies | None:
    """Kept revisions per resource up to `at`, the live ones too; None where none is older."""
    oldest = await source.oldest()
    if oldest >= (at or source.revision):
        return None
    wanted = Wanted(prefix=prefix)
    tallies = Tallies(Per.RESOURCE, prefix)
    async with aclosing(source.sizes(wanted, at=oldest)) as batches:
        await tallies.add_sizes(batches)
    async with aclosing(source.changes(wanted, upto=at)) as batches_of_changes:
        async for changes in batches_of_changes:
            tallies.add_changes(changes)
    return tallies
