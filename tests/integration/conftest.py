"""Fixtures that several integration tests share."""

from collections.abc import AsyncIterator

import pytest

from tests.support.looked import Looked, looked


@pytest.fixture(scope="session")
async def still(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Looked]:
    """A seeded registry that stands still. Shared: only look at it."""
    async with looked(tmp_path_factory.mktemp("looked")) as registry:
        yield registry
