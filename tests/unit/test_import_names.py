"""What the name of a snapshot tells, and which time is believed."""

from datetime import UTC, datetime

import pytest

from etcd_steward.engine.provenance import Named, read_name, taken_at

AT = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)  # 1,700,000,000
NOW = datetime(2026, 11, 22, 2, 17, 5, 123, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("Full-00000000-00012345-1700000000", Named("etcdbrctl", AT, 12345)),
        ("Full-00000000-00012345-1700000000.gz", Named("etcdbrctl", AT, 12345)),
        ("Full-00000000-00012345-1700000000.final.zlib", Named("etcdbrctl", AT, 12345)),
        ("on-demand-node-1-1700000000", Named("k3s or RKE2", AT)),
        ("etcd-snapshot-server0-1700000000.zip", Named("k3s or RKE2", AT)),
        ("snapshot_2023-11-14_221320.db", Named("OpenShift", AT)),
        ("snapshot_2023-13-14_221320.db", Named("OpenShift", None)),
        ("db.snapshot", Named()),
        ("etcd.db", Named()),
        ("standard input", Named()),
    ],
)
def test_a_name_tells_tool_and_time(name: str, named: Named) -> None:
    assert read_name(name) == named


def test_the_best_known_time_is_taken() -> None:
    said, archived, modified = (datetime(2025, month, 1, tzinfo=UTC) for month in (1, 2, 3))
    named = Named("k3s or RKE2", AT)
    assert taken_at(said, named, archived, modified, NOW) == (said, "flag")
    assert taken_at(None, named, archived, modified, NOW) == (AT, "name")
    assert taken_at(None, Named(), archived, modified, NOW) == (archived, "archive")
    assert taken_at(None, Named(), None, modified, NOW) == (modified, "file")
    assert taken_at(None, Named(), None, None, NOW) == (NOW.replace(microsecond=0), "import")


def test_a_time_that_is_yet_to_come_is_not_believed() -> None:
    late = datetime(2100, 1, 1, tzinfo=UTC)
    modified = datetime(2025, 3, 1, tzinfo=UTC)
    assert taken_at(None, Named("x", late), late, modified, NOW) == (modified, "file")
    assert taken_at(None, Named("x", late), late, late, NOW) == (
        NOW.replace(microsecond=0),
        "import",
    )
