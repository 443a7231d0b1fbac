"""Keys, references and pictures: what needs no etcd."""

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from etcd_steward.cli.registry_output import ListPrinter, as_yaml
from etcd_steward.engine.charts import TALL, WIDE, Cell, Shape, line, treemap
from etcd_steward.engine.object_log import key_of
from etcd_steward.engine.objects import Reference
from etcd_steward.engine.top import escaped
from etcd_steward.errors import InvalidInput
from etcd_steward.registry import paths
from etcd_steward.registry.nicknames import BUILTIN_WORDS


@pytest.mark.parametrize(
    ("words", "namespace", "meant"),
    [
        (("deploy/shop/api",), None, ("deploy", "shop", "api")),
        (("deploy/api",), "shop", ("deploy", "shop", "api")),
        (("deploy", "api"), "shop", ("deploy", "shop", "api")),
        (("deploy", "shop/api"), None, ("deploy", "shop", "api")),
        (("node/a",), None, ("node", None, "a")),
        (("cm",), "shop", ("cm", "shop", None)),
        ((), "shop", (None, "shop", None)),
    ],
)
def test_a_reference_is_read(
    words: tuple[str, ...], namespace: str | None, meant: tuple[str | None, ...]
) -> None:
    assert Reference.parse(words, namespace) == Reference(*meant)


@pytest.mark.parametrize("words", [("a/b/c/d",), ("a//c",), ("/a",), ("a", "b", "c", "d")])
def test_a_reference_that_names_nothing(words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput, match="names no object"):
        Reference.parse(words, None)


def test_kubectls_words_are_known() -> None:
    for word, plural in {
        "po": "pods",
        "pod": "pods",
        "deployment": "deployments",
        "ingress": "ingresses",
        "ing": "ingresses",
        "endpoints": "endpoints",
        "networkpolicy": "networkpolicies",
        "storageclass": "storageclasses",
        "lease": "leases",
        "ipaddress": "ipaddresses",
        "csinode": "csinodes",
    }.items():
        assert BUILTIN_WORDS[word].resource == plural


def test_the_key_of_an_object_leads_back_to_it() -> None:
    for builtin in paths.BUILTINS.values():
        named = f"{builtin.resource}.{builtin.api_group}".rstrip(".")
        namespace = "shop" if builtin.namespaced else None
        path = paths.parse(key_of(named, namespace, "a", "/registry"))
        assert path == (builtin.resource, builtin.api_group, namespace, "a")
    custom = paths.parse(key_of("widgets.example.com", "shop", "a", "/elsewhere"), "/elsewhere")
    assert custom == ("widgets", "example.com", "shop", "a")


@settings(max_examples=200)
@given(st.binary(max_size=12), st.binary(max_size=12))
def test_escaped_keys_are_one_line_and_tell_keys_apart(one: bytes, other: bytes) -> None:
    assert "\n" not in escaped(one)
    assert escaped(one).isprintable()
    assert (escaped(one) == escaped(other)) is (one == other)


def test_what_is_text_is_quoted_as_kubectl_does() -> None:
    found = {
        "a": "1",
        "b": "true",
        "c": "2026-11-22T02:17:00Z",
        "d": "x\ny\n",
        "e": "plain",
        "f": 1,
    }

    text = as_yaml(found)
    assert text == 'a: "1"\nb: "true"\nc: "2026-11-22T02:17:00Z"\nd: |\n  x\n  y\ne: plain\nf: 1\n'
    assert yaml.safe_load(text) == found


@settings(max_examples=100)
@given(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3))
def test_yaml_is_read_back_as_it_was(found: dict[str, str]) -> None:
    assert yaml.safe_load(as_yaml(found)) == found


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_list_is_whole_at_its_end(count: int) -> None:
    items = [{"number": number} for number in range(count)]
    for output, read in (("json", json.loads), ("yaml", yaml.safe_load)):
        printed = io.StringIO()
        with redirect_stdout(printed):
            printer = ListPrinter(output)
            printer.print(items[:1])
            printer.print(items[1:])
            printer.end()
        assert read(printed.getvalue()) == items


SIZES = st.dictionaries(
    st.text("abc.", min_size=1, max_size=4),
    st.dictionaries(st.text("xyz", max_size=3), st.integers(1, 10**9), min_size=1, max_size=6),
    max_size=12,
)


@settings(max_examples=40)
@given(SIZES)
def test_a_treemap_fills_its_box_and_nothing_lies_on_anything(
    sizes: dict[str, dict[str, int]],
) -> None:
    for shape in (WIDE, TALL):
        parts = [cell for cell in treemap(sizes, shape) if not cell.frame]
        area = sum(cell.width * cell.height for cell in parts)
        assert area == pytest.approx(1000 * shape.height if sizes else 0, rel=1e-6)
        for one, other in _pairs(parts):
            wide = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
            high = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
            assert min(wide, high) < 0.01


@pytest.mark.parametrize(
    ("part", "label"),
    [(27, "widgets.example.org"), (13, "widgets"), (7.5, "widg…"), (6, "")],
)
def test_a_name_is_shown_as_far_as_there_is_room(part: float, label: str) -> None:
    """The group goes first; the bare beginning is better than a box that says nothing."""
    sizes = {"a": {"": 1000 - round(part * 10)}, "widgets.example.org": {"": round(part * 10)}}
    wide = Shape("flat", 100, 10.0, 20)
    assert treemap(sizes, wide)[-1].label == label


def _pairs(cells: list[Cell]) -> Iterator[tuple[Cell, Cell]]:
    for number, one in enumerate(cells):
        for other in cells[number + 1 :]:
            yield one, other


def test_a_line_needs_two_moments() -> None:
    noon = datetime(2026, 11, 22, 12, tzinfo=UTC)
    assert line([(noon, 5)], 100) is None
    drawn = line(
        [(noon, 0), (noon + timedelta(hours=1), 50), (noon + timedelta(hours=4), 100)], 100
    )
    assert drawn is not None
    assert drawn.points == "0.0,100.0 250.0,53.0 1000.0,6.0"
