"""What gRPC and etcd say, in our own errors.

etcd puts many causes under one gRPC code (RESOURCE_EXHAUSTED is a full database, too many requests
or a message too large), so its message decides first and the code only after it. The messages are
those of etcd's api/v3rpc/rpctypes/error.go, the same from 3.4 to 3.7.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import grpc

from etcd_steward.errors import (
    AlreadyExists,
    Compacted,
    IntegrityError,
    InvalidInput,
    NoLeader,
    NotFound,
    OutOfSpace,
    StewardError,
    Throttled,
    TimedOut,
    Unauthorized,
    Unavailable,
    Unsupported,
)

_PREFIX = "etcdserver: "


@dataclass(frozen=True, slots=True)
class _Meaning:
    kind: type[StewardError]
    hint: str = "Etcd's own log may say more"


_ELECTION = _Meaning(NoLeader, "An election settles this in seconds; if it lasts, look at quorum")
_CREDENTIALS = _Meaning(
    Unauthorized, "This etcd has authentication enabled: give a user and password that it knows"
)

_DROPPED = "raft proposal dropped"
"""A write came while the leader was handing leadership over: it surely was not done (raft's
`ErrProposalDropped`; etcd passes it on without a gRPC code of its own)."""

_BY_MESSAGE = {
    "no leader": _Meaning(
        NoLeader, "A majority of members must be up and reach each other: check the others"
    ),
    "not leader": _ELECTION,
    "leader changed": _ELECTION,
    _DROPPED: _ELECTION,
    "request timed out, possibly due to previous leader failure": _ELECTION,
    "request timed out": _Meaning(
        Unavailable, "The cluster could not agree in time: check quorum and the members' disks"
    ),
    "request timed out, possibly due to connection lost": _Meaning(
        Unavailable, "The member lost its peers: check the network between the members"
    ),
    "request timed out, waiting for the applied index took too long": _Meaning(
        Unavailable, "The member lags behind the others: check its disk and CPU"
    ),
    "server stopped": _Meaning(Unavailable, "The member is shutting down"),
    "unhealthy cluster": _Meaning(Unavailable, "Check that every member is up"),
    "authentication failed, invalid user ID or password": _Meaning(
        Unauthorized, "Check the user and the password"
    ),
    "user name is empty": _CREDENTIALS,
    "invalid auth token": _CREDENTIALS,
    "user name not found": _CREDENTIALS,
    "permission denied": _Meaning(
        Unauthorized,
        "Give the user a role with this right; snapshots and maintenance need the role root",
    ),
    "authentication is not enabled": _Meaning(InvalidInput, "Leave user and password out"),
    "revision of auth store is old": _Meaning(Unavailable, "Users or roles are just changing"),
    "mvcc: database space exceeded": _Meaning(
        OutOfSpace, "Compact and defragment, then disarm the NOSPACE alarm; or raise the quota"
    ),
    "too many requests": _Meaning(Throttled, "The cluster is overloaded: try again later"),
    "mvcc: required revision has been compacted": _Meaning(
        Compacted, "Ask for a newer revision, or look into a backup"
    ),
    "mvcc: required revision is a future revision": _Meaning(
        Unavailable, "The member has not yet seen this revision: it lags, or is another cluster's"
    ),
    "corrupt cluster": _Meaning(
        IntegrityError, "A CORRUPT alarm is set: find and replace the bad member before all else"
    ),
    "requested lease not found": _Meaning(NotFound, "It has expired or was revoked"),
    "lease already exists": _Meaning(AlreadyExists, "Choose another lease ID"),
    "member not found": _Meaning(NotFound, "List the members: this ID is not among them"),
    "rpc not supported for learner": _Meaning(Unsupported, "Ask a voting member"),
    "bad leader transferee": _Meaning(
        InvalidInput, "Leadership can only move to a voting member that is up to date"
    ),
}

_BY_CODE = {
    grpc.StatusCode.UNAVAILABLE: _Meaning(
        Unavailable, "Check that etcd runs there and that the network lets you through"
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: _Meaning(
        TimedOut, "The member may be overloaded, defragmenting or cut off"
    ),
    grpc.StatusCode.UNIMPLEMENTED: _Meaning(
        Unsupported,
        "This is no etcd, or one that can't do it: k3s' SQLite (kine) and etcd's own gRPC proxy "
        "take no snapshots and defragment nothing; ask a real etcd member",
    ),
    grpc.StatusCode.UNAUTHENTICATED: _CREDENTIALS,
    grpc.StatusCode.PERMISSION_DENIED: _CREDENTIALS,
    grpc.StatusCode.NOT_FOUND: _Meaning(NotFound),
    grpc.StatusCode.ALREADY_EXISTS: _Meaning(AlreadyExists),
    grpc.StatusCode.INVALID_ARGUMENT: _Meaning(InvalidInput),
    grpc.StatusCode.OUT_OF_RANGE: _Meaning(InvalidInput),
    grpc.StatusCode.FAILED_PRECONDITION: _Meaning(InvalidInput),
    grpc.StatusCode.DATA_LOSS: _Meaning(IntegrityError, "Find the bad member before all else"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: _Meaning(
        InvalidInput, "The message is too large for etcd (--max-request-bytes)"
    ),
}
_BROKEN = _Meaning(Unavailable, "The connection or the member broke off: look into etcd's own log")

_NEVER_SENT = (
    "failed to connect to all addresses",
    "connections to all backends failing",
    "DNS resolution failed",
    "no leader",
)


class RpcFailure(Protocol):
    """A failed call, asynchronous or blocking: grpc's own classes share no typed base."""

    def code(self) -> grpc.StatusCode:
        """GRPC's code."""
        ...

    def details(self) -> str | None:
        """The server's words, or gRPC's own."""
        ...


