"""How long a member will be silent, and how long it may be before somebody kills it."""

from typing import Final

from etcd_steward.models.maintenance import MaintenanceOptions

_SLOW: Final = 20_000_000
"""Bytes in use per second of a slow disk: what counts while nothing was measured."""
_CAUTION: Final = 1.5
"""Disks vary: what was measured once is not counted on in full."""
_OVERHEAD: Final = 1.0
"""Seconds for closing, renaming and opening the file, however small it is."""
_SHORTEST: Final = 60.0
"""Seconds that any defragmentation is waited for."""
_LONGEST: Final = 600.0
"""Seconds after which even a small member's has ended, one way or the other."""
_CRAWLING: Final = 2_000_000
"""Bytes of the file per second of a disk that hardly works any more."""

_TELLING: Final = 32 << 20
"""Bytes in use below which the time taken says nothing about the disk."""


def expected(in_use: int, speed: float | None) -> float:
    """Seconds that rewriting `in_use` bytes will take; `speed` as earlier rounds have measured."""
    rate = speed / _CAUTION if speed else _SLOW
    return _OVERHEAD + in_use / rate


def patience(db_size: int, options: MaintenanceOptions) -> float:
    """Seconds to wait for the answer; after that it is unknown, and asked for."""
    return options.defragment_seconds or max(_SHORTEST, db_size / _SLOW)


def longest(db_size: int, options: MaintenanceOptions) -> float:
    """Seconds after which no defragmentation of such a file is at work any more."""
    return max(_LONGEST, 2 * patience(db_size, options), db_size / _CRAWLING)


def budget(options: MaintenanceOptions) -> tuple[float, str] | None:
    """The shortest silence that gets a member or its API server killed, and whose that is."""
    budgets = [
        (options.etcd_liveness_seconds, "etcd's own liveness probe"),
        (options.api_server_liveness_seconds, "the liveness probe of the API server beside it"),
    ]
    known = [(seconds, whose) for seconds, whose in budgets if seconds is not None]
    return min(known, default=None)


def measured(in_use: int, seconds: float) -> float | None:
    """The speed that the next round's estimate is made of; None: too little was rewritten."""
    if in_use < _TELLING:
        return None
    return in_use / max(seconds - _OVERHEAD, seconds / 2)
