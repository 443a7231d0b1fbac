"""A plan in the making: each key of the source, and what is known and decided of it so far."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from etcd_steward.engine.restore.facts import Facts
from etcd_steward.engine.top import escaped, resource_of
from etcd_steward.models.registry import KeyPath
from etcd_steward.models.restore import PlanItem, Verdict
from etcd_steward.registry.envelope import Header, open_envelope
from etcd_steward.registry.objectmeta import ObjectMeta

NO_OBJECT: Final[Header] = ("other", None, None, None)


@dataclass(frozen=True, slots=True)
class Seen:
    """What is there now under a key."""

    revision: int
    """ModRevision."""
    uid: str | None
    sha256: str


@dataclass(slots=True, eq=False)
class Draft:
    """One key of the source."""

    key: bytes
    path: KeyPath | None
    header: Header = NO_OBJECT
    form: str = ""
    """How its value is written, as `form_of` tells it."""
    meta: ObjectMeta | None = None
    facts: Facts | None = None
    at: int = 0
    """Where its value lies in the spool, as it would be written."""
    size: int = 0
    sha256: str = ""
    related: bool = False
    """Not asked for: it comes with what was."""
    verdict: Verdict = "create"
    reason: str = ""
    message: str = ""
    notes: list[str] = field(default_factory=list)
    write: bool = False
    group: int = 0
    seen: Seen | None = None
    resource: str = field(init=False)
    """As kubectl names it; empty where the key is no API object's."""

    def __post_init__(self) -> None:
        """Name the resource once: every check asks for it."""
        self.resource = resource_of(self.path) if self.path is not None else ""

    @property
    def uid(self) -> str | None:
        """Of the object, where it can be read."""
        return self.header[3]

    @property
    def namespace(self) -> str | None:
        """Of the object; None where it has none."""
        return self.path.namespace if self.path is not None else None

    @property
    def name(self) -> str:
        """Of the object."""
        return self.path.name if self.path is not None else ""

    @property
    def text(self) -> bool:
        """Whether its key is text, as every key of an API server is."""
        try:
            self.key.decode()
        except UnicodeDecodeError:
            return False
        return True

    @property
    def shown(self) -> str:
        """The key as a plan has it."""
        return self.key.decode() if self.text else escaped(self.key)

    @property
    def settled(self) -> bool:
        """Whether it is left out for good."""
        return self.verdict in {"excluded", "blocked"}

    @property
    def title(self) -> str:
        """In a sentence: `deployments.apps shop/api`."""
        if self.path is None:
            return escaped(self.key)
        place = f"{self.namespace}/" if self.namespace else ""
        return f"{self.resource} {place}{self.name}"

    def exclude(self, reason: str, message: str) -> None:
        """Leave it out, unless that is decided already."""
        self._settle("excluded", reason, message)

    def block(self, reason: str, message: str) -> None:
        """It would do harm, or could not be read; what is there and stays does none."""
        if self.verdict == "create" or self.write:
            self._settle("blocked", reason, message)

    def _settle(self, verdict: Verdict, reason: str, message: str) -> None:
        if not self.settled:
            self.verdict, self.reason, self.message, self.write = verdict, reason, message, False

    def item(self) -> PlanItem:
        """What the plan says of it."""
        return PlanItem(
            key=self.shown,
            resource=self.resource,
            namespace=self.namespace,
            name=self.name,
            verdict=self.verdict,
            reason=self.reason,
            message=self.message,
            notes=tuple(self.notes),
            write=self.write,
            group=self.group,
            sha256=self.sha256 if self.write else "",
            size=self.size if self.write else 0,
            uid=self.uid,
            live_uid=self.seen.uid if self.seen else None,
            live_revision=self.seen.revision if self.seen else 0,
        )


def written(drafts: Iterable[Draft], *resources: str) -> list[Draft]:
    """Those that would be written, of these resources."""
    return [one for one in drafts if one.write and one.resource in resources]


def form_of(value: bytes, header: Header) -> str:
    """How a value is written, in a word: of what is encrypted, with which key."""
    if header[0] != "encrypted":
        return header[0]
    envelope = open_envelope(value)
    return f"{envelope.provider or '?'} key {envelope.key_name or '?'}"


def digest(value: bytes) -> str:
    """SHA-256 of a value, in hex."""
    return hashlib.sha256(value).hexdigest()


Named = Callable[[KeyPath | None, bytes], bool]
"""Whether somebody named a key's resource in so many words."""
