"""A dashboard's panels as one SVG: what the documentation shows of real figures."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 1000
COLUMNS: Final = 2
_GAP: Final = 24
_PANEL: Final = (WIDTH - _GAP * (COLUMNS + 1)) / COLUMNS
_HEIGHT: Final = 250
_PLOT: Final = (70.0, 44.0, _PANEL - 14, _HEIGHT - 62.0)
"""Left, top, right and bottom of where lines are drawn, within a panel."""
_LINES: Final = 6
"""So many series of a panel are drawn, the largest ones."""
_COLOURS: Final = ("#1f77b4", "#d95f02", "#2ca02c", "#9467bd", "#8c564b", "#7f7f7f")
_STYLE: Final = """
  svg { background: #ffffff; font: 13px system-ui, sans-serif; }
  .panel { fill: #fafafa; stroke: #d0d0d0; }
  .title { font-weight: 600; font-size: 15px; fill: #222222; }
  .scale, .legend { fill: #555555; }
  .grid { stroke: #e2e2e2; }
  .line { fill: none; stroke-width: 2; }
""".rstrip()


@dataclass(frozen=True, slots=True)
class Drawn:
    """A series with its name in the legend."""

    name: str
    values: Sequence[tuple[float, float]]
    """Seconds since 1970, and the figure then."""


@dataclass(frozen=True, slots=True)
class Chart:
    """One panel."""

    title: str
    unit: str
    """Grafana's name for it."""
    lines: Sequence[Drawn]


def draw(charts: Sequence[Chart], title: str) -> str:
    """Return the SVG, all panels over the same time."""
    moments = [at for chart in charts for line in chart.lines for at, _ in line.values]
    begin, end = min(moments), max(moments)
    rows = -(-len(charts) // COLUMNS)
    height = rows * (_HEIGHT + _GAP) + _GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{html.escape(title)}</title>",
        f"<style>{_STYLE}\n</style>",
    ]
    for number, chart in enumerate(charts):
        x = _GAP + number % COLUMNS * (_PANEL + _GAP)
        y = _GAP + number // COLUMNS * (_HEIGHT + _GAP)
        parts.append(f'<g transform="translate({x:g} {y:g})">')
        parts += _panel(chart, begin, end)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def _panel(chart: Chart, begin: float, end: float) -> list[str]:
    left, top, right, bottom = _PLOT
    lines = sorted(chart.lines, key=lambda line: -max(value for _, value in line.values))[:_LINES]
    most = max((value for line in lines for _, value in line.values), default=0) or 1.0
    parts = [
        f'<rect class="panel" width="{_PANEL:g}" height="{_HEIGHT}" rx="4"/>',
        f'<text class="title" x="14" y="26">{html.escape(chart.title)}</text>',
    ]
    for part in (0.0, 0.5, 1.0):
        y = bottom - (bottom - top) * part
        parts.append(f'<path class="grid" d="M{left:g} {y:.1f}H{right:g}"/>')
        label = html.escape(figure(most * part, chart.unit))
        parts.append(f'<text class="scale" x="8" y="{y + 4:.1f}">{label}</text>')
    span = max(end - begin, 1.0)
    for number, line in enumerate(lines):
        points = " ".join(
            f"{left + (right - left) * (at - begin) / span:.1f},"
            f"{bottom - (bottom - top) * value / most:.1f}"
            for at, value in line.values
        )
        colour = _COLOURS[number]
        parts.append(f'<polyline class="line" stroke="{colour}" points="{points}"/>')
    parts.append(_scale(f"{span:.0f} s", right, bottom + 18, end="end"))
    parts.append(_scale("0 s", left, bottom + 18))
    return [*parts, *_legend(lines)]


def _scale(text: str, x: float, y: float, *, end: str = "start") -> str:
    return f'<text class="scale" x="{x:g}" y="{y:g}" text-anchor="{end}">{text}</text>'


def _legend(lines: Sequence[Drawn]) -> list[str]:
    parts, x = [], 14.0
    y = _HEIGHT - 14
    for number, line in enumerate(lines):
        parts.append(
            f'<rect x="{x:g}" y="{y - 10}" width="10" height="10" fill="{_COLOURS[number]}"/>'
        )
        parts.append(f'<text class="legend" x="{x + 15:g}" y="{y}">{html.escape(line.name)}</text>')
        x += 15 + 7.5 * len(line.name) + 16
    return parts


def figure(value: float, unit: str) -> str:
    """A figure with its unit, as Grafana would shorten it."""
    if unit == "percentunit":
        return f"{value * 100:.0f} %"
    if unit == "s":
        return f"{value:.0f} s"
    base, names = (1024, ("B", "KiB", "MiB", "GiB")) if unit == "bytes" else (1000, ("", "K", "M"))
    for name in names:
        if value < base or name == names[-1]:
            return f"{value:.3g} {name}".strip()
        value /= base
    raise AssertionError("there is always a last name")
