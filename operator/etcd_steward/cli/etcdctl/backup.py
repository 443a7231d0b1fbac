"""`--from SNAPSHOT`: the reading verbs, asked of a backup as if it were alive."""

# ruff: noqa: ANN401  # what click hands on has no narrower type

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import click

from etcd_steward.cli.etcdctl.errors import BAD_ARGS, EtcdctlError, told
from etcd_steward.cli.etcdctl.reader import Part
from etcd_steward.cli.framework import Option
from etcd_steward.cli.progress import progress_option, reporting
from etcd_steward.cli.registry_prefix import DEFAULT_PREFIX
from etcd_steward.cli.registry_source import LIVE, Looking, where_from
from etcd_steward.cli.snapshot_find import filters
from etcd_steward.cli.store_flags import spool_flags, spool_settings, store_options
from etcd_steward.config import EtcdFlags

if TYPE_CHECKING:  # grpc, boto3 and numpy are imported where they are needed
    from etcd_steward.engine.file_source import FileSource
    from etcd_steward.engine.parquet_source import ParquetSource
    from etcd_steward.engine.standin import StandIn
    from etcd_steward.etcd import stubs

_SECTION = "Instead of the live etcd"


class Backup:
    """The backup that --from names, and how to open it."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._url: str = given["from_"]
        self._progress: bool = given["progress"]
        self._spool = spool_settings(given["spool_dir"], given["spool_limit"])
        more = {"etcd": EtcdFlags(), "registry_prefix": DEFAULT_PREFIX, "spool": self._spool}
        self._looking = Looking(given | more)

    @asynccontextmanager
    async def opened(self, *, revision: int = 0, history: bool = False) -> "AsyncIterator[StandIn]":
        """The backup, so that it shows `revision`, or all that it knows of its `history`.

        What is wrong with it, and what it says in the body, raises `EtcdctlError`.
        """
        from etcd_steward.engine.standin import StandIn  # noqa: PLC0415

        with told(), reporting(progress=self._progress) as report:
            opening = self._looking.opened(self._url, at=revision, history=history)
            async with AsyncExitStack() as stack, opening as source:
                file = cast("FileSource | ParquetSource", source)  # no URL leads to the live one
                yield StandIn.of(file, stack, self._spool, report)


class BackupReader:
    """Reads from a backup: see `reader.Reader`."""

    def __init__(self, backup: "StandIn") -> None:
        self._backup = backup

    async def range(self, request: "stubs.RangeRequest") -> "stubs.RangeResponse":
        """The whole answer."""
        return await self._backup.range(request)

    async def parts(self, request: "stubs.RangeRequest") -> AsyncGenerator[Part, None]:
        """The same in parts."""
        async with aclosing(self._backup.parts(request)) as parts:
            async for count, kvs in parts:
                yield Part(self._backup.header, count, kvs)


def backup_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb --from and what goes with it; it receives `source`, a `Backup` or None."""

    @functools.wraps(function)
    def wrapper(**kwargs: Any) -> Any:
        given = {name: kwargs.pop(name) for name in _PARAMETERS}
        try:
            live = where_from(given["from_"]) in {None, LIVE}
        except click.UsageError as error:
            raise EtcdctlError(error.message, BAD_ARGS) from error
        source = None if live else Backup(given)
        return function(source=source, **kwargs)

    wrapped = store_options()(spool_flags(filters(progress_option(wrapper))))
    return _FROM(wrapped)


_PARAMETERS = (
    *("from_", "cluster", "backup", "store"),
    *("spool_dir", "spool_limit", "progress"),
)
_FROM = click.option(
    "--from",
    "from_",
    cls=Option,
    section=_SECTION,
    metavar="SNAPSHOT",
    help="Answer from a backup: a snapshot's URL, a store's (its newest verified one), "
    "etcdsnapshot/NAME, or a file.",
)
