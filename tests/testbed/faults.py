"""A TCP proxy that does what networks do: cut, stall, delay, throttle, corrupt, lose the answer.

Hand-written, because netem needs root and a kernel that has it. It copies bytes, so it stands in
front of etcd and S3 alike, TLS included; only `drop_answer` looks into them.
"""

import asyncio
import contextlib
import enum
import socket
import struct
from dataclasses import dataclass, field
from typing import Self

CHUNK = 64 * 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close sends RST
_H2_DATA, _H2_HEADERS = 0, 1  # frame types
_INFORMATIONAL = b"HTTP/1.1 100"  # comes before the request's body, so it is no answer


class Direction(enum.Enum):
    """Which way bytes flow."""

    TO_SERVER = "to server"
    TO_CLIENT = "to client"


@dataclass(slots=True)
class Flow:
    """What happens to the bytes of one direction; change it at any time."""

    delay: float = 0
    """Seconds that each chunk is held back."""
    bytes_per_second: float | None = None
    """Throttle of each connection."""
    cut_after: int | None = None
    """Reset a connection once so many more bytes went this way (all connections together)."""
    corrupt_at: int | None = None
    """Flip one bit of the byte that comes after so many more bytes (once)."""
    total: int = 0
    """Bytes forwarded so far."""
    _open: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def __post_init__(self) -> None:
        self._open.set()

    def stall(self) -> None:
        """Forward nothing, and keep connections open, until `resume()`."""
        self._open.clear()

    def resume(self) -> None:
        """End a stall."""
        self._open.set()

    async def wait(self, size: int) -> None:
        """Hold a chunk of `size` bytes back as long as the faults say."""
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.bytes_per_second:
            await asyncio.sleep(size / self.bytes_per_second)
        await self._open.wait()

    def changed(self, data: bytes) -> bytes:
        """Return the chunk with the bit flipped, if it is this chunk's turn."""
        if self.corrupt_at is None:
            return data
        if self.corrupt_at >= len(data):
            self.corrupt_at -= len(data)
            return data
        damaged = bytearray(data)
        damaged[self.corrupt_at] ^= 1
        self.corrupt_at = None
        return bytes(damaged)

    def allowed(self, data: bytes) -> tuple[bytes, bool]:
        """Return what may still pass, and whether the connection is cut after it."""
        if self.cut_after is None:
            return data, False
        if len(data) < self.cut_after:
            self.cut_after -= len(data)
            return data, False
        passing = data[: self.cut_after]
        self.cut_after = None  # one cut: the next connection lives
        return passing, True


class _Reset(Exception):  # a signal between tasks, not an error
    """This connection is to be reset."""


class FaultProxy:
    """`async with FaultProxy(port) as proxy:` listens on `proxy.port` and forwards to 127.0.0.1.

    Faults: `proxy.to_server` and `proxy.to_client` (see `Flow`), `reset()`, `refuse()`/`accept()`,
    `blackhole` and `drop_answer()`.
    """

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.to_server = Flow()
        self.to_client = Flow()
        self.blackhole = False
        """New connections are accepted and nothing is forwarded."""
        self.accepted = 0
        """Connections so far."""
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._drop_match: bytes | None = None
        self._dropped = asyncio.Event()
        self._progress = asyncio.Condition()

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        await self.reset()

    def address(self, scheme: str = "http") -> str:
        """Return the proxy's URL."""
        return f"{scheme}://127.0.0.1:{self.port}"

    async def accept(self) -> None:
        """Listen (again), on the same port as before."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Refuse new connections; those that exist go on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def reset(self) -> None:
        """Send RST on every connection that exists."""
        connections = list(self._connections)
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def drop_answer(self, match: bytes = b"") -> None:
        """Lose the next answer: forward a request, then reset before its answer's first byte.

        `match` picks the request by bytes of its head (plaintext only, e.g. b"PUT /bucket/key");
        empty means the next request that is sent. The server has done what it was asked.
        """
        self._drop_match = match
        self._dropped.clear()

    async def answer_dropped(self) -> None:
        """Wait until `drop_answer` has had its effect."""
        await self._dropped.wait()

    async def forwarded(self, direction: Direction, total: int) -> None:
        """Wait until `total` bytes have gone this way since the proxy began."""
        flow = self.to_server if direction is Direction.TO_SERVER else self.to_client
        async with self._progress:
            await self._progress.wait_for(lambda: flow.total >= total)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self.accepted += 1
        clean = False
        try:
            clean = await self._forward(reader, writer)
        finally:
            self._connections.discard(task)
            _end(writer, clean=clean)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Copy both ways until both sides are done; False if the connection is to be reset."""
        if self.blackhole:
            await asyncio.Event().wait()
        try:
            upstream, upstream_writer = await asyncio.open_connection(
                "127.0.0.1", self._target_port
            )
        except OSError:
            return False
        connection = _Connection()
        clean = False
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, upstream_writer, self.to_server, connection))
                group.create_task(self._pump(upstream, writer, self.to_client, connection))
            clean = True
        except* (_Reset, OSError):
            pass
        finally:
            _end(upstream_writer, clean=clean)
        return clean

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        flow: Flow,
        connection: "_Connection",
    ) -> None:
        while data := await reader.read(CHUNK):
            await flow.wait(len(data))
            self._watch_answers(flow, connection, data)
            passing, cut = flow.allowed(flow.changed(data))
            writer.write(passing)
            await writer.drain()
            async with self._progress:
                flow.total += len(passing)
                self._progress.notify_all()
            if cut:
                raise _Reset
        with contextlib.suppress(OSError):
            writer.write_eof()

    def _watch_answers(self, flow: Flow, connection: "_Connection", data: bytes) -> None:
        if flow is self.to_server:
            if self._drop_match is not None and self._drop_match in data:
                self._drop_match = None
                connection.lose_answer = True
        elif connection.lose_answer and _holds_answer(data):
            self._dropped.set()
            raise _Reset


@dataclass(slots=True)
class _Connection:
    lose_answer: bool = False


def _holds_answer(data: bytes) -> bool:
    """Whether these bytes begin to answer: not `100 Continue`, not an HTTP/2 control frame."""
    if data.startswith(b"HTTP/1."):
        return not data.startswith(_INFORMATIONAL)
    position = 0
    while position + 9 <= len(data):  # an HTTP/2 frame: 3 bytes of length, 1 of type, 5 more
        if data[position + 3] in {_H2_DATA, _H2_HEADERS}:
            return True
        position += 9 + int.from_bytes(data[position : position + 3])
    return False


def _end(writer: asyncio.StreamWriter, *, clean: bool) -> None:
    """Close after what is buffered has gone, or reset at once."""
    if clean:
        writer.close()
        return
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
