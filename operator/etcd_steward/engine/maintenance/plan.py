"""Whose turn it is in a round, and in which order: followers first, the leader last."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from etcd_steward.engine.maintenance.estimate import expected
from etcd_steward.engine.maintenance.facts import Facts, quota_of
from etcd_steward.engine.maintenance.gate import Objection, member_objections, objections
from etcd_steward.engine.maintenance.rule import Verdict, judge
from etcd_steward.etcd.member import MemberStatus
from etcd_steward.models.maintenance import (
    DefragmentationRule,
    MaintenanceOptions,
    MemberReport,
    Outcome,
)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a round may do."""

    options: MaintenanceOptions
    speed: float | None = None
    """Bytes in use per second of earlier rounds."""
    ends_at: datetime | None = None
    """No member's turn begins that would not be over by then."""
    full_is_fine: bool = False
    """For the rescue of a full etcd: NOSPACE does not hinder."""

    @property
    def rule(self) -> DefragmentationRule:
        """Which members are worth it."""
        return self.options.defragmentation or DefragmentationRule()


@dataclass(frozen=True, slots=True)
class Turn:
    """One member's turn, as it looked when it was planned."""

    status: MemberStatus
    verdict: Verdict
    seconds: float
    """How long it is expected to be silent."""

    def report(self, outcome: Outcome, reason: str = "") -> MemberReport:
        """The member's part of the report, before anything was done to it."""
        status = self.status
        return MemberReport(
            name=status.name or f"{status.member_id:x}",
            member_id=f"{status.member_id:x}",
            leader=status.is_leader,
            outcome=outcome,
            reason=reason or self.verdict.why,
            before_bytes=status.db_size,
            in_use_bytes=status.db_size_in_use,
            estimated_seconds=self.seconds,
        )


def turn_of(status: MemberStatus, facts: Facts, terms: Terms) -> Turn:
    """What the rule says of this member now."""
    verdict = judge(terms.rule, status, quota_of(status, facts.metrics, terms.options))
    return Turn(status, verdict, expected(status.db_size_in_use, terms.speed))


def plan(facts: Facts, terms: Terms) -> list[Turn]:
    """All voters in the order of their turns: who gives back most first, the leader last."""
    voters = {info.member_id for info in facts.voters}
    turns = [turn_of(one, facts, terms) for one in facts.members if one.member_id in voters]
    return sorted(turns, key=_rank)


def _rank(turn: Turn) -> tuple[bool, int, str]:
    free = turn.status.db_size - turn.status.db_size_in_use
    return turn.status.is_leader, -free, turn.status.name


def against(facts: Facts, terms: Terms, turns: Sequence[Turn]) -> list[Objection]:
    """What speaks against these turns: against the whole, and against each that is worth it."""
    found = objections(facts, terms.options, full_is_fine=terms.full_is_fine)
    for turn in turns:
        if turn.verdict.worth:
            found += member_objections(turn.status, facts, terms.options, terms.speed)
    return found
