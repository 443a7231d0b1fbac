"""Where the moments of a history come from: Leases, else what the operator has observed."""

import json
from collections.abc import AsyncGenerator, Sequence

import pytest

from etcd_steward.engine.clock import clock_of
from etcd_steward.engine.sources import Change, Sized, Wanted
from etcd_steward.engine.times import LEASES, OBSERVATIONS, Clock
from etcd_steward.errors import NotFound
from etcd_steward.models.registry import Record

LEASE = b"/registry/leases/shop/leader"
MAINTENANCE = b"/registry/etcdsteward.io/etcdmaintenances/ops/main"
OTHER = b"/registry/etcdsteward.io/etcdmaintenances/ops/other"


class Past:
    """A source that is nothing but history."""

    name = "the past"
    ordered = True
    revision = 99

    def __init__(self, *written: tuple[bytes, int, object], oldest: int = 1) -> None:
        """Keys, revisions and objects; what was written up to `oldest` is what lived then."""
        self._oldest = oldest
        self._records: list[Record] = []
        for key, revision, found in written:
            version = 1 + sum(one.key == key for one in self._records)
            value = json.dumps(found).encode()
            self._records.append(Record(key, value, 1, revision, version, 0))

    async def oldest(self) -> int:
        return self._oldest

    async def records(
        self, wanted: Wanted, *, at: int = 0, values: bool = True
    ) -> AsyncGenerator[list[Record], None]:
        assert (at, values) == (self._oldest, True)
        lived = {one.key: one for one in self._records if one.mod_revision <= at}
        yield [one for one in lived.values() if wanted.wants(one)]

    async def changes(
        self, wanted: Wanted, *, after: int = 0, upto: int = 0
    ) -> AsyncGenerator[list[Change], None]:
        assert (after, upto) == (0, 0)
        since = (one for one in self._records if one.mod_revision > self._oldest)
        yield [Change(one, deleted=False) for one in since if wanted.wants(one)]

    def sizes(self, wanted: Wanted, *, at: int = 0) -> AsyncGenerator[list[Sized], None]:
        raise NotImplementedError

    async def fetch(self, keys: Sequence[bytes], *, at: int = 0) -> dict[bytes, Record]:
        raise NotImplementedError


def lease(time: object) -> dict[str, object]:
    spec = {"renewTime": time}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {}, "spec": spec}


def look(time: object = None) -> dict[str, object]:
    status = {"status": {"etcd": {"time": time, "revision": 7}}} if time is not None else {}
    version, kind = "etcdsteward.io/v1alpha1", "EtcdMaintenance"
    return {"apiVersion": version, "kind": kind, "metadata": {}, **status}


def at(minute: int) -> str:
    return f"2026-11-22T12:{minute:02}:00Z"


async def marks(past: Past) -> tuple[str, dict[int, str]]:
    """What makes the clock, and which revision it knows to be of which minute."""
    clock: Clock = await clock_of(past, "/registry")
    told = {}
    for revision in range(1, 100):
        before, not_after = clock.of(revision)
        if before is not None and before == not_after:
            told[revision] = f"{before:%M}"
    return clock.by, told


async def test_leases_come_first() -> None:
    past = Past((MAINTENANCE, 2, look()), (MAINTENANCE, 3, look(at(1))), (LEASE, 4, lease(at(2))))
    assert await marks(past) == (LEASES, {4: "02"})


async def test_the_first_record_of_a_moment_is_its_mark() -> None:
    past = Past(
        (MAINTENANCE, 2, look()),
        (OTHER, 3, look()),
        (MAINTENANCE, 10, look(at(1))),
        (MAINTENANCE, 20, look(at(1))),
        (OTHER, 30, look(at(4))),
        (MAINTENANCE, 40, look(at(6))),
        (OTHER, 50, look(at(4))),
        (MAINTENANCE, 60, look(at(6))),
    )
    assert await marks(past) == (OBSERVATIONS, {10: "01", 30: "04", 40: "06"})


async def test_what_the_history_begins_with_may_be_written_later_than_it_says() -> None:
    looks = [(MAINTENANCE, revision, look(at(revision // 10))) for revision in (8, 10, 20, 30)]
    past = Past(*looks, (MAINTENANCE, 31, look(at(3))), oldest=25)
    assert await marks(past) == (OBSERVATIONS, {30: "03"})
    again = Past(*looks, (MAINTENANCE, 31, look(at(3))), oldest=30)
    with pytest.raises(NotFound, match="no Lease was renewed in it, and the operator has observed"):
        await clock_of(again, "/registry")


async def test_an_object_from_a_backup_tells_nothing() -> None:
    past = Past((MAINTENANCE, 50, look(at(1))), (OTHER, 51, look()), (OTHER, 52, look(at(30))))
    assert await marks(past) == (OBSERVATIONS, {52: "30"})


async def test_leases_that_nobody_renews_only_help() -> None:
    past = Past((LEASE, 5, lease(at(1))), (OTHER, 6, look()), (OTHER, 20, look(at(9))), oldest=10)
    assert await marks(past) == (OBSERVATIONS, {10: "01", 20: "09"})
    assert await marks(Past((LEASE, 5, lease(at(1))), oldest=10)) == (LEASES, {10: "01"})


@pytest.mark.parametrize("wrong", ["soon", "", 5, None, [], {"a": 1}, "2026-11-22T12:00:00"])
async def test_a_moment_that_is_none_is_left_out(wrong: object) -> None:
    past = Past(
        (LEASE, 5, lease(wrong)),
        (OTHER, 6, look()),
        (OTHER, 7, look(wrong)),
        (OTHER, 8, {"status": wrong}),
        (OTHER, 9, wrong),
        (OTHER, 20, look(at(9))),
    )
    assert await marks(past) == (OBSERVATIONS, {20: "09"})
