"""A round: every member that is worth it is defragmented, one at a time, the leader last.

    look at all → gate → lock → per member: gate again → rule again → nobody reads it → (the leader:
    hand leadership over, gate again) → defragment → settle → next

Whatever does not go as expected ends the round between two members: the cluster is then as well as
it was, less one surprise. What was done is in the report, and so is what was not.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

from etcd_steward.deadline import Deadline
from etcd_steward.engine.announce import readers
from etcd_steward.engine.maintenance import estimate
from etcd_steward.engine.maintenance.defragment import Ended, defragment
from etcd_steward.engine.maintenance.facts import Facts, gather
from etcd_steward.engine.maintenance.leader import move_leader, successor
from etcd_steward.engine.maintenance.lock import Fence, Held, maintenance_lock
from etcd_steward.engine.maintenance.plan import Terms, Turn, against, plan, turn_of
from etcd_steward.engine.report import Tracker
from etcd_steward.errors import Refused, StewardError, TransientError
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.member import MemberStatus
from etcd_steward.models.maintenance import LeaderMove, MemberReport, RoundReport
from etcd_steward.models.maintenance_run import MaintenanceRequest, MemberDone, MemberTurn

Tell = Callable[[MemberTurn | MemberDone], None]

_PASSING: Final = 15.0
"""Seconds that an objection which usually goes by itself is given to go."""
_SETTLING: Final = 60.0
"""Seconds, beyond those asked for, until the cluster must be well again after a member."""
_CAUGHT_UP: Final = 100
"""Entries between what a member knows to be committed and what it has applied."""
_READERS: Final = 900.0
"""Seconds that a snapshot of the member is waited for where no window sets an end."""
_LOOK: Final = 1.0
_NOTHING: Final = "no member is worth defragmenting"

_Step = Literal["WaitingForSnapshot", "MovingLeader", "Defragmenting", "Settling"]
_Outcome = Literal["Done", "NothingToDo", "Refused", "Stopped", "WindowOver"]


@dataclass(frozen=True, slots=True)
class Window:
    """Until when a member's turn may last; a clock that is set back makes it no longer."""

    ends_at: datetime | None
    _stopwatch: Deadline

    @classmethod
    def begin(cls, ends_at: datetime | None, now: datetime) -> "Window":
        """The window of a round that begins `now`; without an end it stays open for ever."""
        seconds = math.inf if ends_at is None else (ends_at - now).total_seconds()
        return cls(ends_at, Deadline.after(seconds))

    def left(self, now: datetime) -> float:
        """Seconds until it is over."""
        by_clock = math.inf if self.ends_at is None else (self.ends_at - now).total_seconds()
        return min(by_clock, self._stopwatch.left())


