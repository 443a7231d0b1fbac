"""`etcd-steward registry get`: objects as kubectl prints them, with no API server."""

import sys
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from etcd_steward.cli.framework import Option, Verb
from etcd_steward.cli.output import warn
from etcd_steward.cli.registry_output import (
    as_json,
    as_yaml,
    form_option,
    namespace_option,
    selector_option,
)
from etcd_steward.cli.registry_source import Looking, View, source_options
from etcd_steward.cli.running import run
from etcd_steward.cli.snapshot_find import SOMETHING_TO_LOOK_AT
from etcd_steward.errors import InvalidInput, Undecodable

if TYPE_CHECKING:  # imported within the functions, see cli/snapshot.py
    from etcd_steward.engine.objects import Reference
    from etcd_steward.engine.sources import Wanted
    from etcd_steward.models.registry import KeyPath, Record

_SOME = 10
"""Objects of one name that an error tells of."""


@click.command(
    "get",
    cls=Verb,
    examples="""
etcd-steward registry get deploy/shop/api --from s3://etcd-backups/prod
etcd-steward registry get secret db -n shop --from etcd.db -o json
etcd-steward registry get cm -n shop -l app=api --ago 3m > configmaps.yaml
""",
)
@click.argument("words", metavar="RESOURCE/NAMESPACE/NAME | RESOURCE [NAME]", nargs=-1)
@namespace_option
@selector_option
@click.option("--all", "everything", cls=Option, is_flag=True, help="Every object there is.")
@source_options()
@form_option("yaml", "json", "raw")
def get(
    looking: Looking,
    words: tuple[str, ...],
    namespace: str | None,
    selector: str | None,
    everything: bool,
    output: str,
) -> int:
    """Print objects as `kubectl get -o yaml` does, out of a backup, a file or the live etcd.

    Resources may be said as to kubectl: deployments, deploy, deployments.apps, or a custom
    resource's name. Without a NAME all objects are printed, one after the other. -o raw prints one
    value as etcd has it. An encrypted value can't be shown; the error names provider and key.
    """
    if not words and not everything:
        raise click.UsageError("say which objects: RESOURCE/NAMESPACE/NAME, RESOURCE, or --all")
    if words and everything:
        raise click.UsageError("--all means every object: leave out which ones")
    return run(_get(looking, words, namespace, selector, output), stopping="Stopping.")


async def _get(
    looking: Looking,
    words: tuple[str, ...],
    namespace: str | None,
    selector: str | None,
    output: str,
) -> int:
    from etcd_steward.engine.objects import Reference, explain_absence, objects  # noqa: PLC0415

    reference = Reference.parse(words, namespace)
    async with looking.view() as view:
        wanted = await reference.wanted(
            view.source, prefix=looking.prefix, at=view.at, selector=selector
        )
        if reference.name is not None:
            await _refuse_several(view, reference, wanted)
        printer = _Printer(output, single=reference.name is not None)
        async with aclosing(objects(view.source, wanted, view.at)) as found:
            async for path, record in found:
                printer.print(path, record)
        printer.end()
        if not printer.seen:
            raise await explain_absence(view.source, reference, wanted, view.at)
    return SOMETHING_TO_LOOK_AT if printer.unread else 0


async def _refuse_several(view: View, reference: "Reference", wanted: "Wanted") -> None:
    """One name may be meant in one namespace only."""
    from etcd_steward.engine.objects import objects  # noqa: PLC0415

    found = [path async for path, _ in objects(view.source, wanted, view.at, values=False)]
    if len(found) > 1:
        where = ", ".join(sorted(path.namespace or "no namespace" for path in found)[:_SOME])
        raise InvalidInput(
            f"{reference.resource} {reference.name!r} is in {len(found)} places: {where}",
            hint="say which by -n, or write RESOURCE/NAMESPACE/NAME",
        )


class _Printer:
    """Prints objects one after the other, none of which is kept."""

    def __init__(self, output: str, *, single: bool) -> None:
        self._output = output
        self._single = single
        self.seen = 0
        self.unread = 0

    def print(self, path: "KeyPath", record: "Record") -> None:
        """Print one. Raises `Undecodable` if it is the only one and can't be read."""
        from etcd_steward.engine.objects import printable  # noqa: PLC0415

        self.seen += 1
        if self._output == "raw":
            self._raw(record)
            return
        try:
            found, notes = printable(record)
        except Undecodable as error:
            name = "/".join(filter(None, (path.resource, path.namespace, path.name)))
            if self._single:
                told = f"{name} can't be shown: {error.message}"
                raise Undecodable(told, hint=error.hint) from error
            self.unread += 1
            warn(f"{name} is left out: {error.message}")
            return
        for note in notes:
            warn(f"{path.resource} {path.name}: {note}")
        self._text(found)

    def _raw(self, record: "Record") -> None:
        if self.seen > 1:
            raise InvalidInput("-o raw prints one value", hint="name one object")
        sys.stdout.buffer.write(record.value)

    def _text(self, found: dict[str, object]) -> None:
        first = self.seen - self.unread == 1
        if self._output == "yaml":
            click.echo(("" if first else "---\n") + as_yaml(found), nl=False)
        elif self._single:
            click.echo(as_json(found))
        else:
            text = "\n".join(f"        {line}" for line in as_json(found).splitlines())
            head = '{\n    "apiVersion": "v1",\n    "items": [\n' if first else ",\n"
            click.echo(head + text, nl=False)

    def end(self) -> None:
        """Close the list."""
        if self._output == "json" and not self._single and self.seen > self.unread:
            click.echo('\n    ],\n    "kind": "List"\n}')
