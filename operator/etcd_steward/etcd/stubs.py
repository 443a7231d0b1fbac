"""etcd's RPC surface: `etcd3.etcdrpc`, over code generated for today's protocol and protobuf.

`etcd3` 0.12.0 ships messages and stubs made by a protoc of 2017: protobuf 4 and newer refuse to
import them, and they lack HashKV's revision, Status' quota, RangeStream and more. Its surface is
sound, so ours (see `proto/` and tools/generate_etcd_stubs.py) is put in its place: whoever imports
`etcd3` after this module, ourselves included, gets the same messages, once, with a modern protobuf.

Everything else in the project imports messages and stubs from here.
"""

import sys
from types import ModuleType

from etcd_steward.etcd._generated import auth_pb2, kv_pb2, rpc_pb2, rpc_pb2_grpc
from etcd_steward.etcd._generated.auth_pb2 import Permission
from etcd_steward.etcd._generated.kv_pb2 import Event, KeyValue
from etcd_steward.etcd._generated.rpc_pb2 import (
    CORRUPT,
    NOSPACE,
    AlarmMember,
    AlarmRequest,
    AlarmType,
    AuthenticateRequest,
    CompactionRequest,
    CompactionResponse,
    Compare,
    DefragmentRequest,
    DeleteRangeRequest,
    DeleteRangeResponse,
    HashKVRequest,
    LeaseGrantRequest,
    LeaseGrantResponse,
    LeaseKeepAliveRequest,
    LeaseKeepAliveResponse,
    LeaseLeasesRequest,
    LeaseLeasesResponse,
    LeaseRevokeRequest,
    LeaseRevokeResponse,
    LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
    Member,
    MemberListRequest,
    MoveLeaderRequest,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    RequestOp,
    ResponseHeader,
    SnapshotRequest,
    SnapshotResponse,
    StatusRequest,
    TxnRequest,
    TxnResponse,
    WatchCancelRequest,
    WatchCreateRequest,
    WatchProgressRequest,
    WatchRequest,
    WatchResponse,
)
from etcd_steward.etcd._generated.rpc_pb2_grpc import (
    AuthStub,
    ClusterStub,
    KVStub,
    LeaseStub,
    MaintenanceStub,
    WatchStub,
)

__all__ = [
    "CORRUPT",
    "NOSPACE",
    "AlarmMember",
    "AlarmRequest",
    "AlarmType",
    "AuthStub",
    "AuthenticateRequest",
    "ClusterStub",
    "CompactionRequest",
    "CompactionResponse",
    "Compare",
    "DefragmentRequest",
    "DeleteRangeRequest",
    "DeleteRangeResponse",
    "Event",
    "HashKVRequest",
    "KVStub",
    "KeyValue",
    "LeaseGrantRequest",
    "LeaseGrantResponse",
    "LeaseKeepAliveRequest",
    "LeaseKeepAliveResponse",
    "LeaseLeasesRequest",
    "LeaseLeasesResponse",
    "LeaseRevokeRequest",
    "LeaseRevokeResponse",
    "LeaseStub",
    "LeaseTimeToLiveRequest",
    "LeaseTimeToLiveResponse",
    "MaintenanceStub",
    "Member",
    "MemberListRequest",
    "MoveLeaderRequest",
    "Permission",
    "PutRequest",
    "PutResponse",
    "RangeRequest",
    "RangeResponse",
    "RequestOp",
    "ResponseHeader",
    "SnapshotRequest",
    "SnapshotResponse",
    "StatusRequest",
    "TxnRequest",
    "TxnResponse",
    "WatchCancelRequest",
    "WatchCreateRequest",
    "WatchProgressRequest",
    "WatchRequest",
    "WatchResponse",
    "WatchStub",
]

_NAME = "etcd3.etcdrpc"


def _etcdrpc() -> ModuleType:
    """The module that `etcd3` finds as its own `etcdrpc`."""
    if _NAME in sys.modules:
        # Both would register the same message names in protobuf's one default pool.
        raise ImportError(f"{_NAME} was imported before {__name__}: import {__name__} first")
    module = ModuleType(_NAME, __doc__)
    for source in (rpc_pb2, rpc_pb2_grpc):
        module.__dict__.update({k: v for k, v in vars(source).items() if not k.startswith("_")})
    module.__dict__.update(auth_pb2=auth_pb2, kv_pb2=kv_pb2, rpc_pb2=rpc_pb2)
    return module


etcdrpc = sys.modules[_NAME] = _etcdrpc()
