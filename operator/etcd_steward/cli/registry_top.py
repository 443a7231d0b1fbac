"""`etcd-steward registry top`: who fills etcd, and who writes it."""

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from etcd_steward.cli.framework import Option, Verb
from etcd_steward.cli.output import emit, output_option, print_table
from etcd_steward.cli.registry_output import namespace_option, share
from etcd_steward.cli.registry_source import LIVE, Looking, View, source_options
from etcd_steward.cli.running import run
from etcd_steward.cli.values import DURATION
from etcd_steward.units import size

if TYPE_CHECKING:  # imported within the functions, see cli/snapshot.py
    from etcd_steward.engine.sources import Wanted
    from etcd_steward.engine.top import Tallies

_BY = ("keys", "bytes", "history", "writes")
_PER = ("resource", "namespace", "object", "manager")
_WORD = {"keys": "KEYS", "bytes": "KEYS", "history": "REVISIONS", "writes": "WRITES"}


@click.command(
    "top",
    cls=Verb,
    examples="""
etcd-steward registry top --by bytes
etcd-steward registry top --by bytes --per object --from s3://etcd-backups/prod
etcd-steward registry top --by history --per namespace --from etcd.db
etcd-steward registry top --by writes --per manager --for 30s
""",
)
@click.option(
    "--by", cls=Option, type=click.Choice(_BY), default="bytes", help="What counts.  [bytes]"
)
@click.option(
    "--per", cls=Option, type=click.Choice(_PER), default="resource", help="Whose.  [resource]"
)
@click.option(
    "--for",
    "seconds",
    cls=Option,
    type=DURATION,
    default=30.0,
    metavar="DURATION",
    help="How long --by writes watches.  [default: 30s]",
)
@click.option("--limit", cls=Option, type=click.IntRange(min=1), default=20, help="Lines.  [20]")
@namespace_option
@source_options()
@output_option
def top(
    looking: Looking,
    by: str,
    per: str,
    seconds: float,
    limit: int,
    namespace: str | None,
    output: str,
) -> None:
    """Show what has the most keys, bytes, history or writes.

    `history` counts all revisions since the last compaction, which fill the database file until the
    next one. `writes` watches the live etcd for a while: who is writing my etcd? A manager is
    who wrote last, by the object's managedFields.
    """
    if by == "writes" and looking.url not in {None, LIVE}:
        raise click.UsageError("--by writes watches the live etcd: leave out --from")
    if by == "writes" and looking.back:
        raise click.UsageError(
            "--by writes watches the live etcd from now on: leave out --at and --ago"
        )
    work = _top(looking, by, per, seconds, namespace)
    where, tallies, watched = run(work, stopping="Stopping.")
    _print(where, tallies, by, per, watched, limit, output)


async def _top(
    looking: Looking, by: str, per: str, seconds: float, namespace: str | None
) -> "tuple[str, Tallies, float | None]":
    from etcd_steward.engine.sources import Wanted  # noqa: PLC0415
    from etcd_steward.engine.top import Per, Tallies  # noqa: PLC0415
    from etcd_steward.models.registry import Filter  # noqa: PLC0415

    include = Filter(namespaces=() if namespace is None else (namespace,))
    wanted = Wanted(include, prefix=looking.prefix)
    tallies = Tallies(Per(per), looking.prefix)
    async with looking.view(history=by == "history") as view:
        if by == "writes":
            return view.source.name, tallies, await _watch(view, wanted, tallies, seconds)
        if by == "history":
            await _history(view, wanted, tallies)
        elif per == "manager":
            async with aclosing(view.source.records(wanted, at=view.at)) as batches:
                await tallies.add_records(batches)
        else:
            async with aclosing(view.source.sizes(wanted, at=view.at)) as batches:
                await tallies.add_sizes(batches)
        return view.where, tallies, None


async def _history(view: View, wanted: "Wanted", tallies: "Tallies") -> None:
    """What lived when the history began, and all that came since, up to the moment looked at."""
    oldest = await view.source.oldest()
    async with aclosing(view.source.records(wanted, at=oldest)) as batches:
        await tallies.add_records(batches)
    async with aclosing(view.source.changes(wanted, upto=view.at)) as history:
        async for changes in history:
            tallies.add_changes(changes)


async def _watch(view: View, wanted: "Wanted", tallies: "Tallies", seconds: float) -> float:
    from etcd_steward.engine.live_source import LiveSource  # noqa: PLC0415

    assert isinstance(view.source, LiveSource)  # noqa: S101  # there is no --from
    click.echo(f"Watching the live etcd for {seconds:g} s ...", err=True)
    started = asyncio.get_running_loop().time()
    async with aclosing(view.source.watch(wanted)) as watched:
        try:
            async with asyncio.timeout(seconds):
                async for changes in watched:
                    tallies.add_changes(changes)
        except TimeoutError:
            pass
    return asyncio.get_running_loop().time() - started


def _print(
    where: str,
    tallies: "Tallies",
    by: str,
    per: str,
    watched: float | None,
    limit: int,
    output: str,
) -> None:
    from etcd_steward.engine.top import By  # noqa: PLC0415

    rows = tallies.largest(By(by), limit)
    total = tallies.total
    if output != "table":
        counted = _WORD[by].lower()
        listed = [
            {per: name, counted: one.count, "bytes": one.size, "deletions": one.deletions}
            for name, one in rows
        ]
        emit(listed, output)
        return
    header = [per.upper(), _WORD[by], "BYTES", "SHARE"]
    lines = [
        [
            name,
            f"{one.count:,}",
            size(one.size),
            share(one.size, total.size) if by == "bytes" else share(one.count, total.count),
        ]
        for name, one in rows
    ]
    if watched is not None:
        header.insert(2, "PER SECOND")
        for line, (_, one) in zip(lines, rows, strict=True):
            line.insert(2, f"{one.count / watched:.1f}")
    print_table(header, lines)
    more = len(tallies.owners) - len(rows)
    rest = f", {more:,} more not shown" if more > 0 else ""
    counted = _WORD[by].lower()
    click.echo(f"\n{total.count:,} {counted}, {size(total.size)} in {where}{rest}", err=True)
