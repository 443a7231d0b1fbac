"""Forgetting history that nobody else forgets: one guarded request, or none.

Compaction is asked for once and goes through raft; each member then deletes in the background, in
small batches. `compact_rev_key`, by which API servers agree on who compacts, is never touched: they
watch it, and drop what they have cached of revisions below it (kubernetes/apiserver
pkg/storage/etcd3/compact.go).
"""

from datetime import UTC, datetime
from typing import Final

from etcd_steward.engine.announce import needed
from etcd_steward.engine.maintenance import token
from etcd_steward.engine.maintenance.compaction_rule import Decision, History, decide, decide_on
from etcd_steward.engine.maintenance.corrupt import alarms_of, refuse_corrupt
from etcd_steward.errors import Compacted, OutOfSpace, Refused
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.keys import EVERYTHING
from etcd_steward.models.maintenance import CompactionReport
from etcd_steward.models.maintenance_run import MaintenanceRequest

_FULL: Final = (
    "etcd is full (NOSPACE alarm): a compaction alone does not end that; see `alarm rescue`"
)


async def compact(client: EtcdClient, request: MaintenanceRequest) -> CompactionReport:
    """Compact if the options, or the revision that somebody names, say so.

    While etcd takes writes, the keys that a later rescue of it needs are put where they are
    missing. Refused on CORRUPT. Raises `InvalidInput` for a revision that can't be meant.
    """
    alarms = alarms_of(await client.members())
    try:
        refuse_corrupt(alarms)
    except Refused as error:
        return _refused(request, error)
    full = any(alarm.kind == "NOSPACE" for alarm in alarms)
    if request.mode == "Apply" and not full:
        try:
            await token.stand(client)
        except OutOfSpace:  # full since a moment ago
            full = True
    history = await look(client, request)
    decision = _decided(request, history)
    warnings = [_FULL] if full else []
    if decision.target is None or request.mode == "Plan":
        return _report(request, history, decision, warnings)
    try:
        await client.compact(decision.target)
    except Compacted:  # somebody else has just gone as far, or our own answer was lost
        decision = Decision(None, f"somebody else compacted meanwhile: {decision.reason}")
    return _report(request, history, decision, warnings)


async def look(client: EtcdClient, request: MaintenanceRequest) -> History:
    """What is known of this etcd's history now."""
    return History(
        revision=(await client.range(EVERYTHING, count_only=True)).header.revision,
        compact_revision=await client.compact_revision(),
        needed=await needed(client),
        sightings=request.sightings,
    )


def _decided(request: MaintenanceRequest, history: History) -> Decision:
    if request.compact_to is not None:
        return decide_on(request.compact_to, history)
    if request.options.compaction is None:
        return Decision(None, "no compaction is asked for")
    return decide(request.options.compaction, history)


def _refused(request: MaintenanceRequest, error: Refused) -> CompactionReport:
    return CompactionReport(
        mode=request.mode, outcome="Refused", reason=str(error), finished_at=datetime.now(UTC)
    )


def _report(
    request: MaintenanceRequest, history: History, decision: Decision, warnings: list[str]
) -> CompactionReport:
    target = decision.target
    return CompactionReport(
        mode=request.mode,
        outcome="NotNeeded" if target is None else "Compacted",
        reason=decision.reason,
        revision=history.revision,
        compact_revision=target or history.compact_revision,
        compacted_from=history.compact_revision,
        finished_at=datetime.now(UTC),
        warnings=tuple(warnings),
    )
