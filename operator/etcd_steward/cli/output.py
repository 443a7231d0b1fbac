"""What a verb says on standard output: a table for people, JSON or YAML for programs.

Standard output carries results only. Progress, warnings and errors go to standard error; with
`-o json` or `yaml` an error is also printed as an object `{"error": {...}}`, so that a program gets
the reason, and not only the exit code.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from etcd_steward.cli.framework import Invocation, Option
from etcd_steward.errors import StewardError

FORMATS = ("table", "json", "yaml")


def output_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb `-o`; it receives `output`."""

    def remember(ctx: click.Context, _param: click.Parameter, value: str) -> str:
        if isinstance(ctx.obj, Invocation):
            ctx.obj.output = value
        return value

    option = click.option(
        "-o",
        "--output",
        cls=Option,
        type=click.Choice(FORMATS),
        default="table",
        is_eager=True,
        callback=remember,
        help="Form of the result.  [default: table]",
    )
    return option(function)


def emit(data: object, output: str) -> None:
    """Print a result as JSON or YAML."""
    if output == "json":
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))
        return
    import yaml  # noqa: PLC0415  # wanted by few calls

    click.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), nl=False)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns as kubectl does: never cut, never wrapped."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        return "   ".join(map(str.ljust, row, widths)).rstrip()

    click.secho(line(header), bold=True)
    if rows:
        click.echo("\n".join(map(line, rows)))  # at once: each call flushes


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print names and values below each other, leaving out empty ones."""
    shown = [(name, value) for name, value in fields if value]
    width = max(len(name) for name, _ in shown) + 1
    for name, value in shown:
        click.echo(f"{f'{name}:':<{width}}  {value}")


def warn(message: str) -> None:
    """Say on standard error what a person should know though the verb goes on."""
    click.echo(f"{click.style('Warning:', fg='yellow')} {message}", err=True)


def sentence(hint: str) -> str:
    """A hint as it stands on a line of its own; what begins it may be copied, such as a path."""
    word = hint.partition(" ")[0].rstrip(":")
    return hint if "/" in word or ":" in word else hint[0].upper() + hint[1:]


def print_error(error: StewardError, output: str) -> None:
    """Say what went wrong and, on a line of its own, what to do next."""
    click.echo(f"{click.style('Error:', fg='red')} {error.message}", err=True)
    if error.hint:
        click.echo(sentence(error.hint), err=True)
    if output != "table":
        told = {
            "reason": error.reason,
            "message": error.message,
            "hint": error.hint,
            "exitCode": error.exit_code,
        }
        emit({"error": told}, output)
