"""Places for backups: S3 and a local directory, behind the port `models.ports.Store`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from etcd_steward.models.connection import LocalSettings, S3Settings
from etcd_steward.models.ports import Store
from etcd_steward.store.parts import PART_SIZE, PARTS_IN_FLIGHT

__all__ = ["open_store"]


@asynccontextmanager
async def open_store(
    settings: S3Settings | LocalSettings,
    *,
    part_size: int = PART_SIZE,
    parts_in_flight: int = PARTS_IN_FLIGHT,
) -> AsyncIterator[Store]:
    """The store that `settings` describe, closed at the end. Nothing is sent yet.

    Raises `InvalidInput` for settings that can't be meant and `Refused` for those that would make
    backups which nobody can read. `part_size` in bytes; a write holds about `parts_in_flight` + 1
    parts in memory.
    """
    store = await asyncio.to_thread(_make, settings, part_size, parts_in_flight)
    try:
        yield store
    finally:
        await store.aclose()


def _make(settings: S3Settings | LocalSettings, part_size: int, parts_in_flight: int) -> Store:
    # Imported only when needed: boto3 costs a third of a second and 30 MB.
    match settings:
        case S3Settings():
            from etcd_steward.store.s3 import S3Store  # noqa: PLC0415

            return S3Store(settings, part_size=part_size, parts_in_flight=parts_in_flight)
        case LocalSettings():
            from etcd_steward.store.local import LocalStore  # noqa: PLC0415

            return LocalStore(settings, part_size=part_size)
