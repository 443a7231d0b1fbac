"""`-w protobuf`: etcd's messages as they came over the wire, printer_protobuf.go."""

# ruff: noqa: ARG002  # a printer is given what any of them needs

from collections.abc import Sequence

from etcd_steward.cli.etcdctl.errors import BAD_FEATURE, EtcdctlError
from etcd_steward.cli.etcdctl.output import write
from etcd_steward.etcd import stubs


class ProtobufPrinter:
    """For programs that know etcd's messages; of leases, as with etcdctl, the header alone."""

    def put(self, answer: stubs.PutResponse) -> None:
        """The answer."""
        write(answer.SerializeToString())

    def delete(self, answer: stubs.DeleteRangeResponse) -> None:
        """The answer."""
        write(answer.SerializeToString())

    def get_head(self, header: stubs.ResponseHeader) -> None:
        """The answer's first field: a message is the sum of its parts."""
        write(stubs.RangeResponse(header=header).SerializeToString())

    def get_keys(self, kvs: Sequence[stubs.KeyValue]) -> None:
        """Some of its keys."""
        write(stubs.RangeResponse(kvs=kvs).SerializeToString())

    def get_tail(self, *, more: bool, count: int) -> None:
        """Its last fields."""
        write(stubs.RangeResponse(more=more, count=count).SerializeToString())

    def watch(self, answer: stubs.WatchResponse) -> None:
        """The answer, without what etcd's client keeps to itself."""
        write(
            stubs.WatchResponse(
                header=answer.header,
                events=answer.events,
                compact_revision=answer.compact_revision,
                canceled=answer.canceled,
                created=answer.created,
            ).SerializeToString()
        )

    def grant(self, answer: stubs.LeaseGrantResponse) -> None:
        """The header."""
        _header(answer.header)

    def revoke(self, lease: int, answer: stubs.LeaseRevokeResponse) -> None:
        """Refused."""
        name = answer.DESCRIPTOR.name
        raise EtcdctlError(f"marshal unsupported for type *clientv3.{name}", BAD_FEATURE)

    def keep_alive(self, answer: stubs.LeaseKeepAliveResponse) -> None:
        """The header."""
        _header(answer.header)

    def time_to_live(self, answer: stubs.LeaseTimeToLiveResponse, *, keys: bool) -> None:
        """The header."""
        _header(answer.header)

    def leases(self, answer: stubs.LeaseLeasesResponse) -> None:
        """The header."""
        _header(answer.header)


def _header(header: stubs.ResponseHeader) -> None:
    write(header.SerializeToString())
