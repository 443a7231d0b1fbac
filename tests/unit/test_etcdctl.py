"""etcdctl's verbs, the parts that need no etcd: Go's values, pflag's lines, Go's quotes."""

import ast

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from etcd_steward.cli.etcdctl.errors import EtcdctlError
from etcd_steward.cli.etcdctl.govalues import go_bool, go_duration, go_int, go_strings
from etcd_steward.cli.etcdctl.guard import refuse_registry
from etcd_steward.cli.etcdctl.pflag import DASH, EtcdctlVerb, flag
from etcd_steward.cli.etcdctl.printers import FORMATS, printer
from etcd_steward.cli.etcdctl.quoting import quote
from etcd_steward.cli.output import sentence
from etcd_steward.errors import Refused
from etcd_steward.etcd.keys import EVERYTHING, KeyRange


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("-1", -1), ("+7", 7), ("0x1F", 31), ("0b101", 5), ("0o17", 15), ("017", 15),
        ("1_000", 1000), ("0x_ff", 255), ("9223372036854775807", (1 << 63) - 1),
        ("-9223372036854775808", -(1 << 63)),
    ],
)  # fmt: skip
def test_integers(text: str, value: int) -> None:
    assert go_int(text) == value


@pytest.mark.parametrize("text", ["", "x", "1x", "0x", "08", "1__0", "_1", "1_", " 1", "1 ", "1.0"])
def test_no_integers(text: str) -> None:
    with pytest.raises(ValueError, match="invalid syntax"):
        go_int(text)


@pytest.mark.parametrize(
    "text", ["9223372036854775808", "-9223372036854775809", "0xffffffffffffffff"]
)
def test_integers_of_more_than_64_bits(text: str) -> None:
    with pytest.raises(ValueError, match="value out of range"):
        go_int(text)


def test_lease_ids_are_hexadecimal_without_a_prefix() -> None:
    assert go_int("7fffffffffffffff", 16) == (1 << 63) - 1
    for text in ("0x12", "g", "1_0", ""):
        with pytest.raises(ValueError, match="invalid syntax"):
            go_int(text, 16)
    assert go_int("010", 10) == 10


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("5s", 5), ("1m30s", 90), ("1.5h", 5400), ("300ms", 0.3), (".5s", 0.5), ("-2s", -2)],
)
def test_durations(text: str, seconds: float) -> None:
    assert go_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5", 'time: missing unit in duration "5"'),
        ("5y", 'time: unknown unit "y" in duration "5y"'),
        ("s", 'time: invalid duration "s"'),
        ("", 'time: invalid duration ""'),
        ("٣s", 'time: invalid duration "٣s"'),
    ],
)
def test_no_durations(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        go_duration(text)


def test_booleans() -> None:
    assert [go_bool(text) for text in ("1", "t", "TRUE", "0", "F", "false")] == [True] * 3 + [
        False
    ] * 3
    with pytest.raises(ValueError, match=r'strconv\.ParseBool: parsing "yes": invalid syntax'):
        go_bool("yes")


def test_lists() -> None:
    assert go_strings("") == []
    assert go_strings("a,b") == ["a", "b"]
    assert go_strings("a,") == ["a", ""]
    assert go_strings('"a,b",c') == ["a,b", "c"]
    assert go_strings('"say ""a"""') == ['say "a"']
    with pytest.raises(ValueError, match="quoted-field"):
        go_strings('"a"b')


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"plain", b'"plain"'),
        (b'a"b\\c', b'"a\\"b\\\\c"'),
        (b"\0\a\b\t\n\v\f\r\x1b\x7f", b'"\\x00\\a\\b\\t\\n\\v\\f\\r\\x1b\\x7f"'),
        (b"\xff\xc3", b'"\\xff\\xc3"'),
        ("é€😀".encode(), '"é€😀"'.encode()),
        ("\u00a0\u200b\ufeff".encode(), b'"\\u00a0\\u200b\\ufeff"'),
        ("\U000e0001".encode(), b'"\\U000e0001"'),
    ],
)
def test_quotes(data: bytes, shown: bytes) -> None:
    assert quote(data) == shown


@given(st.binary())
def test_quotes_hold_no_control_characters(data: bytes) -> None:
    shown = quote(data).decode()
    assert shown.isprintable()
    assert shown[0] == shown[-1] == '"'


@click.command("verb", cls=EtcdctlVerb, examples="verb")
@click.argument("words", nargs=-1)
@flag("--prefix", go=go_bool, unset=False)
@flag("--rev", go=go_int, unset=0)
@flag("-w", "--write-out", "form", unset="simple")
@flag("--endpoints", go=go_strings, unset=["here"])
@flag("--insecure/--no-insecure", go=go_bool, unset=True)
@click.option("--ours", type=int)
@click.option("--shown/--no-shown", default=None)
@click.pass_context
def verb(ctx: click.Context, /, **given_: object) -> None:
    """Print what was understood."""
    click.echo({**given_, "dash": ctx.meta[DASH]})


