"""Reading back what was written, before anybody calls it a backup."""

import asyncio
import random
from typing import Literal

import google_crc32c

from etcd_steward.engine.tasks import together
from etcd_steward.errors import IntegrityError
from etcd_steward.models.ports import Store, StoredPart, Written

_SAMPLES = 6
"""Parts that are read back where the store itself confirmed the whole object's checksum."""
_AT_ONCE = 2


async def read_back(store: Store, written: Written) -> Literal["sampled", "whole"]:
    """Read parts of an object and compare them with what was sent.

    A store that computed the whole object's checksum itself, and got ours, has every byte: then
    the first, the last and a few random parts show that it also gives them back. Any other store
    gives all of them back here. Raises `IntegrityError` if a part differs.
    """
    parts = list(written.parts)
    sampled = written.confirmed and len(parts) > _SAMPLES
    if sampled:
        parts = [parts[0], *random.sample(parts[1:-1], _SAMPLES - 2), parts[-1]]
    file = await store.open(written.key)
    if file.size != written.size:
        raise IntegrityError(
            f"{written.key} has {file.size} bytes in the store and had {written.size} when sent",
            hint="something else writes into this store, or it loses data: nothing was recorded",
        )
    gate = asyncio.Semaphore(_AT_ONCE)

    def differs(part: StoredPart) -> bool:
        data = file.read_at(part.offset, part.size)
        return len(data) != part.size or google_crc32c.value(data) != part.crc32c

    async def compare(part: StoredPart) -> None:
        async with gate:
            if await asyncio.to_thread(differs, part):
                raise IntegrityError(
                    f"{written.key} reads back differently from what was sent, "
                    f"between bytes {part.offset} and {part.offset + part.size}",
                    hint="the store alters data: nothing was recorded; use another store",
                )

    async with together() as group:
        for part in parts:
            group.create_task(compare(part))
    return "sampled" if sampled else "whole"
