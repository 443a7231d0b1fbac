"""`etcd-steward registry ls`: what there is, and how much of it."""

from collections import Counter, defaultdict
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import click

from etcd_steward.cli.framework import Option, Verb
from etcd_steward.cli.output import emit, output_option, print_table
from etcd_steward.cli.registry_output import amount, namespace_option, selector_option
from etcd_steward.cli.registry_source import Looking, View, source_options
from etcd_steward.cli.running import run

if TYPE_CHECKING:  # imported within the functions, see cli/snapshot.py
    from etcd_steward.engine.sources import Wanted


@click.command(
    "ls",
    cls=Verb,
    examples="""
etcd-steward registry ls
etcd-steward registry ls -n shop --from s3://etcd-backups/prod
etcd-steward registry ls --by namespace --from etcd.db
etcd-steward registry ls deploy -n shop --ago 3m
""",
)
@click.argument("words", metavar="[RESOURCE [NAME]]", nargs=-1)
@namespace_option
@selector_option
@click.option(
    "--by",
    cls=Option,
    type=click.Choice(["resource", "namespace"]),
    default="resource",
    help="What to count by, where no RESOURCE is named.  [default: resource]",
)
@source_options()
@output_option
def ls(
    looking: Looking,
    words: tuple[str, ...],
    namespace: str | None,
    selector: str | None,
    by: str,
    output: str,
) -> None:
    """Count objects by resource or namespace; with a RESOURCE, list its objects.

    Values are read only where labels are asked for, so that this is quick on the live etcd too.
    """
    run(_ls(looking, words, namespace, selector, by, output), stopping="Stopping.")


async def _ls(
    looking: Looking,
    words: tuple[str, ...],
    namespace: str | None,
    selector: str | None,
    by: str,
    output: str,
) -> None:
    from etcd_steward.engine.objects import Reference, explain_absence  # noqa: PLC0415

    reference = Reference.parse(words, namespace)
    async with looking.view() as view:
        wanted = await reference.wanted(
            view.source, prefix=looking.prefix, at=view.at, selector=selector
        )
        if reference.resource is None:
            seen = await _count(view, wanted, by, output)
        else:
            seen = await _list(view, wanted, output)
        if not seen:
            raise await explain_absence(view.source, reference, wanted, view.at)


async def _count(view: View, wanted: "Wanted", by: str, output: str) -> int:
    from etcd_steward.engine.objects import objects  # noqa: PLC0415
    from etcd_steward.engine.top import CLUSTER, resource_of  # noqa: PLC0415

    counts: Counter[str] = Counter()
    others: dict[str, set[str | None]] = defaultdict(set)
    async with aclosing(objects(view.source, wanted, view.at, values=False)) as found:
        async for path, _ in found:
            resource, namespace = resource_of(path), path.namespace
            mine, other = (
                (resource, namespace) if by == "resource" else (namespace or CLUSTER, resource)
            )
            counts[mine] += 1
            others[mine].add(other)
    other = "namespace" if by == "resource" else "resource"
    rows = [(name, counts[name], len(others[name] - {None})) for name in sorted(counts)]
    if output != "table":
        emit([{by: name, "objects": n, f"{other}s": m} for name, n, m in rows], output)
    elif rows:
        header = (by.upper(), "OBJECTS", f"{other.upper()}S")
        print_table(header, [(name, str(n), str(m or "")) for name, n, m in rows])
        total = amount(sum(counts.values()), "object")
        click.echo(f"\n{total} in {view.where}", err=True)
    return len(rows)


async def _list(view: View, wanted: "Wanted", output: str) -> int:
    from etcd_steward.engine.objects import objects  # noqa: PLC0415
    from etcd_steward.engine.top import resource_of  # noqa: PLC0415

    rows: list[dict[str, Any]] = []
    async with aclosing(objects(view.source, wanted, view.at, values=False)) as found:
        async for path, record in found:
            rows.append(
                {
                    "namespace": path.namespace or "",
                    "resource": resource_of(path),
                    "name": path.name,
                    "modRevision": record.mod_revision,
                    "version": record.version,
                }
            )
    if output != "table":
        emit(rows, output)
    elif rows:
        header = ("NAMESPACE", "RESOURCE", "NAME", "REVISION", "CHANGES")
        print_table(header, [tuple(str(value) for value in row.values()) for row in rows])
    return len(rows)
