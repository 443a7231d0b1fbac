"""A task group that fails with its first error, not with a group of them.

`asyncio.TaskGroup` wraps whatever happens in an `ExceptionGroup`. All errors that matter here come
from one cause, the first; the others are its echoes (a cancelled upload, a closed stream).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def together() -> AsyncIterator[asyncio.TaskGroup]:
    """A `TaskGroup` whose first error leaves it bare; the other tasks are cancelled and awaited."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as failures:
        raise _first(failures) from failures


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
