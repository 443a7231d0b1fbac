"""Retention once more, written otherwise: what the engine's answer is compared with."""

from datetime import datetime, timedelta

from etcd_steward.models.kinds import Retention

PERIODS = {
    "hourly": "%Y%m%d%H",
    "daily": "%Y%m%d",
    "weekly": "%G%V",
    "monthly": "%Y%m",
    "yearly": "%Y",
}


def kept(ticks: list[datetime], policy: Retention, within: timedelta | None) -> set[datetime]:
    """Those of `ticks` (distinct, UTC) that stay; `within` is the policy's keepWithin."""
    counts = {name: getattr(policy, f"keep_{name}") or 0 for name in PERIODS}
    ticks = sorted(ticks)
    if not ticks or not (policy.keep_last or within or any(counts.values())):
        return set(ticks)
    found = set(ticks[-policy.keep_last :] if policy.keep_last else [])
    found |= {tick for tick in ticks if within and ticks[-1] - tick < within}
    for name, form in PERIODS.items():
        newest = {tick.strftime(form): tick for tick in ticks}
        found |= set(sorted(newest.values(), reverse=True)[: counts[name]])
        found |= {ticks[0]} if len(newest) < counts[name] else set()
    return found
