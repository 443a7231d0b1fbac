"""`-w simple`: etcdctl's printer_simple.go."""

# ruff: noqa: ARG002  # a printer is given what any of them needs

from collections.abc import Iterable, Sequence

from etcd_steward.cli.etcdctl.output import write
from etcd_steward.etcd import stubs

_DELETE = 1


class SimplePrinter:
    """Keys and values as they are, one a line."""

    def __init__(self, *, hexed: bool) -> None:
        self._hexed = hexed
        self.value_only = False
        """Leave out the keys (`--print-value-only`)."""

    def put(self, answer: stubs.PutResponse) -> None:
        """`OK`, and what was there before."""
        write(b"OK\n")
        if answer.HasField("prev_kv"):
            self.get_keys([answer.prev_kv])

    def delete(self, answer: stubs.DeleteRangeResponse) -> None:
        """How many, and which."""
        write(b"%d\n" % answer.deleted)
        self.get_keys(answer.prev_kvs)

    def get_head(self, header: stubs.ResponseHeader) -> None:
        """Nothing."""

    def get_keys(self, kvs: Sequence[stubs.KeyValue]) -> None:
        """Keys and values in turn."""
        write(b"".join(self._lines(kvs)))

    def get_tail(self, *, more: bool, count: int) -> None:
        """Nothing."""

    def watch(self, answer: stubs.WatchResponse) -> None:
        """What happened, what was there before, and what is now."""
        lines: list[bytes] = []
        for event in answer.events:
            lines.append(b"DELETE\n" if event.type == _DELETE else b"PUT\n")
            if event.HasField("prev_kv"):
                lines += self._lines([event.prev_kv])
            lines += self._lines([event.kv])
        write(b"".join(lines))

    def grant(self, answer: stubs.LeaseGrantResponse) -> None:
        """The new lease."""
        write(b"lease %s granted with TTL(%ds)\n" % (_id(answer.ID), answer.TTL))

    def revoke(self, lease: int, answer: stubs.LeaseRevokeResponse) -> None:
        """The old one."""
        write(b"lease %s revoked\n" % _id(lease))

    def keep_alive(self, answer: stubs.LeaseKeepAliveResponse) -> None:
        """That it lives."""
        write(b"lease %s keepalived with TTL(%d)\n" % (_id(answer.ID), answer.TTL))

    def time_to_live(self, answer: stubs.LeaseTimeToLiveResponse, *, keys: bool) -> None:
        """How long it still lives, and its keys."""
        lease = _id(answer.ID)
        if answer.grantedTTL == 0 and answer.TTL == -1:
            write(b"lease %s already expired\n" % lease)
            return
        times = (answer.grantedTTL, answer.TTL)
        text = b"lease %s granted with TTL(%ds), remaining(%ds)" % (lease, *times)
        if keys:
            text += b", attached keys([%s])" % b" ".join(answer.keys)
        write(text + b"\n")

    def leases(self, answer: stubs.LeaseLeasesResponse) -> None:
        """How many, and which."""
        lines = (b"%s\n" % _id(lease.ID) for lease in answer.leases)
        write(b"found %d leases\n" % len(answer.leases) + b"".join(lines))

    def _lines(self, kvs: Iterable[stubs.KeyValue]) -> list[bytes]:
        lines: list[bytes] = []
        for kv in kvs:
            key, value = kv.key, kv.value
            if self._hexed:
                key, value = _hex(key), _hex(value)
            if not self.value_only:
                lines += (key, b"\n")
            lines += (value, b"\n")
        return lines


def _hex(data: bytes) -> bytes:
    return b"".join(b"\\x%02x" % byte for byte in data)


def _id(lease: int) -> bytes:
    return b"%016x" % lease
