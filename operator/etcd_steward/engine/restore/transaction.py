"""Writing keys in transactions that compare each of them with what the plan has seen.

Controllers race a restore: a Deployment that is there a moment before its ReplicaSet gets another
one. So an ownership group is one transaction, as far as etcd takes it (`--max-txn-ops`, 128, and
`--max-request-bytes`, 1.5 MiB, by default). The answer to a transaction may get lost; so whoever
tries again, in the same process or after a crash, first looks whether it was done.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import stamina

from etcd_steward.engine.tasks import together
from etcd_steward.errors import InvalidInput, TransientError, Undecodable
from etcd_steward.etcd import stubs
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.models.restore import PlanItem, Restored
from etcd_steward.registry import objectmeta

MOST_KEYS: Final = 100
"""In one transaction: etcd counts compares and writes apart, and takes 128 of each."""
MOST_BYTES: Final = 1 << 20
"""Of keys and values in one transaction, but that one key may have more."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Keys that are written together."""

    items: tuple[PlanItem, ...]

    @property
    def size(self) -> int:
        """Bytes of its values."""
        return sum(item.size for item in self.items)


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes pieces of one plan."""

    client: EtcdClient
    revision: int
    """Of etcd, that the plan was made at."""
    patience: float
    """Seconds that an election or an outage may last."""
    resumed: bool = False
    """An earlier process may have written some of this."""

    async def write(self, piece: Piece, values: Sequence[bytes]) -> list[Restored]:
        """Write all keys of a piece or none.

        Raises `OutOfSpace` for a full etcd, and what else concerns more than this piece; a piece
        that etcd will never take is `failed`.
        """
        request = _Request(
            piece,
            values,
            [_unchanged(item.key, item.live_revision) for item in piece.items],
            [
                stubs.RequestOp(request_put=stubs.PutRequest(key=item.key.encode(), value=value))
                for item, value in zip(piece.items, values, strict=True)
            ],
        )
        try:
            return await self._try(request, again=self.resumed)
        except TransientError:
            pass  # an election, or its answer got lost: look, and try again
        async for attempt in stamina.retry_context(
            on=TransientError,
            attempts=None,
            timeout=self.patience,
            wait_initial=0.2,
            wait_max=2.0,
        ):
            with attempt:
                return await self._try(request, again=True)
        raise AssertionError("stamina returns or raises")

    async def _try(self, request: "_Request", *, again: bool) -> list[Restored]:
        piece = request.piece
        try:
            answer = await self.client.txn(request.compare, request.puts)
        except InvalidInput as error:
            return [_failed(item, error.message) for item in piece.items]
        if not answer.succeeded:
            return await self._judge(piece, request.values, again=again)
        at = answer.header.revision
        return [
            Restored(key=item.key, outcome="written", revision=at, uid=item.uid)
            for item in piece.items
        ]

    async def _judge(self, piece: Piece, values: Sequence[bytes], *, again: bool) -> list[Restored]:
        """What a refused transaction means: ours, done before, or somebody was faster."""
        async with together() as group:
            tasks = [group.create_task(self.client.get(one.key.encode())) for one in piece.items]
        found = [task.result() for task in tasks]
        states = [
            self._state(item, kv, value, again=again)
            for item, kv, value in zip(piece.items, found, values, strict=True)
        ]
        if "other" not in states and "there" in states and "waiting" not in states:
            outcome = "written" if again else "unchanged"
            return [
                Restored(key=item.key, outcome=outcome, revision=kv.mod_revision, uid=item.uid)
                for item, kv in zip(piece.items, found, strict=True)
                if kv is not None
            ]
        return [_refused(item, state) for item, state in zip(piece.items, states, strict=True)]

    def _state(
        self, item: PlanItem, kv: stubs.KeyValue | None, value: bytes, *, again: bool
    ) -> str:
        """`waiting` as the plan saw it | `there`, our own | `other`."""
        if (0 if kv is None else kv.mod_revision) == item.live_revision:
            return "waiting"
        if kv is None:
            return "other"
        if kv.value == value:
            return "there"
        # No API server makes an object with a uid that was used before: it is ours, and since then
        # a controller has written its status, say.
        created = kv.create_revision > self.revision and not item.live_revision
        return "there" if again and created and item.uid and _uid(kv.value) == item.uid else "other"


@dataclass(frozen=True, slots=True)
class _Request:
    """A transaction, made once however often it is tried."""

    piece: Piece
    values: Sequence[bytes]
    compare: list[stubs.Compare]
    puts: list[stubs.RequestOp]


def pieces(items: Sequence[PlanItem]) -> Iterator[Piece]:
    """One ownership group cut to what etcd takes at once; usually it is one piece."""
    some: list[PlanItem] = []
    used = 0
    for item in items:
        weight = len(item.key) * 2 + item.size
        if some and (len(some) == MOST_KEYS or used + weight > MOST_BYTES):
            yield Piece(tuple(some))
            some, used = [], 0
        some.append(item)
        used += weight
    if some:
        yield Piece(tuple(some))


def digest_of(value: bytes) -> str:
    """As `PlanItem.sha256` has it."""
    return hashlib.sha256(value).hexdigest()


def _unchanged(key: str, revision: int) -> stubs.Compare:
    return stubs.Compare(
        result=stubs.Compare.EQUAL,
        target=stubs.Compare.MOD,
        key=key.encode(),
        mod_revision=revision,
    )


def _uid(value: bytes) -> str | None:
    try:
        return objectmeta.read(value).uid
    except Undecodable:
        return None


def _failed(item: PlanItem, message: str) -> Restored:
    return Restored(key=item.key, outcome="failed", uid=item.uid, message=message)


def _refused(item: PlanItem, state: str) -> Restored:
    if state == "waiting":
        return _failed(item, "not written: another key of its ownership group has changed since")
    return Restored(
        key=item.key,
        outcome="changed-since",
        uid=item.uid,
        message="somebody has written it since the plan was made: nothing was overwritten",
    )
