"""What becomes of one object where several are read."""

from collections.abc import Awaitable

from etcd_steward.errors import IntegrityError, NoSuchStore, NotFound
from etcd_steward.models.ports import Outcome


async def outcome(reading: Awaitable[bytes]) -> Outcome:
    """What `reading` returns, or the error that concerns this object alone."""
    try:
        return await reading
    except NoSuchStore:
        raise
    except (NotFound, IntegrityError) as error:
        return error
