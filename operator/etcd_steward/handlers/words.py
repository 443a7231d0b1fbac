"""Times and progress in words, as conditions, events and columns show them."""

from datetime import UTC, datetime

from etcd_steward.models.run import Progress
from etcd_steward.units import size

_STEPS = {
    "WaitingForRoom": "Waiting for room in the spool",
    "WaitingForMaintenance": "Waiting for maintenance",
    "Watching": "Written; waiting to look again",
}


def duration(seconds: float) -> str:
    """Seconds as `0.8s`, `12s`, `3m5s` or `2h4m`, like the AGE column."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours}h{minutes}m" if minutes else f"{hours}h"
    if minutes:
        return f"{minutes}m{rest}s" if rest else f"{minutes}m"
    return f"{rest}s"


def timestamp(moment: datetime) -> str:
    """A moment as Kubernetes writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: str) -> datetime:
    """The moment that `timestamp` wrote, or the API server."""
    return datetime.fromisoformat(text).astimezone(UTC)


def progress(run: Progress) -> str:
    """How far a run is."""
    if run.step in {"Streaming", "Writing"} and run.total_bytes:
        return f"{run.step} {size(run.raw_bytes)} of {size(run.total_bytes)}"
    if run.step == "Exporting":
        return f"Exporting, {size(run.raw_bytes)} read"
    if run.step == "Uploading":
        return f"Uploading, {size(run.stored_bytes)} stored"
    return _STEPS.get(run.step, run.step)
