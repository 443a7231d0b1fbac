"""The operator's two ports, where another process has them."""

import socket
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from etcd_steward.errors import InvalidInput
from etcd_steward.handlers.exposition import serving_metrics
from etcd_steward.handlers.health import serving_probes
from etcd_steward.metrics import Board


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens at."""
    with socket.create_server(("", 0)) as server:
        yield server.getsockname()[1]


async def test_a_port_of_others_is_named(taken: int) -> None:
    with pytest.raises(InvalidInput, match=f"metrics port {taken}: .*in use"):
        async with serving_metrics(Board(CollectorRegistry()), taken):
            pass
    with pytest.raises(InvalidInput, match=f"health port {taken}: .*in use"):
        async with serving_probes(lambda: None, taken):
            pass
