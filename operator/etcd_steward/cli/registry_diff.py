"""`etcd-steward registry diff`: what differs between two backups, or a backup and the live etcd."""

from collections import Counter
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, Any

import click

from etcd_steward.cli.framework import Option, Verb
from etcd_steward.cli.output import output_option
from etcd_steward.cli.registry_output import ListPrinter, amount, namespace_option, selector_option
from etcd_steward.cli.registry_source import LIVE, Looking, source_options
from etcd_steward.cli.running import run
from etcd_steward.cli.snapshot_find import SOMETHING_TO_LOOK_AT

if TYPE_CHECKING:  # imported within the functions, see cli/snapshot.py
    from etcd_steward.engine.diff import Diff, Difference
    from etcd_steward.engine.fields import FieldChange

_RESTLESS = ("events", "leases.coordination.k8s.io")
"""What changes by itself, all the time, and is told only if it is asked for."""
_SIGNS = {"added": ("+", "green"), "removed": ("-", "red"), "replaced": ("!", "magenta")}


@click.command(
    "diff",
    cls=Verb,
    examples="""
etcd-steward registry diff s3://etcd-backups/prod -n shop
etcd-steward registry diff monday.db tuesday.db --resource secrets
etcd-steward registry diff s3://etcd-backups/prod live -o json
""",
)
@click.argument("before", metavar="SNAPSHOT")
@click.argument("after", metavar="[SNAPSHOT]", default=LIVE)
@namespace_option
@selector_option
@click.option(
    "--resource", cls=Option, metavar="RESOURCE", help="Only objects of it, as kubectl names it."
)
@click.option(
    "--all",
    "everything",
    cls=Option,
    is_flag=True,
    help="Also Events and Leases, which change all the time, and keys that are no objects.",
)
@click.option("--show-secrets", cls=Option, is_flag=True, help="Show what Secrets hold.")
@source_options(when=False, named=False)
@output_option
def diff(  # noqa: PLR0917  # one for each flag, all passed by name
    looking: Looking,
    before: str,
    after: str,
    namespace: str | None,
    selector: str | None,
    resource: str | None,
    everything: bool,
    show_secrets: bool,
    output: str,
) -> int:
    """Show what differs between two backups, or a backup and the live etcd, field by field.

    Each SNAPSHOT is a snapshot's URL, a store's, a file, or `live`, which is what the second one
    means if it is left out. Secrets are compared, and masked. Exits with 4 if anything differs.
    """
    filters = (namespace, selector, resource, everything)
    work = _diff(looking, before, after, filters, output, show_secrets=show_secrets)
    return SOMETHING_TO_LOOK_AT if run(work, stopping="Stopping.") else 0


async def _diff(
    looking: Looking,
    before: str,
    after: str,
    filters: tuple[str | None, str | None, str | None, bool],
    output: str,
    *,
    show_secrets: bool,
) -> int:
    from etcd_steward.engine.diff import Diff, Side  # noqa: PLC0415
    from etcd_steward.engine.objects import Reference, explain_absence  # noqa: PLC0415
    from etcd_steward.engine.sources import Wanted  # noqa: PLC0415
    from etcd_steward.engine.words import resources_named  # noqa: PLC0415
    from etcd_steward.models.registry import Filter  # noqa: PLC0415

    namespace, selector, resource, everything = filters
    async with AsyncExitStack() as stack:
        one = Side(await stack.enter_async_context(looking.opened(before)), 0)
        other = Side(await stack.enter_async_context(looking.opened(after)), 0)
        resources: tuple[str, ...] = ()
        if resource is not None:
            sources = (one.source, other.source)
            resources = await resources_named(resource, sources, prefix=looking.prefix, at=0)
        include = Filter(
            namespaces=(namespace,) if namespace else (),
            resources=resources,
            names=() if everything else ("*",),
            label_selector=selector,
        )
        exclude = None if everything or resource else Filter(resources=_RESTLESS)
        wanted = Wanted(include, exclude, prefix=looking.prefix)
        found = Diff(one, other, wanted, show_secrets=show_secrets)
        counts = await _print(found, output)
        if not found.compared.before and not found.compared.after:
            reference = Reference(resource, namespace)
            raise await explain_absence(one.source, reference, wanted, one.at)
    if output == "table":
        told = ", ".join(f"{counts[fate]} {fate}" for fate in sorted(counts)) or "Nothing differs"
        sizes = f"{found.compared.before:,} and {amount(found.compared.after, 'key')} compared"
        left_out = "" if exclude is None else ", without Events and Leases"
        click.echo(f"\n{told} ({sizes}{left_out})\n< {one.where}\n> {other.where}", err=True)
    return counts.total()


async def _print(found: "Diff", output: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    printer = None if output == "table" else ListPrinter(output)
    async with aclosing(found.differences()) as differences:
        async for one in differences:
            counts[one.fate] += 1
            if printer is None:
                _echo(one)
            else:
                printer.print([_as_data(one)])
    if printer is not None:
        printer.end()
    return counts


def _echo(one: "Difference") -> None:
    sign, colour = _SIGNS.get(one.fate, ("~", "yellow"))
    click.secho(f"{sign} {one.title}", fg=colour)
    if one.fate == "replaced":
        click.echo("    another object of the same name: it was deleted and created anew")
    for field in one.fields:
        click.echo(f"    {in_words(field)}")
    if one.note:
        click.echo(f"    {one.note}")


def in_words(field: "FieldChange") -> str:
    """`spec.replicas: 2 -> 5`."""
    from etcd_steward.engine.fields import shown  # noqa: PLC0415

    return f"{field.path}: {shown(field.before)} -> {shown(field.after)}"


def _as_data(one: "Difference") -> dict[str, Any]:
    from etcd_steward.engine.fields import as_data  # noqa: PLC0415
    from etcd_steward.engine.top import escaped, resource_of  # noqa: PLC0415

    data: dict[str, Any] = {"fate": one.fate, "key": escaped(one.key)}
    if one.path is not None:
        data |= {"resource": resource_of(one.path), "name": one.path.name}
        data |= {"namespace": one.path.namespace} if one.path.namespace else {}
    if one.fields:
        data["fields"] = [as_data(field) for field in one.fields]
    return data | ({"note": one.note} if one.note else {})
