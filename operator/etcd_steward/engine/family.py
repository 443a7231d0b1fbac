"""Objects below their owners: which Pod is of which ReplicaSet, of which Deployment."""

from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from etcd_steward.engine.top import resource_of
from etcd_steward.errors import Undecodable
from etcd_steward.models.registry import KeyPath, Record
from etcd_steward.registry import objectmeta


@dataclass(slots=True)
class Node:
    """An object and what it owns."""

    path: KeyPath
    note: str = ""
    """What a person should know of it."""
    owned: list["Node"] = field(default_factory=list)

    @property
    def title(self) -> str:
        """`deployments.apps/api`."""
        return f"{resource_of(self.path)}/{self.path.name}"

    def sort(self) -> None:
        """Put what is below into the order of its names."""
        self.owned.sort(key=lambda node: node.title)
        for node in self.owned:
            node.sort()

    def as_data(self) -> dict[str, object]:
        """For JSON and YAML."""
        data: dict[str, object] = {
            "resource": resource_of(self.path),
            "namespace": self.path.namespace,
            "name": self.path.name,
        }
        return data | ({"owns": [node.as_data() for node in self.owned]} if self.owned else {})


async def family(found: AsyncIterator[tuple[KeyPath, Record]]) -> list[Node]:
    """The trees of some objects; memory is bounded by their number. Owners decide by uid.

    One whose owner is not among them stands at the top, and says so.
    """
    by_uid: dict[str, Node] = {}
    below: defaultdict[str, list[tuple[Node, str]]] = defaultdict(list)
    tops: list[Node] = []
    async for path, record in found:
        node = Node(path)
        try:
            meta = objectmeta.read(record.value)
        except Undecodable as error:
            node.note = error.message
            tops.append(node)
            continue
        by_uid[meta.uid] = node
        if meta.deletion_timestamp is not None:
            node.note = f"being deleted since {meta.deletion_timestamp:%Y-%m-%d %H:%M:%S}Z"
        owners = sorted(meta.owner_references, key=lambda owner: not owner.controller)
        if owners:
            below[owners[0].uid].append((node, f"{owners[0].kind} {owners[0].name}"))
        else:
            tops.append(node)
    for uid, members in below.items():
        owner = by_uid.get(uid)
        for node, name in members:
            if owner is not None and owner is not node:
                owner.owned.append(node)
            else:
                node.note = node.note or f"owned by {name}, which is not here"
                tops.append(node)
    for node in tops:
        node.sort()
    return sorted(tops, key=lambda node: node.title)


def find(nodes: list[Node], wanted: KeyPath) -> Node | None:
    """One object, wherever in the trees."""
    for node in nodes:
        if node.path == wanted:
            return node
        if (inner := find(node.owned, wanted)) is not None:
            return inner
    return None
