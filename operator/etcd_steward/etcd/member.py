"""One member of a cluster, and what only that very member can be asked."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from etcd_steward.deadline import Deadline
from etcd_steward.errors import Compacted, StewardError, Unavailable
from etcd_steward.etcd import stubs, watching
from etcd_steward.etcd.answers import RangeAnswer
from etcd_steward.etcd.endpoint import Endpoint
from etcd_steward.etcd.keys import EVERYTHING
from etcd_steward.etcd.streaming import SnapshotStream

# "memberID:123 alarm:NOSPACE": protobuf's text form, whose spaces vary on purpose and which leaves
# a zero out (a CORRUPT alarm without a culprit).
_ALARM = re.compile(r"^(?:memberID:(\d+)\s+)?alarm:([A-Z]+)\s*$")


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm that is set."""

    member_id: int
    """Who set it; 0 where etcd found corruption without a culprit."""
    kind: str
    """`NOSPACE` or `CORRUPT`."""


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """What a member says of itself. Sizes in bytes."""

    endpoint: str
    name: str
    """From the member list; empty where that could not be read."""
    member_id: int
    cluster_id: int
    version: str
    storage_version: str
    """Empty before etcd 3.6."""
    db_size: int
    db_size_in_use: int
    db_size_quota: int
    """0 = unknown: etcd tells it from 3.6 on, and wrongly before 3.6.6."""
    leader_id: int
    """0 = it knows of no leader."""
    is_learner: bool
    raft_index: int
    raft_applied_index: int
    raft_term: int
    revision: int
    alarms: tuple[Alarm, ...]
    """The cluster's alarms as this member has them: read locally, without quorum."""
    errors: tuple[str, ...]
    """Its other complaints, in its own words, such as `etcdserver: no leader`."""

    @property
    def is_leader(self) -> bool:
        """Whether it is the leader itself."""
        return self.leader_id == self.member_id != 0

    @property
    def has_leader(self) -> bool:
        """Whether it knows of a leader."""
        return self.leader_id != 0


@dataclass(frozen=True, slots=True)
class MemberFailure:
    """An endpoint that did not tell its status."""

    endpoint: str
    error: StewardError
    name: str = ""
    """Known only if the endpoint is one of the member list's client URLs; so is the ID."""
    member_id: int = 0


@dataclass(frozen=True, slots=True)
class HashKV:
    """A hash over all key-value history up to a revision.

    Two members' hashes may be compared only if hash_revision and compact_revision are equal.
    """

    hash: int
    compact_revision: int
    hash_revision: int
    """The revision hashed; 0 before etcd 3.6."""
    revision: int
    """The member's current revision."""


class _Answer(Protocol):
    @property
    def header(self) -> stubs.ResponseHeader: ...


