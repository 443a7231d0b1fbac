"""What a backup makes of its records when it answers in etcd's place."""

from collections.abc import Sequence

import pytest

from etcd_steward.engine.standin import _answers, _whole
from etcd_steward.etcd import stubs
from etcd_steward.etcd.watcher import _is_true_of
from etcd_steward.models.registry import Record
from etcd_steward.registry.gathered import Gatherer


class Memory:
    """A file that grows, in memory."""

    def __init__(self) -> None:
        self._data = b""

    @property
    def size(self) -> int:
        return len(self._data)

    def append(self, blobs: Sequence[bytes]) -> None:
        self._data += b"".join(blobs)

    def read_at(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]


def test_records_in_any_order_become_rows_in_the_order_of_keys() -> None:
    gatherer = Gatherer(Memory())
    records = [
        Record(b"/%d" % (number * 7 % 20), b"v" * number, number, number + 1, 1, number % 2)
        for number in range(20)
    ]
    for first in range(0, 20, 6):
        gatherer.add(records[first : first + 6])
    rows = gatherer.rows()
    assert [one for batch in rows.records(16) for one in batch] == sorted(records)
    assert rows[::-1].read() == sorted(records, reverse=True)
    assert list(rows.mod_revision) == [one.mod_revision for one in sorted(records)]
    assert len(Gatherer(Memory()).rows()) == 0


def events(*revisions: int) -> list[stubs.Event]:
    return [stubs.Event(kv=stubs.KeyValue(mod_revision=revision)) for revision in revisions]


def test_a_revision_is_told_at_once() -> None:
    assert _whole(events(1, 2, 2), ended=False) == 1
    assert _whole(events(1, 2, 2), ended=True) == 3
    assert _whole(events(2, 2), ended=False) == 0
    answers = list(_answers(events(*range(2500), 2499, 2499)))
    assert [len(answer) for answer in answers] == [1000, 1000, 502]


@pytest.mark.parametrize(
    ("version", "true"),
    [
        ("3.4.24", False), ("3.4.25", True), ("3.5.7", False), ("3.5.8", True),
        ("3.5.9-rc.1", True), ("3.6.0", True), ("4.0.0", True), ("3.5", False), ("", False),
    ],
)  # fmt: skip
def test_progress_is_believed_from_a_version_on(version: str, true: bool) -> None:
    assert _is_true_of(version) is true
