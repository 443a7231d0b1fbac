"""`etcd-steward registry log`: when an object changed, and when it was last seen."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from etcd_steward.cli.framework import Option, Verb
from etcd_steward.cli.output import emit, output_option, warn
from etcd_steward.cli.progress import reporting
from etcd_steward.cli.registry_diff import in_words
from etcd_steward.cli.registry_output import amount, namespace_option
from etcd_steward.cli.registry_source import LIVE, Looking, source_options
from etcd_steward.cli.running import run
from etcd_steward.cli.snapshot_find import find_backups, one_cluster
from etcd_steward.errors import InvalidInput, NotFound, StewardError

if TYPE_CHECKING:  # imported within the functions, see cli/snapshot.py
    from etcd_steward.engine.object_log import Entry
    from etcd_steward.engine.sources import Source

_TOLD = 3
"""Places that are named of those where a state was seen."""


@click.command(
    "log",
    cls=Verb,
    examples="""
etcd-steward registry log deploy/shop/api --store s3://etcd-backups/prod
etcd-steward registry log secret/shop/db
etcd-steward registry log cm/shop/settings --from etcd.db -o json
""",
)
@click.argument("words", metavar="RESOURCE/NAMESPACE/NAME", nargs=-1, required=True)
@namespace_option
@click.option(
    "--whole",
    cls=Option,
    is_flag=True,
    help="Download every snapshot, for the minutes of history in each.",
)
@click.option("--show-secrets", cls=Option, is_flag=True, help="Show what Secrets hold.")
@source_options(when=False)
@output_option
def log(
    looking: Looking,
    words: tuple[str, ...],
    namespace: str | None,
    whole: bool,
    show_secrets: bool,
    output: str,
) -> None:
    """Tell every revision of one object, over all backups of a store and the live history.

    The backups are those of --store (or its variable), of which each shows one state; the live etcd
    shows every change since its last compaction. With --from, only what that holds is told. Secrets
    are compared, and masked.
    """
    work = _log(looking, words, namespace, whole=whole, show_secrets=show_secrets)
    entries, places = run(work, stopping="Stopping.")
    if output != "table":
        emit([_as_data(entry) for entry in entries], output)
        return
    for entry in entries:
        _echo(entry)
    click.echo(f"\nLooked at: {places}", err=True)


async def _log(
    looking: Looking,
    words: tuple[str, ...],
    namespace: str | None,
    *,
    whole: bool,
    show_secrets: bool,
) -> "tuple[list[Entry], str]":
    from etcd_steward.engine.object_log import Sighting, key_of, timeline  # noqa: PLC0415
    from etcd_steward.engine.objects import Reference  # noqa: PLC0415
    from etcd_steward.engine.sightings import sightings  # noqa: PLC0415
    from etcd_steward.engine.words import resource_named  # noqa: PLC0415

    reference = Reference.parse(words, namespace)
    if reference.resource is None or reference.name is None:
        raise InvalidInput(
            f"{' '.join(words)!r} is not one object",
            hint="write RESOURCE/NAMESPACE/NAME, or RESOURCE/NAME for one without a namespace",
        )
    found: list[Sighting] = []
    places: list[str] = []
    key: bytes | None = None
    unknown: NotFound | None = None
    async with aclosing(_places(looking, whole=whole)) as sources:
        async for source, where, moment in sources:
            places.append(where)
            if key is None:
                try:
                    resource = await resource_named(
                        reference.resource, source, prefix=looking.prefix, at=0
                    )
                except NotFound as error:  # an older place may know it
                    unknown = unknown or error
                    found.append(Sighting(where, source.revision, None, moment))
                    continue
                key = key_of(resource, reference.namespace, reference.name, looking.prefix)
            found += await sightings(source, key, where, moment, looking.prefix)
    if key is None and unknown is not None:
        raise unknown
    entries = timeline(found, show_secrets=show_secrets)
    if not entries:
        raise NotFound(
            f"{' '.join(words)} was never seen, in {amount(len(places), 'place')}: {_some(places)}",
            hint="check namespace and name; --store says whose backups to look into",
        )
    return entries, _some(places)


async def _places(
    looking: Looking, *, whole: bool
) -> AsyncGenerator[tuple["Source", str, datetime | None], None]:
    """Where to look, the newest first: the live etcd and the store's backups, or --from alone."""
    if looking.url is not None:
        async with looking.opened(looking.url, history=True) as source:
            yield source, source.name, None
        return
    try:
        async with looking.opened(LIVE) as source:
            yield source, source.name, datetime.now(UTC)
    except StewardError as error:
        if looking.store.url is None:
            raise
        warn(f"the live etcd is left out: {error.message}")
    if looking.store.url is not None:
        async with aclosing(_backups(looking, whole=whole)) as sources:
            async for one in sources:
                yield one


