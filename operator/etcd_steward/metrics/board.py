"""All figures that the operator shows, as they were said last.

Around prometheus_client's model, not its gauges: those are set and removed one label set at a time,
so that a namespace that has left the largest ones, or a member that is gone, would have to be
remembered to be taken down. Here whoever owns figures replaces all of them at once. The page is
written here, too, byte for byte as `generate_latest` does: that sorts and escapes the labels of all
samples anew for every scrape, which took 0.2 s for 12,650 of them.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from etcd_steward.metrics.names import Family


class Sample(NamedTuple):
    """One figure."""

    family: Family
    labels: tuple[str, ...]
    """Values, in the order of the family's labels."""
    value: float


class Board(Collector):
    """Samples by owner, and counters. Read by the scrape's thread while the loop writes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._shown: dict[Hashable, tuple[Sample, ...]] = {}
        self._counted: dict[Hashable, dict[tuple[Family, tuple[str, ...]], float]] = {}
        self._live: dict[Family, Callable[[], float]] = {}
        registry.register(self)

    def show(self, owner: Hashable, samples: Iterable[Sample]) -> None:
        """Replace all that an owner has said before."""
        self._shown[owner] = tuple(samples)

    def ask(self, family: Family, answer: Callable[[], float]) -> None:
        """Show what `answer` says at the moment of each scrape, in whose thread it is called."""
        self._live[family] = answer

    def count(self, owner: Hashable, family: Family, *labels: str, by: float = 1.0) -> None:
        """Raise a counter; by 0, have it begin, so that `increase()` sees the first one."""
        counters = dict(self._counted.get(owner, {}))
        counters[family, labels] = counters.get((family, labels), 0.0) + by
        self._counted[owner] = counters

    def forget(self, owner: Hashable) -> None:
        """Take down all that an owner has said, counters too."""
        self._shown.pop(owner, None)
        self._counted.pop(owner, None)

    def collect(self) -> Iterator[Metric]:
        """All of it, as prometheus_client has it."""
        for family, samples in self._by_family().items():
            metric = Metric(family.name, family.help, family.kind)
            for _, labels, value in samples:
                told = dict(zip(family.labels, labels, strict=True))
                metric.add_sample(family.exposed, told, value)
            yield metric

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there will be depends on what there is to be shown."""
        return ()

    def page(self) -> bytes:
        """All of it in Prometheus' text format, version 0.0.4."""
        lines: list[str] = []
        for family, samples in self._by_family().items():
            text = family.help.replace("\\", r"\\").replace("\n", r"\n")
            lines.append(f"# HELP {family.exposed} {text}\n# TYPE {family.exposed} {family.kind}\n")
            lines += [
                f"{_series(family, labels)} {_number(value)}\n" for _, labels, value in samples
            ]
        return "".join(lines).encode()

    def _by_family(self) -> dict[Family, list[Sample]]:
        """A metric's samples must stand together, whoever owns them."""
        found: dict[Family, list[Sample]] = {}
        for family, answer in self._live.items():
            found[family] = [Sample(family, (), answer())]
        for samples in list(self._shown.values()):
            for sample in samples:
                found.setdefault(sample.family, []).append(sample)
        for counters in list(self._counted.values()):
            for (family, labels), value in counters.items():
                found.setdefault(family, []).append(Sample(family, labels, value))
        return found


@lru_cache(maxsize=1 << 15)
def _series(family: Family, labels: tuple[str, ...]) -> str:
    """Name and labels of a sample."""
    if not labels:
        return family.exposed
    told = sorted(zip(family.labels, labels, strict=True))
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in told)
    return f"{family.exposed}{{{inside}}}"


def _number(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
