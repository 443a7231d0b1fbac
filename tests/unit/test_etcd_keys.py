"""A prefix's range holds the keys that begin with it, all of them and no others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcd_steward.etcd.keys import EVERYTHING, KeyRange

# Few different bytes, so that prefixes, carries and neighbours really meet.
keys = st.lists(st.sampled_from(b"\x00\x01a\xfe\xff"), min_size=1, max_size=5).map(bytes)
prefixes = st.lists(st.sampled_from(b"\x00\x01a\xfe\xff"), max_size=4).map(bytes)


@given(prefixes, keys)
def test_range_of_a_prefix_holds_exactly_its_keys(prefix: bytes, key: bytes) -> None:
    assert KeyRange.prefix(prefix).contains(key) == key.startswith(prefix)


@given(keys, keys)
def test_range_of_a_key_holds_it_alone(key: bytes, other: bytes) -> None:
    assert KeyRange.key(key).contains(other) == (key == other)


@pytest.mark.parametrize(
    ("prefix", "end"),
    [
        (b"/registry/", b"/registry0"),
        (b"a\xff", b"b"),  # not b"b\xff", which takes in the neighbours
        (b"a\xff\xff", b"b"),
        (b"\xff", EVERYTHING),
        (b"", EVERYTHING),
    ],
)
def test_ends(prefix: bytes, end: bytes) -> None:
    assert KeyRange.prefix(prefix).end == end


def test_everything_starts_at_the_first_possible_key() -> None:
    assert KeyRange.prefix(b"") == KeyRange(b"\0", b"\0")  # etcd refuses an empty key