BAD = 'invalid argument "x" for "{flag}" flag: strconv.Parse{kind}: parsing "x": invalid syntax'
UNSET = {
    "words": (), "prefix": False, "rev": 0, "form": "simple", "endpoints": ["here"],
    "insecure": True, "ours": None, "shown": None, "dash": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("line", "understood"),
    [
        ("", {}),
        ("a b", {"words": ("a", "b")}),
        ("a --prefix b", {"words": ("a", "b"), "prefix": True}),
        ("--prefix false", {"words": ("false",), "prefix": True}),
        ("--prefix --prefix=false", {}),
        ("--prefix=T", {"prefix": True}),
        ("--rev 0x10 -w json", {"rev": 16, "form": "json"}),
        ("--rev=-3 -wjson", {"rev": -3, "form": "json"}),
        ("--rev 1 --rev 2 -w=json", {"rev": 2, "form": "json"}),
        ("--write-out=", {"form": ""}),
        ("--endpoints a,b --endpoints=c", {"endpoints": ["a", "b", "c"]}),
        ("--endpoints=", {"endpoints": []}),
        ("--insecure=false", {"insecure": False}),
        ("--ours 3 --shown=false", {"ours": 3, "shown": False}),
        ("--ours=3 --shown", {"ours": 3, "shown": True}),
        ("a -- -b --rev", {"words": ("a", "-b", "--rev"), "dash": 1}),
        ("-- --", {"words": ("--",), "dash": 0}),
        ("-", {"words": ("-",)}),
    ],
)
def test_lines(line: str, understood: dict[str, object]) -> None:
    said = CliRunner().invoke(verb, line.split(), catch_exceptions=False, standalone_mode=False)
    assert ast.literal_eval(said.output) == UNSET | understood


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--wrong", "unknown flag: --wrong"),
        ("--wrong=1", "unknown flag: --wrong"),
        ("-xw", "unknown shorthand flag: 'x' in -xw"),
        ("--rev", "flag needs an argument: --rev"),
        ("-w", "flag needs an argument: 'w' in -w"),
        ("---rev", "bad flag syntax: ---rev"),
        ("--=3", "bad flag syntax: --=3"),
        ("--rev=x --wrong", BAD.format(flag="--rev", kind="Int")),
        ("--shown=x", BAD.format(flag="--shown", kind="Bool")),
    ],
)
def test_bad_lines(line: str, words: str) -> None:
    with pytest.raises(EtcdctlError) as caught:
        CliRunner().invoke(verb, line.split(), catch_exceptions=False, standalone_mode=False)
    assert (caught.value.message, caught.value.exit_code) == (words, 1)


PREFIX = KeyRange.prefix


@pytest.mark.parametrize(
    ("wanted", "refused"),
    [
        (KeyRange.key(b"/registry/a"), True),
        (KeyRange.key(b"/registry"), False),
        (KeyRange.key(b"/registry0"), False),
        (KeyRange.key(b"compact_rev_key"), True),
        (PREFIX(b"/registry"), True),
        (PREFIX(b"/registry/a"), True),
        (PREFIX(b"/registry0"), False),
        (PREFIX(b"compact"), True),
        (PREFIX(b""), True),
        (KeyRange(b"a", EVERYTHING), True),
        (KeyRange(b"d", EVERYTHING), False),
        (KeyRange(b"/registry/z", b"/z"), True),
        (KeyRange(b"/a", b"/registry/"), False),
        (KeyRange(b"/a", b"/registry/\0"), True),
        (KeyRange(b"/z", b"/a"), False),
    ],
)
def test_ranges_that_hold_keys_of_the_api_server(wanted: KeyRange, refused: bool) -> None:
    refuse_registry([wanted], allowed=True, prefix="/registry", what="delete")
    if not refused:
        refuse_registry([wanted], allowed=False, prefix="/registry", what="delete")
        return
    with pytest.raises(Refused, match="would delete keys of the API server"):
        refuse_registry([wanted], allowed=False, prefix="registry/", what="delete")


@pytest.mark.parametrize("prefix", ["", "/", "//"])
def test_a_prefix_of_no_name_guards_all_that_the_api_server_could_have(prefix: str) -> None:
    for wanted in (KeyRange.key(b"/pods/shop/a"), PREFIX(b"")):
        with pytest.raises(Refused, match=r"\(/ or compact_rev_key\)"):
            refuse_registry([wanted], allowed=False, prefix=prefix, what="delete")
    refuse_registry([KeyRange.key(b"app")], allowed=False, prefix=prefix, what="write")


@pytest.mark.parametrize(
    ("hint", "shown"),
    [
        ("go through the API server", "Go through the API server"),
        ("there are: a/b", "There are: a/b"),
        ("known: a", "Known: a"),
        ("st2/d1cf is one", "st2/d1cf is one"),
        ("file:///tmp/store is another", "file:///tmp/store is another"),
    ],
)
def test_a_hint_begins_with_a_capital_but_for_what_may_be_copied(hint: str, shown: str) -> None:
    assert sentence(hint) == shown


def test_formats() -> None:
    for name in FORMATS:
        if name != "table":
            printer(name, hexed=False)
    with pytest.raises(EtcdctlError, match="table not supported as output format"):
        printer("table", hexed=False)
