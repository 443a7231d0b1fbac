"""Applying a plan: raw keys into a live etcd, so that whatever goes wrong can be taken back.

    claim → lock → undo file, values → per type one canary, then ownership groups, each in one
    transaction that compares every key → no-op update through the API → read back → result
    → after the repair loops a second look

A process that dies goes on where it was, by `stash.reopen`: the journal says which keys are written
and what it does not say is asked of etcd. Nothing that somebody has written since the plan is ever
overwritten.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Final

from etcd_steward.engine.paged import OWN
from etcd_steward.engine.report import Tracker
from etcd_steward.engine.restore.canary import Canaries, canaries, withdraw
from etcd_steward.engine.restore.lock import locked, namespaces_of
from etcd_steward.engine.restore.place import Place, seen_again
from etcd_steward.engine.restore.second_look import AFTER, look_again
from etcd_steward.engine.restore.stash import Planned, Reopened, save
from etcd_steward.engine.restore.throttle import Throttle, Unthrottled, throttled
from etcd_steward.engine.restore.through_api import shown, touch_all
from etcd_steward.engine.restore.transaction import MOST_BYTES, Piece, Writer, pieces
from etcd_steward.engine.tasks import together
from etcd_steward.errors import Refused, StewardError
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.kube_objects import ApiServer
from etcd_steward.models.restore import Plan, PlanItem, Restored, RestoreReport
from etcd_steward.models.restore_place import Claim
from etcd_steward.registry.paths import root_of
from etcd_steward.store.threads import settled

_JOURNAL_EVERY: Final = 1.0
"""Seconds between two pages of the journal while keys are written."""
_READ_AHEAD: Final = 64
"""Transactions whose values are read at once, if they are not more than fit into one."""
_TOLD: Final = 5
"""Objects that a warning names."""
_NEVER: Final = (
    "ranges/",
    "masterleases/",
    "peerserverleases/",
    "ipaddresses/",
    "etcdsteward.io/",
    "health",
)
"""Below the API server's prefix: its own leases, what its repair loops make of the Services, and
our own objects, which would act as they did when they were backed up."""


@dataclass(frozen=True, slots=True)
class ApplySettings:
    """How to apply a plan."""

    restore: str
    """Name of the restore, for whoever meets its locks."""
    uid: str
    """Of the restore: the same one may go on after a crash, no other."""
    prefix: str = "/registry"
    """The API server's `--etcd-prefix`."""
    unthrottled: bool = False
    """Write as fast as etcd takes it, whatever other clients see."""
    at_once: int = 64
    """Transactions under way, at most."""
    patience: float = 60.0
    """Seconds that etcd may be without a leader, or away."""
    second_look_after: float | None = AFTER
    """Seconds after the last write until the second look; None: there is none."""


async def apply(
    planned: Planned,
    client: EtcdClient,
    api: ApiServer | None,
    place: Place,
    tracker: Tracker,
    settings: ApplySettings,
) -> RestoreReport:
    """Do what a plan says; what became of each key.

    A restore that was applied already does nothing, and its report is the one of that time. Raises
    `Refused` where nothing may be written: the plan is too old or another cluster's, something has
    changed since, another restore is under way, the API server can't read the first of a type.
    Whatever else is raised, the same restore may be applied again, and goes on.
    """
    done = await place.result()
    if done is not None:
        when = done.finished_at.isoformat(timespec="seconds")
        tracker.report.warning(f"this restore was applied at {when}: nothing was written now")
        return done
    plan = planned.plan
    tracker.step = "Claiming"
    await _check(plan, client, settings)
    claim = Claim(restore=settings.restore, uid=settings.uid, digest=plan.digest)
    names = namespaces_of(plan.items)
    async with locked(client, names, restore=settings.restore, uid=settings.uid):
        await place.begin(claim)
        resumed = isinstance(planned, Reopened)
        if not resumed:
            tracker.step = "Saving"
            await place.write_plan(plan)
            await save(planned, client, place, prefix=settings.prefix)
        writer = Writer(client, plan.revision, settings.patience, resumed=resumed)
        work = _Apply(planned, client, api, place, tracker, settings, writer)
        report = await work.run()
    if settings.second_look_after is not None:
        tracker.step = "Watching"
        await asyncio.sleep(settings.second_look_after)
        look = await look_again(planned, report, client)
        await place.write_second_look(look)
        report = seen_again(report, look)
    await place.tidy(values=any(item.write and item.live_revision for item in plan.items))
    return report


