"""`registry report`: one page of pictures that opens anywhere, made of a survey.

The page is HTML with its style and its drawings in itself. It needs no network and no script, so it
can be mailed, attached to a ticket and read on a phone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from etcd_steward import __version__
from etcd_steward.engine.charts import TALL, WIDE, Line, line, treemap
from etcd_steward.engine.survey import Survey
from etcd_steward.engine.times import in_words
from etcd_steward.engine.top import By, Tallies, Tally
from etcd_steward.etcd.member import MemberStatus
from etcd_steward.models.manifest import Manifest
from etcd_steward.units import size

_ROWS: Final = 15
_CHART: Final = 300
"""Height of a line's picture, in units."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table, with a bar."""

    name: str
    figures: tuple[str, ...]
    share: float
    """Of the longest bar."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a file."""

    kind: str
    """Its class in the page's style: `used`, `free` or `room`."""
    name: str
    size: str
    share: float


@dataclass(frozen=True, slots=True)
class File:
    """A database file, and what is in it."""

    title: str
    parts: tuple[Part, ...]
    in_words: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Something over time."""

    name: str
    line: Line


@dataclass(frozen=True, slots=True)
class Subject:
    """What a page is about."""

    name: str
    revision: int
    moment: datetime | None
    """When that was, or a little before; None where nothing tells."""
    by: str
    """What tells it."""
    oldest: int


def page(
    subject: Subject,
    found: Survey,
    history: Tallies | None,
    files: Sequence[File],
    backups: Sequence[Manifest],
    made: datetime,
) -> str:
    """The page, as HTML."""
    environment = Environment(
        loader=PackageLoader("etcd_steward.engine", "pages"),
        autoescape=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("report.html").render(
        facts=_facts(subject, found, history, backups, made),
        maps=[(shape.name, shape.height, treemap(found.cells, shape)) for shape in (WIDE, TALL)],
        resources=_rows(found.resources.items()),
        namespaces=_rows(found.namespaces.items()),
        largest=_largest(found),
        history=[] if history is None else _rows(history.largest(By.HISTORY, _ROWS), by_count=True),
        files=files,
        growth=_growth(backups),
    )


def _facts(
    subject: Subject,
    found: Survey,
    history: Tallies | None,
    backups: Sequence[Manifest],
    made: datetime,
) -> Mapping[str, Any]:
    objects = [name for name in found.resources if not name.startswith("(")]
    figures = [
        ("Keys", f"{found.total.count:,}"),
        ("Keys and values", size(found.total.size)),
        ("Resources", str(len(objects))),
        ("Namespaces", str(sum(not name.startswith("(") for name in found.namespaces))),
    ]
    told = ""
    if history is not None:
        total = history.total
        figures.append(("Kept revisions", f"{total.count:,}"))
        told = f"{total.count:,} revisions, {size(total.size)}, of {found.total.count:,} live keys"
    clusters = f"{len(backups):,} backups" if backups else ""
    return {
        "source": subject.name,
        "revision": subject.revision,
        "moment": in_words(subject.moment) if subject.moment is not None else "",
        "by": subject.by,
        "oldest": subject.oldest,
        "figures": figures,
        "history": told,
        "backups": clusters,
        "version": __version__,
        "made": in_words(made),
    }


def _rows(items: Iterable[tuple[str, Tally]], *, by_count: bool = False) -> list[Row]:
    """The largest ones, and what the others have together, which gets no bar."""
    rows = list(items)
    longest = max((_weight(tally, by_count=by_count) for _, tally in rows), default=0) or 1
    shown = [
        Row(name, _figures(tally), _weight(tally, by_count=by_count) / longest)
        for name, tally in rows[:_ROWS]
    ]
    if len(rows) > _ROWS:
        rest = Tally()
        for _, tally in rows[_ROWS:]:
            rest.count, rest.size = rest.count + tally.count, rest.size + tally.size
        shown.append(Row(f"({len(rows) - _ROWS} others)", _figures(rest), 0))
    return shown


def _figures(tally: Tally) -> tuple[str, ...]:
    return f"{tally.count:,}", size(tally.size)


def _weight(tally: Tally, *, by_count: bool) -> int:
    return tally.count if by_count else tally.size


def _largest(found: Survey) -> list[Row]:
    longest = found.largest[0][1] if found.largest else 1
    return [Row(name, (size(weight),), weight / longest) for name, weight in found.largest]


def member_file(member: MemberStatus) -> File:
    """A member's database: in use, free within the file, and what its quota leaves."""
    used, free = member.db_size_in_use, member.db_size - member.db_size_in_use
    room = max(0, member.db_size_quota - member.db_size)
    parts = [("used", "In use", used), ("free", "Free inside, defragmentation returns it", free)]
    if member.db_size_quota:
        parts.append(("room", "Left of the quota", room))
    percent = 100 * free / member.db_size if member.db_size else 0
    return _file(
        f"Database of {member.name or member.endpoint}",
        parts,
        f"{size(member.db_size)}, of which {percent:.0f} % are free inside.",
    )


def snapshot_file(name: str, total: int, found: Survey, history: Tallies) -> File:
    """A snapshot: what lives, what is kept of the past, and the rest."""
    past = max(0, history.total.size - found.total.size)
    rest = max(0, total - found.total.size - past)
    parts = [
        ("used", "Live keys and values", found.total.size),
        ("free", "Older revisions", past),
        ("room", "Pages, free ones too", rest),
    ]
    return _file(f"Database in {name}", parts, f"{size(total)} in all.")


def _file(title: str, parts: Sequence[tuple[str, str, int]], in_words: str) -> File:
    whole = sum(count for _, _, count in parts) or 1
    shown = tuple(Part(kind, name, size(count), count / whole) for kind, name, count in parts)
    return File(title, shown, in_words)


def _growth(backups: Sequence[Manifest]) -> list[Chart]:
    """Of each backup name, how large the database was."""
    names = dict.fromkeys(f"{one.backup.namespace}.{one.backup.name}" for one in backups)
    charts = []
    for name in names:
        its = [one for one in backups if f"{one.backup.namespace}.{one.backup.name}" == name]
        for what, values in (
            ("database", [(one.tick, one.raw_size) for one in its]),
            ("in the store", [(one.tick, one.stored_size) for one in its]),
        ):
            drawn = line(values, _CHART)
            if drawn is not None:
                charts.append(Chart(f"{name}, {what}", drawn))
    return charts
