"""The plan of a restore: what would be written over what, and why the rest is left.

Nothing is written here. A source is read once, its values lie in the spool as they would be
written, and what is live is compared by digests; so memory holds some hundred bytes a key.
"""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from etcd_steward.engine.report import Tracker
from etcd_steward.engine.restore import asked, order, owners
from etcd_steward.engine.restore.checks import (
    collector,
    definitions,
    encodings,
    namespaces,
    quotas,
    services,
    tokens,
    volumes,
)
from etcd_steward.engine.restore.drafts import Draft
from etcd_steward.engine.restore.live import Live
from etcd_steward.engine.restore.reading import Reader
from etcd_steward.engine.restore.surroundings import Surroundings, look_around
from etcd_steward.engine.sources import Source
from etcd_steward.engine.spool import Spool
from etcd_steward.engine.spoolfile import SpoolFile
from etcd_steward.errors import StewardError, Unavailable
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.models.registry import Record
from etcd_steward.models.restore import Plan, PlanItem, RestoreOptions, SourceRef

if TYPE_CHECKING:  # aiohttp: slow
    from etcd_steward.engine.restore.api_plan import Judged
    from etcd_steward.kube_discovery import Served
    from etcd_steward.kube_objects import ApiServer

_VALUES: Final = "restore.values"


class Planned:
    """A plan, and what it needs to be applied; `close` it before the spool goes."""

    def __init__(self, plan: Plan, file: SpoolFile, drafts: Iterable[Draft], live: Live) -> None:
        self.plan = plan
        self._file = file
        self._live = live
        self._where = {
            item.key: (draft.at, draft.size)
            for item, draft in zip(plan.items, drafts, strict=True)
            if item.write or item.verdict in {"differs", "conflict"}
        }

    def value(self, item: PlanItem) -> bytes:
        """What would be written, or would be if it were overwritten; blocking."""
        return self._file.read_at(*self._where[item.key])

    async def live_values(self, items: Sequence[PlanItem]) -> dict[str, Record]:
        """What is there under the keys of these, as the plan saw it; those that are there.

        Raises `Unavailable` if etcd has compacted that revision.
        """
        found = await self._live.get([item.key.encode() for item in items])
        return {key.decode(): record for key, record in found.items()}

    def close(self) -> None:
        """Close the values' file; it goes with the spool."""
        self._file.close()


async def make_plan(
    source: Source,
    ref: SourceRef,
    client: EtcdClient,
    options: RestoreOptions,
    *,
    prefix: str,
    spool: Spool,
    tracker: Tracker,
    api: "ApiServer | None",
    time_to_live: timedelta,
) -> Planned:
    """Compare what is asked for with what is there.

    `ref.revision` says when `source` is read. Without `api`, or where it does not answer, what is
    served is told by what lies in etcd alone. Raises `InvalidInput` for options that can't be
    meant, `NotFound` where the source holds nothing of the kind (and what it holds), `Refused` for
    another cluster's backup, and what source and client raise.
    """
    asked.check(options)
    tracker.step = "Reading"
    live = await Live.open(client, prefix)
    warnings = await asked.same_cluster(source, ref, live, options)
    file = spool.create(_VALUES)
    try:
        at = ref.revision if ref.revision != source.revision else 0
        reader = Reader(source, options, prefix, file, at)
        drafts = await reader.read(tracker)
        await asked.found(source, options, drafts, prefix, at)
        tracker.step = "Comparing"
        judged = None
        if options.via == "API":
            judged = await _judged(drafts, file, api, options)
            warnings += judged.warnings
            by_key = {one.shown: one for one in drafts}
            drafts = [by_key[item.key] for item in judged.items]
        else:
            warnings += await _weigh(drafts, source, ref, live, options, prefix, api)
            drafts = await asyncio.to_thread(order.ordered, drafts)
        now = datetime.now(UTC)
        plan = await asyncio.to_thread(
            lambda: Plan(
                made_at=now,
                expires_at=now + time_to_live,
                source=ref,
                target_cluster=live.cluster_id,
                target_kube_system_uid=judged.target if judged is not None else None,
                revision=live.revision,
                options=options,
                items=tuple(one.item() for one in drafts) if judged is None else judged.items,
                warnings=tuple(warnings),
            )
        )
    except BaseException:
        file.close()
        raise
    return Planned(plan, file, drafts, live)


async def _weigh(
    drafts: Sequence[Draft],
    source: Source,
    ref: SourceRef,
    live: Live,
    options: RestoreOptions,
    prefix: str,
    api: "ApiServer | None",
) -> list[str]:
    """Compare with what lies in etcd, and block what would do harm there; what to warn of."""
    warnings: list[str] = []
    await _compare(drafts, live, options)
    served = await _served(api, warnings)
    around = await look_around(drafts, live, prefix)
    await _check(drafts, live, around, served, live_source=ref.live)
    warnings += _concerns(drafts, options, around)
    warnings += await _collected(drafts, source, ref, live, around)
    return warnings


