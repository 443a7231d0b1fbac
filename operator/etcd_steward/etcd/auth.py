"""etcd's user and password, exchanged for a token that all endpoints of a cluster share."""

import asyncio
from collections.abc import Awaitable, Callable

from pydantic import SecretStr

from etcd_steward.errors import InvalidInput

Authenticate = Callable[[str, str], Awaitable[str]]
"""Ask an endpoint for a token, with user and password."""


class Tokens:
    """The current token: fetched when first needed, renewed when etcd no longer takes it.

    The token travels in the metadata of each call, so that it also works without TLS, where gRPC
    refuses call credentials. Concurrent callers share one renewal.
    """

    def __init__(self, user: str, password: SecretStr) -> None:
        self._user = user
        self._password = password
        self._token: str | None = None
        self._lock = asyncio.Lock()

    async def current(self, authenticate: Authenticate) -> str:
        """The token to send; empty where this etcd has authentication switched off."""
        if self._token is None:
            return await self.renewed(None, authenticate)
        return self._token

    async def renewed(self, stale: str | None, authenticate: Authenticate) -> str:
        """A token newer than `stale`."""
        async with self._lock:
            if self._token is None or self._token == stale:
                self._token = await authenticate(self._user, self._password.get_secret_value())
            return self._token


def credentials(user: str | None, password: SecretStr | None) -> Tokens | None:
    """Tokens for a user, or None where none is given. Raises `InvalidInput`."""
    if user is None:
        return None
    if password is None:
        raise InvalidInput(f"etcd user {user!r} has no password", hint="Give user and password")
    return Tokens(user, password)
