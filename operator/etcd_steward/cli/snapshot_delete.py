"""`etcd-steward snapshot delete` and `prune`: what goes, and why the rest stays."""

import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from pydantic import TypeAdapter, ValidationError

from etcd_steward.cli.framework import Option, Verb
from etcd_steward.cli.output import emit, output_option, print_table
from etcd_steward.cli.running import run
from etcd_steward.cli.snapshot_find import (
    SOMETHING_TO_LOOK_AT,
    filters,
    find_backups,
    in_folder,
    split_url,
    with_store,
)
from etcd_steward.cli.snapshot_output import PRUNE_HEADER, prune_row
from etcd_steward.cli.store_flags import StoreFlags, store_options
from etcd_steward.errors import InvalidInput, NotFound, Refused
from etcd_steward.models.kinds import Duration, Retention
from etcd_steward.models.layout import Folder
from etcd_steward.models.ports import Store
from etcd_steward.units import size

if TYPE_CHECKING:  # imported within the functions, see cli/snapshot.py
    from etcd_steward.engine.manifests import Backup
    from etcd_steward.engine.prune import Orphans

_POLICY = "Retention (as restic's: of each hour, day, ... in UTC the newest one counts)"
_ORPHANS = "What dead runs left"
_DURATION: TypeAdapter[str] = TypeAdapter(Duration)


class _Span(click.ParamType[str]):
    """A duration as retention has it."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Check it; it stays as it is written."""
        try:
            return _DURATION.validate_python(value)
        except ValidationError:
            self.fail(f"{value!r} is no duration such as 12h, 30d, 1w2d, 6mo or 1y.", param, ctx)


@click.command(
    "delete",
    cls=Verb,
    short_help="Delete snapshots by their URLs.",
    examples="""
etcd-steward snapshot delete s3://etcd-backups/prod/1f0c9a3e/_cli.manual/20261122T021700Z-7c1e04b2
etcd-steward snapshot list -o json | jq -r '.[] | select(.manifest.suspect) | .url' |
    xargs etcd-steward snapshot delete --yes
""",
)
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@store_options()
@click.option("--yes", "-y", cls=Option, is_flag=True, help="Don't ask.")
@click.option(
    "--force",
    cls=Option,
    is_flag=True,
    help="Delete even the newest verified snapshot of a backup.",
)
@output_option
def delete(urls: Sequence[str], store: StoreFlags, yes: bool, force: bool, output: str) -> None:
    """Delete snapshots by their URLs, as `list` prints them; there is no way back.

    The newest verified snapshot of a backup is refused without --force: without it there is nothing
    to restore from.
    """
    wanted: dict[str, list[Folder]] = {}
    for url in urls:
        where, folder = split_url(url)
        if where is None or folder is None:
            raise InvalidInput(
                f"{url} is not the URL of a snapshot",
                hint="`etcd-steward snapshot list` prints them; `snapshot prune` deletes many",
            )
        wanted.setdefault(where, []).append(folder)
    for where, folders in wanted.items():
        if not force:
            run(with_store(store, where, _last_of(folders)))
    _ask(yes, f"Delete {len(urls)} snapshot{'s' if len(urls) > 1 else ''}?")
    gone: list[str] = []
    for where, folders in wanted.items():
        gone += run(with_store(store, where, _deleting(folders)))
    if output != "table":
        emit([{"url": url, "deleted": True} for url in gone], output)
    else:
        for url in gone:
            click.echo(f"Deleted: {url}")
    missing = sorted({url.rstrip("/") for url in urls} - set(gone))
    if missing:
        raise NotFound(f"there is no snapshot in {', '.join(missing)}")


def _ask(yes: bool, question: str) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused("nobody can be asked here", hint="say --yes if it is meant")
    if not click.confirm(question, err=True):
        raise Refused("nothing was deleted")


