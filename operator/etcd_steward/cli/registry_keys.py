"""`etcd-steward registry keys`: every key of etcd, one a line."""

import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import click

from etcd_steward.cli.framework import Verb
from etcd_steward.cli.registry_output import ListPrinter, form_option
from etcd_steward.cli.registry_source import Looking, View, source_options
from etcd_steward.cli.running import run

if TYPE_CHECKING:  # imported within the functions, see cli/snapshot.py
    from collections.abc import AsyncGenerator

    from etcd_steward.models.registry import Record


@click.command(
    "keys",
    cls=Verb,
    examples="""
etcd-steward registry keys
etcd-steward registry keys --from etcd.db | grep ^/registry/events/
etcd-steward registry keys /registry/secrets/ --from s3://etcd-backups/prod -o json
""",
)
@click.argument("prefix", required=False)
@source_options()
@form_option("text", "json", "yaml")
def keys(looking: Looking, prefix: str | None, output: str) -> None:
    r"""Print every key, or those that begin with PREFIX, in order, one a line.

    Keys outside of the Kubernetes registry are there, too. What is no printable text is escaped,
    such as \xff, and a backslash is doubled. -o json and yaml say of each key what it is.
    """
    run(_keys(looking, prefix, output), stopping="Stopping.")


async def _keys(looking: Looking, prefix: str | None, output: str) -> None:
    from etcd_steward.engine.top import escaped  # noqa: PLC0415

    printer = ListPrinter(output) if output != "text" else None
    async with looking.view() as view, aclosing(_sorted(view, looking.prefix, prefix)) as batches:
        async for batch in batches:
            if printer is None:
                sys.stdout.write("".join(f"{escaped(record.key)}\n" for record in batch))
            else:
                printer.print(_described(record, looking.prefix) for record in batch)
    if printer is not None:
        printer.end()


async def _sorted(
    view: View, registry: str, prefix: str | None
) -> "AsyncGenerator[list[Record], None]":
    from etcd_steward.engine.sources import Wanted  # noqa: PLC0415
    from etcd_steward.models.registry import Filter  # noqa: PLC0415

    wanted = Wanted(Filter(key_prefixes=(prefix,) if prefix else ()), prefix=registry)
    found = view.source.records(wanted, at=view.at, values=False)
    async with aclosing(found) as batches:
        if view.source.ordered:
            async for batch in batches:
                yield batch
        else:
            yield sorted([record async for batch in batches for record in batch])


def _described(record: "Record", registry: str) -> dict[str, Any]:
    from etcd_steward.engine.top import escaped  # noqa: PLC0415
    from etcd_steward.registry import paths  # noqa: PLC0415

    path = paths.parse(record.key, registry)
    what = path._asdict() if path is not None else {"other": paths.other(record.key, registry)}
    names = {"api_group": "group"}
    return {
        "key": escaped(record.key),
        **{names.get(name, name): value for name, value in what.items() if value is not None},
        "createRevision": record.create_revision,
        "modRevision": record.mod_revision,
        "version": record.version,
        "lease": f"{record.lease & (1 << 64) - 1:x}",
    }
