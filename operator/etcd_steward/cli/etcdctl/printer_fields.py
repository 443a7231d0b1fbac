"""`-w fields`: etcdctl's printer_fields.go."""

# ruff: noqa: ARG002  # a printer is given what any of them needs

from collections.abc import Iterable, Sequence

from etcd_steward.cli.etcdctl.output import write
from etcd_steward.cli.etcdctl.quoting import quote
from etcd_steward.etcd import stubs

_DELETE = 1


class FieldsPrinter:
    """One field a line, with its name."""

    def __init__(self, *, hexed: bool) -> None:
        self._hexed = hexed

    def put(self, answer: stubs.PutResponse) -> None:
        """Header, and what was there before."""
        self.get_head(answer.header)
        if answer.HasField("prev_kv"):
            write(self._keys([answer.prev_kv], "Prev"))

    def delete(self, answer: stubs.DeleteRangeResponse) -> None:
        """Header, how many, and which."""
        self.get_head(answer.header)
        _field("Deleted", answer.deleted)
        write(self._keys(answer.prev_kvs, "Prev"))

    def get_head(self, header: stubs.ResponseHeader) -> None:
        """The header."""
        form = "x" if self._hexed else "d"
        _field("ClusterID", format(header.cluster_id, form))
        _field("MemberID", format(header.member_id, form))
        if header.revision > 0:
            _field("Revision", header.revision)
        _field("RaftTerm", header.raft_term)

    def get_keys(self, kvs: Sequence[stubs.KeyValue]) -> None:
        """Six lines each."""
        write(self._keys(kvs, ""))

    def get_tail(self, *, more: bool, count: int) -> None:
        """More and Count."""
        _field("More", str(more).lower())
        _field("Count", count)

    def watch(self, answer: stubs.WatchResponse) -> None:
        """Header, and the events."""
        self.get_head(answer.header)
        for event in answer.events:
            _field("Type", "DELETE" if event.type == _DELETE else "PUT")
            if event.HasField("prev_kv"):
                write(self._keys([event.prev_kv], "Prev"))
            write(self._keys([event.kv], ""))

    def grant(self, answer: stubs.LeaseGrantResponse) -> None:
        """Header, ID and TTL."""
        self.get_head(answer.header)
        _field("ID", self._id(answer.ID))
        _field("TTL", answer.TTL)

    def revoke(self, lease: int, answer: stubs.LeaseRevokeResponse) -> None:
        """The header."""
        self.get_head(answer.header)

    def keep_alive(self, answer: stubs.LeaseKeepAliveResponse) -> None:
        """Header, ID and TTL."""
        self.get_head(answer.header)
        _field("ID", self._id(answer.ID))
        _field("TTL", answer.TTL)

    def time_to_live(self, answer: stubs.LeaseTimeToLiveResponse, *, keys: bool) -> None:
        """Header, ID, both TTLs, and the keys."""
        self.get_head(answer.header)
        _field("ID", self._id(answer.ID))
        _field("TTL", answer.TTL)
        _field("GrantedTTL", answer.grantedTTL)
        write(b"".join(b'"Key" : %s\n' % quote(key) for key in answer.keys))

    def leases(self, answer: stubs.LeaseLeasesResponse) -> None:
        """Header, and the IDs."""
        self.get_head(answer.header)
        for lease in answer.leases:
            _field("ID", self._id(lease.ID))

    def _id(self, lease: int) -> str:
        return f"{lease:016x}" if self._hexed else str(lease)

    def _keys(self, kvs: Iterable[stubs.KeyValue], prefix: str) -> bytes:
        name = prefix.encode()
        return b"".join(
            b'"%bKey" : %b\n"%bCreateRevision" : %d\n"%bModRevision" : %d\n"%bVersion" : %d\n'
            b'"%bValue" : %b\n"%bLease" : %b\n'
            % (
                name, quote(kv.key), name, kv.create_revision, name, kv.mod_revision,
                name, kv.version, name, quote(kv.value), name, self._id(kv.lease).encode(),
            )
            for kv in kvs
        )  # fmt: skip


def _field(name: str, value: object) -> None:
    write(f'"{name}" : {value}\n'.encode())
