"""What stops when etcd says that its members hold different data.

Nothing of this repairs anything: which member is the bad one, etcd may not even know (a check
without a quorum names nobody; etcd server/etcdserver/corrupt.go). So nothing is compacted,
defragmented, disarmed or pruned, all of which may destroy what a person needs to find out.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from etcd_steward import __version__
from etcd_steward.engine.manifests import Backup, write_suspicion
from etcd_steward.errors import Refused
from etcd_steward.etcd.member import Alarm, MemberFailure, MemberStatus
from etcd_steward.models.manifest import Level, Suspicion
from etcd_steward.models.ports import Store


def refuse_corrupt(alarms: Iterable[Alarm]) -> None:
    """Raise `Refused` if any of these is CORRUPT, naming who etcd thinks it is."""
    named = sorted({alarm.member_id for alarm in alarms if alarm.kind == "CORRUPT"})
    if not named:
        return
    who = ", ".join(f"member {one:x}" if one else "nobody knows which" for one in named)
    raise Refused(
        f"etcd has raised the CORRUPT alarm ({who}): its members hold different data",
        hint="nothing is compacted, defragmented, disarmed or pruned until a person has found and "
        "replaced the bad member: see docs/alarms.md",
    )


def alarms_of(found: Sequence[MemberStatus | MemberFailure]) -> list[Alarm]:
    """All alarms that members tell of in their status, without asking for a quorum."""
    told = (alarm for one in found if isinstance(one, MemberStatus) for alarm in one.alarms)
    return list(dict.fromkeys(told))


def suspicious(backups: Sequence[Backup]) -> list[Backup]:
    """Those that nothing vouches for any more: all since the last one that was proven good.

    A structural proof does not: a member that holds other data than the rest has a file that is
    whole. Only a comparison with other members tells.
    """
    good = [
        one.manifest.finished_at
        for one in backups
        if one.manifest.suspect is None
        and any(proof.level.strength > Level.STRUCTURE.strength for proof in one.proofs)
    ]
    last = max(good, default=None)
    return [
        one
        for one in backups
        if one.manifest.suspect is None and (last is None or one.manifest.finished_at > last)
    ]


async def mark_suspect(store: Store, backups: Sequence[Backup], why: str) -> list[Backup]:
    """Write beside each of them why it is suspect; as they are read from now on."""
    suspicion = Suspicion(at=datetime.now(UTC), by=f"etcd-steward {__version__}", reason=why)
    for one in backups:
        await write_suspicion(store, one.manifest, suspicion)
    return [one.suspected(why) for one in backups]
