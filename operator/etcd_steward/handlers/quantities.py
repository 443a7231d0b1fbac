"""Spans and sizes as a spec writes them, in seconds and bytes."""

import re
from datetime import datetime, timedelta
from typing import Final

from etcd_steward.engine.retention import before
from etcd_steward.errors import InvalidInput

_UNITS: Final = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


def span(text: str) -> timedelta:
    """How long `1h30m` or `30d` is."""
    now = datetime.fromisoformat("2026-01-01T00:00:00Z")  # months differ: by these
    return now - before(now, text)


def budget(text: str) -> float | None:
    """Seconds of a span; None for `None`."""
    return None if text == "None" else span(text).total_seconds()


def size_in_bytes(text: str) -> int:
    """How many bytes `256Mi` is. Raises `InvalidInput`."""
    found = re.fullmatch(r"([0-9]+)([kMGT]?|[KMGT]i)", text)
    if found is None or found[2] not in _UNITS:
        raise InvalidInput(f"{text!r} is no size", hint="Write bytes, like 256Mi or 2G")
    return int(found[1]) * _UNITS[found[2]]
