"""What a restore leaves beside plan and report: its claim, its journal, the way back."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from pydantic import Field

from etcd_steward.models.base import Model


class Claim(Model):
    """`claim.json`: an Apply runs once, whatever is restored around it.

    It holds no time: whoever goes on with the same restore writes the same bytes.
    """

    version: Literal[1] = 1
    restore: str
    """Name of the restore: `<namespace>.<name>` of an EtcdRestore, or the command line's own."""
    uid: str
    """Of that restore."""
    digest: str
    """Of the plan that is applied."""


class JournalPage(Model):
    """`journal/000001.json`: keys that are written, and at which revision of etcd."""

    written: Mapping[str, int]


class SecondLook(Model):
    """`second-look.json`: what became of the restored objects after the repair loops."""

    version: Literal[1] = 1
    at: datetime
    taken: tuple[str, ...] = ()
    """What was taken or changed since, in words."""


UndoOutcome = Literal["deleted", "put-back", "gone", "left", "changed-since", "failed"]
"""Of one key: what was created is deleted | what was overwritten is back | it was not there any
more | left alone on purpose | it stays, since somebody has changed it | it could not be done."""


class Undone(Model):
    """One key after the undo."""

    key: str
    outcome: UndoOutcome
    message: str = ""


class UndoReport(Model):
    """`undone.json`: how an undo went."""

    version: Literal[1] = 1
    digest: str
    """Of the plan that was undone."""
    started_at: datetime
    finished_at: datetime
    undone: tuple[Undone, ...] = ()
    warnings: tuple[str, ...] = Field(default=())

    @property
    def counts(self) -> dict[UndoOutcome, int]:
        """How many keys had which outcome."""
        return dict(Counter(one.outcome for one in self.undone))
