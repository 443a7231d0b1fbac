"""What every attempt to back up an etcd begins with: its parts, and where to read."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, TypeVar

from etcd_steward.engine.deposit import Deposit
from etcd_steward.engine.members import Choice, choose
from etcd_steward.engine.report import Tracker
from etcd_steward.engine.spool import Spool
from etcd_steward.etcd.client import EtcdClient
from etcd_steward.etcd.member import Member
from etcd_steward.models.layout import Folder, cluster_folder
from etcd_steward.models.run import BackupRequest
from etcd_steward.registry.envelope import uid_of

Request = TypeVar("Request", bound=BackupRequest)


@dataclass(slots=True)
class Attempt(Generic[Request]):
    """One attempt, and what it has begun."""

    client: EtcdClient
    spool: Spool
    request: Request
    tracker: Tracker
    deposit: Deposit
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def wait(self) -> None:
        """Say that other runs must end first."""
        self.tracker.step = "WaitingForRoom"

    def stand_back(self) -> None:
        """Say that maintenance of the member must end first."""
        self.tracker.step = "WaitingForMaintenance"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a backup comes from, and where it goes."""

    choice: Choice
    member: Member
    kube_system_uid: str | None
    folder: Folder


async def find_source(run: Attempt[Request], *, emergency: bool = False) -> Source:
    """Choose a member, and ask whose cluster it is. Raises what `choose` raises."""
    request = run.request
    choice = choose(await run.client.members(), emergency=emergency)
    for warning in choice.warnings:
        run.tracker.report.warning(warning)
    member = run.client.member(choice.status)
    uid = await _kube_system_uid(member, request.registry_prefix)
    folder = Folder(
        cluster=cluster_folder(uid, f"{choice.status.cluster_id:x}"),
        namespace=request.backup.namespace,
        name=request.backup.name,
        tick=request.tick,
        run=request.run,
    )
    return Source(choice, member, uid, folder)


async def _kube_system_uid(member: Member, prefix: str) -> str | None:
    """The uid that follows the data; read without consensus, since it never changes."""
    key = f"{prefix}/namespaces/kube-system".encode()
    found = await member.range(key, serializable=True)
    return uid_of(found.kvs[0].value) if found.kvs else None
