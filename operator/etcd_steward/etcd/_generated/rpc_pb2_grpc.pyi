from grpc import aio
from etcd_steward.etcd._generated import rpc_pb2 as rpc_pb2

class KVStub:
    def __init__(self, channel: aio.Channel) -> None: ...
    Range: aio.UnaryUnaryMultiCallable[rpc_pb2.RangeRequest, rpc_pb2.RangeResponse]
    RangeStream: aio.UnaryStreamMultiCallable[rpc_pb2.RangeRequest, rpc_pb2.RangeStreamResponse]
    Put: aio.UnaryUnaryMultiCallable[rpc_pb2.PutRequest, rpc_pb2.PutResponse]
    DeleteRange: aio.UnaryUnaryMultiCallable[rpc_pb2.DeleteRangeRequest, rpc_pb2.DeleteRangeResponse]
    Txn: aio.UnaryUnaryMultiCallable[rpc_pb2.TxnRequest, rpc_pb2.TxnResponse]
    Compact: aio.UnaryUnaryMultiCallable[rpc_pb2.CompactionRequest, rpc_pb2.CompactionResponse]

class WatchStub:
    def __init__(self, channel: aio.Channel) -> None: ...
    Watch: aio.StreamStreamMultiCallable[rpc_pb2.WatchRequest, rpc_pb2.WatchResponse]

class LeaseStub:
    def __init__(self, channel: aio.Channel) -> None: ...
    LeaseGrant: aio.UnaryUnaryMultiCallable[rpc_pb2.LeaseGrantRequest, rpc_pb2.LeaseGrantResponse]
    LeaseRevoke: aio.UnaryUnaryMultiCallable[rpc_pb2.LeaseRevokeRequest, rpc_pb2.LeaseRevokeResponse]
    LeaseKeepAlive: aio.StreamStreamMultiCallable[rpc_pb2.LeaseKeepAliveRequest, rpc_pb2.LeaseKeepAliveResponse]
    LeaseTimeToLive: aio.UnaryUnaryMultiCallable[rpc_pb2.LeaseTimeToLiveRequest, rpc_pb2.LeaseTimeToLiveResponse]
    LeaseLeases: aio.UnaryUnaryMultiCallable[rpc_pb2.LeaseLeasesRequest, rpc_pb2.LeaseLeasesResponse]

class ClusterStub:
    def __init__(self, channel: aio.Channel) -> None: ...
    MemberAdd: aio.UnaryUnaryMultiCallable[rpc_pb2.MemberAddRequest, rpc_pb2.MemberAddResponse]
    MemberRemove: aio.UnaryUnaryMultiCallable[rpc_pb2.MemberRemoveRequest, rpc_pb2.MemberRemoveResponse]
    MemberUpdate: aio.UnaryUnaryMultiCallable[rpc_pb2.MemberUpdateRequest, rpc_pb2.MemberUpdateResponse]
    MemberList: aio.UnaryUnaryMultiCallable[rpc_pb2.MemberListRequest, rpc_pb2.MemberListResponse]
    MemberPromote: aio.UnaryUnaryMultiCallable[rpc_pb2.MemberPromoteRequest, rpc_pb2.MemberPromoteResponse]

class MaintenanceStub:
    def __init__(self, channel: aio.Channel) -> None: ...
    Alarm: aio.UnaryUnaryMultiCallable[rpc_pb2.AlarmRequest, rpc_pb2.AlarmResponse]
    Status: aio.UnaryUnaryMultiCallable[rpc_pb2.StatusRequest, rpc_pb2.StatusResponse]
    Defragment: aio.UnaryUnaryMultiCallable[rpc_pb2.DefragmentRequest, rpc_pb2.DefragmentResponse]
    Hash: aio.UnaryUnaryMultiCallable[rpc_pb2.HashRequest, rpc_pb2.HashResponse]
    HashKV: aio.UnaryUnaryMultiCallable[rpc_pb2.HashKVRequest, rpc_pb2.HashKVResponse]
    Snapshot: aio.UnaryStreamMultiCallable[rpc_pb2.SnapshotRequest, rpc_pb2.SnapshotResponse]
    MoveLeader: aio.UnaryUnaryMultiCallable[rpc_pb2.MoveLeaderRequest, rpc_pb2.MoveLeaderResponse]
    Downgrade: aio.UnaryUnaryMultiCallable[rpc_pb2.DowngradeRequest, rpc_pb2.DowngradeResponse]

class AuthStub:
    def __init__(self, channel: aio.Channel) -> None: ...
    AuthEnable: aio.UnaryUnaryMultiCallable[rpc_pb2.AuthEnableRequest, rpc_pb2.AuthEnableResponse]
    AuthDisable: aio.UnaryUnaryMultiCallable[rpc_pb2.AuthDisableRequest, rpc_pb2.AuthDisableResponse]
    AuthStatus: aio.UnaryUnaryMultiCallable[rpc_pb2.AuthStatusRequest, rpc_pb2.AuthStatusResponse]
    Authenticate: aio.UnaryUnaryMultiCallable[rpc_pb2.AuthenticateRequest, rpc_pb2.AuthenticateResponse]
    UserAdd: aio.UnaryUnaryMultiCallable[rpc_pb2.AuthUserAddRequest, rpc_pb2.AuthUserAddResponse]
    UserGet: aio.UnaryUnaryMultiCallable[rpc_pb2.AuthUserGetRequest, rpc_pb2.AuthUserGetResponse]
    UserList: aio.UnaryUnaryMultiCallable[rpc_pb2.AuthUserListRequest, rpc_pb2.AuthUserListResponse]
    UserDelete: aio.UnaryUnaryMultiCallable[rpc_pb2.AuthUserDeleteRequest, rpc_pb2.AuthUserDeleteResponse]
    UserChangePassword: aio.UnaryUnaryMultiCallable[rpc_pb2.AuthUserChangePasswordRequest, rpc_pb2.AuthUserChangePasswordResponse]
    UserGrantRole: aio.UnaryUnaryMultiCallable[rpc_pb2.AuthUserGrantRoleRequest, rpc_pb2.AuthUserGrantRoleResponse]
    UserRevokeRole: aio.UnaryUnaryMultiCallable[rpc_pb2.AuthUserRevokeRoleRequest, rpc_pb2.AuthUserRevokeRoleResponse]
    RoleAdd: aio.UnaryUnaryMultiCallable[rpc_pb2.AuthRoleAddRequest, rpc_pb2.AuthRoleAddResponse]
    RoleGet: aio.UnaryUnaryMultiCallable[rpc_pb2.AuthRoleGetRequest, rpc_pb2.AuthRoleGetResponse]
    RoleList: aio.UnaryUnaryMultiCallable[rpc_pb2.AuthRoleListRequest, rpc_pb2.AuthRoleListResponse]
    RoleDelete: aio.UnaryUnaryMultiCallable[rpc_pb2.AuthRoleDeleteRequest, rpc_pb2.AuthRoleDeleteResponse]
    RoleGrantPermission: aio.UnaryUnaryMultiCallable[rpc_pb2.AuthRoleGrantPermissionRequest, rpc_pb2.AuthRoleGrantPermissionResponse]
    RoleRevokePermission: aio.UnaryUnaryMultiCallable[rpc_pb2.AuthRoleRevokePermissionRequest, rpc_pb2.AuthRoleRevokePermissionResponse]
