"""The life of one object, as several have seen it."""

import json

from etcd_steward.engine.fields import FieldChange
from etcd_steward.engine.object_log import Sighting, timeline
from etcd_steward.models.registry import Record

KEY = b"/registry/configmaps/shop/a"


def state(mod: int, version: int, *, created: int = 0, **data: str) -> Record:
    created = created or mod - version + 1
    meta = {"name": "a", "namespace": "shop", "uid": f"uid-{created}"}
    value = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}
    return Record(KEY, json.dumps(value).encode(), created, mod, version, 0)


def seen(where: str, revision: int, record: Record | None) -> Sighting:
    return Sighting(where, revision, record)


def test_what_several_have_seen_is_one_state() -> None:
    one = state(10, 1, a="1")
    entries = timeline([seen("monday", 20, one), seen("tuesday", 30, one)], show_secrets=False)

    (entry,) = entries
    assert (entry.revision, entry.missed, entry.absent) == (10, 0, False)
    assert [sighting.where for sighting in entry.seen] == ["monday", "tuesday"]


def test_changes_are_told_field_by_field_in_whatever_order_they_were_seen() -> None:
    first, second = state(10, 1, a="1"), state(15, 2, created=10, a="2")
    entries = timeline([seen("live", 20, second), seen("monday", 12, first)], show_secrets=False)

    assert [entry.revision for entry in entries] == [10, 15]
    assert entries[1].fields == (FieldChange("data.a", "1", "2"),)


def test_what_nobody_has_seen_is_counted() -> None:
    first, last = state(10, 3, created=5, a="1"), state(30, 9, created=5, a="1")
    entries = timeline([seen("monday", 12, first), seen("tuesday", 40, last)], show_secrets=False)

    assert [entry.missed for entry in entries] == [2, 5]
    assert entries[1].note == "written anew, and the same"


def test_a_deletion_that_was_seen_is_exact() -> None:
    deletion = Sighting("live", 25, None, deletion=True)
    entries = timeline(
        [seen("monday", 12, state(10, 1)), deletion, seen("live", 40, None)], show_secrets=False
    )

    assert [(entry.revision, entry.absent, entry.exact) for entry in entries] == [
        (10, False, True),
        (25, True, True),
    ]


def test_one_that_nobody_saw_lies_between_two_backups() -> None:
    alive = state(10, 1)
    entries = timeline(
        [seen("monday", 12, alive), seen("tuesday", 20, alive), seen("friday", 40, None)],
        show_secrets=False,
    )

    assert (entries[1].revision, entries[1].exact, entries[1].after) == (40, False, 20)


def test_two_lives_have_an_absence_between_them() -> None:
    entries = timeline(
        [seen("monday", 12, state(10, 1, a="1")), seen("friday", 50, state(30, 1, a="2"))],
        show_secrets=False,
    )

    assert [(entry.revision, entry.absent) for entry in entries] == [
        (10, False),
        (30, True),
        (30, False),
    ]
    assert entries[1].exact is False
    assert entries[2].fields == ()


def test_before_it_was_created_it_was_not_deleted() -> None:
    entries = timeline(
        [seen("monday", 5, None), seen("friday", 50, state(30, 1))], show_secrets=False
    )

    assert [entry.absent for entry in entries] == [False]
