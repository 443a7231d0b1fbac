"""Etcd's message decides before gRPC's code."""

import pytest
from grpc import StatusCode as Code
from grpc.aio import AioRpcError, Metadata

from etcd_steward import errors as ours
from etcd_steward.etcd import errors


def failure(code: Code, details: str) -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata(), details)


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        # One code, three causes (api/v3rpc/rpctypes/error.go):
        (
            Code.RESOURCE_EXHAUSTED,
            "etcdserver: mvcc: database space exceeded",
            ours.OutOfSpace,
        ),
        (Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests", ours.Throttled),
        (
            Code.RESOURCE_EXHAUSTED,
            "trying to send message larger than max",
            ours.InvalidInput,
        ),
        (
            Code.OUT_OF_RANGE,
            "etcdserver: mvcc: required revision has been compacted",
            ours.Compacted,
        ),
        (
            Code.OUT_OF_RANGE,
            "etcdserver: mvcc: required revision is a future revision",
            ours.Unavailable,
        ),
        (Code.UNAVAILABLE, "etcdserver: no leader", ours.NoLeader),
        (Code.UNAVAILABLE, "etcdserver: leader changed", ours.NoLeader),
        (Code.UNKNOWN, "raft proposal dropped", ours.NoLeader),
        (
            Code.UNAVAILABLE,
            "etcdserver: request timed out, possibly due to previous leader failure",
            ours.NoLeader,
        ),
        (Code.UNAVAILABLE, "etcdserver: request timed out", ours.Unavailable),
        (Code.UNAVAILABLE, "Socket closed", ours.Unavailable),
        (
            Code.INVALID_ARGUMENT,
            "etcdserver: authentication failed, invalid user ID or password",
            ours.Unauthorized,
        ),
        (Code.INVALID_ARGUMENT, "etcdserver: user name is empty", ours.Unauthorized),
        (Code.INVALID_ARGUMENT, "etcdserver: key is not provided", ours.InvalidInput),
        (Code.PERMISSION_DENIED, "etcdserver: permission denied", ours.Unauthorized),
        (Code.DATA_LOSS, "etcdserver: corrupt cluster", ours.IntegrityError),
        (Code.NOT_FOUND, "etcdserver: requested lease not found", ours.NotFound),
        (
            Code.FAILED_PRECONDITION,
            "etcdserver: rpc not supported for learner",
            ours.Unsupported,
        ),
        (Code.UNIMPLEMENTED, "unknown service etcdserverpb.Maintenance", ours.Unsupported),
        (Code.UNIMPLEMENTED, "Received http2 header with status: 404", ours.Unsupported),
        (Code.DEADLINE_EXCEEDED, "Deadline Exceeded", ours.TimedOut),
        (Code.INTERNAL, "Received RST_STREAM with error code 2", ours.Unavailable),
    ],
)
def test_translation(code: Code, text: str, kind: type[ours.StewardError]) -> None:
    error = errors.translate(failure(code, text), endpoint="http://a:2379", what="do this")
    assert type(error) is kind
    assert "http://a:2379" in error.message
    assert error.hint


def test_every_grpc_code_becomes_one_of_ours() -> None:
    for code in Code:
        error = errors.translate(failure(code, "x"), endpoint="http://a:2379", what="do this")
        assert isinstance(error, ours.PermanentError | ours.TransientError)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("failed to connect to all addresses; last error: …", True),
        ("DNS resolution failed for a:2379", True),
        ("etcdserver: no leader", True),
        ("etcdserver: leader changed", False),  # may have been committed before
        ("etcdserver: request timed out", False),
        ("Socket closed", False),
    ],
)
def test_only_what_was_surely_not_sent_may_be_written_elsewhere(text: str, safe: bool) -> None:
    assert errors.never_sent(failure(Code.UNAVAILABLE, text)) is safe


def test_a_write_that_the_leader_dropped_was_surely_not_done() -> None:
    assert errors.never_sent(failure(Code.UNKNOWN, "raft proposal dropped"))
    assert not errors.never_sent(failure(Code.UNKNOWN, "raft proposal"))