async def _judged(
    drafts: Iterable[Draft], file: SpoolFile, api: "ApiServer | None", options: RestoreOptions
) -> "Judged":
    """What the API server makes of it that the restore goes through; nothing is asked of etcd."""
    from etcd_steward.engine.restore.api_plan import judge  # noqa: PLC0415  # aiohttp: slow

    if api is None:
        raise Unavailable(
            "no API server can be asked, and this restore goes through one (via: API)",
            hint="try again when it answers, or restore raw keys (via: Registry)",
        )
    places: dict[str, tuple[int, int]] = {}
    items: list[PlanItem] = []
    for one in drafts:
        if not one.settled and one.path is None:
            one.exclude("NoObject", "it is no API object: only raw keys (via: Registry)")
        if not one.settled and one.header[0] == "encrypted":
            one.block(
                "Encrypted",
                f"it is encrypted at rest ({one.form}), and nobody here has the key: only as a raw "
                "key can it come back (via: Registry)",
            )
        one.write = not one.settled
        item = one.item()
        places[item.key] = one.at, one.size
        items.append(item)
    return await judge(items, lambda item: file.read_at(*places[item.key]), api, options)


async def _served(api: "ApiServer | None", warnings: list[str]) -> "Served | None":
    """What the API server serves; None where it does not say."""
    if api is None:
        return None
    try:
        return await api.served()
    except StewardError as error:
        warnings.append(
            f"the API server does not answer ({error.message}): keys can be written all the same, "
            "but nobody can tell what it serves, and nothing is read back through it"
        )
        return None


async def _compare(drafts: Iterable[Draft], live: Live, options: RestoreOptions) -> None:
    """Give verdicts by what is there."""
    open_ = [one for one in drafts if not one.settled]
    sizes = {one.key: one.size for one in open_}
    seen = await live.look(sizes, sizes)
    narrowed = asked.narrowed(options.include)
    for one in open_:
        one.seen = seen.get(one.key)
        if one.seen is None:
            one.verdict = "create"
        elif one.seen.sha256 == one.sha256:
            one.verdict = "identical"
        elif one.uid and one.seen.uid and one.uid != one.seen.uid:
            one.verdict = "conflict"
        else:
            one.verdict = "differs"
        one.write = _writes(one, options, narrowed=narrowed)


def _writes(draft: Draft, options: RestoreOptions, *, narrowed: bool) -> bool:
    """Whether it is written; says so where it is not."""
    overwrite = options.existing_objects == "Overwrite"
    if draft.verdict == "conflict":
        draft.reason = "OtherObject"
        draft.message = (
            "another object has this name by now. It is not replaced by one with another uid, "
            "since what goes with it would be deleted: delete it first, or restore through the API"
        )
        return False
    if draft.verdict != "differs":
        return draft.verdict == "create"
    if draft.related and (narrowed or draft.resource != "namespaces"):
        draft.reason, draft.message = "Related", "it is there, and was not asked for: it stays"
        return False
    if not overwrite:
        draft.reason, draft.message = "Exists", "it is there, and stays (existingObjects)"
    return overwrite


async def _check(
    drafts: Sequence[Draft],
    live: Live,
    around: Surroundings,
    served: "Served | None",
    *,
    live_source: bool,
) -> None:
    """Block what would do harm."""
    await encodings.check(drafts, live, live_source=live_source)
    encodings.versions(drafts, served)
    definitions.check(drafts, around.definitions, served)
    services.check(drafts, around.services)
    namespaces.check(drafts, around.namespaces)
    solid = await owners.solid_uids(drafts, live, around.definitions)
    owners.check(drafts, solid)
    tokens.check(drafts, around.accounts)
    volumes.check(drafts, around.volumes, around.claims)
    owners.notes(drafts, solid)


async def _collected(
    drafts: Sequence[Draft], source: Source, ref: SourceRef, live: Live, around: Surroundings
) -> list[str]:
    """What the garbage collector may remember. Of history alone is known who ran right before."""
    then = None
    if ref.live:
        key = live.root + collector.LEASE
        then = collector.began((await source.fetch([key], at=ref.revision)).get(key))
    return list(collector.check(drafts, around.controllers_since, then, live_source=ref.live))


def _concerns(drafts: Sequence[Draft], options: RestoreOptions, around: Surroundings) -> list[str]:
    """What concerns the whole."""
    found: list[str] = []
    existing = [one for one in drafts if one.verdict in {"differs", "conflict"}]
    if options.existing_objects == "Fail" and existing:
        for one in drafts:
            one.write = False
        found.append(
            f"nothing is written (existingObjects: Fail), since something is there already and "
            f"differs: {existing[0].title}, of {len(existing)} in all"
        )
    found += quotas.check(drafts, around.quotas)
    if around.unreadable:
        found.append(
            "some of what is there can't be read (encrypted at rest), so that its addresses, "
            f"claims or quotas were not looked at: {around.unreadable} in all"
        )
    return found
