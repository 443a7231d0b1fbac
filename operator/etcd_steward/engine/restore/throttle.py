"""Writing no faster than others bear: their write latency stays within twice what it was.

Nobody can ask the other clients; a probe that writes as they do stands for them, one small key some
twenty times a second, before the restore and while it goes on. What is compared is what is slow in
it, its 80th percentile (the 99th of a few dozen probes is their slowest, and says nothing), and the
limit lies below twice, so that there is room for the answer to take effect. What it was does not
stay: others come and go. So the restore pauses for a moment again and again, and is compared with
that.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from etcd_steward.deadline import Deadline
from etcd_steward.engine.tasks import together
from etcd_steward.errors import StewardError
from etcd_steward.etcd.client import EtcdClient

PROBE: Final = "/etcdsteward.io/probe/restore/"
_BEFORE: Final = 40
"""Probes before the first key is written."""
_PAUSE: Final = 0.02
"""Seconds between two probes."""
_TTL: Final = 6 * 3600
"""Seconds after which the key of a dead process goes."""
_JUDGED: Final = 20
"""Probes that are judged together, each once: what was slow at another rate says nothing."""
_PAUSED: Final = 8
"""Probes of each pause."""
_LIMIT: Final = 1.4
"""How many times its former latency a write may take."""
_FIRST, _LEAST = 150.0, 50.0
"""Keys per second to begin with, and however slow others are: a restore must end."""
_FASTER, _SLOWER = 1.2, 0.6
_WEIGHT: Final = 8 << 10
"""Bytes that count as another key."""
_FAILED: Final = 10.0
"""Seconds that a probe counts as which got no answer."""
_CALL: Final = 5.0


@dataclass(slots=True)
class Throttle:
    """How fast a restore may write now. Made by `throttled`."""

    rate: float = _FIRST
    """Keys per second."""
    before: float = 0.0
    """Seconds that a slow write takes without the restore."""
    during: float = 0.0
    """And with it."""
    _going: asyncio.Event = field(default_factory=asyncio.Event)
    _next: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._going.set()

    def pause(self) -> None:
        """Let nothing pass until `resume`."""
        self._going.clear()

    def resume(self) -> None:
        """Let keys pass."""
        self._going.set()

    async def take(self, keys: int, size: int) -> None:
        """Wait until so many keys of `size` bytes together may be written."""
        now = time.monotonic()
        begin = max(self._next, now)
        self._next = begin + (keys + size / _WEIGHT) / self.rate
        if begin > now:
            await asyncio.sleep(begin - now)
        await self._going.wait()

    def judge(self, latencies: Sequence[float]) -> None:
        """Go faster or slower, by the newest latencies."""
        self.during = _slow(latencies)
        if self.during > _LIMIT * self.before:
            self.rate = max(_LEAST, self.rate * _SLOWER)
            # What was promised at another rate no longer holds.
            self._next = min(self._next, time.monotonic() + 1)
        else:
            self.rate *= _FASTER


class Unthrottled(Throttle):
    """As fast as etcd takes it."""

    async def take(self, keys: int, size: int) -> None:  # a Throttle
        """No wait."""


@asynccontextmanager
async def throttled(client: EtcdClient, run: str) -> AsyncIterator[Throttle]:
    """Measure what writes take, then go on measuring while the body writes.

    The probe's key lies below `/etcdsteward.io/`, and goes with its lease. Raises what the first
    probes raise; later ones that fail count as slow.
    """
    lease = await client.grant_lease(_TTL)
    key = f"{PROBE}{run}".encode()
    try:
        before = [await _probe(client, key, lease) for _ in range(_BEFORE)]
        throttle = Throttle(before=_slow(before))
        async with together() as group:
            measuring = group.create_task(_measure(client, key, lease, throttle, before))
            yield throttle
            measuring.cancel()
    finally:
        with contextlib.suppress(StewardError):
            await client.delete(key, deadline=Deadline.after(_CALL))
            await client.revoke_lease(lease, deadline=Deadline.after(_CALL))


async def _probe(client: EtcdClient, key: bytes, lease: int) -> float:
    begun = time.monotonic()
    await client.put(key, b"how long does this take?", lease=lease)
    took = time.monotonic() - begun
    await asyncio.sleep(_PAUSE)
    return took


async def _measure(
    client: EtcdClient, key: bytes, lease: int, throttle: Throttle, before: Sequence[float]
) -> None:
    """Probe with the restore paused, then with it, for ever."""
    quiet = deque(before, maxlen=_BEFORE)
    while True:
        throttle.pause()
        quiet.extend([await _probe_anyhow(client, key, lease) for _ in range(_PAUSED)])
        throttle.before = _slow(quiet)
        throttle.resume()
        throttle.judge([await _probe_anyhow(client, key, lease) for _ in range(_JUDGED)])


async def _probe_anyhow(client: EtcdClient, key: bytes, lease: int) -> float:
    try:
        return await _probe(client, key, lease)
    except StewardError:
        await asyncio.sleep(_PAUSE)
        return _FAILED


def _slow(latencies: Collection[float]) -> float:
    """The 80th percentile."""
    return sorted(latencies)[int(len(latencies) * 0.8)]
