"""All that the gate has to know of a cluster, read at one moment."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from etcd_steward.errors import StewardError
from etcd_steward.etcd.client import EtcdClient, MemberInfo
from etcd_steward.etcd.member import MemberFailure, MemberStatus
from etcd_steward.models.maintenance import MaintenanceOptions

if TYPE_CHECKING:  # aiohttp: slow
    from etcd_steward.engine.maintenance.metrics_page import MemberMetrics

_QUOTA_TOLD_SINCE: Final = (3, 6, 6)
"""Before this release Status names a wrong quota, or none (etcd's CHANGELOG-3.6)."""


@dataclass(frozen=True, slots=True)
class Facts:
    """A cluster as its members tell of it."""

    members: tuple[MemberStatus, ...]
    """Each that was reached, once."""
    failures: tuple[MemberFailure, ...]
    """Endpoints that told nothing."""
    listed: tuple[MemberInfo, ...]
    """Who belongs to the cluster, as its majority has it."""
    metrics: "Mapping[int, MemberMetrics]" = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def leader_id(self) -> int:
        """Whom all members that were reached follow; 0 if they don't agree, or follow nobody."""
        leaders = {member.leader_id for member in self.members}
        return leaders.pop() if len(leaders) == 1 else 0

    @property
    def voters(self) -> tuple[MemberInfo, ...]:
        """The members that decide."""
        return tuple(info for info in self.listed if not info.is_learner)

    @property
    def complete(self) -> bool:
        """Whether every voter was reached."""
        return all(self.member(info.member_id) is not None for info in self.voters)

    def member(self, member_id: int) -> MemberStatus | None:
        """What this member says of itself; None if it was not reached."""
        return next((one for one in self.members if one.member_id == member_id), None)

    def name(self, member_id: int) -> str:
        """A member's name, or its ID where it has none."""
        names = {info.member_id: info.name for info in self.listed}
        names |= {one.member_id: one.name for one in self.members if one.name}
        return names.get(member_id) or f"{member_id:x}"


async def gather(client: EtcdClient, options: MaintenanceOptions) -> Facts:
    """Ask every member and every metrics page.

    Raises `StewardError` where no member answers, or no majority says who belongs to the cluster.
    """
    async with asyncio.TaskGroup() as group:
        metrics = group.create_task(_metrics(options.metrics_endpoints))
        asked = group.create_task(client.members())
    found = asked.result()
    members = tuple(one for one in found if isinstance(one, MemberStatus))
    failures = tuple(one for one in found if isinstance(one, MemberFailure))
    if not members:
        raise failures[0].error
    listed = tuple(await client.member_list())
    pages, troubles = metrics.result()
    return Facts(members, failures, listed, pages, tuple(str(one) for one in troubles))


async def _metrics(
    endpoints: Sequence[str],
) -> "tuple[dict[int, MemberMetrics], list[StewardError]]":
    if not endpoints:
        return {}, []
    from etcd_steward.engine.maintenance.metrics_page import (  # noqa: PLC0415  # aiohttp: slow
        read_metrics,
    )

    return await read_metrics(endpoints)


def release(version: str) -> tuple[int, int, int] | None:
    """`3.6.16` as numbers; None for what is no release."""
    parts = version.partition("-")[0].split(".")
    if len(parts) != len(_QUOTA_TOLD_SINCE) or not all(part.isdigit() for part in parts):
        return None
    return int(parts[0]), int(parts[1]), int(parts[2])


def quota_of(
    status: MemberStatus, metrics: "Mapping[int, MemberMetrics]", options: MaintenanceOptions
) -> int | None:
    """A member's quota: from its Status where that can be trusted, its metrics, or as stated."""
    if status.db_size_quota > 0 and (release(status.version) or (0, 0, 0)) >= _QUOTA_TOLD_SINCE:
        return status.db_size_quota
    page = metrics.get(status.member_id)
    if page is not None and page.quota_bytes is not None:
        return page.quota_bytes
    return options.quota_bytes
