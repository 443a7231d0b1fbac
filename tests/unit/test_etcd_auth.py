"""A token is fetched when needed, and renewed once however many callers found it stale."""

import asyncio

import pytest
from pydantic import SecretStr

from etcd_steward.errors import InvalidInput
from etcd_steward.etcd.auth import Tokens, credentials


class Server:
    """Counts, and answers only after others had their turn."""

    def __init__(self) -> None:
        self.asked = 0

    async def authenticate(self, user: str, password: str) -> str:
        assert (user, password) == ("root", "secret")
        self.asked += 1
        await asyncio.sleep(0)
        return f"token-{self.asked}"


async def test_concurrent_callers_share_one_renewal() -> None:
    server, tokens = Server(), Tokens("root", SecretStr("secret"))
    first = await asyncio.gather(*(tokens.current(server.authenticate) for _ in range(5)))
    assert set(first) == {"token-1"}
    second = await asyncio.gather(
        *(tokens.renewed("token-1", server.authenticate) for _ in range(5))
    )
    assert set(second) == {"token-2"}
    assert await tokens.current(server.authenticate) == "token-2"
    assert server.asked == 2


def test_user_without_password_is_refused() -> None:
    with pytest.raises(InvalidInput, match="has no password"):
        credentials("root", None)
    assert credentials(None, None) is None
