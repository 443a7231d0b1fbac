"""Which member a snapshot is taken from, and whether this cluster is fit for one at all."""

from collections.abc import Sequence
from dataclasses import dataclass

from etcd_steward.errors import NoLeader, PermanentError, Refused, StewardError, Unavailable
from etcd_steward.etcd.member import MemberFailure, MemberStatus

_MAX_LAG = 5000
"""Raft entries; from here on a member itself answers "too many requests" (etcd v3_server.go)."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The member to read, and what a person should know about the cluster."""

    status: MemberStatus
    warnings: tuple[str, ...]
    suspect: str | None = None
    """Why nothing read from this cluster now may be trusted; only ever set in an emergency."""


def choose(found: Sequence[MemberStatus | MemberFailure], *, emergency: bool) -> Choice:
    """A healthy follower where there is one, the leader where there is none.

    Raises `Refused` on a CORRUPT alarm, on endpoints of two clusters and where every member lags;
    `NoLeader` without a leader; the members' own error where none answers. In an `emergency` the
    first and the last two become the reason to suspect what is taken.
    """
    members = [one for one in found if isinstance(one, MemberStatus)]
    failures = [one for one in found if isinstance(one, MemberFailure)]
    if not members:
        raise _nobody(failures)
    if len({member.cluster_id for member in members}) > 1:
        raise Refused(
            "the endpoints belong to more than one etcd cluster: "
            + ", ".join(f"{member.endpoint} to {member.cluster_id:x}" for member in members),
            hint="name the endpoints of one cluster only",
        )
    objection = _objection(members)
    if objection is not None and not emergency:
        raise objection
    warnings = [f"{one.endpoint} does not answer: {one.error.message}" for one in failures]
    warnings += _alarms(members)
    if emergency and objection is None:
        warnings.append("the cluster is fit for an ordinary backup: --emergency was not needed")
    best = min(members, key=_rank)
    return Choice(best, tuple(warnings), objection.message if objection else None)


def _rank(member: MemberStatus) -> tuple[bool, bool, bool, bool, int]:
    """Order of preference: with a leader, in step, voting, not the leader itself, least behind.

    A member that is cut off from its leader does not know how far behind it is.
    """
    return (
        not member.has_leader,
        _lags(member),
        member.is_learner,
        member.is_leader,
        -member.raft_applied_index,
    )


def _lags(member: MemberStatus) -> bool:
    return member.raft_index - member.raft_applied_index > _MAX_LAG


def _nobody(failures: Sequence[MemberFailure]) -> StewardError:
    """One error for all: a final one where any is, since waiting would not cure it."""
    errors = [failure.error for failure in failures]
    worst = next((error for error in errors if isinstance(error, PermanentError)), errors[0])
    if len(errors) == 1:
        return worst
    summary = "; ".join(f"{one.endpoint}: {one.error.message}" for one in failures)
    return type(worst)(f"no member of etcd answers ({summary})", hint=worst.hint)


def leaderless() -> NoLeader:
    """Etcd serves no ordinary backup, and what there is to do."""
    return NoLeader(
        "etcd has no leader: too few of its members are up, or they can't reach each other",
        hint="bring members back until a majority is up; `etcd-steward snapshot save "
        "--emergency` takes what a last member holds, marked as suspect",
    )


def _objection(members: Sequence[MemberStatus]) -> StewardError | None:
    alarms = {alarm.kind for member in members for alarm in member.alarms}
    if "CORRUPT" in alarms:
        return Refused(
            "etcd has raised the CORRUPT alarm: its members hold different data",
            hint="find and replace the bad member first (etcd's documentation, 'data corruption'); "
            "`etcd-steward snapshot save --emergency` takes a backup marked as suspect",
        )
    if not any(member.has_leader for member in members):
        return leaderless()
    if all(_lags(member) or member.is_learner for member in members):
        behind = max(member.raft_index - member.raft_applied_index for member in members)
        return Unavailable(
            f"every member that answers lags behind its leader, by up to {behind} entries",
            hint="wait until they have caught up, or name the endpoints of other members",
        )
    return None


def _alarms(members: Sequence[MemberStatus]) -> list[str]:
    if not any(alarm.kind == "NOSPACE" for member in members for alarm in member.alarms):
        return []
    warning = (
        "etcd is full (NOSPACE alarm) and refuses writes; the alarm lies in this backup too, and "
        "must be disarmed after a restore"
    )
    return [warning]