async def _check(plan: Plan, client: EtcdClient, settings: ApplySettings) -> None:
    """Refuse what must never be written, and plans of another time or place."""
    for item in plan.items:
        if item.write and _is_taboo(item.key, settings.prefix):
            raise Refused(
                f"the plan would write {item.key}, which a restore never does",
                hint="exclude it; the API server, or etcd-steward, makes it by itself",
            )
    if plan.expires_at <= datetime.now(UTC):
        when = plan.expires_at.isoformat(timespec="seconds")
        raise Refused(
            f"the plan was good until {when}: what it was compared with is too old by now",
            hint="make a new plan; what is restored already is identical in it",
        )
    answer = await client.range(root_of(settings.prefix), count_only=True)
    cluster = f"{answer.header.cluster_id:x}"
    if cluster != plan.target_cluster:
        raise Refused(
            f"the plan was made over the etcd cluster {plan.target_cluster}, this one is {cluster}",
            hint="make a new plan, or name the endpoints of that cluster",
        )


def _is_taboo(key: str, prefix: str) -> bool:
    raw = key.encode()
    below = tuple(root_of(prefix) + word.encode() for word in _NEVER)
    return raw == b"compact_rev_key" or OWN.contains(raw) or raw.startswith(below)


@dataclass(slots=True)
class _Apply:
    """One apply under way, by one process."""

    planned: Planned
    client: EtcdClient
    api: ApiServer | None
    place: Place
    tracker: Tracker
    settings: ApplySettings
    writer: Writer
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    done: dict[str, Restored] = field(default_factory=dict)
    unnoted: dict[str, int] = field(default_factory=dict)
    """Written keys that the journal does not have yet."""
    warnings: list[str] = field(default_factory=list)

    async def run(self) -> RestoreReport:
        """All of it, but for the second look."""
        items = [item for item in self.planned.plan.items if item.write]
        await self._remember(items)
        left = [item for item in items if item.key not in self.done]
        if left:
            await self._write_all(left)
        count = await self._through_api([i for i in items if self._outcome(i) == "written"])
        self.tracker.step = "Recording"
        report = RestoreReport(
            digest=self.planned.plan.digest,
            started_at=self.started_at,
            finished_at=datetime.now(UTC),
            undo=self.place.undo_url,
            restored=tuple(self.done[item.key] for item in items),
            read_back=count,
            warnings=tuple(self.warnings),
        )
        await self.place.write_result(report)
        return report

    async def _write_all(self, items: Sequence[PlanItem]) -> None:
        self.tracker.raw, self.tracker.total = 0, sum(item.size for item in items)
        self.tracker.step = "Writing"
        async with (
            canaries(self.api, self.tracker.report) as first,
            self._throttled() as throttle,
            self._journalling(),
        ):
            for step in _steps(items):
                await self._write_step(step, first, throttle)

    def _outcome(self, item: PlanItem) -> str:
        return self.done[item.key].outcome

    async def _remember(self, items: Iterable[PlanItem]) -> None:
        """What the journal of an earlier process says."""
        noted = await self.place.noted()
        for item in items:
            if item.key in noted:
                self.done[item.key] = Restored(
                    key=item.key, outcome="written", revision=noted[item.key], uid=item.uid
                )

    @asynccontextmanager
    async def _throttled(self) -> AsyncIterator[Throttle]:
        limits = throttled(self.client, self.settings.uid)
        async with nullcontext(Unthrottled()) if self.settings.unthrottled else limits as throttle:
            yield throttle

    @asynccontextmanager
    async def _journalling(self) -> AsyncIterator[None]:
        """Write the journal while the body runs, and once more however it ends."""

        async def keep() -> None:
            while True:
                await asyncio.sleep(_JOURNAL_EVERY)
                await self._note()

        try:
            async with together() as group:
                keeping = group.create_task(keep(), name="keep the journal")
                yield
                keeping.cancel()
        finally:
            await self._note()

    async def _note(self) -> None:
        if self.unnoted:
            page, self.unnoted = self.unnoted, {}
            await settled(self.place.note(page))

    async def _write_step(
        self, groups: Sequence[list[PlanItem]], first: Canaries, throttle: Throttle
    ) -> None:
        """Write ownership groups beside each other, the first of each type before the next."""
        gate = asyncio.Semaphore(self.settings.at_once)
        waiting: list[Piece] = []
        async with together() as tasks:

            async def start() -> None:
                values = await settled(asyncio.to_thread(self._values, waiting))
                for piece, some in zip(waiting, values, strict=True):
                    await throttle.take(len(piece.items), piece.size)
                    await gate.acquire()
                    tasks.create_task(self._put(piece, some)).add_done_callback(
                        lambda _: gate.release()
                    )
                waiting.clear()

            for group in groups:
                cut = list(pieces(group))
                if len(cut) > 1 or first.due(group):
                    for piece in cut:
                        await self._write_canary(piece, first, throttle)
                else:
                    waiting += cut
                if len(waiting) == _READ_AHEAD or sum(one.size for one in waiting) > MOST_BYTES:
                    await start()
            await start()

    async def _write_canary(self, piece: Piece, first: Canaries, throttle: Throttle) -> None:
        """Write a piece, and go on only if every API server can read it."""
        due = first.due(piece.items)
        await throttle.take(len(piece.items), piece.size)
        (values,) = await settled(asyncio.to_thread(self._values, [piece]))
        restored = await self.writer.write(piece, values)
        written = {one.key for one in restored if one.outcome == "written"}
        try:
            await first.show([item for item in due if item.key in written])
        except Refused:
            if written:
                await withdraw(self.client, piece.items, restored)
            raise
        self._remember_also(piece, restored)

    async def _put(self, piece: Piece, values: Sequence[bytes]) -> None:
        self._remember_also(piece, await self.writer.write(piece, values))

    def _remember_also(self, piece: Piece, restored: Iterable[Restored]) -> None:
        for one in restored:
            self.done[one.key] = one
            if one.outcome == "written":
                self.unnoted[one.key] = one.revision
        self.tracker.raw += piece.size

    def _values(self, some: Iterable[Piece]) -> list[list[bytes]]:
        return [[self.planned.value(item) for item in piece.items] for piece in some]

    async def _through_api(self, written: Sequence[PlanItem]) -> int:
        """No-op updates, and reading back; how many objects were shown."""
        if self.api is None:
            self.warnings.append("no API server was asked: nothing was read back through one")
            return 0
        try:
            self.tracker.step = "Updating"
            self._warn("the API server did not write {} anew", await touch_all(self.api, written))
            self.tracker.step = "ReadingBack"
            count, missing = await shown(self.api, written)
        except StewardError as error:
            self.warnings.append(f"not all could be read back through the API: {error.message}")
            return 0
        self._warn("{} not shown as written", missing)
        return count

    def _warn(self, text: str, found: Sequence[str]) -> None:
        if found:
            more = f" and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
            what = f"{len(found)} objects" if len(found) > 1 else "an object"
            self.warnings.append(f"{text.format(what)}: {'; '.join(found[:_TOLD])}{more}")


def _steps(items: Iterable[PlanItem]) -> Iterator[list[list[PlanItem]]]:
    """Ownership groups that may be written beside each other: neighbours of one leading type.

    What a plan puts after another type may depend on it.
    """
    groups = [list(some) for _, some in groupby(items, key=lambda item: item.group)]
    for _, step in groupby(groups, key=lambda group: group[0].resource):
        yield list(step)
