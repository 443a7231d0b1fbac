"""The stores that the port's promises are asked of: a real S3 server and a directory."""

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from etcd_steward.models.connection import LocalSettings, S3Settings
from etcd_steward.models.ports import Store
from etcd_steward.store import open_store
from tests.contract.support import PART, s3_settings
from tests.testbed import SeaweedFS


@pytest.fixture(scope="module")
def shared_bucket(seaweedfs: SeaweedFS) -> str:
    """One bucket for all tests, each with a prefix of its own: a bucket takes a second to make."""
    name = f"test-{secrets.token_hex(6)}"
    seaweedfs.client().create_bucket(Bucket=name)
    return name


@pytest.fixture(params=["s3", "local"])
def store_settings(request: pytest.FixtureRequest, tmp_path: Path) -> S3Settings | LocalSettings:
    if request.param == "local":
        root = tmp_path / "store"
        root.mkdir()
        return LocalSettings(path=root)
    # Asked for only here, so that the directory's tests start no server.
    server, bucket = request.getfixturevalue("seaweedfs"), request.getfixturevalue("shared_bucket")
    return s3_settings(server, bucket, prefix=f"prod/{secrets.token_hex(4)}")


@pytest.fixture
async def store(store_settings: S3Settings | LocalSettings) -> AsyncIterator[Store]:
    async with open_store(store_settings, part_size=PART) as opened:
        yield opened
