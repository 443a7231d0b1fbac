"""How far a run is: a bar on a terminal, now and then a line where there is none."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from etcd_steward.cli.framework import Option
from etcd_steward.cli.output import warn
from etcd_steward.units import size

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from etcd_steward.models.run import Journal, Progress

_PATIENCE = 2.0
"""Seconds that a run may take without a word where there is no terminal."""
_EVERY = 5.0
"""Seconds between two lines after that."""
_WORDS = {
    "Connecting": "Looking at the members",
    "WaitingForRoom": "Waiting for room in the spool",
    "WaitingForMaintenance": "Waiting for maintenance",
    "Streaming": "Reading from etcd",
    "Exporting": "Reading from etcd",
    "Uploading": "Uploading",
    "ReadingBack": "Reading back",
    "Fetching": "Fetching",
    "Proving": "Proving",
    "Recording": "Recording",
    "Indexing": "Indexing",
    "Hashing": "Hashing",
    "Planning": "Planning",
    "Reading": "Reading the source",
    "Comparing": "Comparing with what is there",
    "Claiming": "Claiming",
    "Saving": "Saving the way back",
    "Writing": "Writing",
    "Updating": "Writing anew by the API",
    "Watching": "Waiting to look again",
    "Deleting": "Deleting",
    "PuttingBack": "Putting back",
    "TakingSnapshot": "Taking a snapshot",
    "Weighing": "Adding up what lives",
    "Compacting": "Compacting",
    "WaitingForRescue": "Waiting for another rescue",
    "ProvingWrites": "Trying a write",
    "WaitingForSnapshot": "Waiting for a snapshot",
    "MovingLeader": "Moving the leader",
    "Defragmenting": "Defragmenting",
    "Settling": "Settling",
}


def progress_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb `--no-progress`; it receives `progress`."""
    option = click.option(
        "--no-progress",
        "progress",
        cls=Option,
        flag_value=False,
        default=True,
        type=bool,
        help="Say nothing until the end.",
    )
    return option(function)


class _Quiet:
    """Warnings only."""

    def progress(self, progress: "Progress") -> None:
        """Say nothing."""

    def warning(self, message: str) -> None:
        """Say it on standard error."""
        warn(message)

    def say(self, line: str) -> None:
        """Say nothing."""

    async def journal(self, journal: "Journal") -> None:
        """Do nothing: the spool holds the journal of a run that has no operator."""

    def settled(self) -> None:
        """Do nothing: the spool forgets the journal."""


class _Lines(_Quiet):
    """One plain line every few seconds."""

    def __init__(self) -> None:
        self._next: float | None = None

    def progress(self, progress: "Progress") -> None:
        """Say a line if it is time for one."""
        now = time.monotonic()
        if self._next is None:
            self._next = now + _PATIENCE
        elif now >= self._next:
            self._next = now + _EVERY
            click.echo(in_words(progress), err=True)

    def say(self, line: str) -> None:
        """Say a line of its own."""
        click.echo(line, err=True)


class _Bar(_Quiet):
    """One line of a terminal, which disappears at the end."""

    def __init__(self, bars: "Bars") -> None:
        self._bars = bars
        self._task = bars.add_task(_WORDS["Connecting"], total=None, amount="")

    def progress(self, progress: "Progress") -> None:
        """Move the bar."""
        done, total, amount = _amount(progress)
        self._bars.update(
            self._task,
            description=_WORDS.get(progress.step, progress.step),
            completed=done,
            total=total,
            amount=amount,
        )

    def warning(self, message: str) -> None:
        """Say it above the bar."""
        self._bars.console.print(
            "[yellow]Warning:[/yellow] ", end="", soft_wrap=True, highlight=False
        )
        self._bars.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
        """Say a line above the bar."""
        self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def reporting(*, progress: bool) -> Iterator[_Quiet]:
    """Make the report that suits standard error, for as long as the body runs."""
    if not progress:
        yield _Quiet()
    elif not sys.stderr.isatty():
        yield _Lines()
    else:
        from rich.console import Console  # noqa: PLC0415  # a fifth of a second, for terminals only
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
        )

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[amount]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            yield _Bar(bars)


def _amount(progress: "Progress") -> tuple[int, int | None, str]:
    """What to show of a step: how much of how much, and the same in words."""
    if progress.step in ("Streaming", "Exporting", "Fetching", "Writing") or (
        progress.step == "ReadingBack" and progress.stored_bytes == 0
    ):
        return _part(progress.raw_bytes, progress.total_bytes)
    if progress.step == "Uploading":
        return 0, None, f"{size(progress.stored_bytes)} stored"
    return 0, None, ""


def _part(done: int, total: int) -> tuple[int, int | None, str]:
    if total == 0:
        return 0, None, size(done)
    return done, total, f"{size(done)} of {size(total)}"


def in_words(progress: "Progress") -> str:
    """Say in one line how far a run is."""
    word = _WORDS.get(progress.step, progress.step)
    _, _, amount = _amount(progress)
    return f"{word}: {amount}" if amount else f"{word} ..."
