"""The words of `watch`, on the command line and on lines that are typed; words at a cursor."""

import os

import pytest

from etcd_steward.cli.completion_words import last_word
from etcd_steward.cli.etcdctl.errors import EtcdctlError
from etcd_steward.cli.etcdctl.watch_words import (
    Flags,
    Named,
    NoSuchWatch,
    asked,
    asked_by_line,
    split,
)
from etcd_steward.etcd.keys import EVERYTHING, KeyRange
from etcd_steward.etcd.watcher import Watch

NOTHING = Flags(prefix=False, rev=0, prev_kv=False, progress_notify=False)
NOBODY = Named("", "")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("  watch   /a ", ["watch", "/a"]),
        ("watch '/a b' \"c d\"", ["watch", "/a b", "c d"]),
        (r'watch "\x61\t\u00e9\101\"" x', ["watch", 'a\té\x41"', "x"]),
        ("watch --rev=3 /a -- echo 'a \"b\"'", ["watch", "--rev=3", "/a", "--", "echo", 'a "b"']),
        ("watch ''", ["watch", ""]),
        ("watch\t/a\u00a0b /c\u3000\x1fd\r", ["watch", "/a\u00a0b", "/c\u3000\x1fd"]),
    ],
)
def test_lines_are_split_as_etcdctl_splits_them(line: str, words: list[str]) -> None:
    assert split(line) == words


def test_bytes_that_are_no_text_stay_what_they_are() -> None:
    assert os.fsencode(split(r'watch "\xff\x00"')[1]) == b"\xff\x00"


@pytest.mark.parametrize("escape", [r"\q", r"\ud800", r"\U00110000", r"\Uffffffff", r"\777"])
def test_an_escape_that_there_is_not(escape: str) -> None:
    with pytest.raises(EtcdctlError, match="invalid syntax") as caught:
        split(f'watch "{escape}"')
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("words", "dash", "wanted", "command"),
    [
        (("a",), None, KeyRange.key(b"a"), ()),
        (("a", "b"), None, KeyRange(b"a", b"b"), ()),
        (("a", "echo", "a"), 1, KeyRange.key(b"a"), ("echo", "a")),
        (("a", "b", "b", "c"), 2, KeyRange(b"a", b"b"), ("b", "c")),
    ],
)
def test_what_stands_before_dashes_is_watched(
    words: tuple[str, ...], dash: int | None, wanted: KeyRange, command: tuple[str, ...]
) -> None:
    found = asked(words, dash, NOTHING, NOBODY)
    assert (found.watch.wanted, found.command) == (wanted, command)


def test_variables_stand_for_words() -> None:
    found = asked(("echo", "x"), 0, NOTHING, Named("a", "b"))
    assert (found.watch.wanted, found.command) == (KeyRange(b"a", b"b"), ("echo", "x"))
    with pytest.raises(EtcdctlError, match="found conflicting environment key"):
        asked(("a", "echo"), 1, NOTHING, Named("a", ""))


def test_a_line_has_flags_of_its_own() -> None:
    found = asked_by_line(["--prefix", "--rev", "7", "", "--prev-kv", "--", "true"], NOBODY)
    everything = KeyRange(EVERYTHING, EVERYTHING)
    assert found.watch == Watch(everything, start=7, prev_kv=True)
    assert found.command == ("true",)
    with pytest.raises(NoSuchWatch):
        asked_by_line(["a", "b", "--prefix"], NOBODY)
    with pytest.raises(EtcdctlError, match="unknown flag: --endpoints") as caught:
        asked_by_line(["--endpoints=x", "a"], NOBODY)
    assert caught.value.exit_code == 128


@pytest.mark.parametrize(
    ("line", "before", "text", "quote", "kept"),
    [
        ("etcd-steward get /re", ["etcd-steward", "get"], "/re", "", 0),
        ("etcd-steward get ", ["etcd-steward", "get"], "", "", 0),
        ("p get /a:b", ["p", "get"], "/a:b", "", 3),
        ("p --endpoints=http://h:1 get /a", ["p", "--endpoints=http://h:1", "get"], "/a", "", 0),
        ("p get '/a b:c", ["p", "get"], "/a b:c", "'", 0),
        ('p get "/a', ["p", "get"], "/a", '"', 0),
        ("p get '", ["p", "get"], "", "'", 0),
        ("p '' \"\" x", ["p", "", ""], "x", "", 0),
        (r"p get /a\ b", ["p", "get"], "/a b", "", 0),
        (r"p get /a\:b", ["p", "get"], "/a:b", "", 0),
        (r'p get "/a\$\x', ["p", "get"], r"/a$\x", '"', 0),
        (r"p get '/a\'\''b", ["p", "get"], r"/a\'b", "'", 4),
        (r"p get '/a'\''b", ["p", "get"], "/a'b", "'", 3),
        ('p get "/a"\'!\'"b', ["p", "get"], "/a!b", '"', 3),
        ("p get /a:'b'c", ["p", "get"], "/a:bc", "", 3),
        ("p get /a\\", ["p", "get"], "/a", "", 0),
    ],
)
def test_the_word_at_the_cursor(
    line: str, before: list[str], text: str, quote: str, kept: int
) -> None:
    found = last_word(line, " \t\n\"'@><=;|&(:")
    assert (found.before, found.text, found.quote, found.kept) == (before, text, quote, kept)
