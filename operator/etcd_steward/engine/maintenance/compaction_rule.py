"""To which revision history may be forgotten: decided from what was seen, without asking anybody.

An API server compacts to the revision that it saw one interval ago (kubernetes/apiserver
pkg/storage/etcd3/compact.go), so that watchers, and lists that are read page by page, have that
long. The same holds here: what is forgotten was seen to be old, never only believed to be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from etcd_steward.errors import InvalidInput
from etcd_steward.models.maintenance import CompactionOptions
from etcd_steward.models.maintenance_run import Sighting

KEPT: Final = 600.0
"""Seconds of history that a compaction leaves where nobody asks for more: what API servers leave
between two of their own, twice."""
_LOOKS: Final = 90.0
"""Seconds that may lie between two looks in any case: an operator looks every 30."""


@dataclass(frozen=True, slots=True)
class History:
    """What is known of an etcd's history."""

    revision: int
    compact_revision: int
    """The oldest that can be read; 0 = nothing was ever compacted."""
    needed: Mapping[str, int] = field(default_factory=dict)
    """By the runs that read at them: revisions that must stay readable."""
    sightings: Sequence[Sighting] = ()
    """Oldest first."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done, and why, for people."""

    target: int | None
    """The oldest revision that stays readable; None: nothing is forgotten."""
    reason: str


def decide(options: CompactionOptions, history: History) -> Decision:
    """By the options: see `CompactionOptions`."""
    wish = _stalled(options, history) if options.mode == "WhenStalled" else _old(options, history)
    return _guarded(wish, history)


def decide_on(revision: int, history: History) -> Decision:
    """Of a revision that somebody names. Raises `InvalidInput` for one that is yet to come."""
    if revision > history.revision:
        raise InvalidInput(
            f"revision {revision} is in the future: etcd is at {history.revision}",
            hint="name an older one; its newest can't be named either",
        )
    return _guarded(Decision(revision, "as it was asked for"), history, named=True)


def _guarded(wish: Decision, history: History, *, named: bool = False) -> Decision:
    """Never the newest revision, never past what is being read, never what is gone already."""
    target = wish.target
    if target is None:
        return wish
    if named and target >= history.revision:
        raise InvalidInput(
            f"revision {target} is the newest there is: who reads or watches now would lose it",
            hint=f"name an older one, {history.revision - 1} at most",
        )
    target, reason = min(target, history.revision - 1), wish.reason
    for run, revision in history.needed.items():
        if revision < target:
            target, reason = revision, f"{wish.reason}; the export {run} still reads at {revision}"
    if target <= max(1, history.compact_revision):  # before the first there is nothing
        begins = max(1, history.compact_revision)
        return Decision(None, f"history begins at revision {begins} already: {reason}")
    return Decision(target, reason)


def _old(options: CompactionOptions, history: History) -> Decision:
    """`Retain`: as far as both the count and the time allow."""
    targets: list[int] = []
    reasons: list[str] = []
    if options.retain_revisions is not None:
        targets.append(history.revision - options.retain_revisions)
        reasons.append(f"the newest {options.retain_revisions} revisions stay")
    if options.retain_seconds is not None:
        seen = seen_before(history, options.retain_seconds)
        if seen is None:
            return Decision(None, _not_watched(history, options.retain_seconds))
        targets.append(seen.revision)
        reasons.append(f"what was there {_words(options.retain_seconds)} ago stays")
    if not targets:
        raise InvalidInput(
            "Retain does not say what is to be retained",
            hint="give retainRevisions, retainDuration or both",
        )
    return Decision(min(targets), " and ".join(reasons))


def _stalled(options: CompactionOptions, history: History) -> Decision:
    """`WhenStalled`: only where nobody has compacted for long enough though there was what to."""
    looked = [one for one in aged(history, options.stalled_after) if one[1].compact_revision]
    unmoved = [
        (age, one) for age, one in looked if one.compact_revision == history.compact_revision
    ]
    if history.compact_revision == 0:  # nobody ever did: what was seen tells how long that was
        unmoved = aged(history, options.stalled_after)
    longest = max((age for age, _ in unmoved), default=0.0)
    if longest < options.stalled_after:
        return Decision(
            None,
            f"as far as it was watched, the last compaction is {_words(longest)} old; it counts as "
            f"stalled after {_words(options.stalled_after)}",
        )
    seen = seen_before(history, KEPT)
    if seen is None:
        return Decision(None, _not_watched(history, KEPT))
    return Decision(seen.revision, f"nobody has compacted this etcd for {_words(longest)}")


def seen_before(history: History, seconds: float) -> Sighting | None:
    """The newest sighting that is at least so old; None if none is."""
    return next((one for age, one in aged(history, seconds) if age >= seconds), None)


def aged(history: History, seconds: float) -> list[tuple[float, Sighting]]:
    """Each sighting's age in seconds, newest first, to be compared with `seconds`.

    An age is what surely has passed until the newest sighting, whatever was done to clocks: of the
    times between two sightings only those count that are plausible. One that goes backwards counts
    for nothing, and so does a gap that is not short beside `seconds`: nobody looked, or a clock was
    set. Sightings from before a revision that went back are of another etcd, or another life of it.
    """
    plausible = max(seconds / 4, _LOOKS)
    found: list[tuple[float, Sighting]] = []
    age, later = 0.0, history.revision
    for one in reversed(history.sightings):
        if one.revision > later:
            break
        if found:
            gap = (found[-1][1].time - one.time).total_seconds()
            age += gap if 0 < gap <= plausible else 0.0
        found.append((age, one))
        later = one.revision
    return found


def _not_watched(history: History, seconds: float) -> str:
    longest = max((age for age, _ in aged(history, seconds)), default=0.0)
    return (
        f"nobody knows yet what was there {_words(seconds)} ago: this etcd has been watched for "
        f"{_words(longest)}"
    )


def _words(seconds: float) -> str:
    """A time for people: `45 s`, `12 min`, `3 h`."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
