"""`etcd-steward registry report`: a page of pictures."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from etcd_steward.cli.framework import Option, Verb
from etcd_steward.cli.output import warn
from etcd_steward.cli.registry_source import Looking, View, source_options
from etcd_steward.cli.running import run
from etcd_steward.cli.snapshot_find import find_backups, one_cluster, with_store
from etcd_steward.errors import AlreadyExists, InvalidInput, NotFound, StewardError

if TYPE_CHECKING:  # imported within the functions, see cli/snapshot.py
    from etcd_steward.engine.picture import File
    from etcd_steward.engine.survey import Survey
    from etcd_steward.engine.top import Tallies
    from etcd_steward.models.manifest import Manifest
    from etcd_steward.models.ports import Store


@click.command(
    "report",
    cls=Verb,
    examples="""
etcd-steward registry report registry.html
etcd-steward registry report registry.html --from s3://etcd-backups/prod --store s3://etcd-backups/prod
etcd-steward registry report registry.html --from etcd.db --force
""",
)
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", cls=Option, is_flag=True, help="Overwrite FILE if it is there.")
@source_options()
def report(looking: Looking, path: Path, force: bool) -> None:
    """Write one page of HTML: what fills this etcd, its largest objects, its history, its growth.

    The page needs neither network nor script, holds names and sizes but no values, and is made for
    phones and dark rooms, too. With --store, it shows how the backups in there have grown.
    """
    if path.exists() and not force:
        raise AlreadyExists(
            f"{path} is there already", hint="name another file, or overwrite it with --force"
        )
    text = run(_report(looking), stopping="Stopping.")
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"{path} can't be written: {error.strerror}") from error
    click.echo(str(path))


async def _report(looking: Looking) -> str:
    from etcd_steward.engine.picture import Subject, page  # noqa: PLC0415
    from etcd_steward.engine.survey import history_of, survey  # noqa: PLC0415

    async with looking.view() as view:
        source = view.source
        found = await survey(source, view.at, looking.prefix)
        history = await history_of(source, view.at, looking.prefix)
        files = await _files(view, found, history)
        subject = Subject(
            source.name,
            view.at or source.revision,
            *await _moment(view, looking.prefix),
            await source.oldest(),
        )
    backups = await _backups(looking)
    return await asyncio.to_thread(page, subject, found, history, files, backups, datetime.now(UTC))


async def _files(view: View, found: "Survey", history: "Tallies | None") -> "list[File]":
    from etcd_steward.engine.file_source import FileSource  # noqa: PLC0415
    from etcd_steward.engine.live_source import LiveSource  # noqa: PLC0415
    from etcd_steward.engine.picture import member_file, snapshot_file  # noqa: PLC0415

    if view.at not in {0, view.source.revision}:
        return []  # how large a file was then, nobody knows
    if isinstance(view.source, LiveSource):
        return [member_file(member) for member in await view.source.members()]
    if isinstance(view.source, FileSource) and history is not None:
        return [snapshot_file(view.source.name, view.source.size, found, history)]
    return []


async def _moment(view: View, prefix: str) -> tuple[datetime | None, str]:
    """When the revision was, as far as its history tells, and by what."""
    from etcd_steward.engine.clock import clock_of  # noqa: PLC0415

    try:
        clock = await clock_of(view.source, prefix)
    except NotFound:
        return None, ""
    return clock.of(view.at or view.source.revision)[0], clock.by


async def _backups(looking: Looking) -> "list[Manifest]":
    if looking.store.url is None:
        return []

    async def collect(store: "Store") -> "list[Manifest]":
        found, _ = await find_backups(store, *looking.narrowed)
        one_cluster(store, found)
        return [one.manifest for one in found]

    try:
        return await with_store(looking.store, None, collect)
    except StewardError as error:
        warn(f"the backups are left out: {error.message}")
        return []
