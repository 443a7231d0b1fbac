"""What flags may say: Go's durations, and sizes as Kubernetes writes them."""

import re
from decimal import Decimal

import click

_GO_UNITS = {
    "ns": Decimal("1e-9"),
    "us": Decimal("1e-6"),
    "µs": Decimal("1e-6"),
    "μs": Decimal("1e-6"),
    "ms": Decimal("1e-3"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
}
_GO_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_SIZE = re.compile(r"^(\d+(?:\.\d+)?)(|k|M|G|T|Ki|Mi|Gi|Ti)$")
_SIZE_UNITS = {
    "": 1,
    **{unit: 1000**n for n, unit in enumerate(("k", "M", "G", "T"), 1)},
    **{unit: 1024**n for n, unit in enumerate(("Ki", "Mi", "Gi", "Ti"), 1)},
}


def parse_duration(text: str) -> float:
    """Seconds of a positive duration in Go's syntax, such as `1m30s`; ValueError if it is none."""
    seconds, at = Decimal(0), 0
    while match := _GO_PART.match(text, at):
        seconds += Decimal(match[1]) * _GO_UNITS[match[2]]
        at = match.end()
    if at == 0 or at < len(text) or seconds <= 0:
        raise ValueError(text)
    return float(seconds)


def parse_size(text: str) -> int:
    """Bytes of a positive size such as `2Gi`; ValueError if it is none."""
    match = _SIZE.match(text)
    size = int(Decimal(match[1]) * _SIZE_UNITS[match[2]]) if match else 0
    if size <= 0:
        raise ValueError(text)
    return size


class Duration(click.ParamType[float]):
    """A duration as etcdctl takes it."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return seconds."""
        if isinstance(value, float):
            return value
        try:
            return parse_duration(str(value))
        except ValueError:
            self.fail(f"{value!r} is no duration such as 5s, 1m30s or 500ms.", param, ctx)


class Size(click.ParamType[int]):
    """A number of bytes."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return bytes."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(str(value))
        except ValueError:
            self.fail(f"{value!r} is no size such as 500Mi, 2Gi or 1000000.", param, ctx)


DURATION = Duration()
SIZE = Size()


def human_age(seconds: float) -> str:
    """An age for people, as kubectl shows it: `45s`, `12m`, `7h`, `3d`."""
    seconds = max(0, int(seconds))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
