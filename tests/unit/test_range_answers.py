"""Answers to Range that are read as they came: they say what protobuf's objects would say."""

import operator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcd_steward.engine.paged import Paged, ranges_of
from etcd_steward.engine.spoolfile import SpoolFile
from etcd_steward.errors import Unavailable
from etcd_steward.etcd import stubs
from etcd_steward.etcd.answers import KeyValues, RangeAnswer
from etcd_steward.etcd.paging import Page

NUMBERS = st.one_of(st.integers(1, 300), st.integers(1, (1 << 62) - 1))
LEASES = st.one_of(st.just(0), st.integers(-(1 << 63), (1 << 63) - 1))
KEY_VALUES = st.builds(
    lambda key, value, create, more, version, lease: stubs.KeyValue(
        key=key,
        value=value,
        create_revision=create,
        mod_revision=create + more,
        version=version,
        lease=lease,
    ),
    st.binary(min_size=1, max_size=300),
    st.one_of(
        st.binary(max_size=20), st.binary(min_size=120, max_size=140), st.just(bytes(20_000))
    ),
    NUMBERS,
    st.integers(0, 1000),
    NUMBERS,
    LEASES,
)


def _answered(
    kvs: list[stubs.KeyValue], revision: int, more: bool, count: int
) -> stubs.RangeResponse:
    return stubs.RangeResponse(
        header=stubs.ResponseHeader(
            cluster_id=(1 << 64) - 1, member_id=3, revision=revision, raft_term=2
        ),
        kvs=sorted(kvs, key=operator.attrgetter("key")),
        more=more,
        count=count,
    )


RESPONSES = st.builds(
    _answered,
    st.lists(KEY_VALUES, max_size=20, unique_by=lambda kv: kv.key),
    NUMBERS,
    st.booleans(),
    st.integers(0, 1 << 40),
)


@given(RESPONSES)
def test_an_answer_says_what_protobuf_says(response: stubs.RangeResponse) -> None:
    data = response.SerializeToString()
    answer = RangeAnswer.parse(data)
    assert (answer.header, answer.more, answer.count) == (
        response.header,
        response.more,
        response.count,
    )
    assert list(answer.kvs) == list(response.kvs)
    assert answer.kvs[:2] == response.kvs[:2]
    assert answer.ByteSize() == response.ByteSize() == len(data)


@given(RESPONSES, st.booleans())
def test_every_key_is_taken_in_exactly(
    tmp_path_factory: pytest.TempPathFactory, response: stubs.RangeResponse, raw: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "taken"
    path.unlink(missing_ok=True)
    file = SpoolFile(path)
    paged = Paged(file, 7, None, "/registry")
    kvs = RangeAnswer.parse(response.SerializeToString()).kvs if raw else response.kvs
    paged.take(Page(7, kvs))
    rows = paged.rows()
    assert len(paged) == len(rows) == len(response.kvs)
    columns = (rows.create_revision, rows.mod_revision, rows.version, rows.lease)
    for row, kv in enumerate(response.kvs):
        at, size = int(rows.value_at[row]), int(rows.value_size[row])
        assert (rows.key(row), file.read_at(at, size)) == (kv.key, kv.value)
        numbers = [int(column[row]) for column in columns]
        assert numbers == [kv.create_revision, kv.mod_revision, kv.version, kv.lease]
    file.close()


def test_a_record_that_is_written_otherwise_is_read_all_the_same(tmp_path: Path) -> None:
    """By a server that is not etcd, or a later one: other order, fields that nobody knows yet."""
    pieces = [b"\x2a\x01v", b"\x0a\x01k", b"\x10\x05", b"\x18\x06", b"\x20\x02", b"\x3a\x03new"]
    data = b"".join(pieces)
    file = SpoolFile(tmp_path / "values")
    paged = Paged(file, 7, None, "/registry")
    paged.take(Page(7, KeyValues(data, [0], [len(data)])))
    rows = paged.rows()
    assert (rows.key(0), file.read_at(0, 9)) == (b"k", b"v")
    assert [int(one[0]) for one in (rows.create_revision, rows.mod_revision)] == [5, 6]
    with pytest.raises(Unavailable, match="can't be understood"):
        paged.take(Page(7, KeyValues(data, [0], [len(data) - 1])))
    file.close()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x0a",
        b"\x0a\x7f",
        b"\x12\x05abc",
        b"\x12\xff\xff",
        b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x18\x01\x12\x00",
        b"<html>no</html>",
    ],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(Unavailable, match="can't be understood"):
        RangeAnswer.parse(data)


@given(
    st.one_of(
        st.binary(min_size=1, max_size=20),
        st.sampled_from([b"/registry/", b"/registry/a", b"/registry/z", b"/etcdsteward.io0"]),
        st.binary(max_size=3).map(lambda rest: b"/registry/pods" + rest),
        st.binary(max_size=3).map(lambda rest: b"/etcdsteward.io/" + rest),
    ),
    st.sampled_from(["/registry", "/kubernetes.io", "/", "/registry/pods"]),
)
def test_each_key_is_in_one_range_but_our_own(key: bytes, prefix: str) -> None:
    ranges = ranges_of(None, prefix)
    assert sum(one.contains(key) for one in ranges) == (not key.startswith(b"/etcdsteward.io/"))
    assert [one.end for one in ranges[1:-1]] == sorted(one.end for one in ranges[1:-1])
    assert not any(one.empty for one in ranges)
