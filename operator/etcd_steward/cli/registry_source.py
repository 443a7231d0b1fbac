"""What `registry …` looks into: the flags that say so, and opening it."""

# ruff: noqa: ANN401  # what click hands on has no narrower type

import functools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from etcd_steward.cli.etcd_flags import etcd_options
from etcd_steward.cli.framework import Option
from etcd_steward.cli.progress import progress_option, reporting
from etcd_steward.cli.registry_prefix import registry_prefix_option
from etcd_steward.cli.snapshot_find import filters, resolve, split_url
from etcd_steward.cli.store_flags import StoreFlags, spool_options, store_options
from etcd_steward.cli.values import DURATION, human_age
from etcd_steward.config import EtcdFlags
from etcd_steward.errors import NotFound

if TYPE_CHECKING:  # grpc, boto3 and numpy are imported where they are needed
    from etcd_steward.engine.live_source import LiveSource
    from etcd_steward.engine.report import Report
    from etcd_steward.engine.sources import Source
    from etcd_steward.models.run import SpoolSettings

LIVE = "live"
_WHAT = "What to look into"
RECORD = "etcdsnapshot/"
_NAMESPACE = "etcd-steward"


@dataclass(frozen=True, slots=True)
class View:
    """A source, and the revision of it that is looked at."""

    source: "Source"
    at: int
    """0: the newest."""

    @property
    def where(self) -> str:
        """In words: which source, and which revision."""
        return f"{self.source.name} at revision {self.at or self.source.revision}"


class Looking:
    """How to open what somebody wants to look into."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.url = where_from(given.get("from_"))
        self.prefix = given["registry_prefix"]
        self.store: StoreFlags = given["store"]
        self.etcd: EtcdFlags = given["etcd"]
        self.spool: SpoolSettings = given["spool"]
        self.narrowed: tuple[str | None, str | None] = (given["cluster"], given["backup"])
        self.progress: bool = given["progress"]
        self._at: int = given.get("at") or 0
        self._ago: float | None = given.get("ago")
        if self._at and self._ago is not None:
            raise click.UsageError("--at and --ago both say when: give one of them")

    @property
    def back(self) -> bool:
        """Whether a moment of the past is meant."""
        return bool(self._at) or self._ago is not None

    @asynccontextmanager
    async def view(self, *, history: bool = False) -> AsyncIterator[View]:
        """What --from, --at and --ago say; which moment that is, is told on standard error.

        With `history`, a stored snapshot is opened so that it shows all that it holds.
        """
        history = history or self._ago is not None
        async with self.opened(self.url, at=self._at, history=history) as source:
            yield View(source, await self._revision(source))

    @asynccontextmanager
    async def opened(
        self, url: str | None, *, at: int = 0, history: bool = False
    ) -> "AsyncIterator[Source]":
        """One place: a snapshot's or store's URL, a file, `live` or None for the live etcd."""
        async with AsyncExitStack() as stack:
            if url is None or url == LIVE:
                yield await self._live(stack)
                return
            with reporting(progress=self.progress) as report:
                if "://" in url or url.startswith(RECORD):
                    source = await self._stored(url, stack, report, at=at, history=history)
                else:
                    from etcd_steward.engine.look import look_into_file  # noqa: PLC0415

                    source = await look_into_file(Path(url), stack, self.spool, report)
            yield source

    async def _live(self, stack: AsyncExitStack) -> "LiveSource":
        from etcd_steward.engine.live_source import LiveSource  # noqa: PLC0415  # grpc: slow
        from etcd_steward.etcd.client import EtcdClient  # noqa: PLC0415

        client = await stack.enter_async_context(EtcdClient.connect(self.etcd.connection()))
        return await LiveSource.open(client, self.prefix)

    async def _stored(
        self, url: str, stack: AsyncExitStack, report: "Report", *, at: int, history: bool
    ) -> "Source":
        from etcd_steward.engine.look import look_into_backup  # noqa: PLC0415
        from etcd_steward.store import open_store  # noqa: PLC0415

        if url.startswith(RECORD):
            url = await url_of_record(url.removeprefix(RECORD))
        store_url, folder = split_url(url)
        store = await stack.enter_async_context(open_store(self.store.settings(store_url)))
        manifest = (await resolve(store, folder, *self.narrowed)).manifest
        history = history or at not in {0, manifest.revision}
        return await look_into_backup(store, manifest, stack, self.spool, report, history=history)

    async def _revision(self, source: "Source") -> int:
        if self._ago is None:
            return self._at
        from etcd_steward.engine.clock import clock_of  # noqa: PLC0415
        from etcd_steward.engine.times import in_words  # noqa: PLC0415

        clock = await clock_of(source, self.prefix)
        now = datetime.now(UTC) if self.url in {None, LIVE} else clock.newest
        found = clock.at(now - timedelta(seconds=self._ago), now)
        click.echo(
            f"Revision {found.revision}, of {in_words(found.moment)}: exact to "
            f"{_span(found.within)}, by {clock.by}. The history reaches back to "
            f"{in_words(found.since)}, {human_age((now - found.since).total_seconds())} before.",
            err=True,
        )
        return found.revision


def where_from(text: str | None) -> str | None:
    """What --from says.

    Nothing is no way to say `live`: who forgot to set a variable does not mean the etcd of today.
    """
    if text == "":
        raise click.UsageError(f"--from is empty: name a snapshot, or say {LIVE}")
    return text


async def url_of_record(name: str) -> str:
    """Where an EtcdSnapshot's backup lies: `NAME` in our own namespace, or `NAMESPACE/NAME`."""
    from etcd_steward.kube import SNAPSHOTS, Key, Kube  # noqa: PLC0415  # aiohttp: slow

    namespace, _, name = name.rpartition("/")
    where = Key(namespace or _NAMESPACE, name)
    kube = await Kube.connect(None)
    try:
        found = await kube.get(SNAPSHOTS, where)
    finally:
        await kube.aclose()
    artifact = found.get("status", {}).get("artifact")
    if artifact is None:
        raise NotFound(
            f"EtcdSnapshot {where} has left no backup", hint=f"kubectl describe esnap {name}"
        )
    return str(artifact["url"])


