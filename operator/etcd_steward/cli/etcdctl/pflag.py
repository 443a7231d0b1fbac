"""Flags as etcdctl parses them: pflag's syntax, Go's values, and the errors of both.

click would say the same things in other words, and with other exit codes; a script that tells
etcdctl's failures apart must not see a difference. Flags are declared as click's options all the
same, so that help and completion work as with every other verb.
"""

# ruff: noqa: ANN401  # what click hands on has no narrower type

from collections.abc import Callable, Mapping
from typing import Any

import click

from etcd_steward.cli.etcdctl.errors import EtcdctlError
from etcd_steward.cli.etcdctl.govalues import go_bool, go_strings
from etcd_steward.cli.etcdctl.quoting import quoted
from etcd_steward.cli.framework import Option, Verb

DASH = "etcd_steward.cli.etcdctl.dash"
"""Key in `Context.meta`: how many words stand before `--`; None without one."""


class Flag(Option):
    """A flag of etcdctl's: its value is Go's, and it may be a variable as well."""

    def __init__(
        self,
        *args: Any,
        go: Callable[[str], Any] = str,
        unset: Any = "",
        variable: str | None = None,
        **kwargs: Any,
    ) -> None:
        kind = {"is_flag": True} if go is go_bool else {"type": _Go(go)}
        super().__init__(*args, default=unset, **kind, **kwargs)
        self.go = go
        self.variable = variable

    def names(self) -> str:
        """As pflag names it in an error: `-w, --write-out`."""
        return ", ".join(sorted(self.opts, key=len))


class _Go(click.ParamType[Any]):
    """What a function of `govalues` makes of a word."""

    name = "text"

    def __init__(self, go: Callable[[str], Any]) -> None:
        self._go = go

    def convert(
        self, value: Any, _param: click.Parameter | None, _ctx: click.Context | None
    ) -> Any:
        """The value; a default is one already."""
        return self._go(value) if isinstance(value, str) else value


def flag(*names: str, **kwargs: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a `Flag` of a verb."""
    return click.option(*names, cls=Flag, **kwargs)


class EtcdctlVerb(Verb):
    """A verb whose command line is read as etcdctl reads it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read it by pflag's rules, and hand click what leaves no question open."""
        line = _Line(self.get_params(ctx), lenient=ctx.resilient_parsing)
        line.read(args)
        ctx.meta[DASH] = line.dash
        return super().parse_args(ctx, line.plain())


class _Line:
    """One command line, read word by word."""

    def __init__(self, params: list[click.Parameter], *, lenient: bool) -> None:
        self.words: list[str] = []
        self.dash: int | None = None
        self._flags: dict[str, tuple[Flag, str]] = {}
        """etcdctl's own, by name: the last one counts."""
        self._others: list[str] = []
        """Those that only we have, as they were given."""
        self._lenient = lenient
        self._options: Mapping[str, click.Option] = {
            name: param
            for param in params
            if isinstance(param, click.Option)
            for name in (*param.opts, *param.secondary_opts)
        }

    def plain(self) -> list[str]:
        """The same in one form: each flag once, none apart from its value, words behind `--`."""
        line: list[str] = []
        for option, text in self._flags.values():
            name = max(option.opts, key=len)
            if option.go is not go_bool:
                line.append(f"{name}={text}")
            else:
                line += [name] if go_bool(text) else option.secondary_opts[:1]
        return [*line, *self._others, "--", *self.words]

    def read(self, args: list[str]) -> None:
        """Read it all. Raises `EtcdctlError` in pflag's words, unless `lenient`."""
        rest = list(args)
        while rest:
            word = rest.pop(0)
            if word == "--":
                self.dash = len(self.words)
                self.words += rest
                return
            try:
                if word.startswith("--"):
                    self._long(word, rest)
                elif word.startswith("-") and word != "-":
                    self._short(word, rest)
                else:
                    self.words.append(word)
            except EtcdctlError:
                if not self._lenient:
                    raise

    def _long(self, word: str, rest: list[str]) -> None:
        name, equals, value = word.partition("=")
        if name[2:3] in {"", "-"}:
            raise EtcdctlError(f"bad flag syntax: {word}")
        option = self._options.get(name)
        if option is None:
            raise EtcdctlError(f"unknown flag: {name}")
        if equals:
            self._set(option, name, value)
        elif option.is_flag:
            self._set(option, name, "true")
        elif rest:
            self._set(option, name, rest.pop(0))
        else:
            raise EtcdctlError(f"flag needs an argument: {name}")

    def _short(self, word: str, rest: list[str]) -> None:
        letters = word[1:]
        while letters:
            letter, behind = letters[0], letters[1:]
            option = self._options.get(f"-{letter}")
            if option is None:
                raise EtcdctlError(f"unknown shorthand flag: '{letter}' in -{letters}")
            if len(behind) > 1 and behind[0] == "=":
                value, letters = behind[1:], ""
            elif option.is_flag:
                value, letters = "true", behind
            elif behind:
                value, letters = behind, ""
            elif rest:
                value, letters = rest.pop(0), ""
            else:
                raise EtcdctlError(f"flag needs an argument: '{letter}' in -{letters}")
            self._set(option, f"-{letter}", value)

    def _set(self, option: click.Option, name: str, text: str) -> None:
        names = option.names() if isinstance(option, Flag) else name
        try:
            if isinstance(option, Flag):
                option.go(text)
            elif option.is_flag:
                go_bool(text)
        except ValueError as error:
            raise EtcdctlError(
                f"invalid argument {quoted(text)} for {quoted(names)} flag: {error}"
            ) from None
        if not isinstance(option, Flag):
            self._others += [f"{name}={text}"] if name.startswith("--") else [name, text]
            return
        _, earlier = self._flags.get(option.name or "", (option, ""))
        if option.go is go_strings and earlier:
            text = f"{earlier},{text}"
        self._flags[option.name or ""] = (option, text)
