"""Watches that outlive the member which tells of them.

All watches of a `Watcher` share one stream. When it breaks, another endpoint is asked, and each
watch goes on after the last revision that came whole: nothing is lost, and nothing is told twice.

etcd compacts what nobody has asked about for minutes, so a watch on keys that rest would begin
again too far back. Hence the member is asked now and then how far it has told everything. Members
older than 3.4.25 and 3.5.8 answer that too early (etcd-io/etcd#15220), and are not asked.
"""

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

from etcd_steward.deadline import Deadline
from etcd_steward.errors import StewardError, TransientError, Unavailable, Unsupported, Untrusted
from etcd_steward.etcd import stubs
from etcd_steward.etcd.client import EtcdClient, joined
from etcd_steward.etcd.endpoint import Endpoint
from etcd_steward.etcd.keys import EVERYTHING, KeyRange
from etcd_steward.etcd.member import Member

_ASK_EVERY = 60.0
"""Seconds; API servers keep five minutes of history."""
_PAUSE = 0.5
"""Seconds to wait when no endpoint is of use."""
_ALL = -1
"""The watch ID of an answer about progress that is true of all watches of the stream."""
_PROGRESS = stubs.WatchRequest(progress_request=stubs.WatchProgressRequest())
_EARLY_PROGRESS = {(3, 4): 25, (3, 5): 8}
"""The first patch version that tells of progress behind the changes, where older ones did not."""
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_STALE = ("invalid auth token", "revision of auth store is old", "user name is empty")
"""Why etcd does not begin a watch for somebody who only has to log in again."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What to watch, and from when on."""

    wanted: KeyRange
    start: int = 0
    """The first revision to tell of; 0: what comes from now on."""
    prev_kv: bool = False
    """Also tell what each key was before; etcd leaves it out where it is compacted."""
    progress_notify: bool = False
    """Also tell now and then that nothing has happened."""


@dataclass(frozen=True, slots=True)
class Told:
    """One answer of etcd about one watch, whole."""

    number: int
    """Of the watch, as `Watcher.watch` gave it."""
    answer: stubs.WatchResponse = field(repr=False)
    """Its changes; without any, how far all is told; or, `canceled`, that the watch has ended."""


@dataclass(slots=True)
class _State:
    asked: Watch
    next: int
    """The revision from which on etcd has not told all yet; 0: not known before it answers."""
    live: bool = False
    """Whether the stream of now has it."""
    after: int = 0
    """How often that stream had been asked for progress before it had this."""
    begun: stubs.WatchResponse | None = None
    """What has come of an answer that etcd has split."""

    def create(self, number: int) -> stubs.WatchRequest:
        """Ask for what has not been told yet."""
        create = stubs.WatchCreateRequest(
            watch_id=number,
            key=self.asked.wanted.start,
            range_end=self.asked.wanted.end,
            start_revision=self.next,
            prev_kv=self.asked.prev_kv,
            progress_notify=self.asked.progress_notify,
            fragment=True,
        )
        return stubs.WatchRequest(create_request=create)

    def take(self, answer: stubs.WatchResponse) -> stubs.WatchResponse | None:
        """Some changes: all of an answer once it is whole, but for what was told before."""
        whole = answer
        if self.begun is not None:
            whole, self.begun = self.begun, None
            whole.events.extend(answer.events)
        if answer.fragment:
            self.begun = whole
            return None
        whole.fragment = False
        if whole.events[0].kv.mod_revision < self.next:
            # Told again by a member that lagged behind where this began (etcd-io/etcd#20221).
            new = [event for event in whole.events if event.kv.mod_revision >= self.next]
            del whole.events[:]
            whole.events.extend(new)
        if not whole.events:
            return None
        self.next = whole.events[-1].kv.mod_revision + 1
        return whole


class _Stale(Exception):  # a signal to log in again, not an error
    """etcd has forgotten our token."""


class _Stream:
    """One stream, for all that is watched now."""

    def __init__(self, watches: dict[int, _State], *, renewed: bool = False) -> None:
        self.renewed = renewed
        """Whether we have logged in again just before."""
        self.true = False
        """Whether what this member tells of progress is true."""
        self._watches = watches
        self._queue: asyncio.Queue[stubs.WatchRequest] = asyncio.Queue()
        self._creating = 0
        self._created = asyncio.Event()
        self._sent = self._got = 0
        for number, state in watches.items():
            state.live, state.begun = False, None
            self.ask(state.create(number))

    def ask(self, request: stubs.WatchRequest) -> None:
        """Send this when it is its turn."""
        self._queue.put_nowait(request)

    async def requests(
        self, via: Endpoint, timeout: float, every: float | None
    ) -> AsyncGenerator[stubs.WatchRequest, None]:
        """What etcd is asked; each only once it has begun the watch that was asked for before."""
        while True:
            try:
                async with asyncio.timeout(every):
                    request = await self._queue.get()
            except TimeoutError:
                if not self.true:
                    found = await _tells_truly(via, Deadline.after(timeout))
                    self.true = bool(found)
                    every = None if found is False else every
                if not self.true:
                    continue
                request = _PROGRESS
            self._sent += request.HasField("progress_request")
            creating = request.create_request.watch_id
            if creating:
                self._creating = creating
                self._created.clear()
            yield request
            if creating:
                await self._created.wait()

    def take(self, answer: stubs.WatchResponse) -> list[Told]:
        """What is to be told of an answer. Raises `_Stale`."""
        if answer.created:
            return self._take_begun(answer)
        if answer.watch_id == _ALL:
            return self._take_progress(answer)
        state = self._watches.get(answer.watch_id)
        if state is None:
            return []
        whole: stubs.WatchResponse | None = answer
        if answer.canceled:
            del self._watches[answer.watch_id]
        elif answer.events:
            whole = state.take(answer)
        elif self.true:
            state.next = max(state.next, answer.header.revision + 1)
        return [] if whole is None else [Told(answer.watch_id, whole)]

    def _take_begun(self, answer: stubs.WatchResponse) -> list[Told]:
        number, state = self._creating, self._watches.get(self._creating)
        self._created.set()
        if state is None:
            return []
        if answer.canceled:
            if not self.renewed and answer.cancel_reason.endswith(_STALE):
                raise _Stale
            del self._watches[number]
            return [Told(number, answer)]
        self.renewed = False
        state.live, state.after = True, self._sent
        state.next = state.next or answer.header.revision + 1
        return []

    def _take_progress(self, answer: stubs.WatchResponse) -> list[Told]:
        """It is true of what was watched when we asked; etcd may have left questions unanswered."""
        self._got += 1
        live = {number: state for number, state in self._watches.items() if state.live}
        if self.true:
            for state in live.values():
                if state.after < self._got:
                    state.next = max(state.next, answer.header.revision + 1)
        return [Told(number, answer) for number in live]


