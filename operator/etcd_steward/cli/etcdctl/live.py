"""The live etcd behind the verbs: running a verb, and reading large answers page by page."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from etcd_steward.cli.etcdctl.output import flush, forget, stream
from etcd_steward.cli.etcdctl.reader import Part
from etcd_steward.deadline import Deadline
from etcd_steward.etcd import stubs
from etcd_steward.etcd.calls import LINEARIZABLE_RANGE, SERIALIZABLE_RANGE
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.keys import KeyRange
from etcd_steward.etcd.paging import Range, pages
from etcd_steward.registry.paths import BUILTINS, root_of

Result = TypeVar("Result")

_SIGPIPE = 141
"""What a shell says of a program that wrote to a reader who had gone: 128 and the signal."""


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a verb to its end.

    Ctrl-C cancels it: nothing is held that would have to be cleaned up. A reader behind a pipe who
    goes, such as `head`, ends the program without a word, as it ends etcdctl. Without a standard
    output nothing is begun.
    """
    try:
        stream()
        result = asyncio.run(work)
        flush()
    except BrokenPipeError:
        forget()
        raise SystemExit(_SIGPIPE) from None
    finally:
        work.close()
    return result


class LiveReader:
    """Reads from a live etcd: see `reader.Reader`."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client

    async def range(self, request: stubs.RangeRequest) -> stubs.RangeResponse:
        """One request, as etcdctl sends it."""
        return await self._ask(request)

    async def parts(self, request: stubs.RangeRequest) -> AsyncGenerator[Part, None]:
        """Page by page, all at the revision of the first, which is linearizable unless told not.

        etcd counts the keys of a range before it answers, 0.6 s for a million. So where one spans
        many folders of a registry, its beginning is read as a range of its own.
        """
        wanted, revision = KeyRange(request.key, request.range_end), request.revision
        header: stubs.ResponseHeader | None = None
        start, before = wanted.start, 0
        for end in (*_beginnings(wanted), wanted.end):
            if before and end != wanted.end:
                continue
            first: list[stubs.RangeResponse] = []
            read, part = _read(self._ask, request, first), KeyRange(start, end)
            async with aclosing(pages(read, part, revision=revision)) as found:
                async for page in found:
                    header = header or first[0].header
                    yield Part(header, before + first[0].count, page.kvs)
            header = header or first[0].header
            revision = revision or header.revision
            start, before = end, before + first[0].count
        if not before:
            yield Part(header or stubs.ResponseHeader(), 0)

    async def _ask(
        self, request: stubs.RangeRequest, deadline: Deadline | None = None
    ) -> stubs.RangeResponse:
        rpc = SERIALIZABLE_RANGE if request.serializable else LINEARIZABLE_RANGE
        return await rpc.ask(self._client, request, deadline=deadline)


def _read(
    ask: Callable[[stubs.RangeRequest, Deadline | None], Awaitable[stubs.RangeResponse]],
    like: stubs.RangeRequest,
    first: list[stubs.RangeResponse],
) -> Range:
    """How pages are read as `like` asks; the first answer is put into `first`."""

    async def read(
        key: bytes,
        end: bytes = b"",
        *,
        limit: int = 0,
        revision: int = 0,
        deadline: Deadline | None = None,
    ) -> stubs.RangeResponse:
        request = stubs.RangeRequest(
            key=key,
            range_end=end,
            limit=limit,
            revision=revision,
            keys_only=like.keys_only,
            serializable=like.serializable,
        )
        answer = await ask(request, deadline)
        if not first:
            first.append(answer)
        return answer

    return read


def _beginnings(wanted: KeyRange) -> list[bytes]:
    """Ends of ever more folders of a registry that lie in a range, if any do."""
    folders = sorted(f"{root_of('/registry').decode()}{one.path}/" for one in BUILTINS.values())
    ends = [KeyRange.prefix(folder.encode()).end for folder in folders]
    inside = [end for end in ends if wanted.contains(end) and end > wanted.start]
    return [inside[2**step - 1] for step in range(len(inside).bit_length())]
