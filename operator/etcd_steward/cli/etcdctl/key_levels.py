"""Keys that could be typed next, one level at a time: as a shell completes paths of files.

etcd knows no levels. It is asked for a few keys behind those that are known, again and again, each
time skipping the folder just found. It counts all that is left for each such answer; so where much
was counted, what is left is cut by its next byte, and each part asked for itself.
"""

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from etcd_steward.cli.etcdctl.errors import EtcdctlError, told
from etcd_steward.cli.etcdctl.pflag import DASH
from etcd_steward.errors import StewardError

if TYPE_CHECKING:  # grpc is imported where it is needed, and `flags` by every verb
    from etcd_steward.cli.etcdctl.flags import Ctl
    from etcd_steward.etcd.client import EtcdClient

MOST = 500
"""So many are offered; a person can't read more."""
_PAGE = 50
_MUCH = 1_000_000
"""Keys that etcd may count for one part of the answer: a tenth of a second."""
_AT_ONCE = 8
_SECONDS = 3.0
"""A person waits for it."""


def complete_key(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """What the live etcd has; nothing where it can't be asked."""
    from etcd_steward.cli.etcdctl.flags import Ctl  # noqa: PLC0415

    if ctx.params.get("from_") or ctx.meta.get(DASH) is not None:
        return []
    ctl = Ctl(ctx, {name: value for name, value in ctx.params.items() if name.startswith("ctl_")})
    with suppress(EtcdctlError, StewardError):
        words = asyncio.run(_words(ctl, incomplete))
        return [CompletionItem(word) for word in words]
    return []


def complete_first_key(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """The same for the first word alone: what follows it is no key."""
    return [] if ctx.params.get("words") else complete_key(ctx, param, incomplete)


async def _words(ctl: "Ctl", incomplete: str) -> list[str]:
    typed = os.fsencode(incomplete)
    async with ctl.connect() as client:
        with told():
            found = Levels(client, typed)
            keys = await found.read()
    words = [word for key in keys if (word := os.fsdecode(key)).isprintable()]
    # With what was typed among them, no shell takes what they share for all there is.
    return words if found.complete else [*words, incomplete]


class Levels:
    """What follows `typed`, up to the next slash."""

    def __init__(self, client: "EtcdClient", typed: bytes) -> None:
        self._client = client
        self._typed = typed
        self._found: set[bytes] = set()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self.complete = True
        """Whether nothing was left out."""

    async def read(self) -> Sequence[bytes]:
        """Folders, with a slash at their end, and keys, ascending. Raises `StewardError`."""
        try:
            async with asyncio.timeout(_SECONDS):
                await self._below(self._typed)
        except TimeoutError:
            self.complete = False
        return sorted(self._found)

    async def _below(self, prefix: bytes) -> None:
        """All that begins with `prefix`, which is what was typed, or some bytes more."""
        from etcd_steward.engine.tasks import together  # noqa: PLC0415
        from etcd_steward.etcd.keys import KeyRange  # noqa: PLC0415  # grpc: slow

        wanted = KeyRange.prefix(prefix)
        start, counted = wanted.start, 0
        while counted <= _MUCH:
            async with self._slots:
                answer = await self._client.range(
                    start, wanted.end, limit=_PAGE, keys_only=True, serializable=True
                )
            counted += answer.count
            self._found |= {self._level(kv.key) for kv in answer.kvs}
            if len(self._found) > MOST:
                self.complete = False
                return
            if not answer.more:
                return
            last = answer.kvs[-1].key
            level = self._level(last)
            start = last + b"\0" if level == last else KeyRange.prefix(level).end
        async with together() as group:
            for byte in range(start[len(prefix)] if start.startswith(prefix) else 0, 0x100):
                group.create_task(self._below(prefix + bytes([byte])))

    def _level(self, key: bytes) -> bytes:
        """The key up to the slash behind what was typed, or all of it."""
        end = key.find(b"/", max(len(self._typed), 1))
        return key[: end + 1] if end >= 0 else key
