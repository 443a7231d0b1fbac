"""Where one namespace lies in a live etcd: once in the folder of each resource.

To read a namespace by asking for all keys would make etcd read them all. The folders of built-in
resources are known; what lies between them is found by asking for the first key, again and again,
from behind the folder that it lies in. So etcd counts only keys that are asked for.
"""

from typing import Final, Protocol

from etcd_steward.engine.top import resource_and_namespace, resource_of
from etcd_steward.etcd import stubs
from etcd_steward.registry.paths import BUILTINS, parse, root_of
from etcd_steward.registry.selection import end_of

OUTSIDE: Final = "(outside of the registry)"
"""Instead of a resource: keys that lie elsewhere, whoever's they are."""


class Range(Protocol):
    """How keys are read: `EtcdClient.range`."""

    async def __call__(
        self, key: bytes, end: bytes, *, limit: int, revision: int, keys_only: bool
    ) -> stubs.RangeResponse:
        """Read keys."""
        ...


async def folders(read: Range, prefix: str, revision: int) -> list[bytes]:
    """The folders of all resources that may have objects, sorted, each with its last slash."""
    root = root_of(prefix)
    known = sorted(root + f"{builtin.path}/".encode() for builtin in BUILTINS.values())
    found: list[bytes] = []
    at = root
    for upto in (*known, end_of(root)):
        while at < upto:
            answer = await read(at, upto, limit=1, revision=revision, keys_only=True)
            if not answer.kvs:
                break
            folder = folder_of(answer.kvs[0].key, root)
            found.append(folder)
            at = end_of(folder)
        if upto in known:
            found.append(upto)
            at = max(at, end_of(upto))
    return sorted(set(found))


def folder_of(key: bytes, root: bytes) -> bytes:
    """The folder of the resource that a key is of: one word, or a group and a word."""
    first, *rest = key[len(root) :].split(b"/", 2)
    if b"." in first and len(rest) > 1:
        return root + first + b"/" + rest[0] + b"/"
    return root + first + b"/" if rest else key


def resource_in(folder: bytes, prefix: str) -> str:
    """What lies in a folder: `deployments.apps`, or in brackets what is no API object."""
    if folder.endswith(b"/"):
        path = parse(folder + b"-/-", prefix) or parse(folder + b"-", prefix)
        if path is not None:
            return resource_of(path)
    return resource_and_namespace(folder, prefix)[0]
