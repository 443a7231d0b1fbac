"""Making a full etcd take writes again, when nothing but reads and deletions work any more.

    alarms → gate → can it be won at all? → snapshot → compact, no deeper than needed → token →
    defragment each member that is too large → every voter below the threshold → disarm exactly
    these alarms → a write that leaves nothing → tokens back

NOSPACE compares the size of the file, not what is in use (etcd server/storage/quota.go): disarmed
without defragmentation it comes back with the next write. Nothing here writes before the disarm.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal, TypeVar

from etcd_steward.deadline import Deadline
from etcd_steward.engine.maintenance import token
from etcd_steward.engine.maintenance.corrupt import refuse_corrupt
from etcd_steward.engine.maintenance.deeper import Deeper
from etcd_steward.engine.maintenance.facts import Facts, gather, quota_of
from etcd_steward.engine.maintenance.live_size import biggest, weigh
from etcd_steward.engine.maintenance.lock import nobody_alive, settled
from etcd_steward.engine.maintenance.plan import Terms, Turn, against, plan
from etcd_steward.engine.maintenance.round import Tell, defragment_each
from etcd_steward.engine.maintenance.rule import rescued_below
from etcd_steward.engine.report import Tracker
from etcd_steward.engine.top import Tallies
from etcd_steward.errors import OutOfSpace, Refused, StewardError, TimedOut, Unavailable
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.member import Alarm, MemberStatus
from etcd_steward.models.maintenance import (
    CompactionReport,
    DefragmentationRule,
    RescueReport,
    RoundReport,
)
from etcd_steward.models.maintenance_run import MaintenanceRequest
from etcd_steward.units import size

Result = TypeVar("Result")

PROBE: Final = "/etcdsteward.io/probe/"
"""`<prefix><run>`: what is written, and deleted at once, to see that etcd takes writes."""
_PROBE_SECONDS: Final = 60
"""After which the probe goes by its lease, if its writer dies."""
_WEIGHING: Final = 120.0
"""Seconds for adding up what lives; a rescue goes on without."""
_WAITING: Final = 3600.0
"""Seconds for another rescue to end."""
_PASSING: Final = 15.0
"""Seconds that what usually passes by itself is given to pass."""
_LOOK: Final = 1.0
_TRUSTED: Final = 1 << 62
"""Bytes free on a disk of which nobody says anything."""


_Early = Literal["NotNeeded", "Refused", "Stopped"]


class _End(Exception):  # how a rescue ended, which may be no error
    def __init__(self, outcome: _Early, reason: str) -> None:
        super().__init__(reason)
        self.outcome, self.reason = outcome, reason


@dataclass(slots=True)
class Rescue:
    """One rescue."""

    client: EtcdClient
    request: MaintenanceRequest
    tracker: Tracker
    tell: Tell
    stop: asyncio.Event
    """Ends it before the next member, and before anything is disarmed."""
    save: Callable[[], Awaitable[str]]
    """Takes the snapshot, or finds an earlier rescue's; where it lies."""
    quiet: float = token.QUIET
    """Seconds after which another rescuer that does nothing is dead."""
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    snapshot: str = ""
    compaction: CompactionReport | None = None
    round: RoundReport | None = None
    disarmed: list[Alarm] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    async def rescue(self) -> RescueReport:
        """Do all of it; the report says how far it came.

        Raises `StewardError` only where not even the snapshot could be taken.
        """
        try:
            await self._rescue()
        except _End as end:
            return self._report(end.outcome, end.reason)
        except Refused as error:
            return self._report("Refused", str(error))
        except StewardError as error:
            if not self.snapshot:
                raise
            return self._report("Stopped", self._so_far(str(error)))
        return self._report("Rescued", "")

    def _report(self, outcome: Literal["Rescued"] | _Early, reason: str) -> RescueReport:
        backup = self.request.backup
        return RescueReport(
            outcome=outcome,
            reason=reason,
            started_at=self.started_at,
            finished_at=datetime.now(UTC),
            snapshot=self.snapshot or (backup.taken if backup is not None else ""),
            compaction=self.compaction,
            round=self.round,
            disarmed=tuple(f"{alarm.member_id:x}" for alarm in self.disarmed),
            warnings=tuple(self.warnings),
        )

    def _so_far(self, reason: str) -> str:
        if not self.disarmed:
            return reason
        return f"the alarms were taken back, but it was not proven that writes work: {reason}"

    async def _rescue(self) -> None:
        if not await self._full():
            raise _End("NotNeeded", "no NOSPACE alarm is raised")
        weight = await self._unless_stopped(self._fit())
        self.snapshot = await self._unless_stopped(self.save())
        await self._unless_stopped(self._compact())
        await self._unless_stopped(self._roomy())
        fence = await self._unless_stopped(self._locked())
        if fence is None:
            raise _End("NotNeeded", "somebody else has rescued it meanwhile")
        # A token is gone: what was the newest revision, perhaps a deletion by hand, no longer is.
        await self._compact()
        self.round = await defragment_each(
            self.client, self._terms(), fence, self.tracker, self.tell, self.stop
        )
        if self.round.outcome not in ("Done", "NothingToDo"):
            raise _End("Stopped", _why(self.round))
        await self._all_below(weight)
        await fence.check()
        await self._disarm()
        await self._prove()

    async def _full(self) -> list[Alarm]:
        """The NOSPACE alarms, as a quorum has them. Raises `Refused` on CORRUPT."""
        alarms = await self.client.alarms()
        refuse_corrupt(alarms)
        return [alarm for alarm in alarms if alarm.kind == "NOSPACE"]

    async def _still_full(self) -> bool:
        return bool(await self._full())

    async def _facts(self) -> Facts:
        return await gather(self.client, self.request.options)

    def _terms(self) -> Terms:
        """A round over the members whose file is above the threshold, whatever comes back.

        Where nobody says what the disks have free, that is taken on trust: all else is worse.
        """
        options = self.request.options
        rule = DefragmentationRule(
            min_reclaim=0, min_fragmentation_percent=100, quota_usage_percent_above=self._threshold
        )
        room = _TRUSTED if options.disk_room_bytes is None else options.disk_room_bytes
        changes = {"defragmentation": rule, "disk_room_bytes": room}
        return Terms(options.model_copy(update=changes), self.request.speed, full_is_fine=True)

    @property
    def _threshold(self) -> int:
        """Percent of the quota."""
        return rescued_below(self.request.options)

    async def _fit(self) -> Tallies | None:
        """Raise unless the rescue may begin, and can be won; what lives, where that was asked."""
        await nobody_alive(self.client)
        facts = await self._unopposed(lambda _: [])
        for status in self._voters(facts):
            self._quota(status, facts)
        if self.request.options.disk_room_bytes is None:
            self.warnings.append(
                "how much room the members' disks have is not known: it was not looked at"
            )
        if self._in_use_is_fine(facts):
            return None
        return await self._winnable(facts)

    async def _winnable(self, facts: Facts) -> Tallies | None:
        """Raise if what lives is too much already: no history is in the way then."""
        self.tracker.step = "Weighing"
        backup = self.request.backup
        prefix = backup.registry_prefix if backup is not None else "/registry"
        try:
            async with Deadline.after(_WEIGHING).enforce("adding up what lives in etcd"):
                weight = await weigh(self.client, prefix)
        except TimedOut as error:
            self.warnings.append(error.message)
            return None
        for status in self._voters(facts):
            if weight.total.size > self._limit(status, facts):
                raise _End("Refused", self._too_much(weight, self._quota(status, facts)))
        return weight

    def _too_much(self, weight: Tallies, quota: int) -> str:
        return (
            f"live data alone takes {size(weight.total.size)}, above {self._threshold} % of the "
            f"quota of {size(quota)}: no compaction frees that, and nothing was disarmed. Most of "
            f"it is {biggest(weight)}. Delete what is not needed, which works on a full etcd "
            "(`etcd-steward registry top --by bytes` shows more), or raise --quota-backend-bytes"
        )

    def _voters(self, facts: Facts) -> list[MemberStatus]:
        voters = {info.member_id for info in facts.voters}
        return [one for one in facts.members if one.member_id in voters]

    def _quota(self, status: MemberStatus, facts: Facts) -> int:
        quota = quota_of(status, facts.metrics, self.request.options)
        if quota is None:
            raise _End(
                "Refused",
                f"nobody knows the quota of member {facts.name(status.member_id)}, so nobody can "
                "say when it is no longer full: state it, or name its metrics endpoint",
            )
        return quota

    def _limit(self, status: MemberStatus, facts: Facts) -> float:
        return self._threshold / 100 * self._quota(status, facts)

    def _in_use_is_fine(self, facts: Facts) -> bool:
        """Whether rewritten files would surely be small enough."""
        return all(
            status.db_size_in_use <= self._limit(status, facts) for status in self._voters(facts)
        )

    async def _compact(self) -> None:
        deeper = Deeper(self.client, self.request, self.tracker, self._in_use_is_fine)
        done = await deeper.compact()
        if self.compaction is None or done.outcome == "Compacted":
            since = done if self.compaction is None else self.compaction
            self.compaction = done.model_copy(update={"compacted_from": since.compacted_from})

    async def _roomy(self) -> None:
        """Raise if the members may not be rewritten, above all if their disks have no room."""
        try:
            await self._unopposed(lambda facts: plan(facts, self._terms()))
        except _End as end:
            full = self.request.options.disk_room_bytes is not None and "disk" in end.reason
            what = "the disk is full, not only the quota: " if full else ""
            told = f"{what}{end.reason}. Nothing was defragmented, nor disarmed"
            raise _End("Refused", told) from end

    async def _unopposed(self, turns: Callable[[Facts], list[Turn]]) -> Facts:
        """A cluster that nothing speaks against touching; what passes by itself may do so."""
        limit = Deadline.after(_PASSING)
        while True:
            facts = await self._facts()
            found = against(facts, self._terms(), turns(facts))
            if not found:
                return facts
            lasting = next((one for one in found if not one.passing), None)
            if lasting is not None or limit.passed:
                raise _End("Refused", (lasting or found[0]).text)
            await asyncio.sleep(_LOOK)

    async def _locked(self) -> token.TokenFence | None:
        turn = token.Turn(self.client, self._still_full, self._all_answer, self.quiet)
        self.tracker.step = "WaitingForRescue"
        async with Deadline.after(_WAITING).enforce("waiting for another rescue to end"):
            fence = await turn.come()
        if fence is not None and fence.number == 0:
            self.warnings.append(
                "no token stood in this etcd, so nothing was locked: nobody else was seen to be "
                f"at work for {self.quiet:.0f} s"
            )
        return fence

    async def _all_answer(self) -> None:
        facts = await self._facts()
        reached = {one.member_id for one in facts.members}
        if not reached >= {info.member_id for info in facts.voters}:
            raise Unavailable("a member does not answer")

    async def _all_below(self, weight: Tallies | None) -> None:
        facts = await self._facts()
        found = {one.member_id: one for one in facts.members}
        for info in facts.voters:
            status = found.get(info.member_id)
            if status is None:
                raise _End("Stopped", f"member {info.name} does not answer: nothing was disarmed")
            if status.db_size > self._limit(status, facts):
                raise _End("Stopped", self._still_large(status, facts, weight))

    def _still_large(self, status: MemberStatus, facts: Facts, weight: Tallies | None) -> str:
        most = f" Most of what lives is {biggest(weight)}." if weight is not None else ""
        return (
            f"the file of member {facts.name(status.member_id)} has {size(status.db_size)} after "
            f"it was rewritten, above {self._threshold} % of its quota: nothing was disarmed.{most}"
            " Delete what is not needed, or raise --quota-backend-bytes"
        )

    async def _disarm(self) -> None:
        if self.stop.is_set():
            raise _End("Stopped", "it was told to stop before the alarms were disarmed")
        for alarm in await self._full():
            await self.client.disarm(alarm)
            self.disarmed.append(alarm)
        if await self._full():
            raise _End("Stopped", "the NOSPACE alarm came back at once")

    async def _prove(self) -> None:
        """Write something and take it back, as whoever uses this etcd would; tokens stay."""
        self.tracker.step = "ProvingWrites"
        try:
            await settled(self._probe)
            await settled(lambda: token.stand(self.client))
        except OutOfSpace as error:
            raise _End("Stopped", f"a write is refused again: {error.message}") from error

    async def _probe(self) -> None:
        lease = await self.client.grant_lease(_PROBE_SECONDS)
        try:
            key = f"{PROBE}{self.request.run}".encode()
            await self.client.put(key, b"written to see that it can be", lease=lease)
        finally:
            await self.client.revoke_lease(lease)

    async def _unless_stopped(self, work: Awaitable[Result]) -> Result:
        """What `work` gives; cancelled, and the rescue ended, once it is told to stop."""
        task = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self.stop.wait())
        try:
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        if task.cancelled():
            raise _End("Stopped", "it was told to stop")
        return task.result()


def _why(held: RoundReport) -> str:
    """Why a round broke off; a full disk, where that is what a member said."""
    full = any("no space left" in one.reason for one in held.members)
    what = "the disk is full, not only the quota: make room on it. " if full else ""
    return f"{what}{held.reason}"
