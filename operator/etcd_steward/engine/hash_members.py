"""The hash of each member of a cluster, at one revision.

HashKV stalls its member's writes for as long as it reads all keys, so members are asked one by one.
Two hashes may be compared only if they were compacted alike, too: where a compaction comes between
the members, all are asked anew.
"""

import secrets

from etcd_steward.deadline import Deadline
from etcd_steward.engine.announce import announced
from etcd_steward.engine.hashkv import Hashed
from etcd_steward.engine.report import Report
from etcd_steward.errors import Compacted, StewardError, Unsupported
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.member import Member, MemberFailure, MemberStatus
from etcd_steward.registry.hashkv import KeysHash

_ROUNDS = 3


async def hash_members(
    client: EtcdClient, at: int, report: Report, *, deadline: Deadline
) -> list[Hashed]:
    """All members at revision `at` (0 = the cluster's own, now).

    Each is announced as being read, so that nobody defragments it meanwhile.

    A member that gives no hash says why. Raises what hindered all of them.
    """
    found, run = await client.members(), f"hashkv-{secrets.token_hex(4)}"
    for _ in range(_ROUNDS):
        revision = at
        hashed = []
        for one in found:
            if isinstance(one, MemberFailure):
                hashed.append(Hashed(one.endpoint, one.name, error=one.error))
                continue
            member = client.member(one)
            try:
                # By a read through itself: it has applied that revision then.
                now = await member.revision(deadline=deadline)
                revision = revision or now
                async with announced(
                    client, one.member_id, run, seconds=deadline.left(), report=report
                ):
                    told = await _ask(one, member, revision, deadline)
                hashed.append(Hashed(one.endpoint, one.name, told))
            except StewardError as error:
                hashed.append(Hashed(one.endpoint, one.name, error=error))
        if at or not _overtaken(hashed):
            break
    errors = [one.error for one in hashed if one.error is not None]
    if len(errors) == len(hashed):
        raise errors[0]
    return hashed


async def _ask(status: MemberStatus, member: Member, revision: int, deadline: Deadline) -> KeysHash:
    if status.is_learner:
        raise Unsupported("a learner tells no hash", hint="promote it first")
    answer = await member.hash_kv(revision, deadline=deadline)
    return KeysHash(answer.hash, revision, answer.compact_revision)


def _overtaken(hashed: list[Hashed]) -> bool:
    """Whether a compaction came between the members."""
    compacted = {one.hash.compact_revision for one in hashed if one.hash is not None}
    return len(compacted) > 1 or any(isinstance(one.error, Compacted) for one in hashed)
