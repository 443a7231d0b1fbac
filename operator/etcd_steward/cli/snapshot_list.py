"""`etcd-steward snapshot list`: what a store holds, and what is missing in it."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING

import click

from etcd_steward.cli.framework import Verb
from etcd_steward.cli.output import emit, output_option, print_table
from etcd_steward.cli.running import run
from etcd_steward.cli.snapshot_find import SOMETHING_TO_LOOK_AT, filters, find_backups, with_store
from etcd_steward.cli.snapshot_output import HEADER, row, view
from etcd_steward.cli.store_flags import StoreFlags, store_options
from etcd_steward.cli.values import human_age
from etcd_steward.memory import uncollected
from etcd_steward.models.ports import Store
from etcd_steward.units import size

if TYPE_CHECKING:  # imported within the functions, see cli/snapshot.py
    from etcd_steward.engine.manifests import Backup

_SUMMARY = ("CLUSTER", "BACKUP", "SNAPSHOTS", "SIZE", "VERIFIED", "NEWEST VERIFIED", "EVERY")
_ENOUGH = 3
"""So many intervals make a rhythm."""
_ALIKE = 0.1
"""An interval belongs to the rhythm if it differs from the median by no more than this part."""
_GAP = 1.75
"""Times the median: one missed run makes an interval of twice the median."""
_TOLD = 3
"""Gaps told of in each backup, the newest ones: older ones are often retention's work."""


@click.command(
    "list",
    cls=Verb,
    examples="""
etcd-steward snapshot list --store s3://etcd-backups/prod
etcd-steward snapshot list --store file:///var/backups/etcd --backup before-upgrade
etcd-steward snapshot list --store s3://etcd-backups -o json | jq -r '.[-1].url'
""",
)
@store_options()
@filters
@output_option
def list_snapshots(store: StoreFlags, cluster: str | None, backup: str | None, output: str) -> int:
    """List the complete snapshots of a store, oldest first, and the gaps between them.

    The table shows one backup after the other; -o json and yaml show one flat list. Manifests are
    remembered in $XDG_CACHE_HOME/etcd-steward, so that the next listing is quicker.
    """

    async def collect(opened: Store) -> "tuple[str, list[Backup], bool, list[str]]":
        found, unreadable = await find_backups(opened, cluster, backup)
        return opened.url, found, not unreadable, [] if found else await _elsewhere(opened)

    with uncollected():
        url, found, sound, elsewhere = run(with_store(store, None, collect))
    if output != "table":
        emit([view(url, one) for one in found], output)
    elif found:
        _print(url, found)
    else:
        click.echo(f"No snapshots found in {url}", err=True)
        for hint in elsewhere:
            click.echo(hint, err=True)
    return 0 if sound else SOMETHING_TO_LOOK_AT


def _print(url: str, found: "Sequence[Backup]") -> None:
    groups: dict[tuple[str, str], list[Backup]] = {}
    for one in found:
        backup = one.manifest.backup
        name = f"{backup.namespace}.{backup.name}"
        groups.setdefault((one.manifest.cluster, name), []).append(one)
    ordered = sorted(groups.items())
    print_table(HEADER, [row(url, one) for _, members in ordered for one in members])
    if len(found) == 1:
        return
    click.echo()
    now = datetime.now(UTC)
    rhythms = [rhythm([one.manifest.tick for one in members], now) for _, members in ordered]
    told = list(zip(ordered, rhythms, strict=True))
    print_table(_SUMMARY, [_summary(key, members, beat, now) for (key, members), beat in told])
    for ((cluster, name), _), beat in told:
        for sentence in beat.gaps:
            click.echo(f"Gap in {name} of {cluster}: {sentence}")


def _summary(
    key: tuple[str, str], members: "Sequence[Backup]", rhythm: "Rhythm", now: datetime
) -> tuple[str, ...]:
    verified = [one.manifest.tick for one in members if one.verified]
    newest = f"{human_age((now - verified[-1]).total_seconds())} ago" if verified else "none"
    stored = size(sum(one.manifest.stored_size for one in members))
    return (*key, str(len(members)), stored, str(len(verified)), newest, rhythm.every)


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How often a backup is made, as far as its ticks tell."""

    every: str = ""
    """In words; empty where there is no rhythm."""
    gaps: tuple[str, ...] = ()
    """Where it was broken, in words, oldest first."""


def rhythm(ticks: Sequence[datetime], now: datetime) -> Rhythm:
    """What `ticks`, oldest first, say of a schedule; nothing where they were made by hand."""
    pairs = list(pairwise(ticks))
    lengths = [(later - earlier).total_seconds() for earlier, later in pairs]
    if len(lengths) < _ENOUGH:
        return Rhythm()
    median = statistics.median(lengths)
    alike = sum(abs(length - median) <= _ALIKE * median for length in lengths)
    if median <= 0 or alike * 2 <= len(lengths):
        return Rhythm()
    gaps = [
        f"nothing for {human_age(length)}, from {_moment(earlier)} to {_moment(later)}"
        for (earlier, later), length in zip(pairs, lengths, strict=True)
        if length >= _GAP * median
    ]
    since = (now - ticks[-1]).total_seconds()
    if since >= _GAP * median:
        gaps.append(f"nothing since {_moment(ticks[-1])}, for {human_age(since)}")
    more = len(gaps) - _TOLD
    told = gaps[-_TOLD:]
    if more > 0:
        told.insert(0, f"{more} before these, which retention may have made")
    return Rhythm(human_age(median), tuple(told))


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}Z"


async def _elsewhere(store: Store) -> list[str]:
    """Where else below an empty prefix there are snapshots, for whoever left out the prefix."""
    keys = [info.key async for info in store.list("")]
    return [
        f"{count} lie in {store.url}/{prefix}" for prefix, count in sorted(_prefixes(keys).items())
    ]


def _prefixes(keys: Iterable[str]) -> Counter[str]:
    from etcd_steward.engine.manifests import folder_of  # noqa: PLC0415  # see cli/snapshot.py
    from etcd_steward.models.layout import MANIFEST  # noqa: PLC0415

    found: Counter[str] = Counter()
    for key in keys:
        prefix, *folder = key.removesuffix(f"/{MANIFEST}").rsplit("/", 3)
        if key.endswith(f"/{MANIFEST}") and folder_of("/".join(folder)) is not None:
            found[prefix] += 1
    return found
