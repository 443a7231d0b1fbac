"""What differs between two objects."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from etcd_steward.engine.fields import ABSENT, FieldChange, changes, concealed, shown, without_noise

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "b"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4)
    ),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from(["spec", "data", "x y"]), JSON)


def pod(*containers: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "Pod", "spec": {"containers": list(containers)}}


def test_a_container_is_known_by_its_name() -> None:
    before = pod({"name": "api", "image": "api:1"}, {"name": "log", "image": "log:1"})
    after = pod(
        {"name": "new"}, {"name": "api", "image": "api:2"}, {"name": "log", "image": "log:1"}
    )

    assert changes(before, after) == (
        FieldChange("spec.containers[api].image", "api:1", "api:2"),
        FieldChange("spec.containers[new]", ABSENT, {"name": "new"}),
    )


def test_an_argument_put_in_front_is_one_addition() -> None:
    found = changes({"args": ["b", "c"]}, {"args": ["a", "b", "c"]})

    assert found == (FieldChange("args[0]", ABSENT, "a"),)


def test_names_with_dots_stand_in_brackets() -> None:
    found = changes({"labels": {"app.kubernetes.io/name": "a"}}, {"labels": {}})

    assert [one.path for one in found] == ["labels[app.kubernetes.io/name]"]


def test_a_number_is_no_boolean() -> None:
    assert changes({"a": 1}, {"a": True}) == (FieldChange("a", 1, True),)


def test_book_keeping_is_noise() -> None:
    before = {"metadata": {"managedFields": [{"time": "1"}], "resourceVersion": "1"}}
    after = {"metadata": {"managedFields": [{"time": "2"}], "resourceVersion": "2", "name": "a"}}

    assert [one.path for one in without_noise(changes(before, after))] == ["metadata.name"]


def test_nothing_of_a_secret_is_shown() -> None:
    applied = "kubectl.kubernetes.io/last-applied-configuration"
    empty = {"kind": "Secret", "metadata": {}}
    before: dict[str, Any] = {**empty, "data": {"password": "aHVudGVyMg=="}}
    after: dict[str, Any] = {
        "kind": "Secret",
        "metadata": {"annotations": {applied: '{"password":"aHVudGVyMw=="}'}},
        "data": {"password": "aHVudGVyMw==", "token": "c2VjcmV0"},
        "stringData": {"more": "c2VjcmV0"},
    }
    for one, other in ((before, after), (after, before), ({"kind": "Secret"}, after)):
        found = changes(concealed(one), concealed(other))
        said = "".join(shown(c.before) + shown(c.after) + repr(c) for c in found)
        assert "aHVudGVy" not in said
        assert "c2VjcmV0" not in said
        assert "hidden, " in said


def test_a_secret_of_the_same_length_differs() -> None:
    one, other = ({"kind": "Secret", "data": {"a": text}} for text in ("aGFsbG8=", "aGFsbG9="))

    (change,) = changes(concealed(one), concealed(other))
    assert (change.path, shown(change.after)) == ("data.a", '"(hidden, 8 characters)"')
    assert changes(concealed(one), concealed(one)) == ()


@settings(max_examples=200)
@given(OBJECTS, OBJECTS)
def test_what_is_the_same_has_no_change_and_what_differs_has_one(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)

    assert (changes(one, other) == ()) is same
    assert changes(one, one) == ()
