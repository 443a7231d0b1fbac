"""Pictures as SVG that needs nothing else: a treemap and a line, coloured by a style sheet.

Coordinates are in a box of 1000 units' width, and the browser scales it to the screen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import squarify

from etcd_steward.units import size

WIDTH: Final = 1000
_LEAST: Final = 0.004
"""Share of the whole below which things are drawn together."""
_HUES: Final = 8
_FEWEST: Final = 6
"""Letters for which there must be room: fewer tell nothing."""


@dataclass(frozen=True, slots=True)
class Shape:
    """For which screens a picture is. In units."""

    name: str
    height: int
    character: float
    """Width of a character of a label, in "namespaces" and a wide font: nothing is cut."""
    line: float
    """From one line of a label to the next."""


WIDE: Final = Shape("wide", 540, 10.8, 20)
TALL: Final = Shape("tall", 1500, 21.6, 38)
"""For phones: as the screen scales it down, its letters are larger."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A rectangle of a treemap."""

    x: float
    y: float
    width: float
    height: float
    hue: int
    """Number of its colour."""
    label: str
    """Empty where there is no room for it."""
    value: str
    title: str
    """What a pointer that rests on it reads."""
    line: float = 0
    """Height of a line of its label; 0: it is a part, within the frame of its whole."""

    @property
    def frame(self) -> bool:
        """Whether it is drawn around its parts."""
        return self.line > 0


def treemap(parts: Mapping[str, Mapping[str, int]], shape: Shape) -> list[Cell]:
    """Rectangles for `parts` and what is in each, their areas in proportion.

    The largest parts have a colour each; the rest shares one.
    """
    whole = sum(sum(inner.values()) for inner in parts.values())
    sums = {name: sum(inner.values()) for name, inner in parts.items()}
    outer = _gathered(sums, whole)
    cells: list[Cell] = []
    for number, (name, box) in enumerate(_boxes(outer, 0, 0, WIDTH, shape.height)):
        hue = number % _HUES if number < _HUES else _HUES
        inner = _gathered(dict(parts[name]), whole) if name in parts else {"": outer[name]}
        cells += _cells(name, inner, box, hue, shape)
    return cells


def _gathered(values: Mapping[str, int], whole: int) -> dict[str, int]:
    """The largest first, and what is too small to be seen as one."""
    ordered = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    kept = {name: value for name, value in ordered if value >= _LEAST * whole}
    small = {name: value for name, value in ordered if name not in kept and value}
    if len(small) == 1:
        return kept | small
    return kept | ({f"{len(small)} smaller": sum(small.values())} if small else {})


_Box = tuple[float, float, float, float]


def _boxes(
    values: Mapping[str, int], x: float, y: float, width: float, height: float
) -> list[tuple[str, _Box]]:
    if not values or width <= 0 or height <= 0:
        return []
    areas = squarify.normalize_sizes(list(values.values()), width, height)
    found = squarify.squarify(areas, x, y, width, height)
    return [
        (name, (one["x"], one["y"], one["dx"], one["dy"]))
        for name, one in zip(values, found, strict=True)
    ]


def _cells(name: str, inner: Mapping[str, int], box: _Box, hue: int, shape: Shape) -> list[Cell]:
    x, y, width, height = box
    told = size(sum(inner.values()))
    cells = [
        Cell(*place, hue, "", "", f"{name}  {part}: {size(inner[part])}")
        for part, place in _boxes(inner, x, y, width, height)
    ]
    label = _fitting(name, width, shape) if height >= 1.3 * shape.line else ""
    room = height >= 2.4 * shape.line and len(told) * shape.character <= width
    value = told if label and room else ""
    return [*cells, Cell(x, y, width, height, hue, label, value, f"{name}: {told}", shape.line)]


def _fitting(name: str, width: float, shape: Shape) -> str:
    """The name, or without its group, or its beginning, or nothing."""
    room, resource = int((width - 12) / shape.character), name.partition(".")[0]
    for text in (name, resource):
        if len(text) <= room:
            return text
    return f"{resource[: room - 2]}…" if room >= _FEWEST and " " not in name else ""


@dataclass(frozen=True, slots=True)
class Line:
    """A line over time."""

    points: str
    """As SVG wants them."""
    area: str
    """The same, closed below."""
    dots: tuple[tuple[float, float, str], ...]
    marks: tuple[tuple[float, str], ...]
    """Heights of lines behind it, and what they mean."""
    first: str
    last: str


def line(values: Sequence[tuple[datetime, int]], height: int) -> Line | None:
    """Bytes over time; None for fewer than two moments."""
    if len({moment for moment, _ in values}) < 2:
        return None
    begin, end = values[0][0], values[-1][0]
    most = max(1, *(value for _, value in values))
    span = (end - begin).total_seconds()
    dots = tuple(
        (
            round(WIDTH * (moment - begin).total_seconds() / span, 1),
            round(height - height * value / most * 0.94, 1),
            f"{moment:%Y-%m-%d %H:%M}Z: {size(value)}",
        )
        for moment, value in values
    )
    points = " ".join(f"{x},{y}" for x, y, _ in dots)
    marks = tuple(
        (round(height - height * part * 0.94, 1), size(round(most * part))) for part in (0.5, 1.0)
    )
    return Line(
        points,
        f"0,{height} {points} {WIDTH},{height}",
        dots if len(dots) <= 60 else (),
        marks,
        f"{begin:%Y-%m-%d %H:%M}Z",
        f"{end:%Y-%m-%d %H:%M}Z",
    )
