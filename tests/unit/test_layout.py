"""Names in the store."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcd_steward.errors import InvalidInput
from etcd_steward.models.layout import Folder, cluster_folder

names = st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?\Z")
runs = st.from_regex(r"\A[0-9a-f]{8}(\.[2-9])?\Z")
ticks = st.integers(0, 4_000_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


@given(st.from_regex(r"\A[0-9a-f]{8,16}\Z"), names, names, ticks, runs)
def test_a_folder_reads_back(
    cluster: str, namespace: str, name: str, tick: datetime, run: str
) -> None:
    folder = Folder(cluster, namespace, name, tick, run)
    assert Folder.parse(str(folder)) == folder
    assert Folder.parse(f"{folder}/") == folder
    assert folder.manifest.startswith(f"{folder}/")


def test_the_design_example() -> None:
    folder = Folder.parse("1f0c9a3e/etcd-steward.nightly/20261122T021700Z-7c1e04b2")
    assert folder.tick == datetime(2026, 11, 22, 2, 17, tzinfo=UTC)
    assert folder.snapshot.endswith("-7c1e04b2/snapshot.db.zst")


@pytest.mark.parametrize(
    "text", ["", "x", "1f0c9a3e/a.b/20261122T021700Z", "../a.b/20261122T021700Z-7c1e04b2"]
)
def test_anything_else_is_refused_in_words(text: str) -> None:
    with pytest.raises(InvalidInput, match="snapshot list"):
        Folder.parse(text)


def test_the_uid_names_the_cluster_where_there_is_one() -> None:
    assert cluster_folder("1f0c9a3e-0000-0000-0000-000000000000", "abc") == "1f0c9a3e"
    assert cluster_folder(None, "abc") == "0000000000000abc"