def _last_of(folders: Sequence[Folder]) -> Callable[[Store], Awaitable[None]]:
    async def check(store: Store) -> None:
        from etcd_steward.engine.manifests import Backup, contents, read_backups  # noqa: PLC0415

        going = {str(folder) for folder in folders}
        for path in sorted({folder.rpartition("/")[0] for folder in going}):
            found = await read_backups(store, await contents(store, f"{path}/"))
            verified = [one for one in found if isinstance(one, Backup) and one.verified]
            for cluster_id in {one.manifest.cluster_id for one in verified}:
                of_one = [one for one in verified if one.manifest.cluster_id == cluster_id]
                newest = of_one[-1].manifest.folder
                if newest in going:
                    raise Refused(
                        f"{store.url}/{newest} is the newest verified snapshot of its backup",
                        hint="delete it with --force if you don't need it any more",
                    )

    return check


def _deleting(folders: Sequence[Folder]) -> Callable[[Store], Awaitable[list[str]]]:
    async def work(store: Store) -> list[str]:
        from etcd_steward.engine.prune import delete_backup  # noqa: PLC0415  # see cli/snapshot.py

        return [
            f"{store.url}/{folder}"
            for folder in dict.fromkeys(folders)
            if await delete_backup(store, folder, lambda _: None)
        ]

    return work


def _policy_options(function: Callable[..., Any]) -> Callable[..., Any]:
    counts = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
    within = click.option(
        "--keep-within",
        cls=Option,
        section=_POLICY,
        type=_Span(),
        metavar="DURATION",
        help="Keep all younger than this, such as 30d, seen from the newest one.",
    )
    wrapped = within(function)
    for name in reversed(counts):
        what = "the newest N" if name == "last" else f"the newest of each of the last N {_of(name)}"
        wrapped = click.option(
            f"--keep-{name}",
            cls=Option,
            section=_POLICY,
            type=click.IntRange(min=0, max=10000),
            metavar="N",
            help=f"Keep {what}.",
        )(wrapped)
    return wrapped


def _of(name: str) -> str:
    return "days" if name == "daily" else f"{name.removesuffix('ly')}s"


@click.command(
    "prune",
    cls=Verb,
    short_help="Delete what a retention policy does not keep, or what dead runs left.",
    examples="""
etcd-steward snapshot prune --keep-last 7 --keep-weekly 8 --backup nightly --dry-run
etcd-steward snapshot prune --keep-within 30d --store file:///var/backups/etcd
etcd-steward snapshot prune --orphans --older-than 7d --dry-run
""",
)
@store_options()
@filters
@_policy_options
@click.option(
    "--orphans",
    cls=Option,
    section=_ORPHANS,
    is_flag=True,
    help="Delete open uploads and folders without a manifest instead.",
)
@click.option(
    "--older-than",
    cls=Option,
    section=_ORPHANS,
    type=_Span(),
    default="7d",
    metavar="DURATION",
    help="Only those that were last written to longer ago: a younger one may be a run under way.  "
    "[default: 7d]",
)
@click.option("--dry-run", cls=Option, is_flag=True, help="Only show what would be done.")
@output_option
def prune(
    store: StoreFlags,
    cluster: str | None,
    backup: str | None,
    orphans: bool,
    older_than: str,
    dry_run: bool,
    output: str,
    **keep: Any,  # noqa: ANN401  # --keep-last and so on
) -> int:
    """Delete what a retention policy does not keep, and show why the rest stays.

    Each backup of each cluster is looked at by itself. Only verified snapshots count, and only they
    are deleted; the newest verified one stays in any case.
    """
    policy = Retention(**keep)
    if orphans:
        if policy != Retention():
            raise click.UsageError("--orphans can't be combined with --keep-...")
        return run(with_store(store, None, _orphans(cluster, backup, older_than, dry_run, output)))
    if not any(keep.values()):
        raise Refused(
            "no --keep-... is given: nothing says what to keep",
            hint="say for instance --keep-last 7 --keep-weekly 8; --dry-run shows what that means",
        )
    return run(with_store(store, None, _pruning(cluster, backup, policy, dry_run, output)))


