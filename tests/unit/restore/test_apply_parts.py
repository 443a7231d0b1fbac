"""The parts of an apply that need no etcd: cutting, order, pace."""

import asyncio
import time

import pytest

from etcd_steward.engine.restore.apply import _steps
from etcd_steward.engine.restore.removal import backwards
from etcd_steward.engine.restore.throttle import Throttle, Unthrottled
from etcd_steward.engine.restore.transaction import MOST_BYTES, MOST_KEYS, pieces
from etcd_steward.models.restore import PlanItem


def item(name: str, resource: str = "configmaps", *, group: int = 0, size: int = 10) -> PlanItem:
    return PlanItem(
        key=f"/registry/{resource}/shop/{name}",
        resource=resource,
        namespace="shop",
        name=name,
        verdict="create",
        write=True,
        group=group,
        size=size,
    )


def test_a_group_is_one_transaction_as_far_as_etcd_takes_it() -> None:
    assert [len(piece.items) for piece in pieces([item(str(n)) for n in range(30)])] == [30]
    many = [item(str(n)) for n in range(2 * MOST_KEYS + 1)]
    assert [len(piece.items) for piece in pieces(many)] == [MOST_KEYS, MOST_KEYS, 1]
    large = [item("a"), item("b", size=MOST_BYTES), item("c"), item("d", size=1_500_000)]
    assert [[one.name for one in piece.items] for piece in pieces(large)] == [
        ["a"], ["b"], ["c"], ["d"]
    ]  # fmt: skip
    assert [piece.size for piece in pieces(large)] == [10, MOST_BYTES, 10, 1_500_000]


def test_only_neighbours_of_one_type_are_written_beside_each_other() -> None:
    planned = [
        item("default", "serviceaccounts", group=0),
        item("shop", "namespaces", group=0),
        item("a", "secrets", group=1),
        item("b", "secrets", group=2),
        item("web", "deployments.apps", group=3),
        item("web-1", "replicasets.apps", group=3),
        item("api", "deployments.apps", group=4),
        item("c", "secrets", group=5),
    ]
    steps = [[[one.name for one in group] for group in step] for step in _steps(planned)]
    assert steps == [
        [["default", "shop"]],
        [["a"], ["b"]],
        [["web", "web-1"], ["api"]],
        [["c"]],
    ]
    assert [[one.name for one in step] for step in backwards(planned)] == [
        ["c"],
        ["api", "web", "web-1"],
        ["b", "a"],
        ["default", "shop"],
    ]


def test_a_throttle_goes_slower_when_others_do_and_never_stops() -> None:
    throttle = Throttle(before=0.010)
    rate = throttle.rate
    throttle.judge([0.010] * 20)
    assert throttle.rate > rate
    for _ in range(40):
        throttle.judge([0.010] * 15 + [0.031] * 5)
    assert 0 < throttle.rate < rate
    assert throttle.during == pytest.approx(0.031)
    slowest = throttle.rate
    throttle.judge([10.0] * 20)
    assert throttle.rate == slowest


async def test_a_throttle_lets_as_many_keys_pass_as_its_rate_says() -> None:
    throttle, begun = Throttle(rate=1_000.0), time.monotonic()
    await asyncio.gather(*(throttle.take(10, 0) for _ in range(20)))
    assert time.monotonic() - begun >= 0.19
    begun = time.monotonic()
    await throttle.take(1, 2 << 20)  # two megabytes count as many keys
    await throttle.take(1, 0)
    assert time.monotonic() - begun >= 0.25
    begun = time.monotonic()
    for _ in range(1_000):
        await Unthrottled().take(100, 1 << 20)
    assert time.monotonic() - begun < 5
