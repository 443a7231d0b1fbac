"""A snapshot stream that one thread reads, from the socket to the disk.

Everything else here is asynchronous. This is not, because a snapshot is 32 KiB messages by the ten
thousand: handing each from gRPC's thread to an event loop and on to a writer costs more than
reading it, and for as long as the stream lasts etcd holds a read transaction open.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, Self

import grpc

from etcd_steward.deadline import Deadline
from etcd_steward.etcd import stubs

_METHOD = "/etcdserverpb.Maintenance/Snapshot"


class _Call(Protocol):
    """What grpc returns; its own type has no public name."""

    def __iter__(self) -> Iterator[stubs.SnapshotResponse]: ...
    def __next__(self) -> stubs.SnapshotResponse: ...
    def cancel(self) -> object: ...


class SnapshotChunk(NamedTuple):
    """One message of a snapshot stream; the last one's blob is the SHA-256 of all before it."""

    blob: bytes
    remaining_bytes: int
    version: str
    """Storage version; empty before etcd 3.6."""


class SnapshotStream:
    """A snapshot that has begun: iterate it once, in a worker thread, at full speed.

    Iterating blocks and raises what grpc raises: `Member.snapshot` translates it. Nothing is judged
    here, neither the digest nor the remaining bytes.
    """

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._first: stubs.SnapshotResponse | None = None

    @classmethod
    async def begin(
        cls, channel: grpc.Channel, metadata: Sequence[tuple[str, str]], deadline: Deadline
    ) -> Self:
        """Ask for a snapshot and wait for its first message. Raises `grpc.RpcError`."""
        method = channel.unary_stream(
            _METHOD,
            request_serializer=stubs.SnapshotRequest.SerializeToString,
            response_deserializer=stubs.SnapshotResponse.FromString,
        )
        stream = cls(
            method(stubs.SnapshotRequest(), timeout=deadline.left(), metadata=tuple(metadata))
        )
        try:
            stream._first = await asyncio.to_thread(next, stream._call, None)
        except BaseException:
            stream.cancel()
            raise
        return stream

    def __iter__(self) -> Iterator[SnapshotChunk]:
        message = self._first
        while message is not None:
            yield SnapshotChunk(message.blob, message.remaining_bytes, message.version)
            message = next(self._call, None)

    def cancel(self) -> None:
        """End the call; whoever iterates gets an error. From any thread, as often as you like."""
        self._call.cancel()
