"""How objects and keys look: YAML and JSON as kubectl prints them."""

# ruff: noqa: ANN401  # JSON holds anything

import json
from typing import TYPE_CHECKING, Any

import click
import yaml

from etcd_steward.cli.framework import Invocation, Option

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_STRING = "tag:yaml.org,2002:str"
_Base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_Base):  # type: ignore[misc]  # whichever of the two there is
    """YAML in kubectl's style: names sorted, texts of several lines as blocks, nothing folded."""


def _text(dumper: Any, text: str) -> Any:
    style = "|" if "\n" in text else None
    if style is None and dumper.resolve(yaml.ScalarNode, text, (True, False)) != _STRING:
        style = '"'  # a number or a time but for the quotes
    return dumper.represent_scalar(_STRING, text, style=style)


_Dumper.add_representer(str, _text)


def as_yaml(found: dict[str, Any]) -> str:
    """An object as YAML."""
    text: str = yaml.dump(found, Dumper=_Dumper, allow_unicode=True, width=1 << 20, sort_keys=True)
    return text


def as_json(found: dict[str, Any]) -> str:
    """An object as JSON, by kubectl's indentation."""
    return json.dumps(found, indent=4, ensure_ascii=False, sort_keys=True)


def form_option(*forms: str) -> "Callable[[Callable[..., Any]], Callable[..., Any]]":
    """Give a verb `-o` with forms of its own, the first by default; it receives `output`."""

    def remember(ctx: click.Context, _param: click.Parameter, value: str) -> str:
        if isinstance(ctx.obj, Invocation) and value in {"json", "yaml"} and value != forms[0]:
            ctx.obj.output = value
        return value

    return click.option(
        "-o",
        "--output",
        cls=Option,
        type=click.Choice(forms),
        default=forms[0],
        is_eager=True,
        callback=remember,
        help=f"Form of the result.  [default: {forms[0]}]",
    )


def namespace_option(function: "Callable[..., Any]") -> "Callable[..., Any]":
    """Give a verb `-n`; it receives `namespace`."""
    return click.option(
        "-n", "--namespace", cls=Option, metavar="NAME", help="Only what is in this namespace."
    )(function)


def selector_option(function: "Callable[..., Any]") -> "Callable[..., Any]":
    """Give a verb `-l`; it receives `selector`."""
    return click.option(
        "-l",
        "--selector",
        cls=Option,
        metavar="LABELS",
        help="Only what has these labels, in kubectl's words: app=shop,tier!=cache.",
    )(function)


def amount(count: int, what: str) -> str:
    """`1 object`, `1,203 objects`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def share(part: int, whole: int) -> str:
    """A part of a whole: `12 %`."""
    return f"{100 * part / whole:.0f} %" if whole else ""


class ListPrinter:
    """Prints a list item by item, as JSON or YAML, and keeps none of them."""

    def __init__(self, output: str) -> None:
        self._yaml = output == "yaml"
        self._count = 0

    def print(self, items: "Iterable[object]") -> None:
        """Print some more."""
        for item in items:
            if self._yaml:
                click.echo(yaml.dump([item], Dumper=_Dumper, sort_keys=False), nl=False)
            else:
                text = json.dumps(item, ensure_ascii=False)
                click.echo(f"{',' if self._count else '['}\n  {text}", nl=False)
            self._count += 1

    def end(self) -> None:
        """Close the list."""
        if not self._yaml:
            click.echo("\n]" if self._count else "[]")
        elif not self._count:
            click.echo("[]")