async def _backups(
    looking: Looking, *, whole: bool
) -> AsyncGenerator[tuple["Source", str, datetime | None], None]:
    from etcd_steward.engine.look import look_into_backup  # noqa: PLC0415
    from etcd_steward.store import open_store  # noqa: PLC0415

    async with open_store(looking.store.settings()) as store:
        found, _ = await find_backups(store, *looking.narrowed)
        one_cluster(store, found)
        for backup in reversed(found):
            manifest = backup.manifest
            where = f"{manifest.backup.name} of {manifest.tick:%Y-%m-%d %H:%M:%S}Z"
            async with AsyncExitStack() as stack:
                with reporting(progress=looking.progress) as report:
                    source = await look_into_backup(
                        store, manifest, stack, looking.spool, report, history=whole
                    )
                yield source, where, manifest.started_at


def _some(places: Sequence[str]) -> str:
    """The first and the last of them."""
    if len(places) <= _TOLD:
        return ", ".join(places)
    return f"{', '.join(places[: _TOLD - 1])} and {len(places) - _TOLD + 1} more, to {places[-1]}"


def _echo(entry: "Entry") -> None:
    when = f"{entry.changed_at:%Y-%m-%d %H:%M:%S}Z" if entry.changed_at else ""
    by = f"by {entry.by}" if entry.by else ""
    if entry.missed:
        click.echo(f"{'':>10}  ({amount(entry.missed, 'change')} before it that nobody has seen)")
    if entry.absent:
        told = _absence(entry)
    else:
        what = "created" if entry.version == 1 else f"change {entry.version - 1}"
        told = "  ".join(filter(None, (what, when, by, _seen(entry))))
    click.echo(f"{click.style(f'{entry.revision:>10}', bold=True)}  {told}")
    for field in entry.fields:
        click.echo(f"{'':>12}{in_words(field)}")
    if entry.note:
        click.echo(f"{'':>12}{entry.note}")


def _absence(entry: "Entry") -> str:
    moments = [one.moment for one in entry.seen if one.moment is not None]
    when = f", by {moments[0]:%Y-%m-%d %H:%M:%S}Z" if moments else ""
    if entry.exact:
        return f"deleted{when}"
    return f"gone: deleted after revision {entry.after}{when}"


def _seen(entry: "Entry") -> str:
    places = list(dict.fromkeys(one.where for one in reversed(entry.seen)))
    return f"seen in {_some(places)}"


def _as_data(entry: "Entry") -> dict[str, Any]:
    from etcd_steward.engine.fields import as_data  # noqa: PLC0415

    data: dict[str, Any] = {"revision": entry.revision}
    if entry.absent:
        data |= {"state": "absent", "exact": entry.exact}
        data |= {} if entry.exact else {"presentAtRevision": entry.after}
    else:
        data |= {"state": "present", "version": entry.version, "missedChanges": entry.missed}
        data |= {"changedAt": entry.changed_at.isoformat()} if entry.changed_at else {}
        data |= {"by": entry.by} if entry.by else {}
        data |= {"fields": [as_data(one) for one in entry.fields]}
    data |= {"note": entry.note} if entry.note else {}
    return data | {"seenIn": list(dict.fromkeys(one.where for one in entry.seen))}
