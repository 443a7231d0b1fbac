"""Every error this program raises on purpose, and what each one means to a caller.

Layers below translate what their libraries raise into these, most specific first, so that nobody
above needs to know grpc, boto3 or kubernetes. Two roots decide what happens next: a
`PermanentError` will fail again in the same way until somebody changes something; a
`TransientError` may be tried again, with back-off and before a deadline. Nothing else is retried.

    StewardError
    ├── PermanentError
    │   ├── InvalidInput       a flag, field or file says something that can't be meant
    │   │   └── InvalidSchedule  a schedule or time zone that can't be followed
    │   ├── NotFound           the key, Secret or object is not there
    │   │   ├── NoSuchNamespace  what is looked into has no such namespace
    │   │   └── NoSuchStore    the bucket or directory itself is not there
    │   ├── AlreadyExists      a conditional write found the name taken by somebody else
    │   ├── Unauthorized       credentials are missing, wrong or lack a right
    │   ├── Untrusted          a certificate can't be verified, or has expired
    │   ├── IntegrityError     bytes are not what they must be: never use them
    │   ├── Undecodable        a value that we can't read, though it may be in order
    │   ├── Refused            a safety check says no (exit code 3)
    │   │   └── PlanChanged    what was approved is not what would be done now
    │   ├── Unsupported        the other side can't do this at all
    │   ├── Compacted          etcd has forgotten the revision that was asked for
    │   └── OutOfSpace         the spool, the store or etcd itself is full
    └── TransientError
        ├── Unavailable        nobody answers, or the connection broke
        ├── NoLeader           etcd has no leader, or is changing it
        ├── Throttled          the other side asks us to slow down
        └── TimedOut           our own deadline passed
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal

Side = Literal["etcd", "store", "host"]
"""Where something failed: what is backed up, where it goes, or this host between the two."""


class StewardError(Exception):
    """An error with a message a person can act on.

    `message` says what happened; `hint` what to do next. Neither may hold a secret: both end up in
    logs, conditions and events. `reason` is the CamelCase word for conditions and JSON output,
    `exit_code` what the command line returns.
    """

    reason: ClassVar[str] = "Failed"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.side: Side | None = None

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class PermanentError(StewardError):
    """Trying again changes nothing."""


class InvalidInput(PermanentError):
    """A flag, field or file says something that can't be meant."""

    reason = "InvalidInput"
    exit_code = 2


class InvalidSchedule(InvalidInput):
    """A schedule or time zone that can't be followed."""

    reason = "InvalidSchedule"


class NotFound(PermanentError):
    """The key, Secret or object is not there."""

    reason = "NotFound"


class NoSuchNamespace(NotFound):
    """What is looked into has no such namespace."""

    names: tuple[str, ...] = ()
    """Those that are missing."""


class NoSuchStore(NotFound):
    """The bucket or directory is not there: this says nothing about what should be in it."""


class AlreadyExists(PermanentError):
    """A conditional write found the name taken by somebody else."""

    reason = "AlreadyExists"


class Unauthorized(PermanentError):
    """Credentials are missing, wrong, or lack a right."""

    reason = "Unauthorized"


class Untrusted(PermanentError):
    """A certificate, theirs or ours, can't be verified or has expired."""

    reason = "Untrusted"


class IntegrityError(PermanentError):
    """Bytes are not what they must be; nothing may be built on them."""

    reason = "IntegrityError"


class Undecodable(PermanentError):
    """A value of the registry is encrypted, of an unknown type, or no Kubernetes object."""

    reason = "Undecodable"


class Refused(PermanentError):
    """A safety check says no."""

    reason = "Refused"
    exit_code = 3


class PlanChanged(Refused):
    """What somebody approved is not what would be done now."""

    reason = "PlanChanged"


class Unsupported(PermanentError):
    """The other side can't do this at all."""

    reason = "Unsupported"


class Compacted(PermanentError):
    """etcd has compacted the revision that was asked for."""

    reason = "Compacted"


class OutOfSpace(PermanentError):
    """The spool, the store or etcd itself is full."""

    reason = "OutOfSpace"


class TransientError(StewardError):
    """The same call may succeed later."""

    reason = "Unavailable"


class Unavailable(TransientError):
    """Nobody answers, or the connection broke."""


class NoLeader(TransientError):
    """etcd has no leader, or is just changing it."""

    reason = "NoLeader"


class Throttled(TransientError):
    """The other side asks us to slow down."""

    reason = "Throttled"

    after: float = 0.0
    """Seconds that it asks us to wait; 0 where it names none."""


class TimedOut(TransientError):
    """Our own deadline passed before the answer came."""

    reason = "TimedOut"


@contextmanager
def on_side(side: Side) -> Iterator[None]:
    """Say of every error that leaves the body which side it came from, unless it knows already."""
    try:
        yield
    except StewardError as error:
        error.side = error.side or side
        raise