@dataclass(frozen=True, slots=True)
class Member:
    """A member behind one endpoint.

    Where an answer carries a member ID, it is compared with the expected one: an endpoint may be a
    virtual address that leads elsewhere after a reconnect. A difference raises `Unavailable`.
    """

    endpoint: str
    name: str
    member_id: int
    """0 = whoever answers."""
    _via: Endpoint

    async def status(self, *, deadline: Deadline | None = None) -> MemberStatus:
        """Its status; answered locally, also without a leader."""
        via = self._via
        answer = await via.call(
            via.maintenance.Status,
            stubs.StatusRequest(),
            what="tell its status",
            deadline=deadline,
            leader=False,
        )
        self._check(answer)
        alarms = [match for text in answer.errors if (match := _ALARM.match(text))]
        return MemberStatus(
            endpoint=self.endpoint,
            name=self.name,
            member_id=answer.header.member_id,
            cluster_id=answer.header.cluster_id,
            version=answer.version,
            storage_version=answer.storageVersion,
            db_size=answer.dbSize,
            db_size_in_use=answer.dbSizeInUse,
            db_size_quota=answer.dbSizeQuota,
            leader_id=answer.leader,
            is_learner=answer.isLearner,
            raft_index=answer.raftIndex,
            raft_applied_index=answer.raftAppliedIndex,
            raft_term=answer.raftTerm,
            revision=answer.header.revision,
            alarms=tuple(Alarm(int(match[1] or 0), match[2]) for match in alarms),
            errors=tuple(text for text in answer.errors if not _ALARM.match(text)),
        )

    async def revision(self, *, deadline: Deadline | None = None) -> int:
        """The cluster's revision by a linearizable read through this member.

        Afterwards the member has applied that revision. Raises `Unsupported` on a learner.
        """
        answer = await self.range(EVERYTHING, count_only=True, deadline=deadline)
        return answer.header.revision

    async def range(
        self,
        key: bytes,
        end: bytes = b"",
        *,
        limit: int = 0,
        revision: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        serializable: bool = False,
        deadline: Deadline | None = None,
    ) -> stubs.RangeResponse:
        """Read keys; linearizable unless `serializable`."""
        request = stubs.RangeRequest(
            key=key,
            range_end=end,
            limit=limit,
            revision=revision,
            keys_only=keys_only,
            count_only=count_only,
            serializable=serializable,
        )
        answer = await self._via.call(
            self._via.kv.Range,
            request,
            what="read keys",
            deadline=deadline,
            read=True,
            leader=not serializable,
        )
        self._check(answer)
        return answer

    async def raw_range(
        self,
        key: bytes,
        end: bytes = b"",
        *,
        limit: int = 0,
        revision: int,
        deadline: Deadline | None = None,
    ) -> RangeAnswer:
        """`range` for many keys (see `answers`), at a revision that this member has applied.

        What was there then is the same wherever it is read, so nobody else is asked for it.
        """
        request = stubs.RangeRequest(
            key=key, range_end=end, limit=limit, revision=revision, serializable=True
        )
        via = self._via
        data = await via.call(
            via.raw_range, request, what="read keys", deadline=deadline, leader=False
        )
        answer = RangeAnswer.parse(data)
        self._check(answer)
        return answer

    async def compact_revision(self, key: bytes, *, deadline: Deadline) -> int:
        """The oldest revision that it can still read; 0 if nothing was ever compacted.

        Told by a read and a watch that both fail at once: nothing is proposed, no value is read.
        `key` is any that this user may read.
        """
        try:
            await self.range(key, revision=1, count_only=True, serializable=True, deadline=deadline)
        except Compacted:
            return await watching.compact_revision(self._via, key, deadline=deadline)
        return 0

    async def leases(self, *, deadline: Deadline | None = None) -> stubs.LeaseLeasesResponse:
        """All leases as it has them, without asking a quorum: their number costs next to nothing.

        An object is made only for those that are looked at.
        """
        via = self._via
        return await via.call(
            via.lease.LeaseLeases,
            stubs.LeaseLeasesRequest(),
            what="list its leases",
            deadline=deadline,
            read=True,
            leader=False,
        )

    async def lease_keys(self, lease_id: int, *, deadline: Deadline | None = None) -> int | None:
        """How many keys hang on a lease; None if there is no such lease (any more)."""
        via = self._via
        answer = await via.call(
            via.lease.LeaseTimeToLive,
            stubs.LeaseTimeToLiveRequest(ID=lease_id, keys=True),
            what="tell the keys of a lease",
            deadline=deadline,
            read=True,
        )
        return len(answer.keys) if answer.TTL >= 0 else None

    @asynccontextmanager
    async def snapshot(self, *, deadline: Deadline) -> AsyncIterator[SnapshotStream]:
        """Hold a stream of this member's database open while the body reads it in a thread.

        gRPC's flow control holds etcd back while nobody reads, and etcd holds a read transaction
        open as long: read at full speed. What the stream raises in the body leaves here as a
        `StewardError`: `Unsupported` on what only looks like an etcd (k3s on SQLite).
        """
        async with self._via.snapshot(deadline=deadline) as stream:
            yield stream

    async def hash_kv(self, revision: int = 0, *, deadline: Deadline) -> HashKV:
        """Hash the key-value history up to `revision` (0 = now).

        Stalls this member's writes for the whole scan. Raises `Compacted`, or `Unsupported` on a
        learner.
        """
        via = self._via
        answer = await via.call(
            via.maintenance.HashKV,
            stubs.HashKVRequest(revision=revision),
            what="hash its keys",
            deadline=deadline,
        )
        self._check(answer)
        return HashKV(
            answer.hash, answer.compact_revision, answer.hash_revision, answer.header.revision
        )

    async def defragment(self, *, deadline: Deadline) -> None:
        """Rewrite its database file. It answers nothing meanwhile, and goes on after a time-out."""
        await self.status(deadline=deadline)  # Defragment's own answer does not say whose it is
        via = self._via
        await via.call(
            via.maintenance.Defragment,
            stubs.DefragmentRequest(),
            what="defragment",
            deadline=deadline,
            leader=False,
        )

    async def compacted(self, revision: int, *, deadline: Deadline) -> None:
        """Wait until it has deleted what the compaction to `revision` lets it forget.

        A second, physical compaction queues behind the first one, and is then told that it was
        done already (etcd server/storage/mvcc/kvstore.go, `updateCompactRev`).
        """
        via = self._via
        request = stubs.CompactionRequest(revision=revision, physical=True)
        with suppress(Compacted):
            await via.call(via.kv.Compact, request, what="compact", deadline=deadline)

    async def move_leader(self, target_id: int, *, deadline: Deadline | None = None) -> None:
        """Hand leadership to another member. Only the leader itself can."""
        via = self._via
        await via.call(
            via.maintenance.MoveLeader,
            stubs.MoveLeaderRequest(targetID=target_id),
            what="hand over leadership",
            deadline=deadline,
        )

    def _check(self, answer: _Answer) -> None:
        found = answer.header.member_id
        if self.member_id not in (0, found):
            raise Unavailable(
                f"{self.endpoint} leads to member {found:x} now, and to {self.member_id:x} before",
                hint="Name the members' own client URLs instead of a virtual address",
            )