class Watcher:
    """Some watches, over one stream at a time. It belongs to the running loop."""

    def __init__(
        self,
        client: EtcdClient,
        *,
        notice: Callable[[str], None],
        ask_every: float | None = _ASK_EVERY,
    ) -> None:
        """`notice` is told where a stream breaks; `ask_every` is in seconds, None = never."""
        self._endpoints = client.endpoints
        self._timeout = client.command_timeout
        self._notice = notice
        self._ask_every = ask_every
        self._watches: dict[int, _State] = {}
        self._stream = _Stream(self._watches)
        self._last = 0
        self._asked = 0
        self._reached = self._broken = False

    def watch(self, asked: Watch) -> int:
        """Begin a watch; its number."""
        self._last += 1
        self._watches[self._last] = state = _State(asked, asked.start)
        self._stream.ask(state.create(self._last))
        return self._last

    def cancel(self, number: int) -> None:
        """End a watch that goes on; nothing more is told of it."""
        del self._watches[number]
        cancel = stubs.WatchCancelRequest(watch_id=number)
        self._stream.ask(stubs.WatchRequest(cancel_request=cancel))

    def ask_progress(self) -> None:
        """Have etcd tell how far it has told of all watches; it doesn't while one lags behind."""
        self._asked += 1
        self._stream.ask(_PROGRESS)

    async def told(self) -> AsyncGenerator[Told, None]:
        """What etcd tells, for ever.

        Raises what the endpoints have to say if none can be reached to begin with; later only what
        is permanent.
        """
        failures: deque[StewardError] = deque(maxlen=len(self._endpoints))
        while True:
            via = self._endpoints[0]
            try:
                async with aclosing(self._through(via, failures)) as answers:
                    async for told in answers:
                        yield told
            except _Stale:
                await self._log_in(via)
                self._begin_again(renewed=True)
                continue
            except (TransientError, Untrusted, Unsupported) as error:  # of this endpoint
                failures.append(error)
            self._begin_again(renewed=False)
            self._endpoints = [*self._endpoints[1:], via]
            if self._reached and not self._broken:
                self._broken = True
                self._notice(f"{failures[0].message}: going on by {self._endpoints[0].url}")
            if len(failures) == len(self._endpoints):
                if not self._reached:
                    raise joined(failures)
                await asyncio.sleep(_PAUSE)

    async def _through(
        self, via: Endpoint, failures: deque[StewardError]
    ) -> AsyncGenerator[Told, None]:
        """One stream, until it breaks; `failures` are forgotten when it has answered."""
        stream = self._stream
        requests = stream.requests(via, self._timeout, self._ask_every)
        async with via.watch(requests, deadline=Deadline.after(self._timeout)) as answers:
            async for answer in answers:
                found = stream.take(answer)
                self._reached, self._broken = True, False
                failures.clear()
                if answer.watch_id == _ALL and not answer.created:
                    if not self._asked:
                        continue  # it was we who asked
                    self._asked -= 1
                for told in found:
                    yield told
        raise Unavailable(f"{via.url} has ended the watch", hint="Look into its log")

    def _begin_again(self, *, renewed: bool) -> None:
        """A stream for all that goes on, and for questions that nobody has answered."""
        self._stream = _Stream(self._watches, renewed=renewed)
        for _ in range(self._asked):
            self._stream.ask(_PROGRESS)

    async def _log_in(self, via: Endpoint) -> None:
        """Any call renews a stale token; its answer matters not.

        It is renewed also if nothing is left to watch: the next watch counts on that.
        """
        wanted = (state.asked.wanted.start for state in self._watches.values())
        key = next(wanted, EVERYTHING)
        with suppress(StewardError):
            member = Member(via.url, "", 0, via)
            await member.range(key, count_only=True, deadline=Deadline.after(self._timeout))


async def _tells_truly(via: Endpoint, deadline: Deadline) -> bool | None:
    """Whether this member tells of progress only when it has told all changes before.

    None where it did not say what it is: that may be asked again.
    """
    try:
        version = (await Member(via.url, "", 0, via).status(deadline=deadline)).version
    except StewardError:
        return None
    return _is_true_of(version)


def _is_true_of(version: str) -> bool:
    match = _VERSION.match(version)
    if match is None:
        return False
    major, minor, patch = (int(number) for number in match.groups())
    return patch >= _EARLY_PROGRESS.get((major, minor), 0)
