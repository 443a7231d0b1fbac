"""One call of boto3: in a thread, its errors translated, tried again for as long as configured.

boto3's own retries give up after a fifth of a second; they are switched off, so that there is one
place that decides.
"""

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

import stamina

from etcd_steward.errors import IntegrityError, PermanentError, StewardError, TransientError
from etcd_steward.store.s3_answers import DigestRefused, Place, asked_to_wait
from etcd_steward.store.s3_errors import TRANSLATED, holds_credential, translate
from etcd_steward.store.threads import settled

if TYPE_CHECKING:
    from stamina._core import _RetryContextIterator

T = TypeVar("T")

_DIGEST_TRIES: Final = 4
"""A body that arrives damaged so often is damaged by something that stays."""


class Calls:
    """The threads that talk to one bucket."""

    def __init__(self, place: Place, *, retry_seconds: float, threads: int) -> None:
        self.place = place
        self._retry_seconds = retry_seconds
        self._closed = threading.Event()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="s3")

    async def run(
        self,
        doing: str,
        call: Callable[[], T],
        *,
        seconds: float | None = None,
        settle: bool = False,
        stop: Callable[[], None] | None = None,
    ) -> T:
        """Return what `call` returns, from a thread; `doing` says what it does, for messages.

        `seconds` replaces the configured time for retries. With `settle`, cancellation waits for
        the thread, which matters to calls that change something; `stop` asks that thread to end.
        """
        tries = _Tries(self._retry_seconds if seconds is None else seconds)
        try:
            async for attempt in tries.context():
                with attempt:
                    work = asyncio.get_running_loop().run_in_executor(
                        self._threads, self._once, doing, call
                    )
                    return await (settled(work, stop) if settle else work)
        except TransientError as error:
            raise tries.given_up(error) from error
        raise AssertionError  # stamina returns or raises

    async def run_some(self, calls: Sequence[tuple[str, Callable[[], T]]]) -> list[T]:
        """What these return, one after the other in one thread; each beside what it does.

        Ends before the first that fails, which `run` may be asked to do again.
        """

        def some() -> list[T]:
            found: list[T] = []
            with contextlib.suppress(StewardError):
                for doing, call in calls:
                    found.append(self._once(doing, call))
            return found

        return await asyncio.get_running_loop().run_in_executor(self._threads, some)

    def run_here(self, doing: str, call: Callable[[], T]) -> T:
        """As `run`, but in this thread, which must not be the event loop's.

        Nobody can cancel a thread: it stops trying once the store is closed.
        """
        tries = _Tries(self._retry_seconds)
        try:
            for attempt in tries.context():
                with attempt:
                    return self._once(doing, call)
        except TransientError as error:
            raise tries.given_up(error) from error
        raise AssertionError  # stamina returns or raises

    def _once(self, doing: str, call: Callable[[], T]) -> T:
        if self._closed.is_set():
            raise PermanentError(f"{doing} was given up")
        try:
            return call()
        except StewardError:
            raise
        except TRANSLATED as error:
            if not holds_credential(error):
                raise translate(error, doing, self.place) from error
            failure = translate(error, doing, self.place)
        # Out here it does not carry the error with it, whose text must not be seen.
        raise failure

    def close(self) -> None:
        """Take no more calls; those under way end at their time-out at the latest."""
        self._closed.set()
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Tries:
    """What is tried again, for how long, and what is said in the end."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._started = time.monotonic()
        self._refused = 0

    def context(self) -> "_RetryContextIterator":
        return stamina.retry_context(
            on=self._again,
            attempts=None,
            timeout=self._seconds,
            wait_initial=0.2,
            wait_max=10.0,
            wait_jitter=1.0,
        )

    def _again(self, error: Exception) -> bool | float:
        """Whether to try again, or in how many seconds where the server has said that."""
        self._refused += isinstance(error, DigestRefused)
        if not isinstance(error, TransientError) or self._refused >= _DIGEST_TRIES:
            return False
        wait = asked_to_wait(error)
        if wait is None:
            return True
        # Not at the very second that all the others were told, and once more before time is up.
        left = self._started + self._seconds - time.monotonic()
        return max(0.0, min(wait + random.random(), left))  # noqa: S311

    def given_up(self, error: TransientError) -> StewardError:
        if isinstance(error, DigestRefused):
            return IntegrityError(error.message, hint=error.hint)
        waited = time.monotonic() - self._started
        return type(error)(f"{error.message}; tried for {waited:.0f} s", hint=error.hint)
