"""What `include` and `exclude` mean, key by key and as ranges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcd_steward.errors import InvalidInput
from etcd_steward.models.registry import Filter, KeyPath, Selection
from etcd_steward.registry import paths
from etcd_steward.registry.selection import Chosen, end_of, selected_by

KEYS = [
    "/registry/secrets/shop/db",
    "/registry/secrets/team-a/db-1",
    "/registry/deployments/shop/web",
    "/registry/ingress/shop/web",
    "/registry/namespaces/shop",
    "/registry/example.com/widgets/shop/w",
    "/registry/other.com/widgets/w",
    "/registry/knative.dev/services/shop/web",
    "/registry/services/specs/shop/web",
    "/registry/health",
    "/calico/x",
]


def chosen(include: Filter | None = None, exclude: Filter | None = None) -> list[str]:
    wanted = Chosen(Selection(include=include, exclude=exclude))
    return [key for key in KEYS if wants(wanted, key)]


def wants(wanted: Chosen, key: str, labels: dict[str, str] | None = None) -> bool:
    return wanted.wants(paths.parse(key.encode()), key.encode(), lambda: labels)


def test_everything_without_a_filter_or_with_an_empty_one() -> None:
    assert chosen() == KEYS
    assert chosen(Filter(), Filter()) == KEYS


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filter(namespaces=("shop",)), [0, 2, 3, 5, 7, 8]),
        (Filter(namespaces=("team-*",)), [1]),
        (Filter(namespaces=("sho",)), []),
        (Filter(namespaces=("*",)), [0, 1, 2, 3, 5, 7, 8]),
        (Filter(resources=("secrets",)), [0, 1]),
        (Filter(resources=("deployments.apps", "namespaces")), [2, 4]),
        (Filter(resources=("deployments",)), [2]),
        (Filter(resources=("ingresses.extensions",)), [3]),
        (Filter(resources=("deployments.extensions",)), [2]),
        (Filter(resources=("widgets",)), [5, 6]),
        (Filter(resources=("widgets.example.com",)), [5]),
        (Filter(resources=("*.example.com",)), [5]),
        (Filter(resources=("services",)), [8]),
        (Filter(resources=("services.knative.dev",)), [7]),
        (Filter(resources=("*",)), [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (Filter(resources=("s*",)), [0, 1, 7, 8]),
        (Filter(names=("web", "db*")), [0, 1, 2, 3, 7, 8]),
        (Filter(names=("db*",), namespaces=("shop",)), [0]),
        (Filter(key_prefixes=("/calico/", "/registry/h")), [9, 10]),
        (Filter(key_prefixes=("/registry/s",), namespaces=("shop",)), [0, 8]),
    ],
)
def test_a_filter_takes_what_fits_all_its_fields(filters: Filter, expected: list[int]) -> None:
    assert chosen(filters) == [KEYS[index] for index in expected]
    assert chosen(exclude=filters) == [key for key in KEYS if key not in chosen(filters)]


def test_labels_are_read_only_where_they_decide() -> None:
    wanted = Chosen(Selection(include=Filter(resources=("secrets",), label_selector="app=a")))
    assert wants(wanted, KEYS[0], {"app": "a"})
    assert not wants(wanted, KEYS[0], {"app": "b"})
    assert not wants(wanted, KEYS[0], None)
    asked: list[str] = []

    def ask() -> None:
        asked.append("asked")

    key = KEYS[2].encode()
    assert not wanted.wants(paths.parse(key), key, ask)
    assert not asked


@pytest.mark.parametrize(
    ("selector", "labels", "fits"),
    [
        ("", {}, True),
        ("app", {"app": ""}, True),
        ("app", {}, False),
        ("!app", {}, True),
        ("! app", {"app": "x"}, False),
        ("app=shop", {"app": "shop"}, True),
        ("app == shop", {"app": "shop"}, True),
        ("app=", {"app": ""}, True),
        ("app=", {}, False),
        ("app!=shop", {}, True),
        ("app!=shop", {"app": "shop"}, False),
        ("a in (x, y)", {"a": "y"}, True),
        ("a in(x)", {"a": "y"}, False),
        ("a notin (x,y)", {}, True),
        ("a notin (x,y)", {"a": "x"}, False),
        ("a in (,x)", {"a": ""}, True),
        ("n>5", {"n": "6"}, True),
        ("n > 5", {"n": "5"}, False),
        ("n<5", {"n": "x"}, False),
        ("n<-5", {"n": "-6"}, True),
        ("app.kubernetes.io/name=a,tier!=b,!old", {"app.kubernetes.io/name": "a"}, True),
        ("in=a,notin=b", {"in": "a", "notin": "b"}, True),
    ],
)
def test_label_selectors(selector: str, labels: dict[str, str], fits: bool) -> None:
    assert selected_by(selector)(labels) is fits


@pytest.mark.parametrize(
    "selector",
    ["=a", "a=b c", "a in b", "a in (b", "a,", ",a", "a=b,,c", "n>x", "a in (b)c", "a=(b)"],
)
def test_bad_label_selectors_are_refused(selector: str) -> None:
    with pytest.raises(InvalidInput, match="label selector"):
        Chosen(Selection(include=Filter(label_selector=selector)))


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filter(), None),
        (Filter(namespaces=("shop",)), None),
        (Filter(resources=("secrets", "widgets")), None),
        (Filter(resources=("secrets", "*.apps")), None),
        (Filter(resources=("secrets",)), ["/registry/secrets/"]),
        (
            Filter(resources=("secrets",), namespaces=("b", "a")),
            ["/registry/secrets/a/", "/registry/secrets/b/"],
        ),
        (Filter(resources=("secrets",), namespaces=("b*",)), ["/registry/secrets/"]),
        (Filter(resources=("nodes", "ingresses")), ["/registry/ingress/", "/registry/minions/"]),
        (
            Filter(resources=("widgets.example.com",)),
            ["/registry/example.com/widgets/", "/registry/widgets/"],
        ),
        (Filter(key_prefixes=("/a/b", "/a/", "/c")), ["/a/", "/c"]),
    ],
)
def test_ranges(filters: Filter, expected: list[str] | None) -> None:
    found = Chosen(Selection(include=filters)).ranges()
    if expected is None:
        assert found is None
    else:
        assert found == [(key.encode(), end_of(key.encode())) for key in expected]


WORDS = st.sampled_from(
    ["secrets", "s*", "widgets", "widgets.example.com", "deployments.extensions", "services", "*"]
)


@given(
    resources=st.lists(WORDS, max_size=3),
    namespaces=st.lists(st.sampled_from(["shop", "team-*", "x"]), max_size=2),
    prefixes=st.lists(st.sampled_from(["/registry/se", "/calico/"]), max_size=1),
)
def test_ranges_hold_all_that_is_wanted(
    resources: list[str], namespaces: list[str], prefixes: list[str]
) -> None:
    include = Filter(
        resources=tuple(resources), namespaces=tuple(namespaces), key_prefixes=tuple(prefixes)
    )
    wanted = Chosen(Selection(include=include))
    ranges = wanted.ranges()
    names = wanted.namespaces()
    for key in KEYS:
        if not wants(wanted, key):
            continue
        assert ranges is None or any(begin <= key.encode() < end for begin, end in ranges)
        path = paths.parse(key.encode())
        assert names is None or (path is not None and path.namespace in names)


def test_namespaces_by_name_only() -> None:
    assert Chosen(Selection(include=Filter(namespaces=("a", "b")))).namespaces() == frozenset("ab")
    assert Chosen(Selection(include=Filter(namespaces=("a", "b*")))).namespaces() is None
    assert Chosen(Selection(exclude=Filter(namespaces=("a",)))).namespaces() is None


def test_the_end_of_a_prefix() -> None:
    assert end_of(b"/a/") == b"/a0"
    assert end_of(b"a\xff\xff") == b"b"
    assert end_of(b"\xff") == b"\0"  # to the end of all keys


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("secret", "secrets"),
        ("deploy", "deployments"),
        ("ingress", "ingresses"),
        ("sa", "serviceaccounts"),
        ("deployment.apps", "deployments.apps"),
    ],
)
def test_another_word_for_a_built_in_resource_is_refused(word: str, meant: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Chosen(Selection(include=Filter(resources=(word,))))
    assert meant in caught.value.hint


def test_a_custom_resource_may_be_called_like_a_nickname() -> None:
    chosen = Chosen(Selection(include=Filter(resources=("deploy.example.com",))))
    path = KeyPath("deploy", "example.com", "shop", "a")
    assert chosen.wants(path, b"/registry/example.com/deploy/shop/a", lambda: None)