class _End(Exception):  # how a round ended, which may be no error
    def __init__(self, outcome: _Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason


async def hold_round(
    client: EtcdClient,
    request: MaintenanceRequest,
    tracker: Tracker,
    tell: Tell,
    stop: asyncio.Event,
) -> RoundReport:
    """Plan a round and, unless a plan is all that was asked for, hold it under the lock.

    What forbids it is in the report. Raises `StewardError` only where etcd tells too little to
    judge. Must not be cancelled: `stop` ends it between two members.
    """
    terms = Terms(request.options, request.speed, request.ends_at)
    started_at, facts = datetime.now(UTC), await gather(client, terms.options)
    turns = plan(facts, terms)
    texts = tuple(one.text for one in against(facts, terms, turns) if not one.passing)
    draft = RoundReport(
        mode=request.mode,
        outcome="Planned",
        objections=texts,
        started_at=started_at,
        finished_at=datetime.now(UTC),
        cluster_id=f"{facts.members[0].cluster_id:x}",
        members=tuple(_planned(turn) for turn in turns),
        warnings=facts.warnings,
    )
    if request.mode == "Plan":
        return draft
    if texts:
        return _untouched(draft, "Refused", texts[0])
    if not any(turn.verdict.worth for turn in turns):
        return _untouched(draft, "NothingToDo", _NOTHING)
    try:
        async with maintenance_lock(client, holder=request.holder, run=request.run) as lock:
            return await defragment_each(client, terms, lock, tracker, tell, stop)
    except Held as error:
        draft = draft.model_copy(update={"held_by": error.holder})
        return _untouched(draft, "Refused", str(error))
    except Refused as error:
        return _untouched(draft, "Refused", str(error))


def _planned(turn: Turn) -> MemberReport:
    return turn.report("WouldDefragment" if turn.verdict.worth else "Skipped")


def _untouched(draft: RoundReport, outcome: _Outcome, reason: str) -> RoundReport:
    """The report of a round that has touched nothing."""
    members = tuple(
        one.model_copy(update={"outcome": "NotReached"})
        if one.outcome == "WouldDefragment"
        else one
        for one in draft.members
    )
    objections = draft.objections or ((reason,) if outcome == "Refused" else ())
    return draft.model_copy(
        update={
            "outcome": outcome,
            "reason": reason,
            "objections": objections,
            "members": members,
            "finished_at": datetime.now(UTC),
        }
    )


async def defragment_each(
    client: EtcdClient,
    terms: Terms,
    fence: Fence,
    tracker: Tracker,
    tell: Tell,
    stop: asyncio.Event,
) -> RoundReport:
    """Hold a round while somebody else has seen to it, by `fence`, that nobody else does.

    Never raises for what etcd does; must not be cancelled.
    """
    held = _Round(client, terms, fence, tracker, tell, stop)
    return await held.hold()


@dataclass(slots=True)
class _Round:
    client: EtcdClient
    terms: Terms
    fence: Fence
    tracker: Tracker
    tell: Tell
    stop: asyncio.Event
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    window: Window = field(init=False)
    leader: int = 0
    """Who leads, as far as we know: any other leader is a surprise."""
    total: int = 0
    done: dict[int, MemberReport] = field(default_factory=dict)
    move: LeaderMove | None = None
    speeds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.window = Window.begin(self.terms.ends_at, self.started_at)

    async def hold(self) -> RoundReport:
        """The round itself."""
        turns: list[Turn] = []
        facts: Facts | None = None
        try:
            facts = await self._fit()
            self.leader, turns = facts.leader_id, plan(facts, self.terms)
            self.total = len(turns)
            for position, turn in enumerate(turns, 1):
                await self._turn(position, turn)
            end = self._all_done()
        except _End as early:
            end = early
        except StewardError as error:
            end = _End("Stopped", str(error))
        return self._report(end, facts, turns)

    def _all_done(self) -> _End:
        if any(one.outcome == "Defragmented" for one in self.done.values()):
            return _End("Done", "")
        return _End("NothingToDo", _NOTHING)

    def _report(self, end: _End, facts: Facts | None, turns: Sequence[Turn]) -> RoundReport:
        untouched = all(one.outcome == "Skipped" for one in self.done.values()) and not self.move
        refused = end.outcome == "Stopped" and untouched and not self.stop.is_set()
        return RoundReport(
            mode="Apply",
            outcome="Refused" if refused else end.outcome,
            reason=end.reason,
            objections=(end.reason,) if refused else (),
            started_at=self.started_at,
            finished_at=datetime.now(UTC),
            cluster_id=f"{facts.members[0].cluster_id:x}" if facts is not None else "0",
            members=tuple(
                self.done.get(turn.status.member_id) or turn.report("NotReached") for turn in turns
            ),
            leader_move=self.move,
            speed=min(self.speeds, default=None),
            warnings=facts.warnings if facts is not None else (),
        )

    async def _turn(self, position: int, planned: Turn) -> None:
        """One member's turn. Raises `_End` where the round ends with it, or before it."""
        turn = await self._begin(position, planned)
        if turn is None:
            return
        self._step(position, turn, "Defragmenting")
        status, options = turn.status, self.terms.options
        ended = await defragment(
            self.client.member(status),
            status,
            patience=estimate.patience(status.db_size, options),
            longest=estimate.longest(status.db_size, options),
        )
        if ended.outcome == "Unknown":
            self.fence.abandon()
        self._over(position, _report(turn, planned, ended))
        if ended.outcome == "Unknown":
            raise _End("Stopped", f"member {_name(status)}: {ended.why}")
        await self.fence.leave()
        self._learn(turn, ended)
        self._step(position, turn, "Settling")
        await self._settle(status, options.settle_seconds if position < self.total else 0.0)

    async def _begin(self, position: int, planned: Turn) -> Turn | None:
        """Come to where the member may be defragmented at once; None if it is not worth it."""
        while True:
            facts = await self._fit()
            turn = self._still_due(planned, facts)
            if not turn.verdict.worth:
                self._over(position, turn.report("Skipped"))
                return None
            if await self._waited_for_readers(position, turn):
                continue
            if turn.status.member_id == self.leader and len(facts.voters) > 1:
                self._step(position, turn, "MovingLeader")
                await self._hand_over(facts)
                continue
            longest = estimate.longest(turn.status.db_size, self.terms.options)
            await self.fence.enter(turn.status, longest=longest)
            if not await readers(self.client, turn.status.member_id):
                return self._still_due(planned, await self._fit())  # `enter` may have taken long
            await self.fence.leave()  # a snapshot was faster; it looks for us as we look for it

    def _still_due(self, planned: Turn, facts: Facts) -> Turn:
        """The member's turn by today's figures. Raises `_End` if it may not begin now."""
        if self.stop.is_set():
            raise _End("Stopped", "it was told to stop")
        status = facts.member(planned.status.member_id)
        if status is None:
            raise _End("Stopped", f"member {_name(planned.status)} is gone")
        turn = turn_of(status, facts, self.terms)
        texts = [one.text for one in against(facts, self.terms, [turn])]
        if texts:
            raise _End("Stopped", texts[0])
        if turn.verdict.worth and self.window.left(datetime.now(UTC)) < turn.seconds:
            raise _End("WindowOver", f"the window ends at {self.window.ends_at:%H:%M:%S} UTC")
        return turn

    async def _fit(self) -> Facts:
        """A cluster that nothing speaks against touching, and whose leader is no other one."""
        return await self._well(None, hold=0.0, limit=_PASSING)

    async def _settle(self, status: MemberStatus, hold: float) -> None:
        """Wait until all has been well for `hold` seconds in a row."""
        await self._well(status, hold=hold, limit=hold + _SETTLING)

    async def _well(self, touched: MemberStatus | None, *, hold: float, limit: float) -> Facts:
        deadline, since = Deadline.after(limit), time.monotonic()
        while True:
            try:
                facts = await gather(self.client, self.terms.options)
                trouble = await self._trouble(facts, touched)
            except TransientError as error:
                trouble = error.message
            now = time.monotonic()
            if trouble:
                since = now
            elif now - since >= hold or self.stop.is_set():
                return facts
            if trouble and deadline.passed:
                raise _End("Stopped", trouble)
            await asyncio.sleep(min(_LOOK, max(hold, 0.1)))

    async def _trouble(self, facts: Facts, touched: MemberStatus | None) -> str:
        """What is not well yet; raises `_End` for what does not get well by itself."""
        found = against(facts, self.terms, [])
        for one in found:
            if not one.passing:
                raise _End("Stopped", one.text)
        if found:
            return found[0].text
        if self.leader not in (0, facts.leader_id):
            was, now = facts.name(self.leader), facts.name(facts.leader_id)
            raise _End("Stopped", f"leadership went from {was} to {now} by itself")
        if touched is not None:
            status = facts.member(touched.member_id)
            behind = status.raft_index - status.raft_applied_index if status is not None else 0
            if behind > _CAUGHT_UP:
                return f"member {_name(touched)} is {behind} entries behind"
            await self.client.member(touched).revision()  # it answers what needs all its parts
        return ""

    async def _waited_for_readers(self, position: int, turn: Turn) -> bool:
        """Wait while a snapshot or a hash of this member is under way; whether one was.

        What speaks against the round ends this wait: no rescue begins before the round has ended.
        """
        limit = Deadline.after(_READERS)
        waited = False
        while names := await readers(self.client, turn.status.member_id):
            if not waited:
                self._step(position, turn, "WaitingForSnapshot")
            waited = True
            self._still_time(limit, turn, names)
            await self._fit()
            await asyncio.sleep(_LOOK)
        return waited

    def _still_time(self, limit: Deadline, turn: Turn, names: Sequence[str]) -> None:
        what = f"member {_name(turn.status)} is being read by {names[0]}"
        if self.stop.is_set():
            raise _End("Stopped", "it was told to stop")
        if self.window.left(datetime.now(UTC)) <= 0:
            raise _End("WindowOver", what)
        if self.window.ends_at is None and limit.passed:
            raise _End("Stopped", what)

    async def _hand_over(self, facts: Facts) -> None:
        done = (one for one in self.done.values() if one.outcome == "Defragmented")
        target = successor(facts, frozenset(int(one.member_id, 16) for one in done))
        try:
            self.move = await move_leader(self.client, facts, target, self.terms.options)
        except StewardError as error:
            what = f"leadership could not be handed to {_name(target)}"
            raise _End("Stopped", f"{what}: {error.message}") from error
        self.leader = target.member_id

    def _learn(self, turn: Turn, ended: Ended) -> None:
        """Take the speed from it. Raises `_End` if it was a surprise."""
        if ended.surprise:
            raise _End("Stopped", f"member {_name(turn.status)}: {ended.why}")
        speed = estimate.measured(turn.status.db_size_in_use, ended.seconds)
        if speed is not None:
            self.speeds.append(speed)
        limit = estimate.budget(self.terms.options)
        if limit is not None and ended.seconds > limit[0]:
            took = f"member {_name(turn.status)} was silent for {ended.seconds:.0f} s"
            raise _End("Stopped", f"{took}: after {limit[0]:.0f} s {limit[1]} gets it killed")

    def _step(self, position: int, turn: Turn, step: _Step) -> None:
        self.tracker.step = step
        name = _name(turn.status)
        self.tell(MemberTurn(name=name, step=step, position=position, total=self.total))

    def _over(self, position: int, report: MemberReport) -> None:
        self.done[int(report.member_id, 16)] = report
        self.tell(MemberDone(member=report, position=position, total=self.total))


def _name(status: MemberStatus) -> str:
    return status.name or f"{status.member_id:x}"


def _report(turn: Turn, planned: Turn, ended: Ended) -> MemberReport:
    """What became of a member; whether it led is told as it was when the round began."""
    report = turn.report(ended.outcome, ended.why)
    after = ended.after.db_size if ended.after is not None else 0
    return report.model_copy(
        update={
            "leader": planned.status.is_leader,
            "after_bytes": after,
            "seconds": ended.seconds,
        }
    )
