"""The lock of a rescue: keys that stand in etcd all the time, of which a rescue deletes one.

A full etcd takes no put, so nobody can lock anything by writing a key, and nobody can say who he
is or that he lives. But it deletes, and of two transactions that delete the same key if it is there
exactly one succeeds (etcd server/etcdserver/apply: NOSPACE caps Put, Txn with a Put and LeaseGrant
only). So tokens are put while etcd is well. The lowest number that still stands tells how often
rescuers came and went without an end: whoever takes it has taken over from the one before him, who
finds out before he touches another member. When etcd takes writes again, all are put back.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from etcd_steward.errors import Refused, StewardError, TransientError
from etcd_steward.etcd import stubs
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.keys import KeyRange
from etcd_steward.etcd.member import MemberStatus

PREFIX: Final = b"/etcdsteward.io/lock/rescue/"
"""Beside the maintenance lock; left out of registry exports, like all below `/etcdsteward.io/`."""
TOKENS: Final = 8
"""How many rescuers in a row may die before one has to go on without a lock."""
QUIET: Final = 60.0
"""Seconds during which every member answers, and no token goes: nobody is at work then."""
_LOOK: Final = 1.0
"""Seconds between two looks at somebody else's rescue."""
_VALUE: Final = (
    b"etcd-steward deletes one of these keys to lock the rescue of a full etcd, and puts it back"
)


def key(number: int) -> bytes:
    """The token's key; numbers begin at 1."""
    return b"%s%d" % (PREFIX, number)


async def standing(client: EtcdClient) -> tuple[int, ...]:
    """The numbers of the tokens that stand, ascending."""
    wanted = KeyRange.prefix(PREFIX)
    found = await client.range(wanted.start, wanted.end, keys_only=True)
    names = {kv.key for kv in found.kvs}
    return tuple(number for number in range(1, TOKENS + 1) if key(number) in names)


async def stand(client: EtcdClient) -> None:
    """Put the tokens that are missing, while etcd takes writes: a later rescue needs them.

    Raises `OutOfSpace` on a full etcd.
    """
    missing = sorted(set(range(1, TOKENS + 1)) - set(await standing(client)))
    if missing:
        puts = [stubs.PutRequest(key=key(number), value=_VALUE) for number in missing]
        await client.txn([], [stubs.RequestOp(request_put=put) for put in puts])


async def take(client: EtcdClient, number: int) -> bool:
    """Delete a token, if it and none before it stands; whether that was us.

    A lost answer counts as no: the token is then gone, and its rescuer counts as dead.
    """
    conditions = [_there(number, yes=True)]
    if number > 1:
        conditions.append(_there(number - 1, yes=False))
    delete = stubs.RequestOp(request_delete_range=stubs.DeleteRangeRequest(key=key(number)))
    try:
        return (await client.txn(conditions, [delete])).succeeded
    except TransientError:
        return False


def _there(number: int, *, yes: bool) -> stubs.Compare:
    return stubs.Compare(
        result=stubs.Compare.GREATER if yes else stubs.Compare.EQUAL,
        target=stubs.Compare.VERSION,
        key=key(number),
        version=0,
    )


@dataclass(slots=True)
class TokenFence:
    """The lock that a rescue holds (a `lock.Fence`)."""

    client: EtcdClient
    number: int
    """The token that we took; 0: none stood, and nothing is locked."""

    async def enter(self, _status: MemberStatus, *, longest: float) -> None:  # noqa: ARG002
        """Raise `Refused` if another rescue has taken over, or has come to its end."""
        await self.check()

    async def leave(self) -> None:
        """Do nothing: there is nothing to write on a full etcd."""

    def abandon(self) -> None:
        """Do nothing: the token stays away until a rescue has come to its end."""

    async def check(self) -> None:
        """Raise `Refused` if the lock is not ours any more."""
        if self.number == 0:
            return
        left = await standing(self.client)
        if left != tuple(range(self.number + 1, TOKENS + 1)):
            raise Refused(
                "another rescue has taken this one for dead, and goes on in its place",
                hint="look at the alarms again once it has ended: `etcd-steward alarm list`",
            )


@dataclass(slots=True)
class Turn:
    """How a rescue gets the lock."""

    client: EtcdClient
    needed: Callable[[], Awaitable[bool]]
    """Whether there is still something to rescue: asked while somebody else may be at it."""
    voters: Callable[[], Awaitable[object]]
    """Asks every voter for its status; raises where one does not answer."""
    quiet: float = QUIET

    async def come(self) -> TokenFence | None:
        """Take the lock; None if the alarm has gone while somebody else held it.

        Where a token was taken before, its rescuer lives, or has died: this waits until nobody has
        been at work for `quiet` seconds. Whoever calls bounds the time.
        """
        while True:
            left = await standing(self.client)
            number = left[0] if left else 0
            if number != 1 and not await self._fell_quiet(left):
                if not await self.needed():
                    return None
            elif number == 0 or await take(self.client, number):
                return TokenFence(self.client, number)
            await asyncio.sleep(_LOOK)

    async def _fell_quiet(self, left: tuple[int, ...]) -> bool:
        """Whether every member has answered for so long, while no token went or came back."""
        since = time.monotonic()
        while time.monotonic() - since < self.quiet:
            await asyncio.sleep(_LOOK)
            try:
                await self.voters()
                if not await self.needed() or await standing(self.client) != left:
                    return False
            except StewardError:  # one is silent: somebody may be at work on it
                since = time.monotonic()
        return True
