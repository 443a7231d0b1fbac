"""What a preflight finds, one line at a time."""

from collections.abc import Awaitable
from dataclasses import dataclass
from enum import StrEnum

from etcd_steward.errors import StewardError


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    """A backup works, but this needs a look."""
    FAILURE = "failure"
    """A backup would fail, or etcd itself is in trouble."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the preflight."""

    check: str
    """What was looked at, in a word or two; several findings may share it."""
    verdict: Verdict
    message: str
    hint: str = ""
    """What to do, where there is something to do."""


def ok(check: str, message: str) -> Finding:
    """Say that all is well."""
    return Finding(check, Verdict.OK, message)


def warning(check: str, message: str, hint: str = "") -> Finding:
    """Say that something needs a look."""
    return Finding(check, Verdict.WARNING, message, hint)


def failure(check: str, message: str, hint: str = "") -> Finding:
    """Say that something does not work."""
    return Finding(check, Verdict.FAILURE, message, hint)


def failed(check: str, error: StewardError) -> Finding:
    """Say it in the words of the error that a backup would end with."""
    return failure(check, error.message, error.hint)


async def answered(check: str, work: Awaitable[list[Finding]]) -> list[Finding]:
    """Make a failing check a finding, so that it hides none of the others."""
    try:
        return await work
    except StewardError as error:
        return [failed(check, error)]
