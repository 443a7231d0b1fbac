"""How etcdctl shows etcd's answers: `-w simple|json|fields|table|protobuf`, and `--hex`.

Answers are etcd's own messages (`etcd.stubs`), also those that are made up from a backup. What is
printed goes to standard output as bytes, because keys and values are.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from etcd_steward.cli.etcdctl.errors import BAD_FEATURE, EtcdctlError

if TYPE_CHECKING:  # protobuf is imported where it is needed
    from etcd_steward.etcd import stubs

FORMATS = ("fields", "json", "protobuf", "simple", "table")


class Printer(Protocol):
    """One way to show answers.

    What has many keys is shown in three steps, so that nobody needs to hold them all: the header,
    keys as often as there are some, and what follows them.
    """

    def put(self, answer: "stubs.PutResponse") -> None:
        """`put`."""

    def delete(self, answer: "stubs.DeleteRangeResponse") -> None:
        """`del`."""

    def get_head(self, header: "stubs.ResponseHeader") -> None:
        """`get`, before the first key."""

    def get_keys(self, kvs: "Sequence[stubs.KeyValue]") -> None:
        """`get`, some keys."""

    def get_tail(self, *, more: bool, count: int) -> None:
        """`get`, behind the last key: whether a limit cut some off, and how many there are."""

    def watch(self, answer: "stubs.WatchResponse") -> None:
        """`watch`, one answer of etcd."""

    def grant(self, answer: "stubs.LeaseGrantResponse") -> None:
        """`lease grant`."""

    def revoke(self, lease: int, answer: "stubs.LeaseRevokeResponse") -> None:
        """`lease revoke`."""

    def keep_alive(self, answer: "stubs.LeaseKeepAliveResponse") -> None:
        """`lease keep-alive`, one answer."""

    def time_to_live(self, answer: "stubs.LeaseTimeToLiveResponse", *, keys: bool) -> None:
        """`lease timetolive`, with the lease's keys if they were asked for."""

    def leases(self, answer: "stubs.LeaseLeasesResponse") -> None:
        """`lease list`."""


def printer(write_out: str, *, hexed: bool) -> Printer:
    """The printer for `-w`. Raises `EtcdctlError` for what no key can be shown in."""
    match write_out:
        case "simple":
            from etcd_steward.cli.etcdctl.printer_simple import SimplePrinter  # noqa: PLC0415

            return SimplePrinter(hexed=hexed)
        case "fields":
            from etcd_steward.cli.etcdctl.printer_fields import FieldsPrinter  # noqa: PLC0415

            return FieldsPrinter(hexed=hexed)
        case "json":
            from etcd_steward.cli.etcdctl.printer_json import JsonPrinter  # noqa: PLC0415

            return JsonPrinter()
        case "protobuf":
            from etcd_steward.cli.etcdctl.printer_protobuf import (  # noqa: PLC0415
                ProtobufPrinter,
            )

            return ProtobufPrinter()
        case "table":
            raise EtcdctlError("table not supported as output format", BAD_FEATURE)
        case _:
            raise EtcdctlError("unsupported output format", BAD_FEATURE)
