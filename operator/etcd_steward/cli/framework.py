"""click, taught the habits of etcdctl's users.

pflag, which etcdctl and kubectl parse with, takes flags before as well as after the verb, `-o=json`
and `--flag=false`; click takes none of these. A small normaliser in front of click's own parser
adds them, and help texts show flags in sections and end in examples.
"""

# ruff: noqa: ANN401  # what click hands on has no narrower type

import importlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import click
from click.core import ParameterSource

_SHORT_WITH_EQUALS = re.compile(r"^(-[A-Za-z])=(.*)$", re.DOTALL)
_GO_TRUE = frozenset({"1", "t", "T", "true", "True", "TRUE"})
_GO_FALSE = frozenset({"0", "f", "F", "false", "False", "FALSE"})


class Invocation:
    """What one call of the program has learnt, for whoever reports its end (`Context.obj`)."""

    def __init__(self) -> None:
        self.output = "table"
        """Value of `-o`: errors are also printed as an object for `json` and `yaml`."""


class Option(click.Option):
    """An option that belongs to a section of the help text.

    `exclusive_env` follows etcdctl: a variable that is set beside its flag is an error, since one
    of the two would be ignored silently. An empty variable counts as not set.
    """

    def __init__(
        self, *args: Any, section: str = "Options", exclusive_env: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.section = section
        self._exclusive_env = exclusive_env

    def consume_value(
        self, ctx: click.Context, opts: Mapping[str, Any]
    ) -> tuple[Any, ParameterSource]:
        """Take the value from the flag or the variable, and refuse both at once."""
        value, source = super().consume_value(ctx, opts)
        variable = self.envvar
        if (
            self._exclusive_env
            and source is ParameterSource.COMMANDLINE
            and isinstance(variable, str)
            and os.environ.get(variable)
        ):
            raise click.UsageError(
                f"conflicting environment variable {variable!r} is shadowed by the flag "
                f"{self.opts[0]!r}: unset the variable or leave out the flag",
                ctx,
            )
        return value, source


class Verb(click.Command):
    """A command whose options stand in sections and whose help ends in examples."""

    def __init__(self, *args: Any, examples: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Rewrite pflag's forms into click's, then parse."""
        return super().parse_args(ctx, list(_click_forms(self, ctx, args)))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section in the order of their first appearance."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                name = param.section if isinstance(param, Option) else "Options"
                sections.setdefault(name, []).append(record)
        sections["Options"] = sections.pop("Options", [])
        for name, records in sections.items():
            with formatter.section(name):
                formatter.write_dl(records)

    def format_epilog(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are, unwrapped, to be copied from the screen."""
        write_examples(formatter, self.examples)


class Verbs(click.Group):
    """A group of verbs that takes its verbs' flags before the verb as well."""

    def __init__(self, *args: Any, examples: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Move flags that stand before the verb behind it, then parse."""
        return super().parse_args(ctx, self._verb_first(ctx, args))

    def _verb_first(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {name for param in self.get_params(ctx) for name in param.opts}
        kept: list[str] = []
        moved: list[str] = []
        rest = list(args)
        while rest and rest[0].startswith("-") and rest[0] not in ("-", "--"):
            token = rest.pop(0)
            name, equals, _ = token.partition("=")
            if name in own:
                kept.append(token)
                continue
            option = self._option(ctx, name)
            if option is None:
                raise click.NoSuchOption(name, ctx=ctx)
            moved.append(token)
            if not (equals or option.is_flag) and rest:
                moved.append(rest.pop(0))
        if not rest:
            if moved and not ctx.resilient_parsing:
                raise click.UsageError("Missing command.", ctx)
            return kept
        return [*kept, rest[0], *moved, *rest[1:]]

    def _option(self, ctx: click.Context, name: str) -> click.Option | None:
        for command in self._commands(ctx):
            if isinstance(command, Verbs):
                option = command._option(ctx, name)  # noqa: SLF001  # the same class
                if option is not None:
                    return option
                continue
            for param in command.get_params(ctx):
                if isinstance(param, click.Option) and name in (*param.opts, *param.secondary_opts):
                    return param
        return None

    def _commands(self, ctx: click.Context) -> Iterator[click.Command]:
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None:
                yield command

    def format_epilog(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, and whatever the epilog says about exit codes."""
        write_examples(formatter, self.examples)
        if self.epilog:
            formatter.write("\n" + self.epilog.rstrip() + "\n")


class LazyVerbs(Verbs):
    """Verbs whose modules are imported when they are needed: help and completion stay quick."""

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        """Take, for each verb, its `module:attribute` and its one line of help."""
        super().__init__(*args, **kwargs)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the verbs in the order of their declaration."""
        return [*self._lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb."""
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}:{attribute} is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        others = super().list_commands(ctx)
        records = [(name, help_text) for name, (_, help_text) in self._lazy.items()]
        records += [(name, self.commands[name].get_short_help_str(80)) for name in others]
        with formatter.section("Commands"):
            formatter.write_dl(records)


def write_examples(formatter: click.HelpFormatter, examples: str) -> None:
    """Write a section of examples, one a line."""
    with formatter.section("Examples"):
        for line in examples.strip().splitlines():
            formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def _click_forms(command: click.Command, ctx: click.Context, args: list[str]) -> Iterator[str]:
    """Translate `-o=json` and `--flag=false`; everything after `--` is left alone."""
    flags = {
        name: param
        for param in command.get_params(ctx)
        if isinstance(param, click.Option) and param.is_flag
        for name in param.opts
    }
    rest = iter(args)
    for word in rest:
        if word == "--":
            yield word
            yield from rest
            return
        if match := _SHORT_WITH_EQUALS.match(word):
            yield match[1]
            yield match[2]
            continue
        name, equals, value = word.partition("=")
        if not (equals and name in flags):
            yield word
        elif value in _GO_TRUE:
            yield name
        elif value in _GO_FALSE:
            yield from flags[name].secondary_opts[:1]
        else:
            raise click.BadParameter(
                f"{value!r} is neither true nor false.", ctx=ctx, param=flags[name]
            )
