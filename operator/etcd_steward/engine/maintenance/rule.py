"""Whether a member is worth defragmenting."""

from dataclasses import dataclass
from typing import Final

from etcd_steward.etcd.member import MemberStatus
from etcd_steward.models.maintenance import DefragmentationRule, MaintenanceOptions
from etcd_steward.units import size

_RESCUED: Final = 80, 95
"""Percent of the quota, at least and at most, that a file may have for NOSPACE to be taken back: a
rule that defragments early must not make a rescue impossible, nor one that never does so a farce.
"""


def rescued_below(options: MaintenanceOptions) -> int:
    """Percent of its quota that no member's file may exceed for NOSPACE to be taken back."""
    rule = options.defragmentation or DefragmentationRule()
    least, most = _RESCUED
    return min(max(rule.quota_usage_percent_above, least), most)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rule says of one member, and why."""

    worth: bool
    why: str


def judge(rule: DefragmentationRule, status: MemberStatus, quota: int | None) -> Verdict:
    """Apply the rule to what a member says of itself now; `quota` None is unknown.

    Free pages are used again by etcd itself: a rewrite pays only where the disk or the quota gets
    much back.
    """
    free = max(0, status.db_size - status.db_size_in_use)
    percent = 100 * free // status.db_size if status.db_size else 0
    of_file = f"{size(free)} of {size(status.db_size)} would come back ({percent} %)"
    if rule.always:
        return Verdict(worth=True, why=f"{of_file}; every member is asked for")
    if free < rule.min_reclaim:
        return Verdict(worth=False, why=f"{of_file}: less than {size(rule.min_reclaim)}")
    if percent >= rule.min_fragmentation_percent:
        return Verdict(worth=True, why=of_file)
    if quota is None:
        below = f"less than {rule.min_fragmentation_percent} %, and the quota is unknown"
        return Verdict(worth=False, why=f"{of_file}: {below}")
    used = 100 * status.db_size / quota
    of_quota = f"the file takes {used:.0f} % of its quota"
    if used > rule.quota_usage_percent_above:
        return Verdict(worth=True, why=f"{of_file}, and {of_quota}")
    below = f"less than {rule.min_fragmentation_percent} %, and {of_quota}"
    return Verdict(worth=False, why=f"{of_file}: {below}")
