"""The one place where our errors become kopf's."""

import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec

import kopf

from etcd_steward.errors import PermanentError, TransientError

P = ParamSpec("P")

RETRY_DELAY = 15.0
"""Seconds."""


def edge(handler: Callable[P, Awaitable[None]]) -> Callable[P, Awaitable[None]]:
    """Tell kopf which errors may pass. Anything else is a bug: kopf logs it and tries again."""

    @functools.wraps(handler)
    async def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            await handler(*args, **kwargs)
        except TransientError as error:
            raise kopf.TemporaryError(str(error), delay=RETRY_DELAY) from error
        except PermanentError as error:
            raise kopf.PermanentError(str(error)) from error

    return guarded
