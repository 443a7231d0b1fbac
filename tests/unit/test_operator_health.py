"""Which events are overdue, and what the probes make of it."""

from etcd_steward.handlers.health import Overdue
from etcd_steward.kube import Key, Version

A, B = Key("ns", "a"), Key("ns", "b")


def version(number: int, uid: str = "u") -> Version:
    return Version(uid, number)


def test_what_the_watch_has_shown_is_not_overdue() -> None:
    overdue = Overdue()
    overdue.compare({A: version(1)}, {A: version(1)}, 0)
    overdue.compare({A: version(1)}, {A: version(2)}, 10)  # the list may be the older one
    assert overdue.longest(100) == 0


def test_an_event_is_overdue_from_when_it_was_first_missed() -> None:
    overdue = Overdue()
    overdue.compare({A: version(2)}, {A: version(1)}, 0)
    overdue.compare({A: version(3)}, {A: version(1)}, 10)
    assert overdue.longest(15) == 15
    overdue.compare({A: version(3)}, {A: version(2)}, 20)  # the first has come, the second not
    assert overdue.longest(20) == 10
    overdue.compare({A: version(3)}, {A: version(3)}, 30)
    assert overdue.longest(30) == 0


def test_an_object_that_changes_all_the_time_is_never_overdue() -> None:
    overdue = Overdue()
    for second in range(100):
        overdue.compare({A: version(second + 1)}, {A: version(second)}, second)
        assert overdue.longest(second) <= 1


def test_new_deleted_and_recreated_objects_are_missed() -> None:
    for listed, shown in (
        ({A: version(1), B: version(1)}, {A: version(1)}),
        ({A: version(1)}, {A: version(1), B: version(1)}),
        ({A: version(9, "new")}, {A: version(99, "old")}),
    ):
        overdue = Overdue()
        overdue.compare(listed, shown, 0)
        overdue.compare(listed, shown, 7)
        assert overdue.longest(7) == 7
        overdue.compare(listed, listed, 8)
        assert overdue.longest(8) == 0
