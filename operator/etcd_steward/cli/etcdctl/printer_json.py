"""`-w json`: etcdctl's printer_json.go, which is Go's `encoding/json` over etcd's messages.

Fields stand in the order of the messages' own, empty ones are left out, and bytes are Base64. As
with etcdctl `--hex` changes nothing: nothing here is printed as a string.
"""

# ruff: noqa: ARG002  # a printer is given what any of them needs

import json
from base64 import b64encode
from collections.abc import Sequence

from etcd_steward.cli.etcdctl.output import write
from etcd_steward.etcd import stubs

_Json = dict[str, object]


class JsonPrinter:
    """One line of JSON for each answer."""

    def __init__(self) -> None:
        self._begun = False

    def put(self, answer: stubs.PutResponse) -> None:
        """Header, and what was there before."""
        said: _Json = {"header": _header(answer.header)}
        if answer.HasField("prev_kv"):
            said["prev_kv"] = _key(answer.prev_kv)
        _print(said)

    def delete(self, answer: stubs.DeleteRangeResponse) -> None:
        """Header, how many, and which."""
        found = {"deleted": answer.deleted, "prev_kvs": [_key(kv) for kv in answer.prev_kvs]}
        _print({"header": _header(answer.header)} | _some(found))

    def get_head(self, header: stubs.ResponseHeader) -> None:
        """The header, and nothing that would close the line."""
        write(b'{"header":%b' % _line(_header(header)))

    def get_keys(self, kvs: Sequence[stubs.KeyValue]) -> None:
        """Some elements of the list of keys."""
        for kv in kvs:
            write(b"," if self._begun else b',"kvs":[')
            self._begun = True
            write(_line(_key(kv)))

    def get_tail(self, *, more: bool, count: int) -> None:
        """The end of the line."""
        if self._begun:
            write(b"]")
        tail = _line(_some({"more": more, "count": count})).removeprefix(b"{")
        write((b"," if tail != b"}" else b"") + tail + b"\n")

    def watch(self, answer: stubs.WatchResponse) -> None:
        """As etcd's client has it: etcd's own message has other names."""
        _print(
            {
                "Header": _header(answer.header),
                "Events": [_event(event) for event in answer.events] or None,
                "CompactRevision": answer.compact_revision,
                "Canceled": answer.canceled,
                "Created": answer.created,
                "CancelReason": answer.cancel_reason,
            }
        )

    def grant(self, answer: stubs.LeaseGrantResponse) -> None:
        """The header's fields, ID and TTL."""
        lease = {"ID": answer.ID, "TTL": answer.TTL, "Error": answer.error}
        _print(_header(answer.header) | lease)

    def revoke(self, lease: int, answer: stubs.LeaseRevokeResponse) -> None:
        """The header."""
        _print({"header": _header(answer.header)})

    def keep_alive(self, answer: stubs.LeaseKeepAliveResponse) -> None:
        """The header's fields, ID and TTL."""
        _print(_header(answer.header) | {"ID": answer.ID, "TTL": answer.TTL})

    def time_to_live(self, answer: stubs.LeaseTimeToLiveResponse, *, keys: bool) -> None:
        """The header's fields, the lease's, and its keys."""
        _print(
            _header(answer.header)
            | {
                "id": answer.ID,
                "ttl": answer.TTL,
                "granted-ttl": answer.grantedTTL,
                "keys": [_bytes(key) for key in answer.keys] or None,
            }
        )

    def leases(self, answer: stubs.LeaseLeasesResponse) -> None:
        """The header's fields, and the IDs."""
        found = [{"id": lease.ID} for lease in answer.leases]
        _print(_header(answer.header) | {"leases": found})


def _print(said: _Json) -> None:
    write(_line(said) + b"\n")


def _line(said: _Json) -> bytes:
    return json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode()


def _some(said: _Json) -> _Json:
    """Without what is empty."""
    return {name: value for name, value in said.items() if value}


def _bytes(data: bytes) -> str:
    return b64encode(data).decode()


def _header(header: stubs.ResponseHeader) -> _Json:
    return _some(
        {
            "cluster_id": header.cluster_id,
            "member_id": header.member_id,
            "revision": header.revision,
            "raft_term": header.raft_term,
        }
    )


def _key(kv: stubs.KeyValue) -> _Json:
    return _some(
        {
            "key": _bytes(kv.key),
            "create_revision": kv.create_revision,
            "mod_revision": kv.mod_revision,
            "version": kv.version,
            "value": _bytes(kv.value),
            "lease": kv.lease,
        }
    )


def _event(event: stubs.Event) -> _Json:
    said: _Json = {"type": int(event.type), "kv": _key(event.kv)}
    if event.HasField("prev_kv"):
        said["prev_kv"] = _key(event.prev_kv)
    return {name: value for name, value in said.items() if name != "type" or value}
