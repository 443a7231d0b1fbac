"""What flags and arguments may say, read as Go reads it, and refused in Go's words.

After Go's `strconv` and `time` packages, and pflag's list of strings. All raise ValueError.
"""

import re

from etcd_steward.cli.etcdctl.quoting import quoted

_INT64 = range(-(1 << 63), 1 << 63)
_NUMBER = re.compile(
    r"[+-]?(0[xX](?:_?[0-9a-fA-F])+|0[bB](?:_?[01])+|0[oO]?(?:_?[0-7])+|0|[1-9](?:_?[0-9])*)"
)
_DIGITS = {10: re.compile(r"[+-]?[0-9]+"), 16: re.compile(r"[+-]?[0-9a-fA-F]+")}
_TRUE = frozenset({"1", "t", "T", "true", "True", "TRUE"})
_FALSE = frozenset({"0", "f", "F", "false", "False", "FALSE"})
_SECONDS = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0,
}  # fmt: skip
_PART = re.compile(r"(\d+\.?\d*|\.\d+)([^.\d]*)", re.ASCII)
_QUOTED_FIELD = re.compile(r'"((?:[^"]|"")*)"')


def go_int(text: str, base: int = 0) -> int:
    """`strconv.ParseInt(text, base, 64)`; with base 0 a prefix such as 0x tells it."""
    match = (_DIGITS[base] if base else _NUMBER).fullmatch(text)
    if match is None:
        raise ValueError(f"strconv.ParseInt: parsing {quoted(text)}: invalid syntax")
    octal = base == 0 and re.match(r"[+-]?0_?[0-7]", text)
    value = int(text, 8 if octal else base)
    if value not in _INT64:
        raise ValueError(f"strconv.ParseInt: parsing {quoted(text)}: value out of range")
    return value


def go_bool(text: str) -> bool:
    """`strconv.ParseBool`."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"strconv.ParseBool: parsing {quoted(text)}: invalid syntax")


def go_duration(text: str) -> float:
    """`time.ParseDuration`, in seconds."""
    rest = text[1:] if text[:1] in {"+", "-"} else text
    if rest == "0":
        return 0.0
    seconds, at = 0.0, 0
    while match := _PART.match(rest, at):
        number, unit = match.groups()
        if not unit:
            raise ValueError(f"time: missing unit in duration {quoted(text)}")
        if unit not in _SECONDS:
            raise ValueError(f"time: unknown unit {quoted(unit)} in duration {quoted(text)}")
        seconds += float(number) * _SECONDS[unit]
        at = match.end()
    if at == 0 or at < len(rest):
        raise ValueError(f"time: invalid duration {quoted(text)}")
    return -seconds if text.startswith("-") else seconds


def go_strings(text: str) -> list[str]:
    """Pflag's list: one line of comma-separated values, some of them in double quotes."""
    fields: list[str] = []
    rest = text
    while rest:
        if match := _QUOTED_FIELD.match(rest):
            field, rest = match[1].replace('""', '"'), rest[match.end() :]
            if rest[:1] not in {"", ","}:
                raise ValueError('extraneous or missing " in quoted-field')
            comma, rest = rest[:1], rest[1:]
        else:
            field, comma, rest = rest.partition(",")
        fields.append(field)
        if comma and not rest:
            fields.append("")
    return fields
