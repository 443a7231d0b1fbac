"""Reading a large range whole, at one revision, without hurting etcd or our own memory.

Paging by `limit` alone is quadratic: etcd counts all remaining keys of the range for every page
(server/storage/mvcc/index.go; 1 M keys of 200 B at 5,000 a page took 31.6 s). Asking for the keys
alone first, to learn where bounded ranges may end, costs as much as the values: up to 3.6 etcd
loads those too, and drops them. So every page has a limit *and* an end that is near: a prefix that
it shares with the keys just read, or the next ones beside it. Each answer tells how many keys lie
before that end, and it moves accordingly. A wrong guess costs time and nothing else.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Protocol

from etcd_steward.deadline import Deadline
from etcd_steward.errors import IntegrityError
from etcd_steward.etcd import stubs
from etcd_steward.etcd.keys import EVERYTHING, KeyRange

_PAGE_BYTES = 4 << 20
"""What a page should weigh: the event loop stays lively, and memory flat."""
_PAGE_KEYS = 2000
"""At most. etcd tells no sizes beforehand: this bounds what sudden large values cost."""
_FIRST_PAGE_KEYS = 100
_COUNTED = 4
"""How many times the keys of a page etcd may have to count for it."""
_IN_FLIGHT = 3
"""Pages that are asked for while one is used."""
_FEW = 16
"""If no more are left than so many times the keys of a page, no near end is looked for."""
_MANY = 8
"""Prefixes with so small a part of a page's keys are too long."""
_LETTERS = 0x7F
_LARGEST = 0xFF
_PAST_NINE = b":"


class Answer(Protocol):
    """What is told by an answer, a `stubs.RangeResponse` or an `answers.RangeAnswer`."""

    @property
    def header(self) -> stubs.ResponseHeader:
        """Who answered, at which revision."""
        ...

    @property
    def kvs(self) -> Sequence[stubs.KeyValue]:
        """The keys that were read."""
        ...

    @property
    def more(self) -> bool:
        """Whether there are more in the range."""
        ...

    @property
    def count(self) -> int:
        """How many there are in the range."""
        ...

    def ByteSize(self) -> int:  # noqa: N802  # protobuf's own
        """Bytes of the answer."""
        ...


class Range(Protocol):
    """How keys are read: `EtcdClient.range`, `Member.raw_range`."""

    async def __call__(
        self,
        key: bytes,
        end: bytes = b"",
        *,
        limit: int = 0,
        revision: int = 0,
        deadline: Deadline | None = None,
    ) -> Answer:
        """Read keys."""
        ...


@dataclass(frozen=True, slots=True)
class Page:
    """Neighbouring keys with their values, as of `revision`."""

    revision: int
    kvs: Sequence[stubs.KeyValue] = field(repr=False)


async def pages(
    read: Range, wanted: KeyRange, *, revision: int = 0, deadline: Deadline | None = None
) -> AsyncGenerator[Page, None]:
    """All of `wanted` in key order, at `revision` (0 = now), which every page carries.

    An empty range gives no page. While a page is used the next ones are fetched. `deadline` is that
    of the whole; without one, each request has the connection's time-out. Raises `Compacted` if the
    revision goes while reading.
    """
    answer = await read(
        wanted.start, wanted.end, limit=_FIRST_PAGE_KEYS, revision=revision, deadline=deadline
    )
    revision = revision or answer.header.revision
    walk = _Walk(wanted.end, answer.count)
    asked: dict[bytes, asyncio.Task[Answer]] = {}

    def ask(start: bytes, end: bytes) -> None:
        reading = read(start, end, limit=walk.limit, revision=revision, deadline=deadline)
        asked[start] = asyncio.create_task(reading)

    try:
        while True:
            goes_on = walk.goes_on(answer)
            if goes_on and walk.start not in asked:
                ask(walk.start, walk.end)
            while goes_on and len(asked) < _IN_FLIGHT and (ahead := walk.ahead()) is not None:
                ask(ahead.start, ahead.end)
            if answer.kvs:
                yield Page(revision, answer.kvs)
            if not goes_on:
                return
            answer = await asked.pop(walk.start)  # one that failed would hold itself, and us
    finally:
        for task in asked.values():
            task.cancel()
        await asyncio.gather(*asked.values(), return_exceptions=True)


async def pages_of(
    read: Range, parts: Sequence[KeyRange], *, revision: int
) -> AsyncGenerator[Page, None]:
    """The pages of several ranges, one range after the other.

    The first two pages of each are asked for while the range before is read: etcd counts all of a
    range for the first, a quarter of a second for a million keys.
    """
    walks = [pages(read, part, revision=revision) for part in parts]
    coming = deque[asyncio.Task[Page | None]]()
    try:
        for number, walk in enumerate(walks):
            for ahead in walks[number + len(coming) : number + 2]:
                coming.append(asyncio.create_task(_next_of(ahead)))
            page = await coming.popleft()
            while page is not None:
                yield page
                page = await anext(walk, None)
    finally:
        for task in coming:
            task.cancel()
        await asyncio.gather(*coming, return_exceptions=True)
        for walk in walks:
            await walk.aclose()


