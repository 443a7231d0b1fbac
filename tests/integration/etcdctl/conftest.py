"""An etcd for whoever compares etcdctl with ours, and the etcdctls."""

from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.etcdctl import VERSIONS, Both
from tests.testbed import EtcdCluster
from tests.testbed.binaries import binary


@pytest.fixture(scope="session")
async def etcdctls() -> Mapping[str, Path]:
    """The programs, by version."""
    return {version: await binary("etcdctl", version) for version in VERSIONS}


@pytest.fixture(scope="session")
async def own_etcd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EtcdCluster]:
    """One member, emptied before every run of every case."""
    async with EtcdCluster(tmp_path_factory.mktemp("etcdctl")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def both(own_etcd: EtcdCluster, etcdctls: Mapping[str, Path]) -> Iterator[Both]:
    """Etcdctl and ours at that etcd."""
    programs = Both(own_etcd.endpoints[0], etcdctls)
    yield programs
    programs.close()