def _span(within: timedelta) -> str:
    seconds = within.total_seconds()
    return human_age(seconds) if seconds >= 120 else f"{seconds:.1f} s"


def source_options(
    *, when: bool = True, named: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a verb the flags that say what to look into; it receives `looking: Looking`.

    Without `when`, it takes neither --at nor --ago; without `named`, not --from.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(**kwargs: Any) -> Any:
            given = {name: kwargs.pop(name) for name in _PARAMETERS if name in kwargs}
            return function(looking=Looking(given), **kwargs)

        wrapped: Callable[..., Any] = wrapper
        wrapped = progress_option(wrapped)
        wrapped = etcd_options()(store_options()(spool_options(filters(wrapped))))
        options = (
            *((_FROM_OPTION,) if named else ()),
            *(_WHEN_OPTIONS if when else ()),
            registry_prefix_option(_WHAT),
        )
        for option in reversed(options):
            wrapped = option(wrapped)
        return wrapped

    return decorate


_PARAMETERS = (
    *("from_", "at", "ago", "registry_prefix", "cluster", "backup"),
    *("etcd", "store", "spool", "progress"),
)
_FROM_OPTION = click.option(
    "--from",
    "from_",
    cls=Option,
    section=_WHAT,
    metavar="SNAPSHOT",
    help="A snapshot's URL, a store's (its newest verified one), etcdsnapshot/NAME, or a file: "
    ".db, .db.zst, .db.gz, .parquet.  [default: the live etcd]",
)
_WHEN_OPTIONS = (
    click.option(
        "--at",
        cls=Option,
        section=_WHAT,
        type=click.IntRange(min=1),
        metavar="REVISION",
        help="As it was at this revision, if it still holds it.",
    ),
    click.option(
        "--ago",
        cls=Option,
        section=_WHAT,
        type=DURATION,
        metavar="DURATION",
        help="As it was so long ago, such as 3m; in a snapshot, before its last moment.",
    ),
)
