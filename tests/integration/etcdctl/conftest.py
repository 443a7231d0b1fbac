"""An etcd for whoever compares etcdctl with ours, and the etcdctls."""

from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from etcd_steward.etcd.client import EtcdClient
from tests.integration.etcd_connections import connection_to
from tests.support.etcdctl import VERSIONS, Both
from tests.testbed import EtcdCluster
from tests.testbed.binaries import binary


@pytest.fixture(scope="session")
async def etcdctls() -> Mapping[str, Path]:
    """The programs, by version."""
    return {version: await binary("etcdctl", version) for version in VERSIONS}


@pytest.fixture(scope="session")
async def own_etcd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EtcdCluster]:
    """One member, emptied before every run of every case.

    It tells those who ask for it of progress each second, where ten minutes are etcd's default.
    """
    flags = {"watch-progress-notify-interval": "1s"}
    async with EtcdCluster(tmp_path_factory.mktemp("etcdctl"), flags=flags) as cluster:
        yield cluster


@pytest.fixture(scope="module")
async def client(own_etcd: EtcdCluster) -> AsyncIterator[EtcdClient]:
    """A client of our own."""
    async with EtcdClient.connect(connection_to(own_etcd)) as opened:
        yield opened


@pytest.fixture(scope="session")
def both(own_etcd: EtcdCluster, etcdctls: Mapping[str, Path]) -> Iterator[Both]:
    """Etcdctl and ours at that etcd."""
    programs = Both(own_etcd.endpoints[0], etcdctls)
    yield programs
    programs.close()
