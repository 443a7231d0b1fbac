"""What the words behind `watch` mean, on the command line and on a line that is typed.

After `parseWatchArgs` and `getWatchChan` of etcdctl's watch_command.go, `Argify` of its util.go.
Two of its slips are not repeated. It takes a third word for nothing and says nothing of it; and
where a key is also the first word of a command behind it, it looks for `--` in the wrong place.
"""

import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from etcd_steward.cli.etcdctl.errors import BAD_ARGS, INVALID_INPUT, EtcdctlError
from etcd_steward.cli.etcdctl.flags import as_bytes, words_argument
from etcd_steward.cli.etcdctl.govalues import go_bool, go_int
from etcd_steward.cli.etcdctl.pflag import DASH, EtcdctlVerb, flag
from etcd_steward.cli.etcdctl.quoting import quoted

if TYPE_CHECKING:  # grpc is imported where it is needed
    from etcd_steward.etcd.watcher import Watch

_KEY, _RANGE_END = "ETCDCTL_WATCH_KEY", "ETCDCTL_WATCH_RANGE_END"
_MOST_KEYS = 2
_LAST_BYTE = 0xFF
_BAD_NUMBER = "bad number of arguments"

_WORD = re.compile(r""""(?:[^"\\]|\\.)*"|'[^']*'|[^'"\t\n\f\r ][^\t\n\f\r ]*[^'"\t\n\f\r ]?""")
"""What Go's `\\s` means is written out: Python's has more, and keys may hold any of it."""
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\\"])|x([0-9a-fA-F]{2})|([0-7]{3})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))"
)
_LETTERS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class NoSuchWatch(EtcdctlError):
    """Words that can be read, of which no watch can be made: a line so typed is passed over."""


@dataclass(frozen=True, slots=True)
class Named:
    """What variables of the environment say in place of words."""

    key: str
    range_end: str

    @classmethod
    def from_environment(cls) -> "Named":
        """Raises `EtcdctlError` for an end without a beginning."""
        named = cls(os.environ.get(_KEY, ""), os.environ.get(_RANGE_END, ""))
        if named.range_end and not named.key:
            raise EtcdctlError(
                f"{_KEY} is empty but got {_RANGE_END}={quoted(named.range_end)}", BAD_ARGS
            )
        return named


@dataclass(frozen=True, slots=True)
class Flags:
    """What the flags of `watch` say."""

    prefix: bool
    rev: int
    prev_kv: bool
    progress_notify: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """A watch, and the command that is run for each of its changes."""

    watch: "Watch"
    command: tuple[str, ...]
    """Empty: none."""


def watch_flags(function: Any) -> Any:  # noqa: ANN401  # a decorator of click's
    """Give a verb the flags of `Flags`."""
    for option in reversed(
        (
            flag("--prefix", go=go_bool, unset=False, help="All keys that begin with KEY."),
            flag("--rev", go=go_int, unset=0, metavar="REVISION", help="From this revision on."),
            flag("--prev-kv", go=go_bool, unset=False, help="Also what was there before."),
            flag(
                "--progress-notify",
                go=go_bool,
                unset=False,
                help="Say now and then that nothing has happened.",
            ),
        )
    ):
        function = option(function)
    return function


@click.command("watch", cls=EtcdctlVerb, examples="", add_help_option=False)
@words_argument("")
@watch_flags
def _line(**_: object) -> None:
    """A line that is typed: it has no global flags."""


def asked(words: tuple[str, ...], dash: int | None, flags: Flags, named: Named) -> Asked:
    """What is to be watched; `dash` words stand before `--`. Raises `EtcdctlError`."""
    from etcd_steward.cli.etcdctl.ranges import key_range  # noqa: PLC0415
    from etcd_steward.etcd.watcher import Watch  # noqa: PLC0415  # grpc: slow

    keys, command = words[:dash], words[dash:] if dash is not None else ()
    if dash is not None and not command:
        raise EtcdctlError(f"{_BAD_NUMBER} (found separator --, but no commands)", BAD_ARGS)
    if keys and named.key:
        raise EtcdctlError(f"{_BAD_NUMBER} (found conflicting environment key)", BAD_ARGS)
    keys = keys or tuple(filter(None, (named.key, named.range_end)))
    if not keys:
        raise EtcdctlError(_BAD_NUMBER, BAD_ARGS)
    if len(keys) > _MOST_KEYS:
        raise NoSuchWatch(_BAD_NUMBER, BAD_ARGS)
    if len(keys) > 1 and flags.prefix:
        raise NoSuchWatch("`range_end` and `--prefix` are mutually exclusive", BAD_ARGS)
    wanted = key_range(keys, prefix=flags.prefix, from_key=False)
    watch = Watch(wanted, flags.rev, flags.prev_kv, flags.progress_notify)
    return Asked(watch, command)


def asked_by_line(words: list[str], named: Named) -> Asked:
    """The same of a line that is typed, without its first word."""
    try:
        context = _line.make_context("watch", list(words))
    except EtcdctlError as error:
        raise EtcdctlError(error.message, BAD_ARGS) from error
    said = dict(context.params)
    return asked(said.pop("words"), context.meta[DASH], Flags(**said), named)


def split(line: str) -> list[str]:
    """The words of a line; those in quotes may hold blanks. Raises `EtcdctlError`."""
    return [_unquoted(word) for word in _WORD.findall(line)]


def _unquoted(word: str) -> str:
    if word.startswith("'"):
        return word[1:-1]
    if not word.startswith('"'):
        return word
    text, at = [], 1
    while at < len(word) - 1:
        if word[at] != "\\":
            text.append(as_bytes(word[at]))
            at += 1
            continue
        match = _ESCAPE.match(word, at)
        if match is None:
            raise EtcdctlError("invalid syntax", INVALID_INPUT)
        text.append(_escaped(match))
        at = match.end()
    return os.fsdecode(b"".join(text))


def _escaped(match: re.Match[str]) -> bytes:
    letter, byte, octal, short, long = match.groups()
    if letter is not None:
        return _LETTERS.get(letter, letter).encode()
    if byte is not None or octal is not None:
        number = int(byte, 16) if byte is not None else int(octal, 8)
        if number <= _LAST_BYTE:
            return bytes([number])
    elif (number := int(short or long, 16)) <= sys.maxunicode:
        with suppress(UnicodeEncodeError):  # one half of a pair
            return chr(number).encode()
    raise EtcdctlError("invalid syntax", INVALID_INPUT)