def failure(error: grpc.RpcError) -> RpcFailure:
    """What a blocking call raised, with the methods that grpc's types do not show."""
    return cast("RpcFailure", error)


def text_of(error: RpcFailure) -> str:
    """Etcd's or gRPC's message, without etcd's usual prefix."""
    return (error.details() or "").removeprefix(_PREFIX)


def said_by_etcd(error: RpcFailure) -> bool:
    """Whether etcd itself answered, rather than gRPC on its behalf."""
    return (error.details() or "").startswith(_PREFIX)


def token_is_stale(error: RpcFailure) -> bool:
    """Whether a new token may help, as etcd's own client has it.

    The last of these comes when authentication was switched on after we were told it is off.
    """
    return text_of(error) in (
        "invalid auth token",
        "revision of auth store is old",
        "user name is empty",
    )


def leader_changed(error: RpcFailure) -> bool:
    """Whether a linearizable read fell into an election: asking once more is the cure."""
    return text_of(error) == "leader changed"


def never_sent(error: BaseException | None) -> bool:
    """Whether a request certainly had no effect, so that even a write may go elsewhere."""
    if not isinstance(error, grpc.RpcError):
        return False
    unsent = error.code() is grpc.StatusCode.UNAVAILABLE
    text = text_of(error)
    return text == _DROPPED or (unsent and text.startswith(_NEVER_SENT))


def words_of(error: StewardError) -> str | None:
    """What etcdctl would print for the failed call behind `error`.

    After `rpctypes.Error` and `ContextError` of etcd's Go client. None where no call came as far as
    an answer, or several failed.
    """
    cause = error.__cause__
    if not isinstance(cause, grpc.RpcError):
        return None
    rpc = failure(cause)
    if rpc.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "context deadline exceeded"
    details = rpc.details() or ""
    if details.startswith(_PREFIX):
        return details
    if rpc.code() is grpc.StatusCode.UNAVAILABLE:
        return None  # gRPC's own words; ours say more
    name = rpc.code().name.title().replace("_", "")
    return f"rpc error: code = {name} desc = {details}"


def said_first(failures: Sequence[StewardError]) -> grpc.RpcError | None:
    """What etcd itself has said first, among failures at several endpoints."""
    causes = (one.__cause__ for one in failures)
    answers = (one for one in causes if isinstance(one, grpc.RpcError))
    return next((one for one in answers if said_by_etcd(failure(one))), None)


def translate(error: RpcFailure, *, endpoint: str, what: str) -> StewardError:
    """The error of ours for a failed call at `endpoint` that was to do `what`."""
    text = text_of(error)
    if text.startswith("Received http2 header with status"):
        return Unsupported(
            f"{endpoint} is not an etcd: it answers gRPC with HTTP status {text.split()[-1]}",
            hint="Give the client URL of an etcd member (usually port 2379)",
        )
    meaning = _BY_MESSAGE.get(text) or _BY_CODE.get(error.code(), _BROKEN)
    if meaning.kind is TimedOut:
        return TimedOut(f"{endpoint} did not {what} in time", hint=meaning.hint)
    return meaning.kind(
        f"{endpoint} did not {what}: {text or error.code().name}", hint=meaning.hint
    )
