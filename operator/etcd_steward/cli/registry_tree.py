"""`etcd-steward registry tree`: what lies under what."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from etcd_steward.cli.framework import Verb
from etcd_steward.cli.output import emit, output_option
from etcd_steward.cli.registry_output import amount, namespace_option
from etcd_steward.cli.registry_source import Looking, View, source_options
from etcd_steward.cli.running import run
from etcd_steward.errors import InvalidInput

if TYPE_CHECKING:  # imported within the functions, see cli/snapshot.py
    from etcd_steward.engine.family import Node
    from etcd_steward.engine.objects import Reference
    from etcd_steward.engine.sources import Wanted


@click.command(
    "tree",
    cls=Verb,
    examples="""
etcd-steward registry tree
etcd-steward registry tree -n shop --from s3://etcd-backups/prod
etcd-steward registry tree deploy/shop/api --ago 3m
""",
)
@click.argument("words", metavar="[RESOURCE/NAMESPACE/NAME]", nargs=-1)
@namespace_option
@source_options()
@output_option
def tree(looking: Looking, words: tuple[str, ...], namespace: str | None, output: str) -> None:
    """Show namespaces and the resources in them; of one namespace, its objects by their owners.

    An owner is who stands in ownerReferences, as the controller if there is one: Pods below their
    ReplicaSet, that below its Deployment. With an object, only what it owns.
    """
    run(_tree(looking, words, namespace, output), stopping="Stopping.")


async def _tree(
    looking: Looking, words: tuple[str, ...], namespace: str | None, output: str
) -> None:
    from etcd_steward.engine.objects import Reference, explain_absence  # noqa: PLC0415

    reference = Reference.parse(words, namespace)
    if reference.resource is not None and None in {reference.namespace, reference.name}:
        raise InvalidInput(
            f"{' '.join(words)!r} is not one object of a namespace",
            hint="write RESOURCE/NAMESPACE/NAME",
        )
    async with looking.view() as view:
        wanted = await reference.wanted(view.source, prefix=looking.prefix, at=view.at)
        if reference.namespace is None:
            seen = await _namespaces(view, wanted, output)
        else:
            seen = await _owners(view, reference, wanted, output)
        if not seen:
            raise await explain_absence(view.source, reference, wanted, view.at)


async def _namespaces(view: View, wanted: "Wanted", output: str) -> bool:
    from etcd_steward.engine.objects import objects  # noqa: PLC0415
    from etcd_steward.engine.top import CLUSTER, resource_of  # noqa: PLC0415

    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    async with aclosing(objects(view.source, wanted, view.at, values=False)) as found:
        async for path, _ in found:
            counts[path.namespace or CLUSTER][resource_of(path)] += 1
    if output != "table":
        ordered = {name: dict(sorted(inner.items())) for name, inner in sorted(counts.items())}
        emit(ordered, output)
        return bool(counts)
    for name, inner in sorted(counts.items()):
        click.echo(f"{name}  {amount(inner.total(), 'object')}")
        width = max(map(len, inner))
        lines = [f"{resource:<{width}}  {n}" for resource, n in sorted(inner.items())]
        for line in _branches([(line, ()) for line in lines]):
            click.echo(line)
    return bool(counts)


async def _owners(view: View, reference: "Reference", wanted: "Wanted", output: str) -> bool:
    from etcd_steward.engine.family import family, find  # noqa: PLC0415
    from etcd_steward.engine.objects import Reference, objects  # noqa: PLC0415

    source, at = view.source, view.at
    whole = await Reference(namespace=reference.namespace).wanted(
        source, prefix=wanted.prefix, at=at
    )
    async with aclosing(objects(source, whole, at)) as found:
        nodes = await family(found)
    if reference.resource is not None:
        one = objects(source, wanted, at, values=False)
        here = [find(nodes, path) async for path, _ in one]
        nodes = [node for node in here if node is not None]
    if output != "table":
        emit([node.as_data() for node in nodes], output)
        return bool(nodes)
    for node in nodes:
        click.echo(_titled(node))
        for line in _branches([(_titled(inner), inner.owned) for inner in node.owned]):
            click.echo(line)
    return bool(nodes)


def _titled(node: "Node") -> str:
    return f"{node.title}  ({node.note})" if node.note else node.title


def _branches(items: "Sequence[tuple[str, Sequence[Node]]]", indent: str = "") -> Iterator[str]:
    """Lines of a tree."""
    for number, (title, owned) in enumerate(items, 1):
        last = number == len(items)
        yield f"{indent}{'└── ' if last else '├── '}{title}"
        inner = [(_titled(node), node.owned) for node in owned]
        yield from _branches(inner, indent + ("    " if last else "│   "))
