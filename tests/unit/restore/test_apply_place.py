"""A restore's own files."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from etcd_steward.engine.restore.place import UNDO, folder_of, prune_places
from etcd_steward.errors import IntegrityError, Refused
from etcd_steward.models.restore import Restored, RestoreReport
from etcd_steward.models.restore_place import Claim, SecondLook
from etcd_steward.registry.table import RowsWriter
from tests.support.applying import CLUSTER, a_place
from tests.support.cli import files

NOW = datetime(2026, 11, 22, 2, 17, tzinfo=UTC)
CLAIM = Claim(restore="team.shop", uid="7c1e04b2", digest="sha256:aa")


async def test_a_claim_is_taken_once(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        assert await place.claimed() is None
        assert await place.result() is None
        assert await place.begin(CLAIM) is False
        assert await place.begin(CLAIM) is True  # the same restore after a crash
        with pytest.raises(Refused, match=r"belongs to the restore team\.shop"):
            await place.begin(CLAIM.model_copy(update={"uid": "0000beef"}))
        # It died before it had saved anything: another plan may be applied.
        other = CLAIM.model_copy(update={"digest": "sha256:bb"})
        assert await place.begin(other) is False
        assert await place.claimed() == other
        rows = RowsWriter().rows()
        await place.stash(UNDO, rows, _NoFile(), revision=7, prefix="/registry")
        with pytest.raises(Refused, match="begun with the plan sha256:bb"):
            await place.begin(CLAIM)
        undo = await place.stashed(UNDO)
        assert undo is not None
        assert (undo.rows, undo.revision) == (0, 7)


class _NoFile:
    """Nothing to read values from: there are none."""

    size = 0

    def read_at(self, offset: int, length: int) -> bytes:
        raise AssertionError((offset, length))


async def test_a_journal_goes_on_where_another_process_left_it(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        assert await place.noted() == {}
        await place.note({"a": 1, "b": 1})
        await place.note({"c": 2})
    async with a_place(tmp_path) as place:
        assert await place.noted() == {"a": 1, "b": 1, "c": 2}
        await place.note({"d": 3})
        assert await place.noted() == {"a": 1, "b": 1, "c": 2, "d": 3}
        await place.tidy(values=False)
        assert await place.noted() == {}


async def test_a_result_is_told_with_the_second_look(tmp_path: Path) -> None:
    report = RestoreReport(
        digest="sha256:aa",
        started_at=NOW,
        finished_at=NOW,
        undo="file:///x",
        restored=(Restored(key="a", outcome="written", revision=8),),
    )
    async with a_place(tmp_path) as place:
        await place.write_result(report)
        assert await place.result() == report
        for taken in ((), ("secrets shop/a is gone",)):
            await place.write_second_look(SecondLook(at=NOW, taken=taken))
            found = await place.result()
            assert found is not None
            assert (found.taken_since, found.second_look) == (taken, "2026-11-22T02:17:00+00:00")
        path = tmp_path / "store" / place.folder / "result.json"
        path.write_text('{"version": 2}')
        with pytest.raises(IntegrityError, match=r"result\.json is not what this version"):
            await place.result()


async def test_old_restores_are_pruned_and_new_ones_stay(tmp_path: Path) -> None:
    for uid in ("aaaaaaaa", "bbbbbbbb"):
        async with a_place(tmp_path, uid) as place:
            await place.begin(CLAIM.model_copy(update={"uid": uid}))
            await place.note({"a": 1})
    old = tmp_path / "store" / folder_of(CLUSTER, "team.shop", "aaaaaaaa")
    for path in old.rglob("*"):
        os.utime(path, (0, 0))
    async with a_place(tmp_path) as place:
        gone = [one async for one in prune_places(place.store, CLUSTER, keep=timedelta(days=30))]
    assert gone == [f"{folder_of(CLUSTER, 'team.shop', 'aaaaaaaa')}/"]
    left = files(tmp_path / "store")
    assert [one for one in left if "aaaaaaaa" in one] == []
    assert len([one for one in left if "bbbbbbbb" in one]) == 2