def _pruning(
    cluster: str | None, backup: str | None, policy: Retention, dry_run: bool, output: str
) -> Callable[[Store], Awaitable[int]]:
    async def work(store: Store) -> int:
        from etcd_steward.engine.catalogue import trouble  # noqa: PLC0415  # see cli/snapshot.py
        from etcd_steward.engine.prune import delete_backups  # noqa: PLC0415

        found, unreadable = await find_backups(store, cluster, backup)
        why = trouble(found, unreadable)
        if why is not None and not dry_run:
            raise Refused(why)
        kept = _kept(found, policy)
        going = [one.manifest.folder for one in found if one.manifest.folder not in kept]
        if not dry_run:
            await delete_backups(store, map(Folder.parse, going), lambda _: None)
        if output != "table":
            emit([_view(store.url, one, kept) for one in found], output)
        elif found:
            gone = "would be deleted" if dry_run else "deleted"
            rows = [
                prune_row(store.url, one, ", ".join(kept.get(one.manifest.folder, (gone,))))
                for one in found
            ]
            print_table(PRUNE_HEADER, rows)
        else:
            click.echo(f"No snapshots found in {store.url}", err=True)
        return SOMETHING_TO_LOOK_AT if unreadable else 0

    return work


def _kept(found: "Iterable[Backup]", policy: Retention) -> dict[str, tuple[str, ...]]:
    """Those that stay: each backup of each cluster by itself, a clone's apart from its original."""
    from etcd_steward.engine.catalogue import candidate  # noqa: PLC0415  # see cli/snapshot.py
    from etcd_steward.engine.retention import keep  # noqa: PLC0415

    groups: dict[tuple[str, str], list[Backup]] = {}
    for one in found:
        path = one.manifest.folder.rpartition("/")[0]
        groups.setdefault((path, one.manifest.cluster_id), []).append(one)
    kept: dict[str, tuple[str, ...]] = {}
    for members in groups.values():
        kept |= keep([candidate(one) for one in members], policy)
    return kept


def _view(url: str, backup: "Backup", kept: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    folder = backup.manifest.folder
    return {
        "url": f"{url}/{folder}",
        "tick": backup.manifest.tick.isoformat().replace("+00:00", "Z"),
        "keep": folder in kept,
        "kept": list(kept.get(folder, ())),
    }


def _orphans(
    cluster: str | None, backup: str | None, older_than: str, dry_run: bool, output: str
) -> Callable[[Store], Awaitable[int]]:
    async def work(store: Store) -> int:
        from etcd_steward.engine.prune import delete_orphans, find_orphans  # noqa: PLC0415
        from etcd_steward.engine.retention import before  # noqa: PLC0415

        found = await find_orphans(
            store,
            before(datetime.now(UTC), older_than),
            lambda folder: in_folder(folder, cluster, backup),
        )
        if not dry_run:
            await delete_orphans(store, found)
        _tell(store.url, found, dry_run, output)
        return SOMETHING_TO_LOOK_AT if found.unknown else 0

    return work


def _tell(url: str, found: "Orphans", dry_run: bool, output: str) -> None:
    if output != "table":
        gone: list[dict[str, Any]] = [
            {"url": f"{url}/{upload.key}", "kind": "upload", "uploadID": upload.upload_id}
            for upload in found.uploads
        ]
        gone += [{"url": f"{url}/{one.folder}", "kind": "folder"} for one in found.runs]
        emit(gone, output)
        return
    word = "Would be deleted" if dry_run else "Deleted"
    for upload in found.uploads:
        click.echo(f"{word}: the open upload of {url}/{upload.key}")
    for one in found.runs:
        what = f"{size(one.size)}, " if one.size is not None else ""
        click.echo(f"{word}: {url}/{one.folder} ({what}without a manifest)")
    for upload in found.unknown:
        click.echo(
            f"Left alone: the upload of {url}/{upload.key}: the store does not say how old it is",
            err=True,
        )
    if not (found.uploads or found.runs or found.unknown):
        click.echo(f"Nothing to delete in {url}", err=True)
