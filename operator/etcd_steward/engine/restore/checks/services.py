"""Cluster IPs and node ports that another Service has by now.

The API server's own repair loop only reports what two Services have (kubernetes
`pkg/registry/core/service/ipallocator/controller`): it must not happen.
"""

from collections.abc import Iterable, Mapping

from etcd_steward.engine.restore.drafts import Draft
from etcd_steward.engine.restore.facts import ServiceFacts


def check(drafts: Iterable[Draft], live: Mapping[bytes, ServiceFacts]) -> None:
    """Block Services whose IPs or ports are taken. `live`: every Service there is, by key."""
    addresses = {one: key for key, facts in live.items() for one in facts.addresses}
    ports = {one: key for key, facts in live.items() for one in facts.node_ports}
    for draft in drafts:
        if not draft.write or not isinstance(draft.facts, ServiceFacts):
            continue
        taken = [
            f"{address} by {_name(addresses[address])}"
            for address in sorted(draft.facts.addresses)
            if addresses.get(address, draft.key) != draft.key
        ]
        taken += [
            f"node port {port} by {_name(ports[protocol, port])}"
            for protocol, port in sorted(draft.facts.node_ports)
            if ports.get((protocol, port), draft.key) != draft.key
        ]
        if taken:
            draft.block(
                "AddressTaken",
                f"what it had is taken: {'; '.join(taken)}. Restore it through the API (via: API), "
                "which gives it others",
            )
        elif draft.facts.type == "LoadBalancer":
            draft.notes.append(
                "shows the address that its load balancer had, until its controller has looked"
            )


def _name(key: bytes) -> str:
    return "/".join(key.decode(errors="replace").rsplit("/", 2)[1:])