async def _next_of(walk: AsyncGenerator[Page, None]) -> Page | None:
    return await anext(walk, None)


@dataclass(slots=True)
class _Walk:
    """Which keys to ask for next."""

    last: bytes
    """Where the whole range ends."""
    left: int
    """Keys of the whole range that are still to come."""
    start: bytes = b""
    end: bytes = field(init=False)
    limit: int = _FIRST_PAGE_KEYS
    key: bytes = b""
    """The last one read."""
    found: int = 0
    """Keys that were read since an end was last looked for."""
    steady: bool = False
    """Whether one prefix beside the other has held enough keys for a page."""
    climb: int = 1
    """How many letters the end loses next: twice as many each time that it lost some in vain."""
    beyond: deque[KeyRange] = field(default_factory=deque)
    """Neighbouring ranges from `end` on that are asked for already."""

    def __post_init__(self) -> None:
        self.end = self.last

    @property
    def bound(self) -> bytes:
        """What no end may go beyond."""
        return self.beyond[0].start if self.beyond else self.last

    def ahead(self) -> KeyRange | None:
        """Keys behind those that are asked for, to be read meanwhile: as many, it may be."""
        start = self.beyond[-1].end if self.beyond else self.end
        if not self.steady or start == self.last:
            return None
        self.beyond.append(KeyRange(start, _next(start, 1, self.last)))
        return self.beyond[-1]

    def goes_on(self, answer: Answer) -> bool:
        """Go on behind this answer; False if it was the last.

        Raises `IntegrityError` if etcd counts other keys than it reads.
        """
        count = len(answer.kvs)
        self.left -= count
        ended = not answer.more and self.end == self.last
        if self.left < 0 or (ended and self.left):
            raise IntegrityError(
                "etcd has counted other keys than it reads at one and the same revision",
                hint="The members disagree: compare their hashes (HashKV) before all else",
            )
        if not self.left:
            return False
        self._weigh(answer)
        if answer.kvs:
            self.key = answer.kvs[-1].key
            self.found += count
        if answer.more:
            self.start = self.key + b"\0"
            if answer.count - count > _COUNTED * self.limit:
                self._narrow(answer.kvs[count // 2].key)
        else:
            self.start = self.end
            self._widen()
        return True

    def _weigh(self, answer: Answer) -> None:
        """Let the next page have as many keys like these as weigh what a page should."""
        fitting = _PAGE_BYTES * len(answer.kvs) // answer.ByteSize() or self.limit
        self.limit = max(1, min(fitting, 2 * self.limit, _PAGE_KEYS))

    def _narrow(self, middle: bytes) -> None:
        """End where a prefix ends that `key` shares with the keys just before it."""
        shared = sum(1 for _ in takewhile(bool, map(int.__eq__, middle, self.key)))
        for size in range(max(shared, 1), len(self.key) + 1):
            end = KeyRange.prefix(self.key[:size]).end
            if end != EVERYTHING and _before(end, self.end):
                self.end = end
                return

    def _widen(self) -> None:
        """End with the next prefix beside this end; a shorter one if none had this."""
        end = self.end
        self.steady = self.found * _MANY > self.limit
        if self.found:
            self.climb = 1
        if self.beyond and self.beyond[0].start == end:
            self.end, self.found = self.beyond.popleft().end, 0
            return
        self.end = self.bound
        if self.left <= _FEW * self.limit:
            self.steady = False
            return
        if self.steady:
            step = 1
        elif end[:-1] == (here := self.key[: self.key.rfind(b"/") + 1]):
            end, step, self.climb = here, 1, 1
        elif end[-2:-1] == b"/" and end[-1] < _LETTERS:
            # Other directories, each of which may be large, and of larger values.
            step, self.limit = 1, min(self.limit, _FIRST_PAGE_KEYS)
        else:
            first = end.rfind(b"/") + 1  # no directory is left by more than a letter
            least = min(first + 1, len(end) - 1)
            end, step = end[: max(least, len(end) - self.climb)], 2
            self.climb *= 2
        self.found = 0
        self.end = _next(end, step, self.bound)


def _next(end: bytes, step: int, bound: bytes) -> bytes:
    """The end that lies `step` prefixes beyond this one, or with the next decimal number."""
    found = _carried(end) if step == 1 else None
    if found is None:
        while end and end[-1] + step > _LARGEST:
            end, step = end[:-1], 2
        found = end[:-1] + bytes([end[-1] + step]) if end else bound
    return found if _before(found, bound) else bound


def _carried(end: bytes) -> bytes | None:
    """What follows where decimal numbers go on: `…20` ends `…1:`, which ends `…19`; so `…21`."""
    if end[-1:] != _PAST_NINE:
        return None
    number = end[:-1]
    tens = number.rstrip(b"9")
    if not tens[-1:].isdigit():
        return None
    return tens[:-1] + bytes([tens[-1] + 1]) + b"0" * (len(number) - len(tens)) + b"1"


def _before(key: bytes, end: bytes) -> bool:
    return end == EVERYTHING or key < end
